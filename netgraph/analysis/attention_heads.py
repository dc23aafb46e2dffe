"""Where the heads of attention stand: which rows of which weights make their queries, keys and values, and what reads them.

They are found in the recorded graph (`netgraph.analysis.row_provenance`), so that separate, fused and grouped projections need no special
case. Rotary positions (Su et al., arXiv:2104.09864, 2021) turn each number of a query with another one, its *mate*.
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
from netgraph.analysis.row_provenance import MOVES, STILL, RowIds, RowWalk, find_reader
from netgraph.rules.operator_call import operator_name
from netgraph.tracing.unit_spec import Term, UnitSpec, term_size

Index = NDArray[np.int64]
SCORES = frozenset(
    f"aten.{name}" for name in ("mul", "div", "add", "add_", "sub", "masked_fill", "where", "softcap", "tanh", "_softmax")
) | STILL | MOVES  # fmt: skip


@dataclass(frozen=True)
class HeadSlice:
    """Where the numbers of all heads stand in one weight.

    Parameters
    ----------
    weight : str
    dim : int
        The dimension of the weight that runs over them.
    bias : str or None
    index : int array of shape (n_units, copies, size)
        Their places along that dimension; one copy where all query heads of a group share them, and one unit where all
        units do.
    """

    weight: str
    dim: int
    bias: str | None
    index: Index


@dataclass(frozen=True)
class Heads:
    """The heads of one attention, as units of an axis.

    Parameters
    ----------
    query, key, value, out : Part
        What makes queries, keys and values, and what reads the heads.
    mates : int array of shape (size,) or None
        The number within the head that each of a query's and key's is turned with by rotary positions, itself where it is
        not turned; None without rotary positions.
    confined : bool
        Whether the graph itself shows that bases inside heads may rotate (`netgraph.analysis.head_rotation`).
    normed : bool
        Whether a norm stands between queries or keys and their product, whose gains know one number of a head from another.
    whole : bool
        Whether all numbers inside heads are there: on coarse levels some may have merged.
    """

    query: HeadSlice
    key: HeadSlice
    value: HeadSlice
    out: HeadSlice
    mates: Index | None
    confined: bool = False
    normed: bool = False
    whole: bool = True


def find_heads(spec: UnitSpec, axis: str) -> list[Heads]:
    """Return every attention whose heads are the units of an axis, empty where none is found.

    Parameters
    ----------
    spec : UnitSpec
        Of any level.
    axis : str
    """
    found: list[Heads] = []
    for seen in _find_attentions(spec.plans["eval"].graph):
        heads = _place_on_axis(seen, spec, axis)
        if heads is not None and not any(_have_same_weights(heads, other) for other in found):
            found.append(heads)
    return found


def find_attention_axes(spec: UnitSpec) -> list[str]:
    """Return the axis of every attention's heads, in the order in which they run; attentions without one are left out."""
    axes = [axis.name for axis in spec.axes.values() if axis.kind == "head"]
    found = []
    for seen in _find_attentions(spec.plans["eval"].graph):
        found += [axis for axis in axes if _place_on_axis(seen, spec, axis) is not None][:1]
    return found


def _have_same_weights(a: Heads, b: Heads) -> bool:
    return all(
        (x.weight, x.dim) == (y.weight, y.dim) and np.array_equal(x.index, y.index)
        for x, y in ((a.query, b.query), (a.key, b.key), (a.value, b.value), (a.out, b.out))
    )


# from heads in the order of the graph to units of an axis


def _place_on_axis(seen: Heads, spec: UnitSpec, axis: str) -> Heads | None:
    """Return an attention's heads in the order of an axis' units, with the spec's numbers of units; None if they are not its."""
    fine = spec.traced or spec.sizes
    unit = _find_units(spec, seen.out, axis, fine)
    n = fine[axis]
    order = np.argsort(unit[:, 0, 0], kind="stable")
    if (unit != unit[:, :, :1]).any() or not np.array_equal(unit[order, 0, 0], np.repeat(np.arange(n), len(unit) // n)):
        return None
    found = [_place_slice(part, order, spec, axis, fine) for part in (seen.query, seen.key, seen.value, seen.out)]
    parts = [pair[0] for pair in found if pair is not None]
    if len(parts) < len(found):
        return None
    left = [pair[1] for pair in found if pair is not None]  # which numbers of a head have not merged into others
    mates = None if seen.mates is None else _renumber_mates(seen.mates, left[0])
    if (left[0] != left[1]).any() or (left[2] != left[3]).any():
        return None
    query, key, value, out = parts
    whole = bool(left[0].all() and left[2].all())
    return Heads(query, key, value, out, mates, seen.confined, seen.normed, whole)


def _place_slice(
    part: HeadSlice, order: Index, spec: UnitSpec, axis: str, fine: Mapping[str, int]
) -> tuple[HeadSlice, NDArray[np.bool_]] | None:
    """Return a part with its heads as units and copies, and which numbers of a head are left; None where its places are no blocks."""
    index = part.index[order].reshape(fine[axis], -1, part.index.shape[2])
    index = index[:, :1] if (index == index[:, :1]).all() else index
    term = spec.parameters[part.weight][part.dim]
    if (index == index[:1]).all():
        index = index[:1]
    elif (_list_units(term, axis, fine)[index] != np.arange(fine[axis])[:, None, None]).any():
        return None
    place = _map_places(term, spec.sizes, fine)[index[: spec.sizes[axis]]]
    left = np.asarray((place >= 0).all((0, 1)))  # of numbers inside heads that have merged
    if not left.any() or (place[:, :, ~left] >= 0).any():
        return None
    return HeadSlice(part.weight, part.dim, part.bias, place[:, :, left]), left


def _renumber_mates(mates: Index, left: NDArray[np.bool_]) -> Index:
    """Return the mates of the numbers that are left, which come in whole pairs."""
    numbers = np.flatnonzero(left)
    return np.asarray(np.searchsorted(numbers, mates[numbers]), dtype=np.int64)


def _find_units(spec: UnitSpec, part: HeadSlice, axis: str, sizes: Mapping[str, int]) -> Index:
    """Return the unit of an axis at each place of a part, -1 where there is none."""
    return _list_units(spec.parameters[part.weight][part.dim], axis, sizes)[part.index]


def _list_units(term: Term, axis: str, sizes: Mapping[str, int]) -> Index:
    found = np.full(1, -1)
    for factor in term:
        if isinstance(factor, str):
            here = np.arange(sizes[factor]) if factor == axis else np.full(sizes[factor], -1)
        else:
            here = np.concatenate([_list_units(part, axis, sizes) for part in factor])
        found = np.where(found[:, None] >= 0, found[:, None], here).ravel()
    return found


def _map_places(term: Term, sizes: Mapping[str, int], fine: Mapping[str, int]) -> Index:
    """Return where each place of a dimension is when axes have other sizes, their first units the same; -1 for none."""
    places = np.full(term_size(term, fine), -1)
    kept = _list_kept_places(term, sizes, fine)
    places[kept] = np.arange(len(kept))
    return places


def _list_kept_places(term: Term, sizes: Mapping[str, int], fine: Mapping[str, int]) -> Index:
    found = np.zeros(1, dtype=np.int64)
    for factor in term:
        if isinstance(factor, str):
            here = np.arange(min(sizes[factor], fine[factor]))
        else:
            starts = np.cumsum([0] + [term_size(part, fine) for part in factor])
            here = np.concatenate([_list_kept_places(p, sizes, fine) + s for p, s in zip(factor, starts, strict=False)])
        found = (found[:, None] * term_size((factor,), fine) + here).ravel()
    return found


# finding them in the graph


@lru_cache(maxsize=8)
def _find_attentions(graph: fx.Graph) -> tuple[Heads, ...]:
    """Return every attention of a recorded graph, heads in its own order, without copies: indices are (heads, 1, size)."""
    walk, found = RowWalk(), []
    for node in graph.nodes:
        for ends in _find_products(node):
            (query, _), (key, _), (value, out) = ends
            heads = _read_heads(walk, query, key, value, out)
            if heads is not None:
                found.append((heads, ends))
    return tuple(replace(heads, confined=_allows_rotation(graph, heads, found)) for heads, _ in found)


def _allows_rotation(graph: fx.Graph, heads: Heads, found: Sequence[tuple[Heads, Sequence[Edge]]]) -> bool:
    """Tell whether an attention's numbers meet only one another, in all attentions that have its weights."""
    parts = (heads.query, heads.key, heads.value)
    made = {name for part in parts for name in (part.weight, part.bias) if name is not None}
    shared = (np.intersect1d(a.index, b.index).size for a, b in combinations(parts, 2) if a.weight == b.weight)
    if any(shared) or heads.out.weight in made:
        return False
    mine = [ends for other, ends in found if _have_same_weights(heads, other)]
    return allows_head_rotation(
        graph, made, heads.out.weight, {end for ends in mine for end in ends}, [ends[2][1] for ends in mine]
    )


def _find_products(node: fx.Node) -> Iterator[tuple[Edge, Edge, Edge]]:
    """Yield query, key and value with what reads each: one operator, or two products around a softmax."""
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
    """Return the product of queries and keys that scores come from."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    name = operator_name(node.target)
    if name in ("aten.matmul", "aten.bmm", "aten.baddbmm"):
        return node
    if name not in SCORES:
        return None
    return next((p for operand in node.all_input_nodes if (p := _find_score_product(operand)) is not None), None)


def _find_value_product(node: fx.Node) -> fx.Node | None:
    """Return the product of weights and values."""
    for user in node.users:
        if user.op != "call_function":
            continue
        name = operator_name(user.target)
        if name in ("aten.matmul", "aten.bmm") and user.args[0] is node:
            return user
        if name in STILL | MOVES and (found := _find_value_product(user)) is not None:
            return found
    return None


def _read_heads(walk: RowWalk, query: fx.Node, key: fx.Node, value: fx.Node, out: fx.Node) -> Heads | None:
    q, k, v = (walk.rows(node) for node in (query, key, value))
    if (
        not (isinstance(q, RowIds) and isinstance(k, RowIds) and isinstance(v, RowIds))
        or v.mate is not None
        or v.normed
    ):
        return None
    if _varies_by_token(k.own):  # keys come as columns where the product is written by hand
        k = k.columns
    *lead, length, size = out.meta["val"].shape
    ids = torch.arange(math.prod(lead) * size).view(*lead, 1, size).expand(*lead, length, size)
    read = find_reader(out, ids)
    ways = [_list_rows_per_head(x.own, lead) for x in (q, k, v)]
    if read is None or any(way is None for way in ways):
        return None
    places = torch.full((math.prod(lead) * size,), -1)
    places[read[1]] = torch.arange(len(read[1]))
    whole = (places.view(-1, size) >= 0).all(1)  # the heads of the first row of the batch
    mates = _match_mates(q, k, lead, whole)
    if mates is False or int(whole.sum()) * size != len(read[1]):
        return None
    query_part, key_part, value_part = (
        HeadSlice(*x.source, _to_index(way[whole]))  # type: ignore[index]
        for x, way in zip((q, k, v), ways, strict=True)
    )
    out_part = HeadSlice(*read[0], _to_index(places.view(-1, size)[whole]))
    return Heads(query_part, key_part, value_part, out_part, mates, normed=q.normed or k.normed)


def _to_index(index: Tensor) -> Index:
    return np.asarray(index.numpy(), dtype=np.int64)[:, None]


def _varies_by_token(own: Tensor) -> bool:
    """Tell whether rows differ from token to token, which means that tokens are the last dimension."""
    return bool((own != own[..., :1, :]).any())


def _list_rows_per_head(own: Tensor, lead: Sequence[int]) -> Tensor | None:
    """Return the row numbers of every head, (heads, size), repeated where heads share them; None where tokens differ."""
    if _varies_by_token(own):
        return None
    own = own[..., 0, :]
    if own.ndim == len(lead) + 1 and lead and own.shape[-2] and lead[-1] % own.shape[-2] == 0:
        own = own.repeat_interleave(lead[-1] // own.shape[-2], -2)
    try:
        return own.expand(*lead, own.shape[-1]).reshape(-1, own.shape[-1])
    except RuntimeError:  # heads that meet in no way known here
        return None


def _match_mates(q: RowIds, k: RowIds, lead: Sequence[int], whole: Tensor) -> Any:
    """Return each number's mate within its head, None without rotary positions, False where queries and keys disagree."""
    if q.mate is None and k.mate is None:
        return None
    if q.mate is None or k.mate is None:
        return False
    found = []
    for x in (q, k):
        own, mate = _list_rows_per_head(x.own, lead), _list_rows_per_head(x.mate, lead)  # type: ignore[arg-type]
        if own is None or mate is None:
            return False
        own, mate = own[whole], mate[whole]
        same = own[:, :, None] == mate[:, None, :]  # (heads, size, size): where each number is somebody's mate
        partner = torch.where(mate < 0, torch.arange(own.shape[1]), same.int().argmax(1))
        found.append(partner)
    first = found[0][0]
    if any((partner != first).any() for partner in found) or (first[first] != torch.arange(len(first))).any():
        return False
    return np.asarray(first.numpy(), dtype=np.int64)
