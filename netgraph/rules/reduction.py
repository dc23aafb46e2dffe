"""Rules of reductions and losses. Sums and means need aggregates of one size. Operators that count or order units pin the axis."""

from __future__ import annotations

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import ONE, Space
from netgraph.rules.operator_call import Call, Spaces
from netgraph.rules.operators import tabulate_rule
from netgraph.rules.pointwise import pointwise_rule


def _split_reduced(call: Call) -> tuple[Spaces, Space]:
    """Return the spaces of the result and the space that is reduced."""
    spaces = call.spaces("self")
    ndim = len(spaces)
    dims = call.dims("dim", ndim)
    gone = tuple(factor for d in dims for factor in spaces[d])
    if call.arguments.get("keepdim"):
        return [ONE if d in dims else space for d, space in enumerate(spaces)], gone
    return [space for d, space in enumerate(spaces) if d not in dims], gone


def mean_rule(call: Call) -> Spaces:
    """Mean: it stays exact if all aggregates have the same size."""
    out, gone = _split_reduced(call)
    call.equal(gone, "averaged over")
    return out


def sum_rule(call: Call) -> Spaces:
    """Sum: each merged unit counts once for every unit of its aggregate."""
    out, gone = _split_reduced(call)
    call.equal(gone, "summed over")
    call.scale(None, gone, 1.0)
    return out


def norm_rule(call: Call) -> Spaces:
    """p-norm: merged units count with the number of units to the power 1 / p."""
    out, gone = _split_reduced(call)
    order = call.arguments.get("ord", call.arguments.get("p", 2))
    order = 2 if order in (None, "fro") else order
    call.equal(gone, "a norm is taken over")
    if order not in (float("inf"), float("-inf")):
        if order == 0:
            call.pin(gone, "counted")
        else:
            call.scale(None, gone, 1.0 / float(order))
    return out


def variance_rule(call: Call) -> Spaces:
    """Variance with Bessel's correction c: dividing by n - c fine terms corresponds to k - c k / n coarse ones."""
    out, gone = _split_reduced(call)
    call.equal(gone, "a variance is taken over")
    if "correction" in call.arguments:
        correction = 1 if call["correction"] is None else call["correction"]
        call.rewrite("correction", gone, lambda ratio: correction / ratio)
    elif call.arguments.get("unbiased", True):
        call.pin(gone, "a corrected variance is taken over")
    return out


def variance_and_mean_rule(call: Call) -> list[Spaces]:
    """Variance and mean, two results of one shape."""
    out = variance_rule(call)
    return [out, list(out)]


def extremum_rule(call: Call) -> Spaces:
    """Maximum or minimum over units. Equal aggregates are required, since a removed zero unit could change the maximum."""
    out, gone = _split_reduced(call)
    call.equal(gone, "a maximum is taken over")
    return out


def both_extrema_rule(call: Call) -> list[Spaces]:
    """Minimum and maximum, two results of one shape."""
    out = extremum_rule(call)
    return [out, list(out)]


def max_min_rule(call: Call) -> Spaces | list[Spaces]:
    """``max``, ``min`` and ranks in three forms: of all numbers, of two tensors, and along a dimension with indices."""
    if call.has("other"):
        return pointwise_rule(call)
    if "dim" not in call.arguments:
        return []
    out, gone = _split_reduced(call)
    call.pin(gone, "the index of an extreme is asked for")
    call.choose_units(gone, ONE, result=1)
    return [out, list(out)]


def pinned_reduction_rule(call: Call) -> Spaces:
    """Reductions that count or compare in other ways. They pin the reduced axis."""
    out, gone = _split_reduced(call)
    call.pin(gone, "reduced unit by unit")
    return out


def extreme_index_rule(call: Call) -> Spaces:
    """The number of the largest or smallest unit (``argmax``), which pins the axis."""
    out, gone = _split_reduced(call)
    call.pin(gone, "the index of an extreme is asked for")
    if isinstance(call.arguments.get("dim"), int):
        call.choose_units(gone, ONE)
    return out


def along_dim_rule(call: Call) -> Spaces:
    """Operators that depend on the number or the order of units along a dimension (softmax, cumsum). They pin its axis."""
    spaces = call.spaces("self")
    if spaces:
        call.pin(spaces[call.dim("dim", len(spaces))], "depends on the number or the order of units")
    return spaces


# softmax over n = m k units, in groups of m that are alike: exp(x_i) / sum_n exp(x) = 1 / m * exp(x_i) / sum_k exp(x)
def softmax_rule(call: Call) -> Spaces:
    """Softmax: each of m merged units has one m-th of what a coarse unit gets."""
    spaces = call.spaces("self")
    if spaces:
        along = spaces[call.dim("dim", len(spaces))]
        call.equal(along, "a softmax is taken over")
        call.scale(None, along, -1.0)
    return spaces


def along_dim_list_rule(call: Call) -> list[Spaces]:
    """Operators along one dimension with several results (sort, cummax). They pin its axis."""
    spaces = along_dim_rule(call)
    return [list(spaces) for _ in call.output_shapes()]


def top_rule(call: Call) -> list[Spaces]:
    """The k largest or smallest along a dimension, with their numbers (``topk``).

    m clones have one rank after another. If m divides k, all of them are chosen or none, and k / m coarse units are. The
    axis of the ranks then follows that of the units, which `netgraph.tracing.choices` makes sure of.
    """
    spaces = call.spaces("self")
    if not spaces:
        return [[], []]
    dim = call.dim("dim", len(spaces))
    among, chosen = spaces[dim], sp.new_space(call.output_shapes()[0][dim])
    call.equal(among, "some are chosen by rank")
    call.equal(chosen, "chosen by rank")
    call.choose_units(among, chosen, result=1)
    call.resize("k", chosen, single=True)
    out = [*spaces[:dim], chosen, *spaces[dim + 1 :]]
    return [out, list(out)]


def diff_rule(call: Call) -> Spaces:
    """Differences of neighbours along one dimension (``diff``), which pin its axis."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    for operand in call.operands:
        call.pin(call.spaces(operand)[dim], "differences of neighbours")
    size = call.shape()[dim]
    spaces[dim] = (
        spaces[dim] if sp.size_of(spaces[dim]) == size else call.new_pinned_space(size, "differences of neighbours")
    )
    return spaces


def pointwise_loss_rule(call: Call) -> Spaces:
    """A loss of two tensors, number by number, then reduced to its mean (1) or its sum (2), or kept as it is (0)."""
    out = call.broadcast([[ONE] * len(call.shape()), *(call.spaces(operand) for operand in call.operands)])
    return _reduce_loss(call, out)


def class_loss_rule(call: Call) -> Spaces:
    """A loss over classes, which are pinned. The other dimensions are reduced, and the target runs over them."""
    spaces = call.spaces("self")
    classes = min(1, len(spaces) - 1)
    rest = spaces[:classes] + spaces[classes + 1 :]
    call.pin(spaces[classes], "classes of a loss")
    target = call.spaces("target")
    for space, other in zip(spaces if len(target) == len(spaces) else rest, target, strict=True):
        call.unite(space, other)
    if call.has("weight"):
        call.unite(call.spaces("weight")[0], spaces[classes])
    return _reduce_loss(call, rest)


def _reduce_loss(call: Call, spaces: Spaces) -> Spaces:
    """Return the spaces of a loss after its reduction."""
    if call["reduction"] == 0:
        return spaces
    gone = tuple(factor for space in spaces for factor in sp.resolve(space))
    call.equal(gone, "a loss is reduced over")
    if call["reduction"] == 2:
        call.scale(None, gone, 1.0)
    return []


def cosine_similarity_rule(call: Call) -> Spaces:
    """Cosines along one dimension. Both operands are scaled by the root of the number of merged units, so that norms stay."""
    a, b = call["x1"], call["x2"]
    out = call.broadcast([call.spaces(a), call.spaces(b)])
    dim = call.dim("dim", len(out))
    call.equal(out[dim], "cosines are taken over")
    for operand in dict.fromkeys((a, b)):
        call.scale(operand, out[dim], 0.5)
    return out[:dim] + out[dim + 1 :]


def distance_rule(call: Call) -> Spaces:
    """The p-norm of a difference along the last dimension (``pairwise_distance``), or of all numbers (``dist``)."""
    out = call.broadcast(call.spaces(operand) for operand in call.operands)
    along = out if call.name == "aten.dist" else out[-1:]
    gone = tuple(factor for space in along for factor in sp.resolve(space))
    call.equal(gone, "a distance is taken over")
    if call["p"] == 0:
        call.pin(gone, "counted")
    elif call["p"] not in (float("inf"), float("-inf")):
        call.scale(None, gone, 1.0 / float(call["p"]))
    rest = out[: len(out) - len(along)]
    return [*rest, ONE] if call.arguments.get("keepdim") else rest


RULES = {
    **tabulate_rule(diff_rule, "diff"),
    **tabulate_rule(mean_rule, "mean", "nanmean"),
    **tabulate_rule(sum_rule, "sum", "nansum"),
    **tabulate_rule(norm_rule, "linalg_vector_norm", "norm"),
    **tabulate_rule(variance_rule, "var", "std"),
    **tabulate_rule(variance_and_mean_rule, "var_mean", "std_mean"),
    **tabulate_rule(extremum_rule, "amax", "amin", "any", "all", "_is_all_true", "_is_any_true"),
    **tabulate_rule(max_min_rule, "max", "min", "median", "nanmedian", "mode", "kthvalue"),
    **tabulate_rule(both_extrema_rule, "aminmax"),
    **tabulate_rule(pinned_reduction_rule, "prod", "logsumexp", "count_nonzero"),
    **tabulate_rule(extreme_index_rule, "argmax", "argmin"),
    **tabulate_rule(softmax_rule, "softmax", "_softmax", "special_softmax", "softmin"),
    **tabulate_rule(along_dim_rule, "log_softmax", "cumsum", "cumprod", "logcumsumexp", "argsort", "cumsum_", "_log_softmax"),
    **tabulate_rule(along_dim_list_rule, "sort", "cummax", "cummin"),
    **tabulate_rule(top_rule, "topk"),
    **tabulate_rule(pointwise_loss_rule, "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
             "binary_cross_entropy_with_logits", "soft_margin_loss"),
    **tabulate_rule(class_loss_rule, "cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss2d", "multi_margin_loss"),
    **tabulate_rule(cosine_similarity_rule, "cosine_similarity"),
    **tabulate_rule(distance_rule, "pairwise_distance", "dist"),
}  # fmt: skip
