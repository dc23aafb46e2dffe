"""Run an affinity on the units of an axis, and check its answer.

An affinity may be a function of the user or a plug-in of another distribution. A matrix of a wrong shape would leave units out without a
word, and an asymmetric one would make the result depend on the order of the units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse

from netgraph import plugins
from netgraph.errors import NetgraphError, describe_error
from netgraph.graph.axis_units import AxisUnits

TOLERANCE = 1e-6  # of the largest affinity: roundoff of products that are taken in another order
MAX_DENSE = 2**27  # entries of a dense answer: one gibibyte of doubles


def measure_affinity(weigh: Callable[..., Any], units: AxisUnits, *, seed: int, name: str | None = None) -> Any:
    """Return the affinities of the units of an axis.

    Parameters
    ----------
    weigh : callable ``(units, *, seed) -> matrix``
        An affinity. Its answer is a scipy sparse array, an `AllPairs`, a numpy array or a torch tensor.
    units : AxisUnits
    seed : int
    name : str, optional
        Name of the axis in messages.

    Returns
    -------
    csr_array or AllPairs, of shape (n, n)

    Raises
    ------
    NetgraphError
        The affinity fails, or its answer is not a symmetric, finite and non-negative matrix with a zero diagonal.
    """
    name = units.axis if name is None else name
    size = units.spec.axes[units.axis].size
    versions = _read_versions(units)
    try:
        answer = weigh(units, seed=seed)
    except NetgraphError as error:
        raise NetgraphError(f"axis {name!r}: {error}") from None
    except KeyboardInterrupt:
        plugins.log_interruption(_describe(weigh), f"compared the {size} units of axis {name!r}")
        raise
    except BaseException as error:  # a function of the user may fail in any way
        mend = "" if plugins.takes(weigh, None, seed=0) else " An affinity is called as affinity(units, seed=seed)."
        raise NetgraphError(
            f"{_describe(weigh)} fails on axis {name!r} of {size} units ({describe_error(error)}).{mend}"
        ) from error
    if _describe(weigh).endswith(f" of {plugins.DISTRIBUTION}"):  # it keeps the contract, as tests show
        return answer
    if _read_versions(units) != versions:
        raise NetgraphError(f"{_describe(weigh)} changed the weights of axis {name!r}. Work on a copy.")
    try:
        return read_affinity(answer, size)
    except NetgraphError as error:
        raise NetgraphError(f"{_describe(weigh)} answers axis {name!r} with {error}") from None


def read_affinity(answer: Any, size: int) -> Any:
    """Return the answer of an affinity as a csr_array or as it is, if it is an `AllPairs`.

    Parameters
    ----------
    answer : array-like
    size : int
        Number of units.

    Raises
    ------
    NetgraphError
        It is no such matrix. The message goes on after "answers with".
    """
    if hasattr(answer, "weights") and hasattr(answer, "tocsr"):  # AllPairs, whose weights are dense
        _check_matrix(np.asarray(answer.weights), size)
        return answer
    try:
        matrix = _read_matrix(answer)
    except Exception as error:  # such as a list of rows of several lengths, or indices beyond the matrix
        raise NetgraphError(
            f"a {type(answer).__name__} that cannot be read as a matrix ({describe_error(error)}). Give a scipy sparse array, a numpy "
            "array or a torch tensor of real numbers."
        ) from error
    if sparse.issparse(matrix):
        _check_shape(matrix.shape, size)
        matrix = sparse.csr_array(matrix, copy=True)
    else:
        _check_matrix(matrix, size)
        matrix = sparse.csr_array(matrix)
    if matrix.dtype.kind not in "fiub":
        raise NetgraphError(f"numbers of type {matrix.dtype}. Give real numbers.")
    if matrix.dtype not in (np.float32, np.float64):  # before the check: a long double may be finite as itself alone
        with np.errstate(over="ignore"):
            matrix = matrix.astype(np.float64)
    matrix.sum_duplicates()
    _check_entries(matrix)
    matrix.eliminate_zeros()
    return matrix


def _read_matrix(answer: Any) -> Any:
    """Return an answer as a scipy array whose indices are in range, or as a numpy array. scipy has no numbers of half precision."""
    matrix = _read_tensor(answer) if isinstance(answer, torch.Tensor) else answer
    if sparse.issparse(matrix):
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)  # wrong indices would be written to foreign memory
        return matrix
    if np.ma.is_masked(matrix):
        raise TypeError("some of its entries are masked")
    matrix = np.asarray(matrix)
    if matrix.dtype == np.float16:
        return matrix.astype(np.float32)
    return matrix.astype(matrix.dtype.newbyteorder("="), copy=False)  # scipy has no numbers of other machines


def _read_tensor(answer: torch.Tensor) -> Any:
    """Return a tensor of any layout as a numpy or scipy array."""
    answer = answer.detach().cpu()
    if answer.is_floating_point() and answer.dtype.itemsize < 4:  # numpy does not have them all
        answer = answer.to(torch.float32)
    if answer.layout == torch.strided:
        return answer.resolve_conj().numpy()
    coo = answer.to_sparse_coo().coalesce()
    return sparse.coo_array((coo.values().numpy(), tuple(coo.indices().numpy())), shape=tuple(coo.shape))


def _check_shape(shape: tuple[int, ...], size: int) -> None:
    """Refuse a matrix that is not of all pairs of units."""
    if tuple(shape) != (size, size):
        raise NetgraphError(f"shape {tuple(shape)}. Give one row and one column for each of the {size} units.")


def _check_matrix(matrix: np.ndarray[Any, Any], size: int) -> None:
    """Refuse a dense answer of another shape or type, or one that is too large to be dense."""
    _check_shape(matrix.shape, size)
    if matrix.dtype.kind not in "fiub":
        raise NetgraphError(f"numbers of type {matrix.dtype}. Give real numbers.")
    if matrix.size > MAX_DENSE:
        raise NetgraphError(f"{matrix.size:,} numbers. Give a scipy sparse array of the strongest pairs.")


def _check_entries(matrix: sparse.csr_array) -> None:
    """Refuse numbers that are no affinities, a diagonal, and an asymmetric matrix."""
    data = matrix.data
    if data.size and not (data.min() >= 0 and data.max() < np.inf):  # every comparison with nan is false
        entry = int((~((data >= 0) & (data < np.inf))).argmax())
        i, j = _locate(matrix, entry)
        raise NetgraphError(f"{data[entry]} between units {i} and {j}. Give finite numbers of 0 or more.")
    diagonal = matrix.diagonal()
    if diagonal.any():
        i = int(diagonal.argmax())
        raise NetgraphError(f"an affinity of {diagonal[i]:g} of unit {i} to itself. Set the diagonal to zero.")
    difference = sparse.csr_array(abs(matrix - matrix.T))
    if difference.nnz and difference.data.max() > TOLERANCE * data.max():
        i, j = _locate(difference, int(difference.data.argmax()))
        raise NetgraphError(
            f"{matrix[i, j]:g} from unit {i} to unit {j} and {matrix[j, i]:g} back. Give a symmetric matrix, such as "
            "(A + A.T) / 2."
        )


def _locate(matrix: sparse.csr_array, entry: int) -> tuple[int, int]:
    """Return the row and the column of an entry."""
    return int(np.searchsorted(matrix.indptr, entry, side="right")) - 1, int(matrix.indices[entry])


def _read_versions(units: AxisUnits) -> dict[str, int]:
    """Return how often each tensor of a network was written, as PyTorch counts. Tensors of inference mode have no count."""
    return {name: tensor._version for name, tensor in units.state.items() if not tensor.is_inference()}


def _describe(weigh: Callable[..., Any]) -> str:
    """Return an affinity in words, with its distribution if it is a plug-in."""
    return plugins.describe_plugin("netgraph.affinities", weigh)
