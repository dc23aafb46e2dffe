"""Work on the rows that a mask lets through, which a network may skip where there are none.

A loop over experts asks of each whether any row chose it, or runs over the experts that some row chose. Which ones these are
depends on activations. A recording runs all of them, with the rows that it looks up in each run. This is the same if work on no
rows changes nothing, and that is shown, not assumed: a second recording in which all such masks are false must make the same
calls as the first one without the work on rows (`skip_rows`, and `netgraph.tracing.recording_check`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from netgraph.environment.torch_internals import set_gradients
from netgraph.rules.operator_call import bind_arguments

ATEN = torch.ops.aten
PLACES = (ATEN.nonzero.default, ATEN.nonzero_numpy.default, ATEN.where.default)  # list the places of a mask
CHOSEN = (ATEN.masked_select.default, ATEN.masked_scatter.default, ATEN.masked_scatter_.default)
LOOKUPS = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)  # read or write where a mask holds
WRITES = {  # write rows at their places: with no rows the first argument stays as it is
    ATEN.index_put.default: 1,
    ATEN.index_put_.default: 1,
    ATEN.index_add.default: 2,
    ATEN.index_add_.default: 2,
    ATEN.index_copy.default: 2,
    ATEN.index_copy_.default: 2,
    ATEN.scatter_add.default: 2,
    ATEN.scatter_add_.default: 2,
    ATEN.masked_scatter.default: 1,
    ATEN.masked_scatter_.default: 1,
}
COUNTS = (ATEN.sum.default, ATEN.sum.dim_IntList, ATEN.count_nonzero.default)
ANY = (ATEN.any.default,)
PASSED = (ATEN.detach.default, ATEN.alias.default, ATEN._to_copy.default, ATEN.to.dtype, ATEN.squeeze.default)
UNIQUE = (ATEN._unique2.default, ATEN.unique_dim.default)
RESHAPED = (operator.getitem, ATEN.squeeze.default, ATEN.squeeze.dim, ATEN.view.default, ATEN.flatten.using_ints, ATEN.reshape.default,
            ATEN.select.int, ATEN.unbind.int, ATEN.detach.default)  # fmt: skip
CHOICES = (ATEN.topk.default, ATEN.argmax.default, ATEN.max.dim)  # answer numbers of units by their rank
HOLDS = {  # comparisons of a count with a bound that say whether there is any row
    (ATEN.gt.Scalar, 0): True,
    (ATEN.ne.Scalar, 0): True,
    (ATEN.ge.Scalar, 1): True,
    (ATEN.eq.Scalar, 0): False,
    (ATEN.le.Scalar, 0): False,
    (ATEN.lt.Scalar, 1): False,
}
NONEMPTY = {(">", 0), ("!=", 0), (">=", 1)}  # relations of a count that hold as soon as there are rows
FEWEST = 2  # rows for each mask, because a dimension of one row looks like none
ROWS = "rows"  # key of ``meta`` of a call whose result has one entry for each place of a mask


def find_masks(function: Any, nodes: Any) -> list[fx.Node]:
    """Return the operands of a call that are masks, and decide how many rows it reads or writes."""
    args, _ = nodes
    if function in PLACES or function in CHOSEN:
        return [args[0 if function in PLACES else 1]]
    if function in LOOKUPS:
        return [node for node in args[1] if isinstance(node, fx.Node) and node.meta["val"].dtype == torch.bool]
    return []


def give_rows(mask: Tensor, *, idle: bool) -> Tensor:
    """Return a mask that holds at a few places at least, or with ``idle`` nowhere. Where it holds does not count in a recording."""
    if idle:
        return torch.zeros_like(mask)
    if mask.numel() < FEWEST or int(mask.count_nonzero()) >= FEWEST:
        return mask
    flat = mask.flatten().clone()
    flat[:FEWEST] = 1
    return flat.view(mask.shape)


def count_places(node: fx.Node) -> int | None:
    """Return over how many numbers a loop may run, if a node lists the places of a mask or the numbers that occur, else None."""
    while node.target in RESHAPED and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    listed: Any = node.args[0] if node.args else None
    if node.target in UNIQUE:
        return _count_choices(listed)
    if node.target not in PLACES or not node.meta.get(ROWS) or listed.meta["val"].ndim != 1:
        return None
    n, made = int(listed.meta["val"].shape[0]), listed
    while made.all_input_nodes and made.target is not ATEN.one_hot.default:
        made = made.all_input_nodes[0]
    return min(n, _count_choices(made) or n)


def _count_choices(node: fx.Node) -> int | None:
    """Return the number of units among which the ones behind a node's numbers were chosen, or None."""
    while node.all_input_nodes and node.target not in CHOICES:
        node = node.all_input_nodes[0]
    if node.target not in CHOICES:
        return None
    dim = bind_arguments(node).get("dim")
    return None if dim is None else int(node.all_input_nodes[0].meta["val"].shape[dim])


def ask_for_rows(node: fx.Node) -> bool | None:
    """Return the answer of a decision that asks whether a mask holds anywhere, if it does. None for other decisions."""
    node = _skip_passed(node)
    if node.target in ANY:
        return _check_mask(node.args[0], True)
    if node.target is ATEN.logical_not.default or node.target is ATEN.bitwise_not.default:
        asked = ask_for_rows(node.args[0])  # type: ignore[arg-type]
        return None if asked is None else not asked
    asked_count: Any = (node.target, _plain(node.args[1])) if len(node.args) == 2 else None
    if (holds := HOLDS.get(asked_count)) is not None:
        count = _skip_passed(node.args[0])  # type: ignore[arg-type]
        if count.target in COUNTS:
            return _check_mask(count.args[0], holds)
    return _check_mask(node.args[0], True) if node.target in COUNTS else None


def _plain(value: Any) -> Any:
    """Return a bound as a hashable number, or None."""
    return value if isinstance(value, (int, float)) else None


def _skip_passed(node: fx.Node) -> fx.Node:
    """Return the node behind views and casts."""
    while node.target in PASSED and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _check_mask(node: Any, holds: bool) -> bool | None:
    """Return an answer if a node is a mask: it holds truth values, or zeros and ones by its origin."""
    mask = _skip_passed(node)
    is_mask = mask.meta["val"].dtype == torch.bool or mask.target is ATEN.one_hot.default
    return holds if is_mask else None


def skip_rows(graph: fx.Graph) -> fx.Graph | None:
    """Return a graph without the work on rows that masks let through, as it is where the masks hold nowhere.

    Parameters
    ----------
    graph : torch.fx.Graph
        Of a recording. Calls that look up rows have the key `ROWS` in their ``meta``.

    Returns
    -------
    torch.fx.Graph or None
        None if the answer of the network, or anything else, is made from rows in another way than by writing them to
        their places.
    """
    copy: dict[fx.Node, fx.Node] = {}
    rows: set[fx.Node] = set()
    skipped = fx.Graph()
    for node in graph.nodes:
        reads_rows = any(operand in rows for operand in node.all_input_nodes)
        if node.op == "output" and reads_rows:
            return None
        if node.target in WRITES and (node.meta.get(ROWS) or _is_written_by(node, rows)):
            if node.args[0] in rows:
                rows.add(node)
            else:
                copy[node] = copy[node.args[0]]
        elif reads_rows or node.meta.get(ROWS):
            if _writes_elsewhere(node, rows):
                return None
            rows.add(node)
        else:
            copy[node] = skipped.node_copy(node, copy.__getitem__)
    return skipped


def _is_written_by(node: fx.Node, rows: set[fx.Node]) -> bool:
    """Return True if the places that a call writes to are those of rows."""
    target: Any = node.target
    places = node.args[WRITES[target]]
    listed: Sequence[Any] = places if isinstance(places, (list, tuple)) else [places]
    return any(place in rows for place in listed if isinstance(place, fx.Node))


def _writes_elsewhere(node: fx.Node, rows: set[fx.Node]) -> bool:
    """Return True if a call on rows writes in place to a tensor that is none."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable and node.args and node.args[0] not in rows)


def tidy_graph(graph: fx.Graph) -> None:
    """Erase nodes without effect in place: calls without users, and switches of gradients between which nothing is called."""
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users and _is_pure(node):
            graph.erase_node(node)
    calls = [node for node in graph.nodes if node.op == "call_function"]
    on = True
    for node, following in zip(calls, [*calls[1:], None], strict=True):
        if node.target is not set_gradients:
            continue
        if node.args[0] == on or (following is not None and following.target is set_gradients):
            graph.erase_node(node)
        else:
            on = bool(node.args[0])


def _is_pure(node: fx.Node) -> bool:
    """Return True if a call does nothing but return its result."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "get_attr" or node.target is operator.getitem or (schema is not None and not schema.is_mutable)
