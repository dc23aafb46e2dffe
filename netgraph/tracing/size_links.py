"""Sizes that a run worked out in Python, linked to the dimensions that they count.

``x.new_zeros(len(x), 3)`` leaves a plain number in a recording. A second recording on other sizes tells what it counts: an earlier
dimension that changed from the same number to the same number. Graph networks have many of these, for their nodes and edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from netgraph.recording.operators.guards import list_decisions
from netgraph.recording.recorder import Recording, record_network
from netgraph.rules.operator_call import bind_arguments
from netgraph.tracing.other_examples import GUARDED_FILLS, fill_example, make_empty
from netgraph.tracing.unit_spec import UnitSpec, term_axes, term_size


class SizeLink(NamedTuple):
    """A dimension of a call's result, by number, or an argument, by name, is the size of a dimension of an earlier node."""

    place: int | str
    source: str
    source_dim: int


Links = Mapping[str, list[SizeLink]]  # by name of the call


def link_sizes(
    model: nn.Module,
    example: Any,
    recordings: Mapping[str, Recording],
    spec: UnitSpec,
    before: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Links]:
    """Record a network on other sizes, and return the links between its sizes for each mode.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs of the recordings.
    recordings : dict of str to Recording
        By mode, ``"train"`` and ``"eval"``.
    spec : UnitSpec
        Trace of the recordings, which says which dimensions of the inputs are free.
    before : callable, optional
        Map of the inputs, as `netgraph.trace` takes it.
    """
    links: dict[str, Links] = {}
    for mode, first in recordings.items():
        links[mode] = {}
        for other in _resize_each_otherwise(example, spec, meta=first.way == "meta"):
            try:
                second = record_network(model, other, training=mode == "train", before=before, way=first.way)
            except Exception:  # the network itself may refuse other sizes, in many ways
                continue
            if list_decisions(second.graph) == list_decisions(first.graph):
                links[mode] = find_links(first.graph, second.graph)
                break
    return links


def _resize_each_otherwise(example: Any, spec: UnitSpec, *, meta: bool) -> Iterator[Any]:
    """Yield examples whose free dimensions grow by numbers of their own, so that two of one size can be told apart."""
    sizes = spec.sizes
    free = sorted(spec.dynamic & {a for terms in spec.input_terms for term in terms for a in term_axes(term)})
    for step in (1, 0):
        grown = {**sizes, **{axis: sizes[axis] + 1 + step * i for i, axis in enumerate(free)}}
        shapes = [[term_size(term, grown) for term in terms] for terms in spec.input_terms]
        yield from fill_example(example, (make_empty,) if meta else GUARDED_FILLS, shapes)


def find_links(first: fx.Graph, second: fx.Graph) -> Links:
    """Return the links of a graph, from two recordings that make the same calls on other sizes.

    Parameters
    ----------
    first, second : torch.fx.Graph

    Returns
    -------
    dict of str to list of SizeLink
        By call of ``first``. Nothing follows the first call that the other recording lacks.
    """
    links: dict[str, list[SizeLink]] = {}
    sources: dict[tuple[int, int], tuple[str, int]] = {}
    for a, b in zip(first.nodes, second.nodes, strict=False):
        if (a.op, a.target) != (b.op, b.target):
            break
        pairs: list[tuple[int | str, tuple[int, int]]] = [*_pair_numbers(a, b), *_pair_sizes(a, b)]
        for place, sizes in pairs:
            if sizes in sources:
                links.setdefault(a.name, []).append(SizeLink(place, *sources[sizes]))
            elif isinstance(place, int):
                sources[sizes] = a.name, place
    return links


def _pair_numbers(a: fx.Node, b: fx.Node) -> list[tuple[str, tuple[int, int]]]:
    """Return the arguments of two calls that are different whole numbers, such as the divisor of a mean written as a sum."""
    if a.op != "call_function":
        return []
    left, right = bind_arguments(a), bind_arguments(b)
    pairs = [(name, (left[name], right.get(name))) for name in left]
    return [(name, (m, n)) for name, (m, n) in pairs if type(m) is type(n) is int and m != n]


def _pair_sizes(a: fx.Node, b: fx.Node) -> list[tuple[int, tuple[int, int]]]:
    """Return the dimensions of the tensors of two nodes that differ in size."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim != y.ndim:
        return []
    pairs = enumerate(zip(x.shape, y.shape, strict=True))
    return [(dim, (int(m), int(n))) for dim, (m, n) in pairs if m != n]
