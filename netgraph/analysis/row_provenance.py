"""Find the weight row that each number of a tensor comes from.

Tensors of row numbers take the place of tensors of numbers. They pass through the recorded graph, from the layers that make them
through views, transposes, cuts and repeats to the layer that reads them. A tensor that is not a mere move of the output of one
layer has no row numbers. An addition of other numbers of the same layer, as in rotary positions, gives each number a *mate*.
A norm over the last dimension leaves positions unchanged and is noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, fx

from netgraph.recording.node_graph import is_constant
from netgraph.rules.operator_call import operator_name
from netgraph.rules.operators import COPIES, DROPOUTS, EXPANSIONS, JOINS, NORMS, PARTS, REPEATS, VIEWS

MOVES = VIEWS | PARTS | EXPANSIONS | REPEATS | JOINS  # every number of the result is a number of an operand
KEEPS_PLACES = COPIES | DROPOUTS | {"aten.neg"}  # every number stays in its place, times a factor
PRODUCTS = {"aten.linear": (1, 2, 0), "aten.addmm": (2, 0, 1), "aten.mm": (1, None, 1), "aten.matmul": (1, None, 1)}


@dataclass(frozen=True)
class RowIds:
    """Row numbers of a tensor.

    Parameters
    ----------
    source : (str, int, str or None)
        Weight of the layer, its outgoing dimension, and bias.
    rows : int Tensor
        Row of each number.
    mate : int Tensor, optional
        Row of the number that rotary positions add.
    normed : bool
        Whether a norm lies between the layer and the tensor.
    """

    source: tuple[str, int, str | None]
    rows: Tensor
    mate: Tensor | None = None
    normed: bool = False

    @property
    def columns(self) -> RowIds:
        """The same row numbers with the last two dimensions exchanged."""
        return replace(self, rows=self.rows.mT, mate=None if self.mate is None else self.mate.mT)


def find_reader(node: fx.Node, ids: Tensor) -> tuple[tuple[str, int, str | None], Tensor] | None:
    """Return the layer that reads the result of an attention, and the id that each of its columns reads."""
    for user in node.users:
        if user.op != "call_function":
            continue
        layer = match_layer(user)
        if layer is not None and layer[0] is node:
            weight, dim, _ = layer[1]
            return (weight, 1 - dim, None), ids.reshape(-1, ids.shape[-1])[0]
        moved = _apply_move(user, {node: ids})
        if isinstance(moved, Tensor) and (reader := find_reader(user, moved)) is not None:
            return reader
    return None


def match_layer(node: fx.Node) -> tuple[fx.Node, tuple[str, int, str | None]] | None:
    """Return the input of a linear layer, with its weight, the outgoing dimension of the weight, and its bias.

    The result is None if the node is no linear layer.
    """
    name = operator_name(node.target)
    if name not in PRODUCTS:
        return None
    at, bias_at, dim = PRODUCTS[name]
    args = [*node.args, None, None]
    weight, bias = args[at], None if bias_at is None else args[bias_at]
    layer_input = args[1 if name == "aten.addmm" else 0]
    if not _is_parameter(weight) or weight.meta["val"].ndim != 2 or not isinstance(layer_input, fx.Node):
        return None
    if bias is not None and not _is_parameter(bias):
        return None
    return layer_input, (str(weight.target), dim, None if bias is None else str(bias.target))


def _is_parameter(node: Any) -> TypeGuard[fx.Node]:
    """Return True if a node reads a parameter or buffer."""
    return isinstance(node, fx.Node) and node.op == "get_attr" and not is_constant(node)


def _apply_move(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Apply a move of numbers to their row numbers. Return None where a node is no move."""
    name = operator_name(node.target)
    if name in KEEPS_PLACES or (name in ("aten.mul", "aten.div") and _is_scaling(node, values)):
        return values[next(n for n in node.all_input_nodes if n in values)]
    if name not in MOVES and name != "_operator.getitem":
        return None
    if name == "aten.cat":
        operands = [n for n in cast("list[fx.Node]", node.args[0]) if n.meta["val"].numel()]  # skips an empty cache
        if any(n not in values for n in operands):
            return None
        return torch.cat([values[n] for n in operands], *node.args[1:], **node.kwargs)  # type: ignore[arg-type]
    if any(n not in values for n in node.all_input_nodes):
        return None
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: values[n])
    move = torch.ops.aten.reshape.default if name in ("aten.view", "aten._unsafe_view") else node.target
    return move(*args, **kwargs)  # type: ignore[operator]


def _is_scaling(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Return True if a node multiplies numbers by a tensor of at most their shape that comes from no layer."""
    factors = [n for n in node.all_input_nodes if n not in values]
    scaled = [n for n in node.all_input_nodes if n in values]
    return (
        len(scaled) == 1
        and scaled[0].meta["val"].shape == node.meta["val"].shape
        and not any(map(_is_learned, factors))
    )


def _find_scaled_vectors(node: fx.Node) -> fx.Node | None:
    """Return the vectors that a node multiplies by one learned number each, as a norm written by hand does."""
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
    """Return True if a node depends on a layer or an embedding table. Positions do not."""
    if node.op == "call_function" and operator_name(node.target) in (*PRODUCTS, "aten.embedding"):
        name = operator_name(node.target)
        if name != "aten.matmul" or match_layer(node) is not None:
            return True
    return any(map(_is_learned, node.all_input_nodes))


class RowWalk:
    """Row numbers at nodes, computed backwards on demand."""

    def __init__(self) -> None:
        self.known: dict[fx.Node, Any] = {}

    def find_rows(self, node: Any) -> Any:
        """Return the `RowIds` of a node, a list of them for several tensors, or None where the node is no move of rows."""
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        if node not in self.known:
            self.known[node] = self._compute_rows(node)
        return self.known[node]

    def _compute_rows(self, node: fx.Node) -> Any:
        """Return the row numbers of a node from those of its operands."""
        layer = match_layer(node)
        if layer is not None:
            shape = node.meta["val"].shape
            return RowIds(layer[1], torch.arange(shape[-1]).expand(shape))
        name = operator_name(node.target)
        operands = {n: r for n in node.all_input_nodes if (r := self.find_rows(n)) is not None}
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
        """Return the rows of the input of a norm over the last dimension, or of vectors that are multiplied by one learned number each."""
        vectors = (
            node.args[0] if name in NORMS else _find_scaled_vectors(node) if name in ("aten.mul", "aten.div") else None
        )
        rows = self.find_rows(vectors)
        return replace(rows, normed=True) if isinstance(rows, RowIds) else None

    def _add_mates(self, numbers: Any, mates: Any) -> RowIds | None:
        """Combine the numbers of one layer with their mates."""
        plain = (
            isinstance(numbers, RowIds) and isinstance(mates, RowIds) and numbers.mate is None and mates.mate is None
        )
        if not plain or numbers.source != mates.source:
            return None
        return RowIds(numbers.source, numbers.rows, mates.rows, numbers.normed or mates.normed)

    def _move_rows(self, node: fx.Node, operands: Mapping[fx.Node, Any], source: Any) -> Any:
        """Apply a move to row numbers and to mates."""
        moved = _apply_move(node, {n: _map_rows(operand, lambda r: r.rows) for n, operand in operands.items()})
        if moved is None:
            return None
        operand_rows = [
            r for operand in operands.values() for r in (operand if isinstance(operand, list) else [operand])
        ]
        has_mates, normed = (
            any(flags) for flags in zip(*((r.mate is not None, r.normed) for r in operand_rows), strict=True)
        )
        moved_mates = (
            _apply_move(node, {n: _map_rows(operand, _get_mate) for n, operand in operands.items()})
            if has_mates
            else None
        )
        if isinstance(moved, (list, tuple)):
            return [
                RowIds(source, x, None if moved_mates is None else moved_mates[i], normed) for i, x in enumerate(moved)
            ]
        return RowIds(source, moved, moved_mates, normed)


def _map_rows(rows: Any, take: Any) -> Any:
    """Apply a function to one set of row numbers or to each in a list."""
    return [take(r) for r in rows] if isinstance(rows, list) else take(rows)


def _get_mate(rows: RowIds) -> Tensor:
    """Return the mates, -1 where there are none."""
    return torch.full_like(rows.rows, -1) if rows.mate is None else rows.mate
