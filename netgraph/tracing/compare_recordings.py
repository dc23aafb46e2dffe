"""Two recordings of one network compared call by call: operators, wiring, arguments, constants and outputs.

The second recording may have other sizes along the free dimensions. An argument that differs then must be the one that the coarse
network would compute for these sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from netgraph.recording.node_graph import is_constant
from netgraph.recording.operators.guards import check_decision, compare_counts_alike
from netgraph.recording.recorder import Recording
from netgraph.rules.operator_call import bind_arguments, operator_name, source_line
from netgraph.tracing.unit_spec import Plan, Rewrite, UnitSpec, term_axes, term_size

MODE_FLAGS = frozenset(
    {"train", "training", "use_input_stats", "dropout_p"}
)  # arguments that tell training from evaluation

NOTHING: Mapping[Any, Any] = MappingProxyType({})


def find_difference(
    first: Recording,
    second: Recording,
    plan: Plan | None = None,
    spec: UnitSpec | None = None,
    *,
    ignored: Collection[str] = (),
) -> str | None:
    """Return the first difference of two recordings in words, with operator and source line, or None.

    Parameters
    ----------
    first, second : Recording
    plan : Plan, optional
        What the trace of ``first`` says about arguments that are sizes. By default all arguments must be the same.
    spec : UnitSpec, optional
        That trace.
    ignored : collection of str
        Arguments that may differ, by their name in the schema of an operator.
    """
    matched = _match_leaves(first, second)
    sizes: dict[str, int] = {}
    resized = {} if plan is None or spec is None else _find_resized(plan, spec)
    last: fx.Node | None = None
    for a, b in zip_longest(_list_calls(first.graph), _list_calls(second.graph)):
        if a is None or b is None or a.target is not b.target:
            return _describe_other_call(a, b, last)
        if a.target is check_decision and a.name not in resized and not _are_same(a.args, b.args, matched):
            if _are_same(a.args[0], b.args[0], matched) and compare_counts_alike(a.args[1:], b.args[1:]):
                continue
            return None  # a decision on the inputs, which a guard holds to its outcome
        if plan is not None and spec is not None and a.name in resized:
            sizes = sizes or _read_sizes(plan, spec, first, second)
            problem = _compare_resized(a, b, matched, resized[a.name], plan, sizes)
        else:
            problem = _compare_arguments(a, b, matched, ignored)
        if problem is not None:
            return problem
        matched[b] = last = a
    return _compare_results(first, second, matched)


def align_modes(evaluation: Recording, training: Recording) -> dict[str, str] | None:
    """Return the nodes of a training mode that evaluation has too, by name, with their names in evaluation.

    Training may make more calls: paths that are dropped, counters of running statistics. Evaluation then reads what such calls were given.

    Parameters
    ----------
    evaluation, training : Recording

    Returns
    -------
    dict of str to str or None
        None if evaluation makes a call that training does not make, with other arguments than `MODE_FLAGS`, or in another order.
    """
    matched = _match_leaves(training, evaluation)
    passed: dict[fx.Node, frozenset[fx.Node]] = {}  # calls of training alone, with what evaluation reads in their place
    remaining = iter(_list_calls(evaluation.graph))
    b = next(remaining, None)
    for a in _list_calls(training.graph):
        if b is not None and a.target is b.target and _make_same_call(a, b, matched, passed):
            matched[b] = a
            b = next(remaining, None)
        else:
            passed[a] = _list_passed(a, passed)
    if b is not None or _compare_results(training, evaluation, matched, passed) is not None:
        return None
    return {a.name: b.name for b, a in matched.items()}


def _make_same_call(
    a: fx.Node, b: fx.Node, matched: Mapping[fx.Node, fx.Node], passed: Mapping[fx.Node, frozenset[fx.Node]]
) -> bool:
    """Return True if two calls of one operator have the same arguments, apart from those that tell the modes apart."""
    if _are_same((a.args, a.kwargs), (b.args, b.kwargs), matched, passed):
        return True
    left, right = bind_arguments(a), bind_arguments(b)
    return left.keys() == right.keys() and all(
        name in MODE_FLAGS or _are_same(value, right[name], matched, passed) for name, value in left.items()
    )


def _list_passed(call: fx.Node, passed: Mapping[fx.Node, frozenset[fx.Node]]) -> frozenset[fx.Node]:
    """Return the operands of a call that have the shape of its result, with the operands that those stand for."""
    result = call.meta.get("val")
    if not isinstance(result, Tensor):
        return frozenset()
    alike = [n for n in call.all_input_nodes if isinstance(x := n.meta.get("val"), Tensor) and x.shape == result.shape]
    return frozenset(alike).union(*(passed[n] for n in alike if n in passed))


def _list_calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _match_leaves(first: Recording, second: Recording) -> dict[fx.Node, fx.Node]:
    """Return the inputs, parameters and equal constants of the second graph, with those of the first."""
    leaves = {(n.op, n.target): n for n in first.graph.nodes if n.op in ("placeholder", "get_attr")}
    return {
        node: leaves[node.op, node.target]
        for node in second.graph.nodes
        if (node.op, node.target) in leaves and (not is_constant(node) or _have_equal_numbers(node, first, second))
    }


def _compare_results(
    first: Recording,
    second: Recording,
    matched: Mapping[fx.Node, fx.Node],
    passed: Mapping[fx.Node, frozenset[fx.Node]] = NOTHING,
) -> str | None:
    """Return a difference of the outputs of two graphs, or of how they nest."""
    ends = [next(node for node in reversed(r.graph.nodes) if node.op == "output").args for r in (first, second)]
    if not _are_same(ends[0], ends[1], matched, passed):
        return "its outputs come from other operators"
    return None if first.outputs == second.outputs else "its outputs nest differently, or hold other numbers"


def _describe_other_call(a: fx.Node | None, b: fx.Node | None, last: fx.Node | None) -> str:
    """Return the words for two runs that call different operators at one place."""
    place = next((line for node in (a, b, last) if node is not None and (line := source_line(node))), "")
    return f"one run {_describe_node(a)}, another {_describe_node(b)}{place}"


def _describe_node(node: fx.Node | None) -> str:
    """Return the work of a run at a node."""
    return "ends" if node is None else f"calls {operator_name(node.target)}"


def _have_equal_numbers(node: fx.Node, first: Recording, second: Recording) -> bool:
    """Return True if a constant has the same numbers in two recordings. NaN equals NaN."""
    x, y = first.constants[str(node.target)], second.constants[str(node.target)]
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(x, y) or bool(((x == y) | ((x != x) & (y != y))).all())


def find_wrong_size(recording: Recording, plan: Plan, spec: UnitSpec) -> str | None:
    """Return the first argument that the coarse network would change although no size has changed, in words, or None."""
    for node in recording.graph.nodes:
        for rewrite in plan.rewrites.get(node.name, ()) if node.name not in plan.retarget else ():
            old = bind_arguments(node).get(rewrite.argument)
            new = _resize(rewrite, old, spec.sizes)
            if not _are_same(new, _resolve_size(old, new, node), {}):
                return f"{rewrite.argument} of {operator_name(node.target)} is {_format(old)} and not {_format(new)}{source_line(node)}"
    return None


# Arguments


def _compare_arguments(
    a: fx.Node, b: fx.Node, matched: Mapping[fx.Node, fx.Node], ignored: Collection[str]
) -> str | None:
    """Return a difference of the arguments of two calls of one operator."""
    if _are_same((a.args, a.kwargs), (b.args, b.kwargs), matched):
        return None
    left, right = bind_arguments(a), bind_arguments(b)
    if a.target is torch.ops.aten.slice.Tensor and _goes_to_the_end(left) and _goes_to_the_end(right):
        right["end"] = left["end"]
    names = [n for n in left if n not in ignored and not _are_same(left[n], right.get(n), matched)]
    if not names and len(left) == len(right):
        return None
    name = names[0] if names else "arguments"
    return f"{operator_name(a.target)} is called with {name} {_format(left.get(name))} and {_format(right.get(name))}{source_line(a)}"


def _goes_to_the_end(arguments: Mapping[str, Any]) -> bool:
    """Return True if a slice ends where its operand does."""
    sliced, end = arguments["self"].meta.get("val"), arguments.get("end")
    return isinstance(sliced, Tensor) and isinstance(end, int) and end >= sliced.shape[arguments["dim"]]


def _are_same(
    a: Any,
    b: Any,
    matched: Mapping[fx.Node, fx.Node],
    passed: Mapping[fx.Node, frozenset[fx.Node]] = NOTHING,
) -> bool:
    """Return True if two arguments are equal, and nodes in them at the same place of their graphs."""
    kind = type(a)
    if kind is fx.Node:
        twin = matched.get(b) if type(b) is fx.Node else None
        return twin is a or (twin is not None and twin in passed.get(a, ()))
    if kind is int or kind is str:  # the commonest first
        return bool(type(b) is kind and a == b)
    if isinstance(a, (list, tuple)):
        if not isinstance(b, (list, tuple)) or len(a) != len(b):
            return False
        return all(_are_same(x, y, matched, passed) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_are_same(a[k], b[k], matched, passed) for k in a)
    if isinstance(a, slice):
        parts = (a.start, a.stop, a.step)
        return type(b) is slice and _are_same(parts, (b.start, b.stop, b.step), matched, passed)
    return bool(kind is type(b) and (a == b or a != a))


def _format(value: Any) -> str:
    """Return an argument as short text."""
    if isinstance(value, fx.Node):
        value = (
            "the result of another operator"
            if value.op == "call_function"
            else "a constant"
            if is_constant(value)
            else value.target
        )
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."


# Sizes that follow the inputs


def _find_resized(plan: Plan, spec: UnitSpec) -> dict[str, list[Rewrite]]:
    """Return the rewrites of arguments that follow the size of an input, by node."""
    found = {}
    for name, rewrites in plan.rewrites.items():
        varying = [
            r
            for r in rewrites
            if r.compute is None and any(not spec.dynamic.isdisjoint(term_axes(t)) for t in r.terms if t)
        ]
        if varying:
            found[name] = rewrites
    return found


def _read_sizes(plan: Plan, spec: UnitSpec, first: Recording, second: Recording) -> dict[str, int]:
    """Return the sizes of all axes in the second recording."""
    twins = {a.name: b for a, b in zip(first.graph.nodes, second.graph.nodes, strict=False)}
    sizes = spec.sizes
    for axis, (name, dim, other_factors) in plan.sources.items():
        value = twins[name].meta.get("val") if name in twins else None
        if isinstance(value, Tensor) and value.ndim > dim:
            sizes[axis] = value.shape[dim] // max(term_size(other_factors, sizes), 1)
    return sizes


def _compare_resized(
    a: fx.Node,
    b: fx.Node,
    matched: Mapping[fx.Node, fx.Node],
    rewrites: list[Rewrite],
    plan: Plan,
    sizes: Mapping[str, int],
) -> str | None:
    """Return a difference of two calls, where arguments of the first are replaced as in the coarse network."""
    retarget = plan.retarget.get(a.name)
    expected = dict(bind_arguments(a) if retarget is None else retarget[1])
    for rewrite in rewrites:
        expected[rewrite.argument] = _resize(rewrite, expected.get(rewrite.argument), sizes)
    if retarget is not None:
        parts = [part.shape[int(expected["dim"])] for part in b.meta["val"]]
        return None if list(expected["split_sizes"]) == parts else _describe_size(a, expected["split_sizes"], parts)
    found = bind_arguments(b)
    for name, value in expected.items():
        other = _resolve_size(found.get(name), value, b)
        if not _are_same(value, other, matched):
            return _describe_size(a, value, other)
    return None


def _resize(rewrite: Rewrite, old: Any, sizes: Mapping[str, int]) -> Any:
    """Return an argument for other sizes of the free dimensions."""
    if rewrite.compute is not None:
        return rewrite.compute(1.0)
    if rewrite.single:
        size = term_size(rewrite.terms[0] or (), sizes)
        return float(size) if type(old) is float else size  # the end of an arange
    return [o if term is None else term_size(term, sizes) for o, term in zip(old, rewrite.terms, strict=True)]


def _resolve_size(found: Any, expected: Any, node: fx.Node) -> Any:
    """Return the recorded sizes with a plain size in the place of -1 and of a place counted from the end or beyond it."""
    result = node.meta.get("val")
    if isinstance(found, (list, tuple)) and isinstance(expected, list) and isinstance(result, Tensor):
        places = zip(found, expected, result.shape, strict=True) if len(found) == result.ndim else ()
        return [n if m == -1 and e != -1 else m for m, e, n in places] or found
    if type(found) is int and type(expected) is int and node.target is torch.ops.aten.slice.Tensor:
        arguments = bind_arguments(node)
        size = int(arguments["self"].meta["val"].shape[arguments["dim"]])
        place = found + size if found < 0 <= expected else found
        return expected if min(place, expected) >= size else place
    return found


def _describe_size(node: fx.Node, expected: Any, found: Any) -> str:
    return f"{operator_name(node.target)} makes other sizes than the rows explain, {_format(found)} and not {_format(expected)}{source_line(node)}"
