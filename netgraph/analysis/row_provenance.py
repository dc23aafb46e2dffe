"""Numbers of rows in place of numbers: which row of which weight each number of a tensor comes from.

They are sent through the recorded graph from the layers that make them through views, transposes, cuts and repeats, and
on to the layer that reads them. What is no mere move of one layer's numbers has no rows. Adding to them others of the
same layer, as rotary positions do, gives each number a *mate*. A norm over the last dimension leaves numbers where they
are, and is noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, fx

from netgraph.rules.operator_call import operator_name

MOVES = frozenset(
    f"aten.{name}"
    for name in (
        "view", "_unsafe_view", "reshape", "transpose", "permute", "t", "select", "slice", "split", "split_with_sizes",
        "chunk", "unbind", "expand", "unsqueeze", "squeeze", "flatten", "unflatten", "movedim", "cat", "stack",
        "repeat_interleave", "repeat", "numpy_T", "narrow",
    )
)  # fmt: skip
STILL = frozenset(
    f"aten.{name}" for name in ("contiguous", "clone", "alias", "detach", "dropout", "to", "_to_copy", "neg")
)
NORMS = ("aten.layer_norm", "aten.rms_norm")
PRODUCTS = {"aten.linear": (1, 2, 0), "aten.addmm": (2, 0, 1), "aten.mm": (1, None, 1), "aten.matmul": (1, None, 1)}


@dataclass(frozen=True)
class RowIds:
    """Row numbers in place of the numbers of a tensor: ``own``, of what rotary positions add ``mate``, and whether a norm stands between."""

    source: tuple[str, int, str | None]
    own: Tensor
    mate: Tensor | None = None
    normed: bool = False

    @property
    def columns(self) -> RowIds:
        """The same with the last two dimensions exchanged."""
        return replace(self, own=self.own.mT, mate=None if self.mate is None else self.mate.mT)


def find_reader(node: fx.Node, ids: Tensor) -> tuple[tuple[str, int, str | None], Tensor] | None:
    """Return the layer that reads an attention's result, and which of its numbers each column reads."""
    for user in node.users:
        if user.op != "call_function":
            continue
        started = match_layer(user)
        if started is not None and started[0] is node:
            weight, dim, _ = started[1]
            return (weight, 1 - dim, None), ids.reshape(-1, ids.shape[-1])[0]
        moved = _apply_move(user, {node: ids})
        if isinstance(moved, Tensor) and (found := find_reader(user, moved)) is not None:
            return found
    return None


def match_layer(node: fx.Node) -> tuple[fx.Node, tuple[str, int, str | None]] | None:
    """Return what a layer reads, and its weight, the weight's outgoing dimension, and bias."""
    name = operator_name(node.target)
    if name not in PRODUCTS:
        return None
    at, bias_at, dim = PRODUCTS[name]
    args = [*node.args, None, None]
    weight, bias = args[at], None if bias_at is None else args[bias_at]
    read = args[1 if name == "aten.addmm" else 0]
    if not _is_parameter(weight) or weight.meta["val"].ndim != 2 or not isinstance(read, fx.Node):
        return None
    if bias is not None and not _is_parameter(bias):
        return None
    return read, (str(weight.target), dim, None if bias is None else str(bias.target))


def _is_parameter(node: Any) -> TypeGuard[fx.Node]:
    return isinstance(node, fx.Node) and node.op == "get_attr" and not str(node.target).startswith("constants.")


def _apply_move(node: fx.Node, held: Mapping[fx.Node, Any]) -> Any:
    """Do with numbers of rows what a move does with numbers; None where a node is no move of them alone."""
    name = operator_name(node.target)
    if name in STILL or (name in ("aten.mul", "aten.div") and _is_scaling(node, held)):
        return held[next(n for n in node.all_input_nodes if n in held)]
    if name not in MOVES and name != "_operator.getitem":
        return None
    if name == "aten.cat":
        operands = [n for n in cast("list[fx.Node]", node.args[0]) if n.meta["val"].numel()]  # an empty cache goes
        if any(n not in held for n in operands):
            return None
        return torch.cat([held[n] for n in operands], *node.args[1:], **node.kwargs)  # type: ignore[arg-type]
    if any(n not in held for n in node.all_input_nodes):
        return None
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: held[n])
    move = torch.ops.aten.reshape.default if name in ("aten.view", "aten._unsafe_view") else node.target
    return move(*args, **kwargs)  # type: ignore[operator]


def _is_scaling(node: fx.Node, held: Mapping[fx.Node, Any]) -> bool:
    """Tell whether a node multiplies numbers of rows by others of the same shape or smaller that no layer made."""
    others = [n for n in node.all_input_nodes if n not in held]
    mine = [n for n in node.all_input_nodes if n in held]
    return len(mine) == 1 and mine[0].meta["val"].shape == node.meta["val"].shape and not any(map(_is_learned, others))


def _find_scaled_vectors(node: fx.Node) -> fx.Node | None:
    """Return the vectors that a node multiplies or divides by one learned number each, as a norm written by hand does."""
    operands = [n for n in node.args if isinstance(n, fx.Node)]
    shape = node.meta["val"].shape
    if len(operands) != 2 or not shape or shape[-1] == 1:
        return None
    for vectors, scale in (operands, operands[::-1]):
        sizes = scale.meta["val"].shape
        if vectors.meta["val"].shape == shape and sizes and sizes[-1] == 1 and _is_learned(scale):
            return vectors
    return None


@lru_cache(maxsize=4096)
def _is_learned(node: fx.Node) -> bool:
    """Tell whether a layer or a table had a part in a node; positions have none."""
    if node.op == "call_function" and operator_name(node.target) in (*PRODUCTS, "aten.embedding"):
        name = operator_name(node.target)
        if name != "aten.matmul" or match_layer(node) is not None:
            return True
    return any(map(_is_learned, node.all_input_nodes))


class RowWalk:
    """Row numbers at nodes, worked out backwards from where they are asked for."""

    def __init__(self) -> None:
        self.known: dict[fx.Node, Any] = {}

    def rows(self, node: Any) -> Any:
        """Return the `RowIds` of a node, a list of them where it is several tensors, None where it is no move of rows."""
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        if node not in self.known:
            self.known[node] = self._compute_rows(node)
        return self.known[node]

    def _compute_rows(self, node: fx.Node) -> Any:
        started = match_layer(node)
        if started is not None:
            shape = node.meta["val"].shape
            return RowIds(started[1], torch.arange(shape[-1]).expand(shape))
        name = operator_name(node.target)
        operands = {n: r for n in node.all_input_nodes if (r := self.rows(n)) is not None}
        if not operands:
            return None
        normed = self._pass_norm(node, name)
        if normed is not None:
            return normed
        if name in ("aten.add", "aten.sub") and len(operands) == 2:
            return self._add_mates(*operands.values())
        sources = {r.source for rows in operands.values() for r in (rows if isinstance(rows, list) else [rows])}
        if len(sources) != 1:
            return None
        return self._move_rows(node, operands, sources.pop())

    def _pass_norm(self, node: fx.Node, name: str) -> RowIds | None:
        """Return what a norm over the last dimension is given, or what is multiplied by one learned number for each vector."""
        given = (
            node.args[0] if name in NORMS else _find_scaled_vectors(node) if name in ("aten.mul", "aten.div") else None
        )
        rows = self.rows(given)
        return replace(rows, normed=True) if isinstance(rows, RowIds) else None

    def _add_mates(self, own: Any, mate: Any) -> RowIds | None:
        """Add up numbers and their mates, of one layer."""
        plain = isinstance(own, RowIds) and isinstance(mate, RowIds) and own.mate is None and mate.mate is None
        if not plain or own.source != mate.source:
            return None
        return RowIds(own.source, own.own, mate.own, own.normed or mate.normed)

    def _move_rows(self, node: fx.Node, operands: Mapping[fx.Node, Any], source: Any) -> Any:
        own = _apply_move(node, {n: _map_rows(rows, lambda r: r.own) for n, rows in operands.items()})
        if own is None:
            return None
        each = [r for rows in operands.values() for r in (rows if isinstance(rows, list) else [rows])]
        turned, normed = (any(found) for found in zip(*((r.mate is not None, r.normed) for r in each), strict=True))
        mate = _apply_move(node, {n: _map_rows(rows, _get_mate) for n, rows in operands.items()}) if turned else None
        if isinstance(own, (list, tuple)):
            return [RowIds(source, x, None if mate is None else mate[i], normed) for i, x in enumerate(own)]
        return RowIds(source, own, mate, normed)


def _map_rows(rows: Any, take: Any) -> Any:
    return [take(r) for r in rows] if isinstance(rows, list) else take(rows)


def _get_mate(rows: RowIds) -> Tensor:
    return torch.full_like(rows.own, -1) if rows.mate is None else rows.mate
