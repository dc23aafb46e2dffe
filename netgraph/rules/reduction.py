"""Rules of reductions. Sums and means need aggregates of one size. Operators that count or order units pin the axis."""

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


def max_min_rule(call: Call) -> Spaces | list[Spaces]:
    """``max`` and ``min`` in three forms: of all numbers, of two tensors, and along a dimension with indices."""
    if call.has("other"):
        return pointwise_rule(call)
    if "dim" not in call.arguments:
        return []
    out, gone = _split_reduced(call)
    call.pin(gone, "the index of an extreme is asked for")
    return [out, list(out)]


def pinned_reduction_rule(call: Call) -> Spaces:
    """Reductions that count or compare in other ways. They pin the reduced axis."""
    out, gone = _split_reduced(call)
    call.pin(gone, "reduced unit by unit")
    return out


def along_dim_rule(call: Call) -> Spaces:
    """Operators that depend on the number or the order of units along a dimension (softmax, cumsum). They pin its axis."""
    spaces = call.spaces("self")
    if spaces:
        call.pin(spaces[call.dim("dim", len(spaces))], "depends on the number or the order of units")
    return spaces


def along_dim_list_rule(call: Call) -> list[Spaces]:
    """Operators along one dimension with several results (sort, topk). ``topk`` makes the dimension shorter."""
    spaces = along_dim_rule(call)
    out = []
    for shape in call.output_shapes():
        out_spaces = [
            s if sp.size_of(s) == n else call.new_pinned_space(n, "chosen by rank")
            for s, n in zip(spaces, shape, strict=True)
        ]
        out.append(out_spaces)
    return out


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


def whole_tensor_rule(call: Call) -> Spaces | list[Spaces]:
    """Operators on whole tensors or matrices (fft, linalg). They pin all axes."""
    for operand in call.operands:
        for space in call.spaces(operand):
            call.pin(space, "mixed by an operator on whole tensors")
    value = call.node.meta["val"]
    if isinstance(value, (list, tuple)):
        return [
            [call.new_pinned_space(n, "made by an operator on whole tensors") for n in s] for s in call.output_shapes()
        ]
    same = call.spaces(call.operands[0])
    if [sp.size_of(s) for s in same] == list(call.shape()):
        return same
    leading = [
        s
        for s, n in zip(same, call.shape(), strict=False)
        if sp.size_of(s) == n and any(a.dynamic for a in sp.iter_atoms(s))
    ]
    rest = call.shape()[len(leading) :]
    return leading + [call.new_pinned_space(n, "made by an operator on whole tensors") for n in rest]


RULES = {
    **tabulate_rule(diff_rule, "diff"),
    **tabulate_rule(mean_rule, "mean", "nanmean"),
    **tabulate_rule(sum_rule, "sum", "nansum"),
    **tabulate_rule(norm_rule, "linalg_vector_norm", "norm"),
    **tabulate_rule(variance_rule, "var", "std"),
    **tabulate_rule(variance_and_mean_rule, "var_mean", "std_mean"),
    **tabulate_rule(extremum_rule, "amax", "amin", "any", "all"),
    **tabulate_rule(max_min_rule, "max", "min"),
    **tabulate_rule(pinned_reduction_rule, "argmax", "argmin", "prod", "logsumexp", "count_nonzero"),
    **tabulate_rule(along_dim_rule, "softmax", "log_softmax", "_softmax", "cumsum", "cumprod", "logcumsumexp", "argsort", "softmin",
             "special_softmax", "cumsum_", "_log_softmax"),
    **tabulate_rule(along_dim_list_rule, "sort", "topk", "cummax", "cummin", "kthvalue", "median", "mode"),
    **tabulate_rule(whole_tensor_rule, "fft_rfft", "fft_irfft", "fft_fft", "fft_ifft", "fft_fft2", "fft_rfft2", "fft_irfft2", "fft_fftn",
             "fft_rfftn", "fft_irfftn", "fft_fftshift", "linalg_inv", "linalg_qr", "linalg_solve", "stft", "istft", "triu", "tril",
             "triu_", "tril_", "trace", "linalg_norm", "linalg_eigh", "linalg_svd", "bincount", "histc", "nonzero", "unique_consecutive"),
}  # fmt: skip
