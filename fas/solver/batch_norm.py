"""Statistics of batch norms, estimated again after a coarse solution has started a finer level.

Prolonged statistics belong to the coarse network. The noise that makes copies differ, and another resolution, change the
inputs of a norm. Layer by layer each norm takes the mean and variance of its inputs, after all norms before it have theirs.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.repair.pipeline import estimate_statistics
from netgraph.errors import NetgraphError
from netgraph.fas.ledger import Ledger
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.options.all_options import Options
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import count_rows
from netgraph.rules.operators import BATCH_NORM


class BatchNormRun(Protocol):
    """The members of `netgraph.fas.solver.run.Run` that an estimate uses."""

    maps: Maps
    options: Options
    grids: list[Grid]
    stream: MinibatchStream
    ledger: Ledger

    def move_to_level(self, batch: Any, grid: Grid) -> Any:
        """Return a minibatch on the device of a level."""


def check_norms(maps: Maps) -> None:
    """Refuse levels that are not recorded networks.

    Raises
    ------
    NetgraphError
        The levels are not those of a hierarchy.
    """
    if not isinstance(maps, HierarchyMaps):
        raise NetgraphError(
            "split.norms estimates the statistics of recorded networks, and these levels are your own. Set it to 0."
        )


def estimate_norms(run: BatchNormRun, level: int) -> None:
    """Give the batch norms of a level the statistics of the next ``split.norms`` minibatches of the stream."""
    assert isinstance(run.maps, HierarchyMaps)
    grid, here = run.grids[level], run.maps.hierarchy.levels[level]
    with run.ledger.clock(level, "load"):
        batches = [run.move_to_level(batch, grid) for batch in run.stream.take(run.options.split.norms)]
    with run.ledger.clock(level, "statistics"), torch.no_grad():
        network = coarse_network(here.model, here.spec, {}, state=traced_state(here.model))  # of the same tensors
        for stop in network.walk([_get_inputs(batch) for batch in batches], (BATCH_NORM,)):
            estimate_statistics(stop, keep=False)
    rows = sum(count_rows(batch) for batch in batches)
    run.ledger.spend(level, "statistics", rows * run.maps.flops[level])


def _get_inputs(batch: Any) -> Any:
    """Return the inputs of a minibatch."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise NetgraphError(
            f"split.norms needs minibatches that are pairs of inputs and targets, and got a {type(batch).__name__}. Set it "
            "to 0."
        )
    return batch[0]
