"""The contract of an affinity: `check_affinity` tries it on small networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from netgraph.errors import NetgraphError
from netgraph.graph.affinity_answers import measure_affinity, read_affinity
from netgraph.graph.axis_units import AxisUnits
from netgraph.plugins import name_function
from netgraph.tracing.tracer import trace


def check_affinity(affinity: Callable[..., Any]) -> None:
    """Check that a callable keeps the contract of an affinity.

    It is called on the axes of small networks: units of a perceptron, channels of a convolution, and a single unit. Each answer
    must keep these rules:

    - It is a matrix of shape (n, n) for n units: a scipy sparse array, an `netgraph.affinity.AllPairs`, a numpy array or a torch
      tensor.
    - Its numbers are real, finite and not negative. It is symmetric, and its diagonal is zero.
    - It is the same for the same seed, and the weights of the units are unchanged.

    Parameters
    ----------
    affinity : callable ``(units, *, seed) -> matrix``
        ``units`` is an `netgraph.graph.axis_units.AxisUnits`.

    Raises
    ------
    NetgraphError
        A rule is broken. The message names the first one.

    Examples
    --------
    >>> import numpy as np
    >>> import netgraph as ng
    >>> def overlap(units, *, seed):
    ...     products = np.abs(units.incoming @ units.incoming.T)
    ...     np.fill_diagonal(products, 0)
    ...     return products
    >>> ng.check_affinity(overlap)
    >>> ng.check_affinity(lambda units, *, seed: np.ones((4, 4)))
    Traceback (most recent call last):
        ...
    netgraph.errors.NetgraphError: affinity '<lambda>' answers axis '0' with shape (4, 4). Give one row and one column ...
    """
    for units in _make_trials():
        before = {name: tensor.clone() for name, tensor in units.state.items()}
        first, second = (_measure(affinity, units) for _ in range(2))
        if not np.array_equal(first, second):
            raise NetgraphError(
                f"affinity {name_function(affinity)!r} gave two answers for one seed on axis {units.axis!r}. Draw random numbers from "
                "the seed only."
            )
        if not all(torch.equal(before[name], tensor) for name, tensor in units.state.items()):
            raise NetgraphError(
                f"affinity {name_function(affinity)!r} changed the weights of axis {units.axis!r}. Work on a copy."
            )


def _measure(affinity: Callable[..., Any], units: AxisUnits) -> NDArray[Any]:
    """Return the checked answer as a dense matrix."""
    answer = measure_affinity(affinity, units, seed=3)
    matrix: NDArray[Any] = read_affinity(answer, units.spec.axes[units.axis].size).toarray()
    return matrix


def _make_trials() -> Iterator[AxisUnits]:
    """Yield the units of some axes of small networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks: list[tuple[nn.Module, torch.Tensor]] = [
            (
                nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 1), nn.ReLU(), nn.Linear(1, 2)),
                torch.zeros(2, 5),
            ),
            (
                nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)),
                torch.zeros(2, 3, 6, 6),
            ),
        ]
    for network, example in networks:
        spec = trace(network, example)
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        detached = {name: tensor.detach() for name, tensor in state.items()}
        for axis in spec.free:
            yield AxisUnits(spec, detached, axis.name, 3)
