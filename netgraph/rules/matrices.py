"""Rules of operators that mix whole tensors, matrices or signals: linear algebra, Fourier transforms, counts.

What an operator mixes is pinned. Batches of matrices or signals pass through.
"""

from __future__ import annotations

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Space
from netgraph.rules.operator_call import Call, Spaces
from netgraph.rules.operators import tabulate_rule
from netgraph.rules.reduction import norm_rule


def whole_tensor_rule(call: Call) -> Spaces | list[Spaces]:
    """Operators on whole tensors (counts, searches). They pin all axes."""
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


def bincount_rule(call: Call) -> Spaces:
    """Count how often each number stands in a list. The largest number says how many counts there are, unless a least length does."""
    for operand in call.operands:
        for space in call.spaces(operand):
            call.pin(space, "counted")
    n_counts = call.shape()[0]
    if call["minlength"] == n_counts:
        return [call.new_pinned_space(n_counts, "counts of numbers")]
    return [call.new_dynamic_space(0, "counts of numbers")]


def matrix_rule(call: Call) -> Spaces | list[Spaces]:
    """Operators on the matrices of the last two dimensions (inverse, decompositions, triangles). These two are pinned."""
    batch, matrix = _split_matrix(call, call.operands[0])

    def find_spaces(shape: tuple[int, ...]) -> Spaces:
        lead = batch[: len(shape)]
        if [sp.size_of(s) for s in (*batch, *matrix)] == list(shape):
            return [*batch, *matrix]
        return [*lead, *(call.new_pinned_space(n, "made from a matrix") for n in shape[len(lead) :])]

    if isinstance(call.node.meta["val"], (list, tuple)):
        return [find_spaces(shape) for shape in call.output_shapes()]
    return find_spaces(call.shape())


def solve_rule(call: Call) -> Spaces | list[Spaces]:
    """Solve A X = B, or X A = B. The unknowns are pinned, and the columns of B, one for each system, pass through."""
    names = (
        ("self", "input2") if call.name == "aten.cholesky_solve" else ("B", "self" if "self" in call.arguments else "A")
    )
    right, left = (call[name] for name in names)
    if len(call.shape(right)) != len(call.shape(left)):
        return whole_tensor_rule(call)
    batch, _ = _split_matrix(call, left)
    spaces = call.spaces(right)
    call.pin(spaces[-2 if call.arguments.get("left", True) else -1], "unknowns of a linear system")
    return [*call.broadcast([batch, spaces[:-2]]), *spaces[-2:]]


def _split_matrix(call: Call, operand: object) -> tuple[Spaces, Spaces]:
    """Return the spaces of the batch and of the matrix, with pinned rows and columns."""
    spaces = call.spaces(operand)  # type: ignore[arg-type]
    for space in spaces[-2:]:
        call.pin(space, "rows and columns of a matrix")
    return spaces[:-2], spaces[-2:]


def fourier_rule(call: Call) -> Spaces:
    """Fourier transforms and shifts along some dimensions, which are pinned."""
    spaces, shape = call.spaces("self"), call.shape()
    for dim in _find_transformed_dims(call, len(spaces)):
        call.pin(spaces[dim], "mixed by a Fourier transform")
        if sp.size_of(spaces[dim]) != shape[dim]:
            spaces[dim] = call.new_pinned_space(shape[dim], "frequencies")
    return spaces


def _find_transformed_dims(call: Call, ndim: int) -> list[int]:
    """Return the dimensions of a transform. Without a list they are the last ones that have a size, or all."""
    if call.arguments.get("dim") is None and call.arguments.get("s") is not None:
        return list(range(ndim - len(call["s"]), ndim))
    return call.dims("dim", ndim) if call.arguments.get("dim") != 0 else [0]


def linalg_norm_rule(call: Call) -> Spaces | list[Spaces]:
    """A norm of vectors, or of matrices with pinned rows and columns."""
    dim = call.arguments.get("dim")
    one_dim = isinstance(dim, int) or (dim is not None and len(dim) == 1) or len(call.shape("self")) == 1
    if call.arguments.get("ord") is None or one_dim:
        return norm_rule(call)
    return whole_tensor_rule(call)


def cross_rule(call: Call) -> Spaces:
    """Cross products of vectors of three numbers along one dimension, which is pinned."""
    out = call.broadcast(call.spaces(operand) for operand in call.operands)
    call.pin(out[call.dim("dim", len(out))], "coordinates of a cross product")
    return out


def diagonal_matrix_rule(call: Call) -> Spaces:
    """Write a vector on the diagonal of a matrix (``diag_embed``). Its axis is pinned."""
    *batch, vector = call.spaces("self")
    call.pin(vector, "written on a diagonal")
    dims = sorted(call[name] % len(call.shape()) for name in ("dim1", "dim2"))
    made: list[Space] = [call.new_pinned_space(call.shape()[d], "a diagonal") for d in dims]
    out = list(batch)
    for dim, space in zip(dims, made, strict=True):
        out.insert(dim, space)
    return out


RULES = {
    "aten.bincount": bincount_rule,
    **tabulate_rule(whole_tensor_rule, "stft", "istft", "trace", "histc", "unique_consecutive", "_unique2",
             "unique_dim", "block_diag", "linalg_householder_product", "linalg_lstsq", "renorm", "embedding_renorm_", "multinomial", "ctc_loss", "_ctc_loss",
             "linalg_lu", "lu_unpack", "ormqr", "_pdist_forward", "diagonal_scatter"),
    **tabulate_rule(matrix_rule, "linalg_inv", "linalg_inv_ex", "linalg_pinv", "linalg_qr", "linalg_eigh", "linalg_eig", "linalg_svd",
             "_linalg_eigh", "_linalg_eigvals", "_linalg_svd", "_linalg_det", "_linalg_slogdet", "linalg_det", "linalg_slogdet", "cholesky",
             "cholesky_inverse", "linalg_cholesky", "linalg_cholesky_ex", "linalg_matrix_exp", "linalg_lu_factor_ex", "triu", "tril", "triu_",
             "tril_"),
    **tabulate_rule(solve_rule, "linalg_solve", "linalg_solve_triangular", "cholesky_solve"),
    **tabulate_rule(fourier_rule, *(f"fft_{inverse}{kind}fft{dims}" for inverse in ("", "i") for kind in ("", "r", "h") for dims in ("", "2", "n")),
             "fft_fftshift", "fft_ifftshift"),
    **tabulate_rule(linalg_norm_rule, "linalg_norm"),
    **tabulate_rule(cross_rule, "linalg_cross"),
    **tabulate_rule(diagonal_matrix_rule, "diag_embed"),
}  # fmt: skip
