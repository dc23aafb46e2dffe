"""How alike the inputs and outputs of residual blocks are on data: blocks that change the stream little can be left out.

The stream of a chain of n blocks has n + 1 states. C[i, j] is the mean cosine of states i and j over rows and positions::

    influence of block i          1 - C[i, i + 1]                  the smallest are left out
    run of m blocks from i on     arccos C[i, i + m] / pi          the run of the smallest angle is left out

Men et al., "ShortGPT: Layers in large language models are more redundant than you expect", 2024, eq. 1. Gromov et al., "The unreasonable
ineffectiveness of the deeper layers", 2024, eq. 6. The angle falls with the cosine, so that both read the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from netgraph.analysis.residual_chains import Chain, locate_segments
from netgraph.recording.forward import autocast
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import run_step
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.pytree import normalize_example


def measure_similarity(
    network: GraphNetwork, spec: UnitSpec, chain: Chain, batches: Sequence[Any]
) -> NDArray[np.float64]:
    """Return the mean cosine of each two states of the stream of a chain.

    Parameters
    ----------
    network : GraphNetwork
        The network of ``spec``, in evaluation mode.
    spec : UnitSpec
    chain : Chain
    batches : sequence
        Calibration inputs.

    Returns
    -------
    array of shape (blocks + 1, blocks + 1)
    """
    segments = locate_segments(spec.plans["eval"].graph, chain)
    names = [segments[0].entry.name, *(segment.exit.name for segment in segments)]
    total, n = torch.zeros(len(names), len(names), dtype=torch.float64), 0
    for batch in batches:
        states = [_list_vectors(state) for state in _run_until(network, names, batch)]
        unit = torch.stack([functional.normalize(state.float(), dim=1) for state in states])  # (states, rows, width)
        total += torch.einsum("ird,jrd->ij", unit, unit).double().cpu()
        n += unit.shape[1]
    return (total / max(n, 1)).numpy()


def _run_until(network: GraphNetwork, names: Sequence[str], batch: Any) -> list[Tensor]:
    """Return the results of some nodes of the recorded graph, the last of which is the last step that runs."""
    interpreter, slots = network.start_steps("eval", *normalize_example(batch))
    wanted = {interpreter.slots[name]: name for name in names}
    found = {name: slots[i] for i, name in wanted.items() if isinstance(slots[i], Tensor)}  # an input of the network
    try:
        with torch.no_grad():
            for step in interpreter.steps:
                run_step(step, slots)
                if step.index in wanted:
                    found[wanted[step.index]] = slots[step.index].clone()  # a later step may write into it
                if len(found) == len(wanted):
                    break
    finally:
        autocast.leave_open_regions(slots)
    return [found[name] for name in names]


def _list_vectors(state: Tensor) -> Tensor:
    """Return a state of the stream as (rows and positions, channels). Channels of images are their second dimension."""
    return (state.movedim(1, -1) if state.ndim > 3 else state).flatten(0, -2)


def choose_weak_blocks(chain: Chain, cosines: NDArray[np.float64], n: int) -> list[str]:
    """Return the ``n`` blocks of the least influence, in their order.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.analysis.residual_chains import Chain
    >>> cosines = np.array([[1, 0.9, 0.5, 0.4], [0.9, 1, 0.6, 0.5], [0.5, 0.6, 1, 0.8], [0.4, 0.5, 0.8, 1]])
    >>> choose_weak_blocks(Chain(("a", "b", "c"), (), frozenset()), cosines, 2)
    ['a', 'c']
    """
    influence = 1 - np.diagonal(cosines, 1)
    return [chain.blocks[i] for i in sorted(np.argsort(influence, kind="stable")[:n].tolist())]


def choose_run(chain: Chain, cosines: NDArray[np.float64], n: int) -> list[str]:
    """Return the ``n`` consecutive blocks between whose input and output the angle is smallest.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.analysis.residual_chains import Chain
    >>> cosines = np.array([[1, 0.9, 0.5, 0.4], [0.9, 1, 0.6, 0.5], [0.5, 0.6, 1, 0.8], [0.4, 0.5, 0.8, 1]])
    >>> choose_run(Chain(("a", "b", "c"), (), frozenset()), cosines, 2)
    ['a', 'b']
    """
    start = int(np.argmax(np.diagonal(cosines, n)))
    return list(chain.blocks[start : start + n])
