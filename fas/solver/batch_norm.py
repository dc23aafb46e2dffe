"""Statistics of batch norms, estimated anew where a coarse solution has just started a finer level.

Those that were prolonged belong to the coarse network: noise that copies are parted by, and another resolution, change what
a norm sees. Layer after layer each norm takes the mean and variance of what it is about to see, those before it done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.repair.pipeline import estimate_statistics
from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.solver.problem import count_rows
from netgraph.rules.operators import BATCH_NORM

if TYPE_CHECKING:
    from netgraph.fas.solver.run import Run


def check_norms(maps: Maps) -> None:
    """Refuse levels that are no recorded networks.

    Raises
    ------
    NetgraphError
        They are no hierarchy.
    """
    if not isinstance(maps, HierarchyMaps):
        raise NetgraphError(
            "split.norms estimates the statistics of recorded networks, and these levels are your own; set it to 0"
        )


def estimate_norms(run: Run, level: int) -> None:
    """Give the batch norms of a level the statistics of the stream's next minibatches, ``split.norms`` of them."""
    assert isinstance(run.maps, HierarchyMaps)
    grid, here = run.grids[level], run.maps.hierarchy.levels[level]
    with run.ledger.clock(level, "load"):
        batches = [run.placed(batch, grid) for batch in run.stream.take(run.options.split.norms)]
    with run.ledger.clock(level, "statistics"), torch.no_grad():
        network = coarse_network(here.model, here.spec, {}, state=traced_state(here.model))  # of the same tensors
        for stop in network.walk([_get_inputs(batch) for batch in batches], (BATCH_NORM,)):
            estimate_statistics(stop, keep=False)
    rows = sum(count_rows(batch) for batch in batches)
    run.ledger.spend(level, "statistics", rows * run.maps.flops[level])


def _get_inputs(batch: Any) -> Any:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise NetgraphError(
            f"split.norms runs the network on a minibatch's inputs, and this one is a {type(batch).__name__}, not a pair of inputs "
            "and targets; set it to 0"
        )
    return batch[0]
