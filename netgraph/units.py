"""The numbers that belong to each unit of an axis, wherever in the parameters they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.spec import Term, UnitSpec, term_axes, term_size

COLUMNS = 8192  # more numbers a unit than this are sampled: the cosine of thousands hardly moves


def rows(tensor: Tensor, dim: int, term: Term, axis: str, sizes: Mapping[str, int]) -> Iterator[Tensor]:
    """Yield the parts of a tensor that run over an axis along one dimension, as (n_units, numbers) matrices."""
    tensor = tensor.unflatten(dim, [term_size((f,), sizes) for f in term]) if len(term) > 1 else tensor
    for i, factor in enumerate(term):
        if factor == axis:
            yield tensor.movedim(dim + i, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]
        elif not isinstance(factor, str):
            parts = tensor.split([term_size(part, sizes) for part in factor], dim + i)
            for part, inner in zip(parts, factor, strict=True):
                if axis in term_axes(inner):
                    yield from rows(part, dim + i, inner, axis, sizes)


def features(spec: UnitSpec, state: Mapping[str, Tensor], axis: str, *, seed: int = 0) -> NDArray[np.floating]:
    """Return what makes each unit of an axis: its incoming weights and bias, (n_units, d), d at most `COLUMNS`.

    Where nothing makes the units (they are only read), the weights that read them stand in.
    """
    made = _matrices(spec, state, axis, read=False) or _matrices(spec, state, axis, read=True)
    generator = torch.Generator().manual_seed(seed)
    width = sum(m.shape[1] for m in made)
    if width > COLUMNS:
        made = [_sampled(m, max(1, m.shape[1] * COLUMNS // width), generator) for m in made]
    return torch.cat([m.detach().to("cpu", torch.float32) for m in made], 1).numpy()


def _matrices(spec: UnitSpec, state: Mapping[str, Tensor], axis: str, *, read: bool) -> list[Tensor]:
    out: list[Tensor] = []
    for name, dim in spec.readers(axis):
        if name not in spec.trainable and spec.trainable and not state[name].requires_grad and _is_statistic(name):
            continue
        if (axis in spec.sums.get((name, dim), ())) == read and state[name].is_floating_point():
            out.extend(rows(state[name], dim, spec.parameters[name][dim], axis, spec.sizes))
    return out


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def _sampled(matrix: Tensor, width: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(matrix.shape[1], generator=generator)[:width].sort().values
    return matrix.index_select(1, chosen.to(matrix.device))
