"""Transfer: the prolongation P and the restriction R of one axis, as sparse matrices and as maps of tensors.

Vanek, Mandel and Brezina, "Algebraic multigrid by smoothed aggregation for second and fourth order elliptic problems",
Computing 56, 1996, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from netgraph.coarsen.transfer.kernels import IndexMap
from netgraph.environment.memory import check_memory
from netgraph.errors import AggregatesError, NetgraphError

HALVES = (torch.float16, torch.bfloat16)  # added up in single precision, because sums overflow or stop growing
FEW = 4  # aggregates of at most this size are added up by gathers


@dataclass(frozen=True, eq=False)
class Transfer:
    """Transfer between the n units of one axis and their k aggregates.

    ``P`` (n, k) copies a coarse unit to the units of its aggregate, and ``R`` (k, n) averages over each aggregate, so
    ``R P = I``. This is the piecewise constant interpolation of smoothed aggregation, without the smoothing [1]_.

    Parameters
    ----------
    aggregates : int array of shape (n,)
        Coarse unit that each unit joins, numbered 0 .. k - 1, or -1 for a unit that is left out.
    weights : array of shape (n,), optional
        Weight of each unit in the mean of its aggregate, not negative. By default all weigh the same. An aggregate whose weights are
        all zero takes the plain mean.

    Raises
    ------
    AggregatesError
        The array has another shape or dtype, a number is skipped, or weights are not finite numbers of units from 0 on.

    References
    ----------
    .. [1] Vanek, Mandel and Brezina, "Algebraic multigrid by smoothed aggregation for second and fourth order elliptic
       problems", Computing 56, 1996, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import netgraph as ng
    >>> transfer = ng.Transfer(np.array([0, 0, 1, 2, 2]))
    >>> transfer
    Transfer(5 -> 3)
    >>> transfer.P.toarray()
    array([[1., 0., 0.],
           [1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.],
           [0., 0., 1.]])
    >>> (transfer.R @ transfer.P).toarray()
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])

    With weights, heavy units count more in the mean:

    >>> ng.Transfer(np.array([0, 0, 1]), np.array([3.0, 1.0, 2.0])).R.toarray()
    array([[0.75, 0.25, 0.  ],
           [0.  , 0.  , 1.  ]])
    """

    aggregates: NDArray[np.int64]
    weights: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        array = np.asarray(self.aggregates)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise AggregatesError(
                f"aggregates must be an int array of shape (n_units,), got {array.dtype} of shape {array.shape}."
            )
        present = np.unique(array[array != -1])
        if not np.array_equal(present, np.arange(len(present))):
            raise AggregatesError(
                f"aggregates must be numbered from 0 with none skipped, got {len(present)} numbers from {present[0]} to "
                f"{present[-1]}. numpy.unique(x, return_inverse=True)[1] renumbers any array that way."
            )
        object.__setattr__(self, "aggregates", array.astype(np.int64))
        if self.weights is not None:
            object.__setattr__(self, "weights", _check_weights(self.weights, len(array)))

    @classmethod
    def identity(cls, n: int) -> Transfer:
        """Return the transfer that merges nothing."""
        return cls(np.arange(_check_count(n)))

    @classmethod
    def selection(cls, kept: NDArray[Any], n: int) -> Transfer:
        """Return the transfer that keeps some units only.

        Parameters
        ----------
        kept : bool array of shape (n,) or int array
            A mask, or the numbers of the kept units in their new order.
        n : int
            Number of fine units.

        Returns
        -------
        Transfer
        """
        units = np.asarray(kept)
        units = np.flatnonzero(units) if units.dtype == bool else units
        outside = units.ndim != 1 or (
            units.size and (units.dtype.kind not in "iu" or not 0 <= units.min() <= units.max() < n)
        )
        if outside or len(np.unique(units)) != len(units):
            raise AggregatesError(
                f"the kept units are {units.dtype} of shape {units.shape}, and there are {n} units. Give a mask of them, or their "
                f"numbers from 0 to {n - 1}, each once."
            )
        aggregates = np.full(_check_count(n), -1, dtype=np.int64)
        aggregates[units] = np.arange(len(units))
        return cls(aggregates)

    @property
    def n_fine(self) -> int:
        """Number of fine units n."""
        return len(self.aggregates)

    @cached_property
    def n_coarse(self) -> int:
        """Number of coarse units k."""
        return int(self.aggregates.max(initial=-1)) + 1

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of fine units in each aggregate, (k,)."""
        return np.bincount(self.aggregates[self.aggregates >= 0], minlength=self.n_coarse)

    @property
    def is_weighted(self) -> bool:
        """True if units have weights in the mean of their aggregate."""
        return self.weights is not None

    @property
    def is_identity(self) -> bool:
        """True if every unit is its own aggregate, in order."""
        return bool(np.array_equal(self.aggregates, np.arange(self.n_fine)))

    @cached_property
    def P(self) -> Any:
        """Prolongation, sparse CSR (n, k): a single 1 in the row of each unit that is not left out."""
        rows = np.flatnonzero(self.aggregates >= 0)
        ones = np.ones(len(rows))
        return sparse.csr_array((ones, (rows, self.aggregates[rows])), shape=(self.n_fine, self.n_coarse))

    @cached_property
    def R(self) -> Any:
        """Restriction, sparse CSR (k, n): the mean over each aggregate."""
        if self.weights is not None:
            return sparse.csr_array(self.P.T @ sparse.diags_array(self.shares))
        return sparse.csr_array(sparse.diags_array(1.0 / self.sizes) @ self.P.T)

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """Share of each unit in the mean of its aggregate, (n,): the entries of R. It is 0 for a unit that is left out."""
        joined = self.aggregates >= 0
        into, shares = self.aggregates[joined], np.zeros(self.n_fine)
        weights, largest = np.ones(len(into)) if self.weights is None else self.weights[joined], np.zeros(self.n_coarse)
        np.maximum.at(largest, into, weights)
        weights = np.divide(weights, largest[into], out=np.ones(len(into)), where=largest[into] > 0)  # no sum overflows
        shares[joined] = weights / np.bincount(into, weights, self.n_coarse)[into]
        return shares

    @cached_property
    def index_maps(self) -> tuple[IndexMap, IndexMap, IndexMap]:
        """Maps for the compiled kernels, with the factors 1, 1 / size and 1 / size² of each aggregate."""
        plain, mean, square = (IndexMap(self.aggregates, 1.0 / self.sizes**power) for power in range(3))
        return plain, mean, square

    def P_torch(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return P as a sparse torch tensor in CSR layout."""
        return _to_torch_csr(self.P, dtype)

    def R_torch(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return R as a sparse torch tensor in CSR layout."""
        return _to_torch_csr(self.R, dtype)

    def compose(self, coarser: Transfer) -> Transfer:
        """Return the transfer over two levels at once.

        Without weights its R averages over the finest units, which is the product of both R only if all aggregates have one size.
        If ``coarser`` has weights, it is the product of both. If only this transfer has them, coarse units count by their sizes.
        """
        if coarser.n_fine != self.n_coarse:
            raise AggregatesError(
                f"a transfer to {self.n_coarse} units cannot be followed by one from {coarser.n_fine}. Give the transfer of the next level."
            )
        out = self.aggregates.copy()
        out[out >= 0] = coarser.aggregates[out[out >= 0]]
        if self.weights is None and coarser.weights is None:
            return Transfer(out)
        later = self.sizes if coarser.weights is None else coarser.shares
        weights, joined = self.shares.copy(), self.aggregates >= 0
        weights[joined] *= later[self.aggregates[joined]]
        return Transfer(out, weights)

    # Four maps along one dimension of a tensor: P' (total), R (average), P (copy) and R' (share).

    def total(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply P' along a dimension: the sum over each aggregate."""
        dim = _check_dim(tensor, dim, self.n_fine)
        if tensor.dtype in HALVES:
            return self.total(tensor.float(), dim).to(tensor.dtype)
        if self._members.shape[1]:
            return self._total_of_few(tensor, dim)
        index, kept = self._index(tensor)
        source = tensor if kept is None else tensor.index_select(dim, kept)
        shape = [*tensor.shape[:dim], self.n_coarse, *tensor.shape[dim + 1 :]]
        return tensor.new_zeros(shape).index_add_(dim, index, source)

    @cached_property
    def _members(self) -> NDArray[np.int64]:
        """Units of each aggregate, (k, largest size), filled up with -1. There are no columns if the largest exceeds `FEW`."""
        largest = int(self.sizes.max(initial=0))
        if largest > FEW:
            return np.empty((self.n_coarse, 0), dtype=np.int64)
        order = np.argsort(self.aggregates, kind="stable")
        order = order[self.aggregates[order] >= 0]
        starts = np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        members = np.full((self.n_coarse, largest), -1, dtype=np.int64)
        members[self.aggregates[order], np.arange(len(order)) - starts] = order
        return members

    def _total_of_few(self, tensor: Tensor, dim: int) -> Tensor:
        """Gather the first members, then the second, and so on. Gathers run in parallel, and scatters do not."""
        out = None
        for column in self._members.T:
            index = torch.as_tensor(np.maximum(column, 0), device=tensor.device)
            part = tensor.index_select(dim, index)
            if (column < 0).any():
                absent = torch.as_tensor(np.flatnonzero(column < 0), device=tensor.device)
                part = part.index_fill_(dim, absent, 0)
            out = part if out is None else out.add_(part)
        assert out is not None
        return out

    def average(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R along a dimension: the mean over each aggregate. Means of integers are rounded."""
        dim = _check_dim(tensor, dim, self.n_fine)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return self.average(tensor.double(), dim).round().to(tensor.dtype)
        if tensor.dtype in HALVES:
            return self.average(tensor.float(), dim).to(tensor.dtype)
        if self.weights is not None:
            return self.total(tensor * self._shares(tensor, dim), dim)
        return self.total(tensor, dim) / self._sizes(tensor, dim)

    def first(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the entry of the first unit of each aggregate along a dimension."""
        dim = _check_dim(tensor, dim, self.n_fine)
        return tensor.index_select(dim, torch.as_tensor(self._firsts, device=tensor.device))

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """The first unit of each aggregate, (k,)."""
        aggregates, units = np.unique(self.aggregates, return_index=True)
        return units[aggregates >= 0]

    def place(self, tensor: Tensor, dim: int) -> Tensor:
        """Give the first unit of each aggregate its entry along a dimension, and all others zero: the transpose of `first`."""
        dim = _check_dim(tensor, dim, self.n_coarse)
        shape = [*tensor.shape[:dim], self.n_fine, *tensor.shape[dim + 1 :]]
        return tensor.new_zeros(shape).index_copy_(dim, torch.as_tensor(self._firsts, device=tensor.device), tensor)

    def copy(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply P along a dimension: each unit gets the entry of its aggregate, and a unit that is left out gets zero."""
        dim = _check_dim(tensor, dim, self.n_coarse)
        index, kept = self._index(tensor)
        copies = tensor.index_select(dim, index)
        if kept is None:
            return copies
        shape = [*tensor.shape[:dim], self.n_fine, *tensor.shape[dim + 1 :]]
        return tensor.new_zeros(shape).index_copy_(dim, kept, copies)

    def share(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R' along a dimension: each unit gets its share of the entry of its aggregate."""
        dim = _check_dim(tensor, dim, self.n_coarse)
        if tensor.dtype in HALVES:
            return self.share(tensor.float(), dim).to(tensor.dtype)
        if self.weights is not None:
            return self.copy(tensor, dim) * self._shares(tensor, dim)
        return self.copy(tensor / self._sizes(tensor, dim), dim)

    # Second moments are moved by the same matrices with squared entries. The entries of P are their own squares.

    def average_sq(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R with squared entries along a dimension (second moments going down)."""
        if self.weights is not None:
            dim = _check_dim(tensor, dim, self.n_fine)
            return self.average(tensor * self._shares(tensor, dim), dim)
        return self.average(tensor, dim) / self._sizes(tensor, dim % tensor.ndim)

    def share_sq(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R' with squared entries along a dimension (second moments going up)."""
        dim = _check_dim(tensor, dim, self.n_coarse)
        if self.weights is not None:
            return self.share(tensor, dim) * self._shares(tensor, dim)
        return self.share(tensor / self._sizes(tensor, dim), dim)

    def _index(self, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the aggregates of the kept units, and these units, or None if all are kept."""
        kept = np.flatnonzero(self.aggregates >= 0)
        index = torch.as_tensor(self.aggregates[kept], device=tensor.device)
        return index, None if len(kept) == self.n_fine else torch.as_tensor(kept, device=tensor.device)

    def _sizes(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the sizes of the aggregates, shaped to broadcast along a dimension."""
        shape = [1] * tensor.ndim
        shape[dim] = self.n_coarse
        return torch.as_tensor(self.sizes, dtype=tensor.dtype, device=tensor.device).reshape(shape)

    def _shares(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the shares of the units, shaped to broadcast along a dimension."""
        shape = [1] * tensor.ndim
        shape[dim] = self.n_fine
        return torch.as_tensor(self.shares, dtype=tensor.dtype, device=tensor.device).reshape(shape)

    def __repr__(self) -> str:
        return f"Transfer({self.n_fine} -> {self.n_coarse})"


def _check_weights(weights: NDArray[Any], n: int) -> NDArray[np.float64]:
    """Return weights of n units as double precision. Refuse those that no mean can have."""
    array = np.asarray(weights)
    if array.shape != (n,) or array.dtype.kind not in "fiu":
        raise AggregatesError(
            f"the weights are {array.dtype} of shape {array.shape}, and there are {n} units. Give a real number for each."
        )
    if not (np.isfinite(array) & (array >= 0)).all():
        unit = int(np.flatnonzero(~(np.isfinite(array) & (array >= 0)))[0])
        raise AggregatesError(f"the weight of unit {unit} is {array[unit]}. Give finite weights from 0 on.")
    return array.astype(np.float64)


def _check_count(n: int) -> int:
    """Return a number of units that memory has room for."""
    if n < 0:
        raise AggregatesError(f"{n} units were asked for. Give 0 or more.")
    check_memory(n * 8, f"a transfer of {n:,} units")
    return n


def _check_dim(tensor: Tensor, dim: int, size: int) -> int:
    """Return a dimension counted from the front, whose entries are those of the units."""
    if not -tensor.ndim <= dim < tensor.ndim or tensor.shape[dim] != size:
        raise NetgraphError(
            f"dimension {dim} of a tensor of shape {tuple(tensor.shape)} is not that of {size} units. Give a tensor with {size} "
            "entries along it."
        )
    return dim % tensor.ndim


def _to_torch_csr(matrix: Any, dtype: torch.dtype) -> Tensor:
    """Return a scipy CSR matrix as a torch tensor."""
    values = torch.from_numpy(matrix.data).to(dtype)
    starts, columns = (torch.from_numpy(a.astype(np.int64)) for a in (matrix.indptr, matrix.indices))
    return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape, check_invariants=False)
