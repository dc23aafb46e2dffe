"""Axes whose units are chosen by rank, such as experts by a router, and the axes of the ranks, which follow them.

A router gives every token the k best of n experts. If m clones of each expert merge, all m of them are among the k best or
none is, as long as m divides k, and k / m of the n / m coarse experts are chosen. So the axis of the ranks shrinks by the
same factor as the axis of the experts. Where that is impossible, both are kept, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from netgraph.recording.operators.idle_rows import ROWS, WRITES
from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Atom, Space
from netgraph.rules.operator_call import Choice, Spaces, TraceState, source_line
from netgraph.tracing.unit_spec import ExpertLayer, Term

TOGETHER = "clones would have to be chosen together"  # the reason why units that are chosen by rank stay that may go one by one


@dataclass(frozen=True)
class Follower:
    """An axis of ranks, and the axis of the units that are ranked.

    Parameters
    ----------
    ranks, units : Atom
    """

    ranks: Atom
    units: Atom


def find_followers(traces: Iterable[TraceState], leaves: Mapping[str, Spaces]) -> list[Follower]:
    """Return the axes of ranks that follow axes of units which may merge. Pin all other ranks and units that are chosen.

    Parameters
    ----------
    traces : iterable of TraceState
        The spaces and statements of each recording.
    leaves : dict of str to list of Space
        The spaces of parameters and buffers. No rank may have parameters of its own.
    """
    choices = [choice for trace in traces for choice in trace.choices]
    owned = {atom for spaces in leaves.values() for space in spaces for atom in sp.iter_atoms(space)}
    pinned = True
    while pinned:  # one pin may be the reason for another
        pinned = False
        for choice in choices:
            reason = _find_obstacle(choice, choices, owned)
            if reason is not None and _is_free(choice):
                sp.pin(choice.among, reason)
                sp.pin(choice.chosen, reason)
                pinned = True
    return list(dict.fromkeys(_make_follower(choice) for choice in choices if _is_free(choice)))


def count_fewest(traces: Iterable[TraceState]) -> dict[Atom, int]:
    """Return the axes of chosen units from which single units may go, and how many must stay for all ranks.

    A unit that goes is never chosen. The others and their ranks stay as they are, so clones matter for merging alone.
    """
    fewest: dict[Atom, int] = {}
    for choice in (choice for trace in traces for choice in trace.choices):
        units = sp.resolve(choice.among)
        if len(units) == 1 and isinstance(units[0], Atom) and TOGETHER in (units[0].pinned or TOGETHER):
            fewest[units[0]] = max(fewest.get(units[0], 0), sp.size_of(choice.chosen))
    return fewest


def _is_free(choice: Choice) -> bool:
    """Return True if units of a choice may still merge."""
    return any(not atom.pinned for space in (choice.among, choice.chosen) for atom in sp.iter_atoms(space))


def _make_follower(choice: Choice) -> Follower:
    (ranks,), (units,) = sp.resolve(choice.chosen), _find_free_factors(choice.among)
    return Follower(ranks, units)  # type: ignore[arg-type]


def _find_free_factors(space: Space) -> list[sp.Factor]:
    """Return the factors of a space that may merge."""
    return [f for f in sp.resolve(space) if any(not atom.pinned for atom in sp.iter_atoms((f,)))]


def _find_obstacle(choice: Choice, choices: list[Choice], owned: set[Atom]) -> str | None:
    """Return the reason why the units of a choice cannot merge, or None."""
    place = source_line(choice.node)
    ranks, units = sp.resolve(choice.chosen), _find_free_factors(choice.among)
    n_ranks, n_units = sp.size_of(choice.chosen), sp.size_of(choice.among)
    one_of = f"{n_ranks} of {n_units} units are chosen by rank{place}"
    if n_ranks == 1:
        return f"{one_of}, and {TOGETHER}"
    if not units:
        return next((a.pinned for a in sp.iter_atoms(choice.among) if a.pinned), one_of)
    if len(units) > 1 or not isinstance(units[0], Atom):
        return f"{one_of}, from groups or parts of units"
    if len(ranks) != 1 or not isinstance(ranks[0], Atom) or ranks[0] in owned:
        return f"{one_of}, and the ranks are not alike"
    if ranks[0].pinned:
        return f"{one_of}, and the ranks are told apart: {ranks[0].pinned}"
    if any(_find_free_factors(c.among) != units for c in choices if sp.resolve(c.chosen) == ranks):
        return f"{one_of}, with ranks that another axis shares"
    together = math.gcd(units[0].size, *(sp.size_of(c.chosen) for c in choices if _find_free_factors(c.among) == units))
    if together == 1:
        return f"{one_of}, and {TOGETHER}, but these numbers have no common divisor"
    return None


def find_expert_layers(
    trace: TraceState, leaves: Mapping[str, Spaces], build_term: Callable[[Space], Term]
) -> Iterator[ExpertLayer]:
    """Yield the mixtures of experts of a recording: chosen units that have matrices of their own.

    Parameters
    ----------
    trace : TraceState
        The spaces and statements of the recording.
    leaves : dict of str to list of Space
        The spaces of parameters and buffers.
    build_term : callable ``(space) -> term``
    """
    first = {name: sp.resolve(spaces[0]) for name, spaces in leaves.items() if len(spaces) > 1}
    for choice in trace.choices:
        units = sp.resolve(choice.among)
        owned = [name for name, space in first.items() if space == units]
        read_in_part = tuple(name for name in owned if name in trace.chosen_parameters)
        rows = _find_rows(choice)
        read_in_part += _list_parameters_of_rows(choice, rows)
        if read_in_part or any(len(leaves[name]) > 2 for name in owned):
            value = choice.node.all_input_nodes[0].meta["val"]
            n_tokens = value.numel() // sp.size_of(units)
            axes = tuple(str(build_term((atom,))[0]) for atom in _list_row_axes(rows, trace))
            yield ExpertLayer(build_term(units), build_term(choice.chosen), n_tokens, read_in_part, axes)


def _find_rows(choice: Choice) -> set[fx.Node]:
    """Return the calls on rows that chose some unit, up to those that write the rows to their places."""
    nodes = list(choice.node.graph.nodes)
    rows: set[fx.Node] = set()
    for node in nodes[nodes.index(choice.node) :]:
        if node.target in WRITES:
            continue
        if (node.meta.get(ROWS) and any(_is_made_from(mask, choice.node) for mask in node.all_input_nodes)) or any(
            operand in rows for operand in node.all_input_nodes
        ):
            rows.add(node)
    return rows


def _list_parameters_of_rows(choice: Choice, rows: set[fx.Node]) -> tuple[str, ...]:
    """Return the parameters that only calls on rows read, as they read those of experts in a list."""
    leaves = [node for node in choice.node.graph.nodes if node.op == "get_attr"] if rows else []
    return tuple(str(node.target) for node in leaves if _is_read_by(node, rows))


def _list_row_axes(rows: set[fx.Node], trace: TraceState) -> list[Atom]:
    """Return the axes that count the rows which chose some unit."""
    made: dict[Atom, None] = {}
    for space, node, _ in trace.sources:
        if node in rows and (node.meta.get(ROWS) or all(n.meta.get(ROWS) for n in node.all_input_nodes)):
            made.update(dict.fromkeys(sp.iter_atoms(space)))
    return list(made)


def _is_made_from(node: fx.Node, choice: fx.Node) -> bool:
    """Return True if a mask was made from the numbers that a call chose, without numbers in floating point between."""
    seen, left = set(), [node]
    while left:
        node = left.pop()
        if node is choice:
            return True
        value = node.meta.get("val")
        if node not in seen and not (isinstance(value, Tensor) and value.is_floating_point()):
            seen.add(node)
            left += node.all_input_nodes
    return False


def _is_read_by(node: fx.Node, rows: set[fx.Node]) -> bool:
    """Return True if all readers of a parameter, or of a view of it, are calls on rows."""
    return bool(node.users) and all(
        user in rows or (len(user.all_input_nodes) == 1 and user.op != "output" and _is_read_by(user, rows))
        for user in node.users
    )


def count_together(units: Atom, followers: Iterable[Follower]) -> int:
    """Return the number that the size of all aggregates of an axis must divide, or 0 if nothing follows the axis."""
    return math.gcd(*(n for f in followers if f.units is units for n in (units.size, f.ranks.size)))
