"""Initial weights for the coarse levels of a network that has not been trained.

Averaging units that are not alike reduces their variance: the mean of m random rows has a share 1/m of it. A network injected
from random weights therefore has smaller weights than a usual initialization of its own size, and trains worse. Before
training, an aggregate takes the weights of one member instead of the mean::

    W_c = S_out W P_in        S selects the first member of each aggregate, S P = I

Rows keep their variance and columns are added up. W_c then has the distribution of initial weights of its own size
(He et al., "Delving deep into rectifiers", ICCV 2015, section 2.2: the variance depends on the number of inputs). Blocks that
have merged take the weights of the first. R and P do not change, and neither do the maps that FAS uses.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject_first_members


def init_coarse_weights(hierarchy: Hierarchy) -> None:
    """Initialize the weights of the coarse levels, in place, from those of an untrained finest network.

    Parameters
    ----------
    hierarchy : Hierarchy
        Hierarchy of a network that has not been trained. Its coarse levels are written to.

    Notes
    -----
    The variance of coarse weights follows He et al., "Delving deep into rectifiers", ICCV 2015, section 2.2.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    >>> hierarchy = ng.build_hierarchy(model, torch.zeros(1, 64))
    >>> coarse = hierarchy.levels[1].model.tensors()["0.weight"]
    >>> averaged = coarse.std().item()
    >>> ng.init_coarse_weights(hierarchy)
    >>> round(averaged / model[0].weight.std().item(), 1), round(coarse.std().item() / model[0].weight.std().item(), 1)
    (0.8, 1.0)
    """
    for finer, level in pairwise(hierarchy.levels):
        fine_spec = level.spec.with_sizes({axis: t.n_fine for axis, t in level.transfers.items()})
        coarse_state = traced_state(level.model)
        fine_state = {name: tensor for name, tensor in traced_state(finer.model).items() if name in coarse_state}
        with torch.no_grad():
            for name, tensor in inject_first_members(fine_spec, level.transfers, fine_state).items():
                coarse_state[name].copy_(tensor)
