"""Units inside other units that may merge in a way of their own in each of these: neurons inside experts, channels inside groups.

A permutation of the neurons of one expert changes nothing, so each expert may have its own aggregates. This holds if every
tensor that runs over the neurons also says of which expert they are: it runs over the experts too, or its rows were looked up
by the number of an expert. No operator may then mix neurons of two experts, or move experts to other places.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Union

from torch import Tensor, fx

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Atom, Space
from netgraph.rules.operator_call import Spaces, TraceState, bind_arguments, operator_name
from netgraph.rules.operators import COPIES, DROPOUTS, EXPANSIONS, JOINS, LAYERS, NORMS, PARTS, VIEWS, name_operators
from netgraph.rules.registry import is_pointwise

Key = Union[fx.Node, tuple[Space, int]]

# Operators that treat each place of the outer axis by itself, or sum over it. Where they sum, the result lacks the outer axis.
SEPARATE = (
    COPIES | VIEWS | EXPANSIONS | PARTS | JOINS | DROPOUTS | LAYERS | NORMS
    | name_operators(
        "bmm", "baddbmm", "matmul", "mm", "mv", "addmm", "einsum", "index", "group_norm", "batch_norm", "instance_norm", "sum",
        "mean", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "max_pool1d", "max_pool2d", "max_pool3d",
        "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
        "upsample_nearest2d", "upsample_bilinear2d", "upsample_nearest1d", "_upsample_bilinear2d_aa", "pad",
        "constant_pad_nd", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "index_add", "index_add_",
    )
)  # fmt: skip
PASSED = COPIES | VIEWS | EXPANSIONS | PARTS | name_operators("clamp", "where")


def find_nested_units(traces: Iterable[TraceState], leaves: Mapping[str, Spaces]) -> dict[Atom, Atom]:
    """Return the axes whose units may merge in a way of their own in each unit of an outer axis, with that axis.

    Parameters
    ----------
    traces : iterable of TraceState
        The spaces and statements of each recording.
    leaves : dict of str to list of Space
        The spaces of parameters and buffers.
    """
    nested = dict(_list_candidates(leaves))
    for trace in traces:
        for inner in _list_mixed(trace, nested):
            nested.pop(inner, None)
    return nested


def _list_candidates(leaves: Mapping[str, Spaces]) -> Iterator[tuple[Atom, Atom]]:
    """Yield the axes that stand in all their parameters behind one outer axis."""
    shared: dict[Atom, list[Atom]] = {}
    for spaces in leaves.values():
        resolved = [sp.resolve(space) for space in spaces]
        outer = [factor for space in resolved for factor in space if isinstance(factor, Atom) and factor.size > 1]
        first = list(dict.fromkeys(atom for space in resolved for atom in sp.iter_atoms(space)))
        for place, atom in enumerate(first):
            before = [o for o in outer if o in first[:place]]
            others = [o for o in before if outer.count(o) == 1 or _stands_before(o, atom, resolved)]
            shared[atom] = [o for o in shared.get(atom, others) if o in others]
    for atom, others in shared.items():
        if not atom.pinned and len(set(others)) == 1 and atom.size > 1 and not others[0].dynamic:
            yield atom, others[0]


def _stands_before(outer: Atom, inner: Atom, spaces: list[Space]) -> bool:
    """Return True if each place of an axis in a parameter has another one directly before it."""
    for space in spaces:
        places = [i for i, factor in enumerate(space) if factor is inner]
        if len(places) != sum(atom is inner for atom in sp.iter_atoms(space)):
            return False  # it is a part of a concatenation
        if any(i == 0 or space[i - 1] is not outer for i in places):
            return False
    return True


def _list_mixed(trace: TraceState, nested: Mapping[Atom, Atom]) -> set[Atom]:
    """Return the inner axes of which some tensor does not say in which outer unit its numbers are."""
    mixed: set[Atom] = set()
    keys: dict[fx.Node, set[Key]] = {}  # what says in which outer unit the numbers of a node are
    for node, spaces in trace.spaces.items():
        inherited = {key for operand in node.all_input_nodes for key in keys.get(operand, ())}
        if not _is_tensor(node):
            keys[node] = inherited  # a list of parts
            continue
        inner = [atom for atom in _list_atoms(spaces) if atom in nested]
        if inner:
            keys[node] = inherited | _make_keys(node, trace)
        for atom in inner:
            if not (nested[atom] in _list_atoms(spaces) or _is_known(keys[node], spaces, trace)) or not _is_separate(
                node
            ):
                mixed.add(atom)
    return mixed


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _list_atoms(spaces: Spaces) -> set[Atom]:
    return {atom for space in spaces for atom in sp.iter_atoms(space)}


def _make_keys(node: fx.Node, trace: TraceState) -> set[Key]:
    """Return the numbers of outer units by which a call looks up its rows, or the one outer unit that it takes."""
    if node.op != "call_function":
        return set()
    name, operands = operator_name(node.target), node.all_input_nodes
    if name == "aten.index":
        return {_find_numbers(n) for n in operands[1:] if (n, None) in trace.unit_numbers}
    if name == "aten.select":
        bound = bind_arguments(node)
        return {(trace.spaces[operands[0]][bound["dim"]], int(bound["index"]))}
    if node.target is operator.getitem and operator_name(operands[0].target) == "aten.unbind":
        split, part = operands[0].all_input_nodes[0], int(str(node.args[1]))
        return {(trace.spaces[split][bind_arguments(operands[0])["dim"]], part)}
    return set()


def _is_known(keys: set[Key], spaces: Spaces, trace: TraceState) -> bool:
    """Return True if all numbers of a tensor lie in one outer unit, or its rows in those that one list of numbers says."""
    if len(keys) != 1:
        return False
    key = next(iter(keys))
    return isinstance(key, tuple) or _list_atoms(trace.spaces[key]) <= _list_atoms(spaces)


def _find_numbers(node: fx.Node) -> fx.Node:
    """Return the node that made numbers, without views and bounds."""
    while node.op == "call_function" and operator_name(node.target) in PASSED and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _is_separate(node: fx.Node) -> bool:
    """Return True if a call treats every outer unit by itself."""
    if node.op != "call_function":
        return True
    name = operator_name(node.target)
    return name in SEPARATE or name.endswith(".getitem") or is_pointwise(node.target)
