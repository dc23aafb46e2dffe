"""Transfer: aggregates as sparse matrices P and R of one axis, and as scatters on tensors.

``P`` (n, k) prolongs, ``R`` (k, n) restricts, ``R P = I``. ``P`` copies a coarse unit to the units of its aggregate;
``R`` averages them. Brezina, Vanek, "Algebraic multigrid by smoothed aggregation", Computing 56, 1996, section 2,
with piecewise constant interpolation.
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
from netgraph.errors import AggregatesError

HALVES = (torch.float16, torch.bfloat16)  # summed in single precision: they overflow, or stop growing
FEW = 4  # aggregates up to this size are added up by gathers


@dataclass(frozen=True, eq=False)
class Transfer:
    """The way between the units of one axis and their aggregates.

    Parameters
    ----------
    aggregates : int array of shape (n,)
        The coarse unit that each unit joins, numbered 0 .. k - 1; -1 for a unit that is left out.

    Raises
    ------
    AggregatesError
        A number is skipped, or is none.
    """

    aggregates: NDArray[np.int64]

    def __post_init__(self) -> None:
        found = np.asarray(self.aggregates)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise AggregatesError(f"aggregates are an int array of shape (n_units,), not {found.dtype} {found.shape}")
        present = np.unique(found[found != -1])
        if not np.array_equal(present, np.arange(len(present))):
            raise AggregatesError(
                f"aggregates run from {present[0]} to {present[-1]} and are {len(present)}; number them from 0 with none "
                "skipped, as numpy.unique(x, return_inverse=True)[1] does"
            )
        object.__setattr__(self, "aggregates", found.astype(np.int64))

    @classmethod
    def identity(cls, n: int) -> Transfer:
        """Return the transfer that merges nothing."""
        return cls(np.arange(n))

    @classmethod
    def selection(cls, kept: NDArray[Any], n: int) -> Transfer:
        """Return the transfer that leaves out all units but ``kept``, a mask or the units' numbers in their new order."""
        units = np.asarray(kept)
        units = np.flatnonzero(units) if units.dtype == bool else units
        aggregates = np.full(n, -1, dtype=np.int64)
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
    def is_identity(self) -> bool:
        """Whether every unit stays itself."""
        return bool(np.array_equal(self.aggregates, np.arange(self.n_fine)))

    @cached_property
    def P(self) -> Any:
        """Prolongation, sparse CSR (n, k): one entry of one in the row of each unit that is kept."""
        rows = np.flatnonzero(self.aggregates >= 0)
        ones = np.ones(len(rows))
        return sparse.csr_array((ones, (rows, self.aggregates[rows])), shape=(self.n_fine, self.n_coarse))

    @cached_property
    def R(self) -> Any:
        """Restriction, sparse CSR (k, n): the mean over each aggregate."""
        return sparse.csr_array(sparse.diags_array(1.0 / self.sizes) @ self.P.T)

    @cached_property
    def ways(self) -> tuple[IndexMap, IndexMap, IndexMap]:
        """The aggregates for passes over arrays: as they are, divided by their sizes, and by the squares of these."""
        plain, each, square = (IndexMap(self.aggregates, 1.0 / self.sizes**power) for power in range(3))
        return plain, each, square

    def P_torch(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return P as a sparse torch tensor in CSR layout."""
        return _to_torch_csr(self.P, dtype)

    def R_torch(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return R as a sparse torch tensor in CSR layout."""
        return _to_torch_csr(self.R, dtype)

    def compose(self, coarser: Transfer) -> Transfer:
        """Return the transfer of two levels in one step; means weigh fine units alike only if sizes are equal."""
        out = self.aggregates.copy()
        out[out >= 0] = coarser.aggregates[out[out >= 0]]
        return Transfer(out)

    # the four maps along one dimension of a tensor

    def total(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply P' along a dimension: add up each aggregate."""
        dim %= tensor.ndim
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
        """The units of each aggregate, (k, largest size), -1 where it has fewer; no columns where some are large."""
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
        """Gather the first members, the second, and so on: in parallel, where a scatter is not."""
        out = None
        for column in self._members.T:
            index = torch.as_tensor(np.maximum(column, 0), device=tensor.device)
            found = tensor.index_select(dim, index)
            if (column < 0).any():
                absent = torch.as_tensor(np.flatnonzero(column < 0), device=tensor.device)
                found = found.index_fill_(dim, absent, 0)
            out = found if out is None else out.add_(found)
        assert out is not None
        return out

    def average(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R along a dimension: the mean of each aggregate; integers stay themselves where units agree."""
        dim %= tensor.ndim
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return self.average(tensor.double(), dim).round().to(tensor.dtype)
        if tensor.dtype in HALVES:
            return self.average(tensor.float(), dim).to(tensor.dtype)
        return self.total(tensor, dim) / self._sizes(tensor, dim)

    def first(self, tensor: Tensor, dim: int) -> Tensor:
        """Take the entry of the first unit of each aggregate along a dimension."""
        _, units = np.unique(self.aggregates[self.aggregates >= 0], return_index=True)
        chosen = np.flatnonzero(self.aggregates >= 0)[units]
        return tensor.index_select(dim, torch.as_tensor(chosen, device=tensor.device))

    def copy(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply P along a dimension: each unit takes its aggregate's entry; a unit left out takes zero."""
        dim %= tensor.ndim
        index, kept = self._index(tensor)
        found = tensor.index_select(dim, index)
        if kept is None:
            return found
        shape = [*tensor.shape[:dim], self.n_fine, *tensor.shape[dim + 1 :]]
        return tensor.new_zeros(shape).index_copy_(dim, kept, found)

    def share(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R' along a dimension: each unit takes an equal share of its aggregate's entry."""
        dim %= tensor.ndim
        if tensor.dtype in HALVES:
            return self.share(tensor.float(), dim).to(tensor.dtype)
        return self.copy(tensor / self._sizes(tensor, dim), dim)

    # second moments go by the squared entries of the same matrices; those of P are its own, so total and copy serve

    def average_sq(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R with squared entries along a dimension."""
        return self.average(tensor, dim) / self._sizes(tensor, dim % tensor.ndim)

    def share_sq(self, tensor: Tensor, dim: int) -> Tensor:
        """Apply R', with squared entries, along a dimension."""
        return self.share(tensor / self._sizes(tensor, dim % tensor.ndim), dim)

    def _index(self, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        kept = np.flatnonzero(self.aggregates >= 0)
        index = torch.as_tensor(self.aggregates[kept], device=tensor.device)
        return index, None if len(kept) == self.n_fine else torch.as_tensor(kept, device=tensor.device)

    def _sizes(self, tensor: Tensor, dim: int) -> Tensor:
        shape = [1] * tensor.ndim
        shape[dim] = self.n_coarse
        return torch.as_tensor(self.sizes, dtype=tensor.dtype, device=tensor.device).reshape(shape)

    def __repr__(self) -> str:
        return f"Transfer({self.n_fine} -> {self.n_coarse})"


def _to_torch_csr(matrix: Any, dtype: torch.dtype) -> Tensor:
    values = torch.from_numpy(matrix.data).to(dtype)
    starts, columns = (torch.from_numpy(a.astype(np.int64)) for a in (matrix.indptr, matrix.indices))
    return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape, check_invariants=False)
