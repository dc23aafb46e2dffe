"""Sizes that a run worked out in Python, linked to the dimensions that they count.

``x.new_zeros(len(x), 3)`` leaves a plain number in a recording. A second recording on other sizes tells what it counts: an earlier
dimension that changed from the same number to the same number. Graph networks have many of these, for their nodes and edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from netgraph.recording.operators.guards import check_decision
from netgraph.recording.operators.passed_counts import SizeLink
from netgraph.rules.operator_call import bind_arguments
from netgraph.tracing.compare_recordings import align_modes
from netgraph.tracing.other_examples import GUARDED_FILLS, OtherRecordings, make_empty, resize_example
from netgraph.tracing.unit_spec import UnitSpec

Links = Mapping[str, list[SizeLink]]  # by name of the call


def link_sizes(others: OtherRecordings, example: Any, spec: UnitSpec) -> dict[str, Links]:
    """Compare a network's recordings with others on other sizes, and return the links between its sizes for each mode.

    Parameters
    ----------
    others : OtherRecordings
        The network and its first recordings, by mode, ``"train"`` and ``"eval"``.
    example : Tensor, tuple or dict
        Inputs of the recordings.
    spec : UnitSpec
        Trace of the recordings, which says which dimensions of the inputs are free.
    """
    links: dict[str, Links] = {}
    if others.find_resized("train") is not None and others.find_resized("eval") is None:
        links = _link_both(others)
    for mode, first in others.first.items():
        if mode in links:
            continue
        fills = (make_empty,) if first.way == "meta" else GUARDED_FILLS
        second = others.find_resized(mode)
        for other in resize_example(example, spec, fills) if second is None else ():
            second = others.record(mode, other)
            if second is not None:
                break
        links[mode] = {} if second is None else find_links(first.graph, second.graph)
    return links


def _link_both(others: OtherRecordings) -> dict[str, Links]:
    """Return the links of training, and those of evaluation if they are among them because it makes the same calls, or fewer."""
    second, first = others.find_resized("train"), others.first["train"]
    assert second is not None
    links = find_links(first.graph, second.graph)
    names = align_modes(others.first["eval"], first)
    if names is None or any(link.source not in names for name in links if name in names for link in links[name]):
        return {"train": links}
    renamed = {
        names[name]: [link._replace(source=names[link.source]) for link in listed]
        for name, listed in links.items()
        if name in names
    }
    return {"train": links, "eval": renamed}


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
    totals: dict[tuple[int, int], str] = {}
    for a, b in zip(first.nodes, second.nodes, strict=False):
        if (a.op, a.target) != (b.op, b.target):
            break
        pairs: list[tuple[int | str, tuple[int, int]]] = [*_pair_numbers(a, b), *_pair_sizes(a, b)]
        for place, sizes in pairs:
            if sizes in sources and (a.target is not check_decision or sources[sizes][0] != str(a.args[0])):
                links.setdefault(a.name, []).append(SizeLink(place, *sources[sizes]))
            elif isinstance(place, int):
                sources[sizes] = a.name, place
            elif sizes in totals:
                links.setdefault(a.name, []).append(SizeLink(place, totals[sizes], None))
        total = _count_entries(a, b)
        if total is not None:
            totals.setdefault(total, a.name)
    return links


def _pair_numbers(a: fx.Node, b: fx.Node) -> list[tuple[str, tuple[int, int]]]:
    """Return the arguments of two calls that are different whole numbers, such as the divisor of a mean written as a sum."""
    if a.op != "call_function":
        return []
    left, right = bind_arguments(a), bind_arguments(b)
    pairs = [(name, (left[name], right.get(name))) for name in left]
    return [(name, (m, n)) for name, (m, n) in pairs if type(m) is type(n) is int and m != n]


def _count_entries(a: fx.Node, b: fx.Node) -> tuple[int, int] | None:
    """Return the numbers of entries of the tensors of two nodes, or None if they are the same."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.numel() == y.numel():
        return None
    return x.numel(), y.numel()


def _pair_sizes(a: fx.Node, b: fx.Node) -> list[tuple[int, tuple[int, int]]]:
    """Return the dimensions of the tensors of two nodes that differ in size."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim != y.ndim:
        return []
    pairs = enumerate(zip(x.shape, y.shape, strict=True))
    return [(dim, (int(m), int(n))) for dim, (m, n) in pairs if m != n]
