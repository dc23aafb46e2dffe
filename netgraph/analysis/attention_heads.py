"""Find attention heads: the rows of the weights that make their queries, keys and values, and the layer that reads them.

Heads are found in the recorded graph (`netgraph.analysis.row_provenance`), so separate, fused and grouped projections need no
special case. Rotary positions (Su et al., arXiv:2104.09864, 2021) rotate each number of a query together with another one, its *mate*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from netgraph.analysis.head_rotation import Edge, allows_head_rotation
from netgraph.analysis.row_provenance import KEEPS_PLACES, MOVES, RowIds, RowWalk, find_reader
from netgraph.rules.operator_call import operator_name
from netgraph.tracing.unit_spec import Term, UnitSpec, term_size

Index = NDArray[np.int64]
SCORES = frozenset(
    f"aten.{name}" for name in ("mul", "div", "add", "add_", "sub", "masked_fill", "where", "softcap", "tanh", "_softmax")
) | KEEPS_PLACES | MOVES  # fmt: skip


@dataclass(frozen=True)
class HeadSlice:
    """The slice of one weight that belongs to the heads.

    Parameters
    ----------
    weight : str
    dim : int
        The dimension of the weight that runs over the numbers of the heads.
    bias : str or None
    index : int array of shape (n_units, copies, size)
        Their positions along that dimension. There is one copy where all query heads of a group share them, and one unit
        where all units do.
    """

    weight: str
    dim: int
    bias: str | None
    index: Index


@dataclass(frozen=True)
class Heads:
    """The heads of one attention layer, as units of an axis.

    Parameters
    ----------
    query, key, value, out : HeadSlice
        The weights that make queries, keys and values, and the weight that reads the heads.
    mates : int array of shape (size,) or None
        For each number of a query or key, the number within the head that rotary positions rotate it with, or the number
        itself if it is not rotated. None without rotary positions.
    can_rotate : bool
        Whether the graph proves that bases inside heads may rotate (`netgraph.analysis.head_rotation`).
    normed : bool
        Whether a norm stands between queries or keys and their product. Its gains tell the numbers of a head apart.
    complete : bool
        Whether all numbers inside the heads remain. On coarse levels some may have merged.
    """

    query: HeadSlice
    key: HeadSlice
    value: HeadSlice
    out: HeadSlice
    mates: Index | None
    can_rotate: bool = False
    normed: bool = False
    complete: bool = True


def find_heads(spec: UnitSpec, axis: str) -> list[Heads]:
    """Return every attention layer that has the units of an axis as its heads.

    Parameters
    ----------
    spec : UnitSpec
        Of any level.
    axis : str

    Returns
    -------
    list of Heads
        Empty where no layer has its heads on that axis.
    """
    layers: list[Heads] = []
    for recorded in _find_attentions(spec.plans["eval"].graph):
        heads = _place_on_axis(recorded, spec, axis)
        if heads is not None and not any(_have_same_weights(heads, other) for other in layers):
            layers.append(heads)
    return layers


def find_attention_axes(spec: UnitSpec) -> list[str]:
    """Return the axis of the heads of every attention layer, in the order of the run. Layers without such an axis are skipped."""
    axes = [axis.name for axis in spec.axes.values() if axis.kind == "head"]
    layer_axes = []
    for recorded in _find_attentions(spec.plans["eval"].graph):
        layer_axes += [axis for axis in axes if _place_on_axis(recorded, spec, axis) is not None][:1]
    return layer_axes


def _have_same_weights(a: Heads, b: Heads) -> bool:
    """Return True if two attention layers use the same slices of the same weights."""
    return all(
        (x.weight, x.dim) == (y.weight, y.dim) and np.array_equal(x.index, y.index)
        for x, y in ((a.query, b.query), (a.key, b.key), (a.value, b.value), (a.out, b.out))
    )


# From heads in graph order to units of an axis. An index array holds positions along one dimension of a weight, sorted by
# head. `spec.traced` holds the sizes of the recording and `spec.sizes` those of the level: on coarse levels each axis has
# shrunk to its first units, and positions of units that have merged away become -1.


def _place_on_axis(recorded: Heads, spec: UnitSpec, axis: str) -> Heads | None:
    """Return the heads of a layer in the order of the units of an axis, or None if they are not its units."""
    fine = spec.traced or spec.sizes
    unit = _find_units(spec, recorded.out, axis, fine)
    n = fine[axis]
    order = np.argsort(unit[:, 0, 0], kind="stable")
    if (unit != unit[:, :, :1]).any() or not np.array_equal(unit[order, 0, 0], np.repeat(np.arange(n), len(unit) // n)):
        return None
    placed = [
        _place_slice(part, order, spec, axis, fine)
        for part in (recorded.query, recorded.key, recorded.value, recorded.out)
    ]
    parts = [pair[0] for pair in placed if pair is not None]
    if len(parts) < len(placed):
        return None
    # For each weight, a mask of the numbers of a head that have not merged into others.
    remaining = [pair[1] for pair in placed if pair is not None]
    mates = None if recorded.mates is None else _renumber_mates(recorded.mates, remaining[0])
    if (remaining[0] != remaining[1]).any() or (remaining[2] != remaining[3]).any():
        return None
    query, key, value, out = parts
    complete = bool(remaining[0].all() and remaining[2].all())
    return Heads(query, key, value, out, mates, recorded.can_rotate, recorded.normed, complete)


def _place_slice(
    part: HeadSlice, order: Index, spec: UnitSpec, axis: str, fine: Mapping[str, int]
) -> tuple[HeadSlice, NDArray[np.bool_]] | None:
    """Return a slice with heads as units and copies, and a mask of the remaining numbers of a head.

    The result is None where the positions of the heads are no blocks of the axis.
    """
    index = part.index[order].reshape(fine[axis], -1, part.index.shape[2])
    index = index[:, :1] if (index == index[:, :1]).all() else index
    term = spec.parameters[part.weight][part.dim]
    if (index == index[:1]).all():
        index = index[:1]
    elif (_list_units(term, axis, fine)[index] != np.arange(fine[axis])[:, None, None]).any():
        return None
    place = _map_places(term, spec.sizes, fine)[index[: spec.sizes[axis]]]
    remaining = np.asarray((place >= 0).all((0, 1)))  # False where a number inside heads has merged
    if not remaining.any() or (place[:, :, ~remaining] >= 0).any():
        return None
    return HeadSlice(part.weight, part.dim, part.bias, place[:, :, remaining]), remaining


def _renumber_mates(mates: Index, remaining: NDArray[np.bool_]) -> Index:
    """Return the mates of the remaining numbers. Numbers merge in whole pairs."""
    numbers = np.flatnonzero(remaining)
    return np.asarray(np.searchsorted(numbers, mates[numbers]), dtype=np.int64)


def _find_units(spec: UnitSpec, part: HeadSlice, axis: str, sizes: Mapping[str, int]) -> Index:
    """Return the unit of an axis at each position of a slice, or -1."""
    return _list_units(spec.parameters[part.weight][part.dim], axis, sizes)[part.index]


def _list_units(term: Term, axis: str, sizes: Mapping[str, int]) -> Index:
    """Return the unit of an axis at each position of a dimension, or -1."""
    units = np.full(1, -1)
    for factor in term:
        if isinstance(factor, str):
            factor_units = np.arange(sizes[factor]) if factor == axis else np.full(sizes[factor], -1)
        else:
            factor_units = np.concatenate([_list_units(part, axis, sizes) for part in factor])
        units = np.where(units[:, None] >= 0, units[:, None], factor_units).ravel()
    return units


def _map_places(term: Term, sizes: Mapping[str, int], fine: Mapping[str, int]) -> Index:
    """Return the position of each place of a dimension after axes have shrunk to their first units, or -1."""
    places = np.full(term_size(term, fine), -1)
    kept = _list_kept_places(term, sizes, fine)
    places[kept] = np.arange(len(kept))
    return places


def _list_kept_places(term: Term, sizes: Mapping[str, int], fine: Mapping[str, int]) -> Index:
    """Return the places of a dimension that remain after axes have shrunk to their first units."""
    places = np.zeros(1, dtype=np.int64)
    for factor in term:
        if isinstance(factor, str):
            factor_places = np.arange(min(sizes[factor], fine[factor]))
        else:
            starts = np.cumsum([0] + [term_size(part, fine) for part in factor])
            factor_places = np.concatenate(
                [_list_kept_places(p, sizes, fine) + s for p, s in zip(factor, starts, strict=False)]
            )
        places = (places[:, None] * term_size((factor,), fine) + factor_places).ravel()
    return places


# Finding heads in the graph. `RowWalk` sends row numbers from the weights to query, key and value. The reader is found in
# the other direction: ids of the result are sent forward to the layer that reads them.


@lru_cache(maxsize=8)
def _find_attentions(graph: fx.Graph) -> tuple[Heads, ...]:
    """Return every attention layer of a recorded graph, heads in graph order, with index arrays of shape (heads, 1, size)."""
    walk, recorded = RowWalk(), []
    for node in graph.nodes:
        for ends in _find_products(node):
            (query, _), (key, _), (value, out) = ends
            heads = _read_heads(walk, query, key, value, out)
            if heads is not None:
                recorded.append((heads, ends))
    return tuple(replace(heads, can_rotate=_allows_rotation(graph, heads, recorded)) for heads, _ in recorded)


def _allows_rotation(graph: fx.Graph, heads: Heads, recorded: Sequence[tuple[Heads, Sequence[Edge]]]) -> bool:
    """Return True if bases may rotate in all layers that share the weights of one."""
    parts = (heads.query, heads.key, heads.value)
    makers = {name for part in parts for name in (part.weight, part.bias) if name is not None}
    shared = (np.intersect1d(a.index, b.index).size for a, b in combinations(parts, 2) if a.weight == b.weight)
    if any(shared) or heads.out.weight in makers:
        return False
    edges_per_layer = [ends for other, ends in recorded if _have_same_weights(heads, other)]
    return allows_head_rotation(
        graph,
        makers,
        heads.out.weight,
        {end for ends in edges_per_layer for end in ends},
        [ends[2][1] for ends in edges_per_layer],
    )


def _find_products(node: fx.Node) -> Iterator[tuple[Edge, Edge, Edge]]:
    """Yield query, key and value, each with its reader: one fused operator, or two products around a softmax."""
    if node.op != "call_function":
        return
    name = operator_name(node.target)
    if name == "aten.scaled_dot_product_attention":
        query, key, value = cast("tuple[fx.Node, ...]", node.args[:3])
        yield (query, node), (key, node), (value, node)
    elif name in ("aten.softmax", "aten._softmax"):
        product = _find_score_product(node.args[0])
        after = _find_value_product(node)
        if product is not None and after is not None:
            first = 1 if operator_name(product.target) == "aten.baddbmm" else 0
            query, key, value = cast("tuple[fx.Node, ...]", (*product.args[first : first + 2], after.args[1]))
            yield (query, product), (key, product), (value, after)


def _find_score_product(node: Any) -> fx.Node | None:
    """Return the product of queries and keys that the scores come from."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    name = operator_name(node.target)
    if name in ("aten.matmul", "aten.bmm", "aten.baddbmm"):
        return node
    if name not in SCORES:
        return None
    return next((p for operand in node.all_input_nodes if (p := _find_score_product(operand)) is not None), None)


def _find_value_product(node: fx.Node) -> fx.Node | None:
    """Return the product of attention weights and values."""
    for user in node.users:
        if user.op != "call_function":
            continue
        name = operator_name(user.target)
        if name in ("aten.matmul", "aten.bmm") and user.args[0] is node:
            return user
        if name in KEEPS_PLACES | MOVES and (product := _find_value_product(user)) is not None:
            return product
    return None


def _read_heads(walk: RowWalk, query: fx.Node, key: fx.Node, value: fx.Node, out: fx.Node) -> Heads | None:
    """Return the heads of one attention product, or None where rows cannot be followed to weights."""
    q, k, v = (walk.find_rows(node) for node in (query, key, value))
    if (
        not (isinstance(q, RowIds) and isinstance(k, RowIds) and isinstance(v, RowIds))
        or v.mate is not None
        or v.normed
    ):
        return None
    if _varies_by_token(k.rows):  # a product written by hand transposes the keys
        k = k.columns
    *lead, length, size = out.meta["val"].shape
    ids = torch.arange(math.prod(lead) * size).view(*lead, 1, size).expand(*lead, length, size)
    reader = find_reader(out, ids)
    rows = [_list_rows_per_head(x.rows, lead) for x in (q, k, v)]
    if reader is None or any(row_ids is None for row_ids in rows):
        return None
    places = torch.full((math.prod(lead) * size,), -1)
    places[reader[1]] = torch.arange(len(reader[1]))
    complete = (places.view(-1, size) >= 0).all(1)  # heads of the first row of the batch
    mates = _match_mates(q, k, lead, complete)
    if mates is False or int(complete.sum()) * size != len(reader[1]):
        return None
    query_part, key_part, value_part = (
        HeadSlice(*x.source, _to_index(row_ids[complete]))  # type: ignore[index]
        for x, row_ids in zip((q, k, v), rows, strict=True)
    )
    out_part = HeadSlice(*reader[0], _to_index(places.view(-1, size)[complete]))
    return Heads(query_part, key_part, value_part, out_part, mates, normed=q.normed or k.normed)


def _to_index(index: Tensor) -> Index:
    """Return row numbers as an index with one copy, (heads, 1, size)."""
    return np.asarray(index.numpy(), dtype=np.int64)[:, None]


def _varies_by_token(rows: Tensor) -> bool:
    """Return True if rows differ between tokens, which means that tokens are the last dimension."""
    return bool((rows != rows[..., :1, :]).any())


def _list_rows_per_head(rows: Tensor, lead: Sequence[int]) -> Tensor | None:
    """Return the row numbers of every head, (heads, size), repeated where heads share them, or None where tokens differ."""
    if _varies_by_token(rows):
        return None
    rows = rows[..., 0, :]
    if rows.ndim == len(lead) + 1 and lead and rows.shape[-2] and lead[-1] % rows.shape[-2] == 0:
        rows = rows.repeat_interleave(lead[-1] // rows.shape[-2], -2)
    try:
        return rows.expand(*lead, rows.shape[-1]).reshape(-1, rows.shape[-1])
    except RuntimeError:  # shapes that do not broadcast to the heads
        return None


def _match_mates(q: RowIds, k: RowIds, lead: Sequence[int], complete: Tensor) -> Any:
    """Return the mate of each number within its head.

    The result is None without rotary positions, and False where queries and keys disagree.
    """
    if q.mate is None and k.mate is None:
        return None
    if q.mate is None or k.mate is None:
        return False
    partners = []
    for x in (q, k):
        rows, mate = _list_rows_per_head(x.rows, lead), _list_rows_per_head(x.mate, lead)  # type: ignore[arg-type]
        if rows is None or mate is None:
            return False
        rows, mate = rows[complete], mate[complete]
        same = rows[:, :, None] == mate[:, None, :]  # (heads, size, size): True where one number is the mate of another
        partner = torch.where(mate < 0, torch.arange(rows.shape[1]), same.int().argmax(1))
        partners.append(partner)
    first = partners[0][0]
    if any((partner != first).any() for partner in partners) or (first[first] != torch.arange(len(first))).any():
        return False
    return np.asarray(first.numpy(), dtype=np.int64)
