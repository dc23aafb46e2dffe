"""In which precision two networks are compared, and how far roundoff alone may part them.

A wrong rule must not pass for roundoff, nor roundoff for a wrong rule. Networks are therefore compared in double precision.
The recording of a network in bfloat16 or float16 casts to that precision by name, where the network itself follows its weights.
Those casts become casts to double. Only a network that names the precision itself is compared in it, with a bound of its
roundoff.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from netgraph.environment.torch_internals import TensorMode
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec

HALVES = (torch.bfloat16, torch.float16)  # the coarser first
STEPS = 8.0  # roundoff of outputs in units of the spacing of numbers around 1


def find_half(tensors: Iterable[Tensor], graphs: Iterable[fx.Graph] = ()) -> torch.dtype | None:
    """Return the coarsest half precision of tensors and of the casts in recorded graphs, or None if there is none."""
    dtypes = {tensor.dtype for tensor in tensors} | {dtype for graph in graphs for dtype in _iterate_dtypes(graph)}
    return next((half for half in HALVES if half in dtypes), None)


def list_graphs(spec: UnitSpec) -> list[fx.Graph]:
    """Return the recorded graphs of both modes."""
    return [plan.graph for plan in spec.plans.values()]


def _iterate_dtypes(graph: fx.Graph) -> Iterator[Any]:
    """Yield the dtypes among the arguments of a graph's calls."""
    for node in graph.nodes:
        yield from (value for value in (*node.args, *node.kwargs.values()) if isinstance(value, torch.dtype))


def bound_roundoff(half: torch.dtype | None, tolerance: float) -> float:
    """Return the largest relative difference that passes in a half precision, or the tolerance where there is none."""
    return tolerance if half is None else max(tolerance, STEPS * torch.finfo(half).eps)


def find_half_casts(network: GraphNetwork) -> torch.dtype | None:
    """Return the coarsest half precision that an operator of a recorded network names, or None."""
    return next((half for half in HALVES if network.names_dtype(str(half).removeprefix("torch."))), None)


class HalfWatch(TensorMode):  # type: ignore[misc]  # a private class of torch
    """Notes whether an operator in a block returns a half precision: the network itself asks for it by name."""

    def __init__(self) -> None:
        super().__init__()
        self.saw_half = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        values = result if isinstance(result, (list, tuple)) else (result,)
        self.saw_half |= any(isinstance(value, Tensor) and value.dtype in HALVES for value in values)
        return result


def widen_casts(network: GraphNetwork) -> GraphNetwork:
    """Return the same network with casts to double in place of those to a half precision."""
    return network.with_dtypes({str(half).removeprefix("torch."): "float64" for half in HALVES})
