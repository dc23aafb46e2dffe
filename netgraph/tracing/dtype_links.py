"""Links between the precision of a network and the dtypes and numbers in its recording.

The proof records a network a second time (`netgraph.tracing.recording_check`). Where something may follow the network's precision,
that recording is made in another precision. A dtype that changes with it is the network's own, and one that stays was named in its code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from netgraph.recording.forward.followed_dtype import LIMITS, DtypeLinks, Followed, OwnDtype, OwnLimit
from netgraph.recording.recorder import Recording
from netgraph.rules.operator_call import bind_arguments, schema_arguments

RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 100.0)  # usual multiples of the spacing of numbers around 1


def choose_other_dtype(model: nn.Module, recording: Recording) -> torch.dtype | None:
    """Return a dtype for the second recording of a network, or None if nothing in the first can follow a cast.

    Parameters
    ----------
    model : torch.nn.Module
    recording : Recording
    """
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) != 1 or recording.way not in ("meta", "numbers") or not _may_follow(recording, *dtypes):
        return None
    return torch.float32 if dtypes == {torch.float64} else torch.float64


def _may_follow(recording: Recording, own: torch.dtype) -> bool:
    """Return True if a recording has an argument or a constant that may depend on the precision of the network."""
    if any(constant.is_floating_point() for constant in recording.constants.values()):
        return True
    return any(
        _is_precise(value, own) for node in recording.graph.nodes for value in (*node.args, *node.kwargs.values())
    )


def _is_precise(value: Any, own: torch.dtype) -> bool:
    """Return True for a floating-point dtype, and for a number that may be a limit of one."""
    if isinstance(value, torch.dtype):
        return value.is_floating_point
    if type(value) is not float or value == 0:
        return False
    limits = torch.finfo(own)
    return not 1e3 * limits.tiny < abs(value) < 1e-3 * limits.max or abs(value) / limits.eps in RATIOS


def link_dtypes(first: Recording, second: Recording, own: torch.dtype, other: torch.dtype) -> DtypeLinks:
    """Return the values that follow the precision of a network, and give them those of the first recording in the second one.

    Parameters
    ----------
    first : Recording
        In the network's own precision.
    second : Recording
        In another precision. It is changed in place: what follows the precision gets the values of ``first``, so that the two can be
        compared.
    own, other : torch.dtype
        The two precisions.
    """
    arguments: dict[str, Mapping[str, Followed]] = {}
    for a, b in pair_calls(first.graph, second.graph):
        followed = _find_followed(a, b, own, other)
        if followed:
            arguments[a.name] = followed
            _replace_arguments(b, {name: bind_arguments(a)[name] for name in followed})
    fixed = {name for name, x in first.constants.items() if x.is_floating_point() and not _follows(second, name, other)}
    return DtypeLinks(arguments, _link_constants(first, second, own, other), frozenset(fixed))


def _find_followed(a: fx.Node, b: fx.Node, own: torch.dtype, other: torch.dtype) -> dict[str, Followed]:
    """Return the arguments of a call that follow the precision, from the same call in two precisions."""
    if schema_arguments(a.target) is None:
        return {}
    right = bind_arguments(b)
    followed: dict[str, Followed] = {}
    for name, value in bind_arguments(a).items():
        if value is own and right.get(name) is other:
            followed[name] = OwnDtype(own)
        elif type(value) is type(right.get(name)) is float and value != right[name]:
            limit = _find_limit(value, right[name], own, other)
            followed.update({} if limit is None else {name: limit})
    return followed


def _find_limit(a: float | None, b: float | None, own: torch.dtype, other: torch.dtype) -> OwnLimit | None:
    """Return the limit of which two numbers are the same multiple in two precisions, or None."""
    if a is None or b is None or a == b:
        return None
    for limit in LIMITS:
        factor = a / float(getattr(torch.finfo(own), limit))
        if math.isclose(factor, b / float(getattr(torch.finfo(other), limit)), rel_tol=1e-6) and factor != 0:
            return OwnLimit(limit, factor, own)
    return None


def _replace_arguments(node: fx.Node, values: Mapping[str, Any]) -> None:
    """Give a call other values of some arguments, in place."""
    names = [argument.name for argument in schema_arguments(node.target) or ()]
    node.args = tuple(values.get(name, arg) for name, arg in zip(names, node.args, strict=False))
    node.kwargs = {name: values.get(name, value) for name, value in node.kwargs.items()}


def _follows(second: Recording, name: str, other: torch.dtype) -> bool:
    """Return True if a constant has the other precision in the second recording."""
    return name in second.constants and second.constants[name].dtype == other


def _link_constants(first: Recording, second: Recording, own: torch.dtype, other: torch.dtype) -> dict[str, OwnLimit]:
    """Return the constants that are one limit of a precision, and give all that follow it their values of the first recording."""
    limits = {}
    for name, x in first.constants.items():
        if x.dtype != own or not _follows(second, name, other) or x.shape != second.constants[name].shape:
            continue
        y = second.constants[name]
        limit = _find_limit(_read_single(x), _read_single(y), own, other)
        if limit is not None:
            limits[name] = limit
        second.constants[name] = y.to(own) if limit is None else x
    return limits


def _read_single(tensor: Tensor) -> float | None:
    """Return the number of which all entries of a constant are, or None."""
    first = tensor.flatten()[:1]
    return float(first) if tensor.numel() and bool((tensor == first).all()) else None


def copy_links(links: DtypeLinks, names: Mapping[str, str]) -> DtypeLinks:
    """Return the links of a graph for one that makes the same calls, or some of them. ``names`` are those that its nodes have there."""
    return replace(links, arguments={names[name]: values for name, values in links.arguments.items() if name in names})


def pair_calls(first: fx.Graph, second: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the calls at the same places of two graphs, up to the first that differ."""
    for a, b in zip(_iterate_calls(first), _iterate_calls(second), strict=False):
        if a.target is not b.target:
            return
        yield a, b


def _iterate_calls(graph: fx.Graph) -> Iterator[fx.Node]:
    return (node for node in graph.nodes if node.op == "call_function")
