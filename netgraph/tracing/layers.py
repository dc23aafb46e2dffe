"""The layers of a recorded graph: the weight and bias that make units, and the batch norm that follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from netgraph.rules.operators import BATCH_NORM, LAYER_OVERLOADS
from netgraph.tracing.unit_spec import UnitSpec


@dataclass(frozen=True)
class Layer:
    """One layer that makes the units of an axis.

    Parameters
    ----------
    axis : str
        The axis of the first dimension of the weight.
    weight : str
        Name of the weight.
    bias : str or None
        Name of the bias.
    norm : tuple of str or None
        Names of scale, shift, mean and variance of the batch norm that follows, if it has all four.
    eps : float, default 0.0
        The number that this norm adds to its variance.
    """

    axis: str
    weight: str
    bias: str | None
    norm: tuple[str, str, str, str] | None
    eps: float = 0.0


def find_layers(spec: UnitSpec) -> Iterator[Layer]:
    """Yield the layers of the evaluation graph that make the units of one axis with weights that nothing else reads.

    Parameters
    ----------
    spec : UnitSpec
        The trace of the network.

    Yields
    ------
    Layer
        In the order in which they run.
    """
    for node in spec.plans["eval"].graph.nodes:
        if node.op != "call_function" or node.target not in LAYER_OVERLOADS:
            continue
        weight, bias = (_name_if_read_once(a) for a in (*node.args[1:3], None)[:2])
        if weight is None or spec.sums.get((weight, 0)):
            continue
        term = spec.parameters[weight][0]
        if len(term) == 1 and isinstance(term[0], str):
            norm, eps = _find_batch_norm(node)
            yield Layer(term[0], weight, bias, norm, eps)


def _find_batch_norm(node: fx.Node) -> tuple[tuple[str, str, str, str] | None, float]:
    """Return the parameters and the epsilon of the batch norm that alone reads a layer."""
    after = [user for user in node.users if user.target is BATCH_NORM]
    if len(node.users) != 1 or not after:
        return None, 0.0
    names = [_name_if_read_once(a) for a in after[0].args[1:5]]
    return None if None in names else tuple(names), float(after[0].args[7])  # type: ignore[return-value, arg-type]


def _name_if_read_once(value: object) -> str | None:
    """Return the name of a parameter or buffer if it has exactly one reader, else None."""
    if not isinstance(value, fx.Node) or value.op != "get_attr" or len(value.users) != 1:
        return None
    return str(value.target)
