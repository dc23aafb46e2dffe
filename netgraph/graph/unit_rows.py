"""The rows of a parameter that belong to each unit of an axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from netgraph.tracing.unit_spec import Term, term_axes, term_size


def iter_unit_rows(tensor: Tensor, dim: int, term: Term, axis: str, sizes: Mapping[str, int]) -> Iterator[Tensor]:
    """Yield the parts of a tensor that run over an axis along one dimension.

    Parameters
    ----------
    tensor : Tensor
    dim : int
        The dimension of the tensor to look at.
    term : Term
        The term of that dimension.
    axis : str
        Name of the axis.
    sizes : dict of str to int
        Number of units of every axis.

    Yields
    ------
    Tensor of shape (n_units, numbers)
        One matrix for each place of the axis in the term.
    """
    tensor = tensor.unflatten(dim, [term_size((f,), sizes) for f in term]) if len(term) > 1 else tensor
    for i, factor in enumerate(term):
        if factor == axis:
            yield tensor.movedim(dim + i, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]
        elif not isinstance(factor, str):
            parts = tensor.split([term_size(part, sizes) for part in factor], dim + i)
            for part, inner in zip(parts, factor, strict=True):
                if axis in term_axes(inner):
                    yield from iter_unit_rows(part, dim + i, inner, axis, sizes)
