"""Linear maps: the incoming dimension is summed over, the outgoing one is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import ONE, Space
from netgraph.rules.operator_call import Call, Spaces, leads_to_softmax


def linear_rule(call: Call) -> Spaces:
    """``input @ weight.T + bias`` with a weight (out, in)."""
    weight = call.spaces("weight")
    call.contract(call["input"], -1, call["weight"], len(weight) - 1)
    if call.has("bias"):
        call.unite(call.spaces("bias")[-1], weight[0])
    return [*call.spaces("input")[:-1], *weight[:-1]]


def addmm_rule(call: Call) -> Spaces:
    """``self + mat1 @ mat2``."""
    out = contract_matrices(call, call["mat1"], call["mat2"])
    return _broadcast_addend(call, call["self"], out)


def baddbmm_rule(call: Call) -> Spaces:
    """``self + batch1 @ batch2``."""
    return _broadcast_addend(call, call["self"], contract_matrices(call, call["batch1"], call["batch2"]))


def _broadcast_addend(call: Call, addend: fx.Node, out: Spaces) -> Spaces:
    """Unite an addend with the product that it is added to."""
    return call.broadcast([out, call.spaces(addend)])


def matmul_rule(call: Call) -> Spaces:
    """``self @ other`` for any number of dimensions (mm, bmm, mv, dot, matmul)."""
    a, b = (n for n in call.node.args if isinstance(n, fx.Node))
    return contract_matrices(call, a, b)


def contract_matrices(call: Call, a: fx.Node, b: fx.Node) -> Spaces:
    """Contract the last dimension of ``a`` with the last but one of ``b``. Leading dimensions broadcast."""
    na, nb = len(call.shape(a)), len(call.shape(b))
    call.contract(a, na - 1, b, max(nb - 2, 0))
    sa, sb = call.spaces(a), call.spaces(b)
    if a in call.state.from_input and b in call.state.from_input:
        call.state.head_dims += sb[-1:]  # values, in the product of attention weights and values
    batch = call.broadcast([sa[:-2], sb[:-2]])
    return batch + sa[-2:-1] + (sb[-1:] if nb > 1 else [])


def addbmm_rule(call: Call) -> Spaces:
    """``self`` plus the sum of ``batch1 @ batch2`` over the batch. Its matrices are kept."""
    batch, *out = contract_matrices(call, call["batch1"], call["batch2"])
    call.pin(batch, "matrices that are added up")
    return _broadcast_addend(call, call["self"], out)


def addmv_rule(call: Call) -> Spaces:
    """``self + mat @ vec``."""
    return _broadcast_addend(call, call["self"], contract_matrices(call, call["mat"], call["vec"]))


def addr_rule(call: Call) -> Spaces:
    """``self`` plus the outer product of two vectors."""
    return _broadcast_addend(call, call["self"], [call.spaces("vec1")[0], call.spaces("vec2")[0]])


def grouped_matmul_rule(call: Call) -> Spaces:
    """Products of groups of rows or columns with a matrix for each group, as experts have. ``offs`` says where groups end."""
    a, b = call["self"], call["mat2"]
    na, nb = len(call.shape(a)), len(call.shape(b))
    out = contract_matrices(call, a, b) if na == nb == 3 else _contract_groups(call, a, b)
    if call.has("bias"):
        call.unite(call.spaces("bias")[-1], out[-1])
    return out


def _contract_groups(call: Call, a: fx.Node, b: fx.Node) -> Spaces:
    """Contract two operands of which one or both hold all groups in one matrix."""
    sa, sb = call.spaces(a), call.spaces(b)
    call.contract(a, len(sa) - 1, b, len(sb) - 2)
    if len(sa) == 2 and len(sb) == 3:  # rows of each group, and a matrix for each group
        call.pin(sb[0], "a matrix for each group of rows")
        call.unite(call.spaces("offs")[0], sb[0])
        return [sa[0], sb[2]]
    if len(sa) == 3:  # a matrix for each group, and columns of each group
        call.pin(sa[0], "a matrix for each group of columns")
        call.pin(sb[1], "columns in groups")
        return [sa[1], sb[1]]
    call.pin(sa[1], "summed in groups")
    return [call.new_pinned_space(call.shape()[0], "a group"), sa[0], sb[1]]


def outer_rule(call: Call) -> Spaces:
    """Outer product of two vectors."""
    a, b = call.operands[0], call.operands[-1]
    return [call.spaces(a)[0], call.spaces(b)[0]]


def convolution_rule(call: Call) -> Spaces:
    """Convolution with a weight (out, in / groups, kernel ...). Spatial dimensions along which places are mixed are pinned."""
    if call.arguments.get("transposed"):
        return transposed_convolution_rule(call)
    groups = call["groups"]
    channels, call_input = _channel_dim(call), call["input"]
    image, weight = call.spaces("input"), call.spaces("weight")
    apart = _find_places_apart(call, channels)
    for d, space in enumerate([*image[channels + 1 :], *weight[2:]]):
        if d not in apart:
            call.pin(space, "convolved over")
    if groups == 1:
        call.contract(call_input, channels, call["weight"], 1)
    else:
        _unite_groups(call, image[channels], weight[0], weight[1], groups)
        call.sums(call["weight"], 1)
    return _convolution_output(call, channels, weight[0], apart)


def transposed_convolution_rule(call: Call) -> Spaces:
    """Transposed convolution with a weight (in, out / groups, kernel ...)."""
    groups = call["groups"]
    channels = _channel_dim(call)
    image, weight = call.spaces("input"), call.spaces("weight")
    for space in [*image[channels + 1 :], *weight[2:]]:
        call.pin(space, "convolved over")
    if groups == 1:
        call.contract(call["input"], channels, call["weight"], 0)
        return _convolution_output(call, channels, weight[1])
    call.unite(image[channels], weight[0])
    group, each = call.reshape([weight[0]], [groups, sp.size_of(weight[0]) // groups])
    call.sums(call["weight"], 0, each)
    call.resize("groups", group, single=True)
    return _convolution_output(call, channels, group + weight[1])


def _unite_groups(call: Call, channels: Space, out: Space, each: Space, groups: int) -> None:
    """Unite the groups of input and output, and within a group the input channels with the weight's second dimension."""
    group_in, each_in = call.reshape([channels], [groups, sp.size_of(channels) // groups])
    group_out, _ = call.reshape([out], [groups, sp.size_of(out) // groups])
    call.unite(group_in, group_out)
    call.unite(each_in, each)
    call.resize("groups", sp.resolve(group_in), single=True)


def _channel_dim(call: Call) -> int:
    """Return the dimension of the input channels. An input without a batch has one dimension less."""
    return len(call.shape("input")) - len(call.shape("weight")) + 1


def _find_places_apart(call: Call, channels: int) -> set[int]:
    """Return the spatial dimensions along which a convolution mixes no places: its kernel has one, and no place is skipped or added."""
    kernel, ndim = call.shape("weight")[2:], len(call.shape("input")) - channels - 1

    def list_numbers(argument: str, default: int) -> list[int]:
        value = call.arguments.get(argument, default)
        if isinstance(value, str):  # "same" and "valid" add nothing to a kernel of one place
            return [0] * ndim
        numbers = [value] if isinstance(value, int) else list(value)
        return numbers * ndim if len(numbers) == 1 else numbers

    stride, padding = list_numbers("stride", 1), list_numbers("padding", 0)
    return {d for d in range(ndim) if kernel[d] == stride[d] == 1 and padding[d] == 0}


def _convolution_output(call: Call, channels: int, out: Space, apart: Collection[int] = ()) -> Spaces:
    """Unite the bias with the output channels, and return the spaces of the result."""
    if call.has("bias"):
        call.unite(call.spaces("bias")[0], out)
    places, sizes = call.spaces("input")[channels + 1 :], call.shape()[channels + 1 :]
    kept = [places[d] if d in apart else call.new_pinned_space(n, "a position in space") for d, n in enumerate(sizes)]
    return [*call.spaces("input")[:channels], sp.resolve(out), *kept]


def einsum_rule(call: Call) -> Spaces:
    """Einstein summation: equal letters are one axis, and letters that the result lacks are summed over."""
    operands = list(call["tensors"])
    terms, output = read_equation(call["equation"], [len(call.shape(node)) for node in operands], len(call.shape()))
    axes: dict[str, Space] = {}
    for term, node in zip(terms, operands, strict=True):
        for letter, space in zip(term, call.spaces(node), strict=True):
            if axes.get(letter, ONE) == ONE:
                axes[letter] = space
            elif space != ONE:
                call.unite(axes[letter], space)
    _sum_letters(call, terms, operands, output, axes)
    return [sp.resolve(axes[letter]) for letter in output]


def read_equation(equation: str, ndims: Sequence[int], ndim: int) -> tuple[list[str], str]:
    """Return the terms of an Einstein summation and its output, with one letter for each dimension.

    Parameters
    ----------
    equation : str
        As `torch.einsum` takes it. An ellipsis becomes digits.
    ndims : list of int
        Number of dimensions of each operand.
    ndim : int
        Number of dimensions of the result.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = [_expand_ellipsis(term, n) for term, n in zip(inputs.split(","), ndims, strict=True)]
    if not arrow:
        letters = "".join(terms)
        once = sorted(c for c in set(letters) if c.isalpha() and letters.count(c) == 1)
        output = "".join(sorted(c for c in set(letters) if c.isdigit())[::-1] + once)
    return terms, _expand_ellipsis(output, ndim)


def _expand_ellipsis(term: str, ndim: int) -> str:
    """Return a term with its ellipsis replaced by digits. Counting from the last dimension, equal digits are one axis."""
    if "..." not in term:
        return term
    return term.replace("...", "9876543210"[10 - (ndim - len(term) + 3) :])


def _sum_letters(call: Call, terms: list[str], operands: list[fx.Node], output: str, axes: dict[str, Space]) -> None:
    """State the sums over all letters that the result lacks."""
    for letter in sorted(set("".join(terms)) - set(output)):
        holders = [(n, t.index(letter)) for t, n in zip(terms, operands, strict=True) if letter in t]
        if len(holders) == 2 and len({n for n, _ in holders}) == 2:
            call.contract(holders[0][0], holders[0][1], holders[1][0], holders[1][1])
        elif len(holders) == 1 and holders[0][0] not in call.state.origins:
            call.equal(axes[letter], "summed over")
            call.scale(holders[0][0], axes[letter], 1.0)
        else:
            _sum_product(call, holders, axes[letter])


def _sum_product(call: Call, holders: list[tuple[fx.Node, int]], space: Space) -> None:
    """State the sum of a product of several tensors, or of one with itself. A parameter that occurs once takes it up."""
    nodes = [node for node, _ in holders]
    weights = [(n, dim) for n, dim in holders if n in call.state.origins and nodes.count(n) == 1]
    if weights:
        call.sums(*weights[-1])
    else:
        scores = leads_to_softmax(call.node)
        call.contract_activations(None, space, "summed over in one product of several tensors", scores=scores)


def bilinear_rule(call: Call) -> Spaces:
    """Bilinear map with a weight (out, in1, in2)."""
    weight = call.spaces("weight")
    for name, dim in (("input1", 1), ("input2", 2)):
        call.unite(call.spaces(name)[-1], weight[dim])
        call.sums(call["weight"], dim)
    if call.has("bias"):
        call.unite(call.spaces("bias")[0], weight[0])
    return [*call.spaces("input1")[:-1], weight[0]]


def embedding_rule(call: Call) -> Spaces:
    """Embedding table: rows are looked up by index and pinned, columns are outgoing units."""
    rows, columns = call.spaces("weight")
    call.pin(rows, "looked up by index")
    return [*call.spaces("indices"), columns]


def embedding_bag_rule(call: Call) -> list[Spaces]:
    """Sums, means or maxima of rows of an embedding table."""
    rows, columns = call.spaces("weight")
    call.pin(rows, "looked up by index")
    shapes = call.output_shapes()
    bags = [call.new_pinned_space(shapes[0][0], "a bag"), columns]
    return [bags, *([call.new_pinned_space(n, "a bag") for n in shape] for shape in shapes[1:])]


def pairwise_distance_rule(call: Call) -> Spaces:
    """p-norms of the differences of all pairs of rows (``cdist``). They are those of m times as many units to the power 1 / p."""
    a, b = call["x1"], call["x2"]
    call.unite(call.spaces(a)[-1], call.spaces(b)[-1])
    features = call.spaces(a)[-1]
    call.equal(features, "a distance is taken over")
    if call["p"] == 0:
        call.pin(features, "counted")
    elif call["p"] != float("inf"):
        call.scale(None, features, 1.0 / float(call["p"]))
    return [*call.spaces(a)[:-1], call.spaces(b)[-2]]


def attention_rule(call: Call) -> Spaces:
    """Fused attention of query (..., heads, L, E), key (..., heads, S, E) and value (..., heads, S, V).

    Heads merge as whole units. Inside a head, query and key are contracted with each other and not with a parameter. E is
    therefore pinned, unless dimensions inside heads may merge. Then its aggregates have one size m. The products of queries
    and keys are m times too small, and the default scale 1 / sqrt(E) makes up for a factor sqrt(m) of that. With grouped
    queries (Ainslie et al., EMNLP 2023) the query heads are key heads times copies.
    """
    query, key, value = (call.spaces(name) for name in ("query", "key", "value"))
    call.unite(query[-1], key[-1])
    power = 0.5 if call["scale"] is None else 1.0
    call.contract_activations(call["query"], query[-1], "query and key are contracted with each other", power)
    call.state.head_dims.append(value[-1])
    call.unite(key[-2], value[-2])
    call.pin(key[-2], "attended over")
    for i in range(3, len(query) + 1):
        _unite_heads(call, query[-i], key[-i], value[-i])
    if call.has("attn_mask"):
        call.broadcast([[*query[:-1], key[-2]], call.spaces("attn_mask")])
    return [*(sp.resolve(s) for s in query[:-1]), value[-1]]


def _unite_heads(call: Call, query: sp.Space, key: sp.Space, value: sp.Space) -> None:
    """Unite one leading dimension of query, key and value. The query may have several heads for each key head."""
    call.unite(key, value)
    copies = sp.size_of(query) // max(sp.size_of(key), 1)
    call.unite(query, sp.resolve(key) + sp.new_space(copies))


RULES = {
    "aten.linear": linear_rule,
    **dict.fromkeys(["aten.addmm", "aten.addmm_"], addmm_rule),
    **dict.fromkeys(["aten.baddbmm", "aten.baddbmm_"], baddbmm_rule),
    **dict.fromkeys(["aten.addbmm", "aten.addbmm_"], addbmm_rule),
    **dict.fromkeys(["aten.addmv", "aten.addmv_"], addmv_rule),
    **dict.fromkeys(["aten.addr", "aten.addr_"], addr_rule),
    "aten._grouped_mm": grouped_matmul_rule,
    **dict.fromkeys(
        ["aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten.__rmatmul__"], matmul_rule
    ),
    **dict.fromkeys(["aten.outer", "aten.ger"], outer_rule),
    **dict.fromkeys(["aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution"], convolution_rule),
    **dict.fromkeys([f"aten.conv_transpose{n}d" for n in (1, 2, 3)], transposed_convolution_rule),
    "aten.einsum": einsum_rule,
    "aten.bilinear": bilinear_rule,
    "aten.embedding": embedding_rule,
    "aten.embedding_bag": embedding_bag_rule,
    "aten._embedding_bag": embedding_bag_rule,
    "aten.cdist": pairwise_distance_rule,
    "aten.scaled_dot_product_attention": attention_rule,
}
