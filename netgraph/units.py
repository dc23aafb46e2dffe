"""The numbers that belong to each unit of an axis, wherever in the parameters they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.errors import NetgraphError
from netgraph.layers import Layer, layers
from netgraph.spec import Term, UnitSpec, term_axes, term_size


@dataclass(frozen=True, eq=False)
class AxisUnits:
    """The units of one axis as an affinity sees them; everything is worked out when it is asked for.

    Parameters
    ----------
    spec : UnitSpec
    state : dict of str to Tensor
        Parameters and buffers of this level.
    axis : str
    seed : int
        Draws the columns that stand for very many.
    seen : callable, optional
        Returns the units' activations on calibration data by axis, (n_units, samples).
    """

    spec: UnitSpec
    state: Mapping[str, Tensor]
    axis: str
    seed: int = 0
    seen: Callable[[], Mapping[str, Tensor]] | None = None

    @cached_property
    def incoming(self) -> NDArray[np.floating]:
        """Incoming weights and bias, (n_units, d); where nothing makes the units, what reads them."""
        return features(self.spec, self.state, self.axis, seed=self.seed)

    @cached_property
    def outgoing(self) -> NDArray[np.floating]:
        """The weights that read the units, (n_units, d); no columns where nothing does."""
        return _joined(
            _matrices(self.spec, self.state, self.axis, read=True), self.spec.axes[self.axis].size, self.seed
        )

    @cached_property
    def normed(self) -> NDArray[np.floating]:
        """Incoming weights and bias with the batch norm that follows folded in, (n_units, d); `incoming` where none does."""
        made = [layer for layer in layers(self.spec) if layer.axis == self.axis]
        if not made or any(layer.norm is None for layer in made):
            return self.incoming
        return _joined([_folded(layer, self.state) for layer in made], self.spec.axes[self.axis].size, self.seed)

    @cached_property
    def activations(self) -> NDArray[np.floating]:
        """What the units answer on calibration data, (n_units, samples).

        Raises
        ------
        NetgraphError
            There are no data, or no layer that reads the units.
        """
        if self.seen is None:
            raise NetgraphError("this affinity compares activations and was given no data; give some, or take another")
        found = self.seen().get(self.axis)
        if found is None:
            raise NetgraphError(
                "this affinity compares activations, and no linear layer or convolution reads these units; "
                "keep the axis, or take another affinity"
            )
        return np.asarray(found.float().numpy())


def _folded(layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """Return the rows and bias of a layer and its batch norm in one (Jacob et al., CVPR 2018, section 3.2)."""
    assert layer.norm is not None
    scale, shift, mean, variance = (state[name].double() for name in layer.norm)
    gain = scale / (variance + layer.eps).sqrt()
    bias = state[layer.bias].double() if layer.bias is not None else 0.0
    return torch.cat(
        [gain[:, None] * state[layer.weight].double().flatten(1), (shift + gain * (bias - mean))[:, None]], 1
    )


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
    return _joined(made, spec.axes[axis].size, seed)


def _joined(made: list[Tensor], n: int, seed: int) -> NDArray[np.floating]:
    """Lay matrices of n rows side by side, sampled where they are wider than `COLUMNS` together."""
    generator = torch.Generator().manual_seed(seed)
    width = sum(m.shape[1] for m in made)
    if width > COLUMNS:
        made = [_sampled(m, max(1, m.shape[1] * COLUMNS // width), generator) for m in made]
    parts = [m.detach().to("cpu", torch.float32) for m in made] or [torch.zeros(n, 0)]
    return np.asarray(torch.cat(parts, 1).numpy())


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
