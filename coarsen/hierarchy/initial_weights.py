"""First weights for the coarse levels of a network that has not been trained.

Averaging units that are not alike takes from their variance: the mean of m random rows has a share 1/m of it, so that a
network injected from random weights is smaller than any that is drawn at random for its own size, and trains worse. Where weights
say nothing yet, an aggregate takes those of one member in place of the mean::

    W_c = S_out W P_in        S selects the first member of each aggregate, S P = I

Rows keep their variance and columns are added up, so that W_c is distributed as weights of its own size are
(He et al., "Delving deep into rectifiers", ICCV 2015, section 2.2: the variance is that over the number of inputs).
Blocks that have merged take those of the first. Levels stay what they are otherwise: R and P, and so
every map that FAS uses, are unchanged.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject_first_members


def init_coarse_weights(hierarchy: Hierarchy) -> None:
    """Write the coarse levels' weights anew, in place, from the finest network's: for networks that are not trained.

    Parameters
    ----------
    hierarchy : Hierarchy
    """
    for finer, level in pairwise(hierarchy.levels):
        before = level.spec.with_sizes({axis: t.n_fine for axis, t in level.transfers.items()})
        own = traced_state(level.model)
        above = {name: tensor for name, tensor in traced_state(finer.model).items() if name in own}
        with torch.no_grad():
            for name, tensor in inject_first_members(before, level.transfers, above).items():
                own[name].copy_(tensor)
