"""Attention as one operator; written by hand it is matmul, softmax and views, which have rules of their own."""

from __future__ import annotations

from netgraph import space as sp
from netgraph.call import Call, Spaces


def scaled_dot_product(call: Call) -> Spaces:
    """Query (..., heads, L, E), key (..., heads, S, E), value (..., heads, S, V).

    Heads are whole units; inside a head query and key meet each other and no parameter, so E is kept, or has aggregates of
    one size m: sums are then m times too small, of which the default scale, one over the root of E, makes good the root.
    With grouped queries (Ainslie et al. 2023) the query heads are key heads times copies.
    """
    query, key, value = (call.spaces(name) for name in ("query", "key", "value"))
    call.unite(query[-1], key[-1])
    power = 0.5 if call["scale"] is None else 1.0
    call.meet(call["query"], query[-1], "query and key are contracted with each other", power)
    call.trail.inner.append(value[-1])
    call.unite(key[-2], value[-2])
    call.pin(key[-2], "attended over")
    for i in range(3, len(query) + 1):
        _meet_heads(call, query[-i], key[-i], value[-i])
    if call.has("attn_mask"):
        call.broadcast([[*query[:-1], key[-2]], call.spaces("attn_mask")])
    return [*(sp.resolve(s) for s in query[:-1]), value[-1]]


def _meet_heads(call: Call, query: sp.Space, key: sp.Space, value: sp.Space) -> None:
    call.unite(key, value)
    copies = sp.size_of(query) // max(sp.size_of(key), 1)
    call.unite(query, sp.resolve(key) + sp.fresh(copies))


RULES = {"aten.scaled_dot_product_attention": scaled_dot_product}
