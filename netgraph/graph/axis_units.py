"""The numbers that belong to each unit of an axis, wherever in the parameters they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from netgraph.errors import NetgraphError
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.parallel import parallel_for, split_range

Measure = Callable[[Any, UnitSpec, Sequence[Any]], Mapping[str, Tensor]]


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
        Runs the level's network on calibration data: ``seen(measure)`` is what ``measure(network, spec, batches)`` returns by
        axis, and is worked out once (`netgraph.graph.activations`, `netgraph.affinity.head_attention`).
    """

    spec: UnitSpec
    state: Mapping[str, Tensor]
    axis: str
    seed: int = 0
    seen: Callable[[Measure], Mapping[str, Tensor]] | None = None

    @cached_property
    def incoming(self) -> NDArray[np.floating]:
        """Incoming weights and bias, (n_units, d); where nothing makes the units, what reads them."""
        return unit_features(self.spec, self.state, self.axis, seed=self.seed)

    @cached_property
    def outgoing(self) -> NDArray[np.floating]:
        """The weights that read the units, (n_units, d); no columns where nothing does."""
        return _join_columns(
            _find_matrices(self.spec, self.state, self.axis, read=True), self.spec.axes[self.axis].size, self.seed
        )

    @cached_property
    def normed(self) -> NDArray[np.floating]:
        """Incoming weights and bias with the batch norm that follows folded in, (n_units, d); `incoming` where none does."""
        made = [layer for layer in find_layers(self.spec) if layer.axis == self.axis]
        if not made or any(layer.norm is None for layer in made):
            return self.incoming
        return _join_columns(
            [_fold_batch_norm(layer, self.state) for layer in made], self.spec.axes[self.axis].size, self.seed
        )

    @cached_property
    def activations(self) -> NDArray[np.floating]:
        """What the units answer on calibration data, (n_units, samples).

        Raises
        ------
        NetgraphError
            There are no data, or no layer that reads the units.
        """
        from netgraph.graph.activations import collect_activations  # which needs this file

        if self.seen is None:
            raise NetgraphError("this affinity compares activations and was given no data; give some, or take another")
        found = self.seen(collect_activations).get(self.axis)
        if found is None:
            raise NetgraphError(
                "this affinity compares activations, and no linear layer or convolution reads these units; "
                "keep the axis, or take another affinity"
            )
        return np.asarray(found.float().numpy())


def _fold_batch_norm(layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """Return the rows and bias of a layer and its batch norm in one (Jacob et al., CVPR 2018, section 3.2)."""
    assert layer.norm is not None
    scale, shift, mean, variance = (state[name].double() for name in layer.norm)
    gain = scale / (variance + layer.eps).sqrt()
    bias = state[layer.bias].double() if layer.bias is not None else 0.0
    return torch.cat(
        [gain[:, None] * state[layer.weight].double().flatten(1), (shift + gain * (bias - mean))[:, None]], 1
    )


COLUMNS = 8192  # numbers a unit that small axes compare
FEWEST = 1024  # and that the largest do
PRODUCTS = 1 << 20  # products for each unit between: what comparing it may cost
READ = 8  # times as many are read, and those beyond left out


def unit_features(spec: UnitSpec, state: Mapping[str, Tensor], axis: str, *, seed: int = 0) -> NDArray[np.floating]:
    """Return what makes each unit of an axis: its incoming weights and bias, (n_units, d), d at most `count_columns`.

    Where nothing makes the units (they are only read), the weights that read them stand in.
    """
    made = _find_matrices(spec, state, axis, read=False) or _find_matrices(spec, state, axis, read=True)
    return _join_columns(made, spec.axes[axis].size, seed)


def count_columns(n: int) -> int:
    """Return how many numbers a unit are compared on an axis of n units."""
    return max(FEWEST, min(COLUMNS, PRODUCTS // max(n, 1)))


def _join_columns(made: list[Tensor], n: int, seed: int) -> NDArray[np.floating]:
    """Lay matrices of n rows side by side; where they are wider than `count_columns` together, they are folded to that width.

    Each number is added, with a random sign, to one of the columns: products of rows stay what they are on average,
    copies stay copies, and zeros zero (Weinberger et al., "Feature hashing for large scale multitask learning", ICML
    2009, section 3, with a regular hash, since the signs alone make it unbiased).
    """
    width, most = sum(m.shape[1] for m in made), count_columns(n)
    if width <= most:
        parts = [m.detach().to("cpu", torch.float32) for m in made] or [torch.zeros(n, 0)]
        return np.asarray(torch.cat(parts, 1).numpy())  # never the network's own memory
    generator, out, at = torch.Generator().manual_seed(seed), np.zeros((n, most), dtype=np.float32), 0
    for matrix in made:
        if width > READ * most:
            matrix = _sample_columns(matrix, max(1, matrix.shape[1] * READ * most // width), generator)
        signs = torch.randint(0, 2, (matrix.shape[1],), generator=generator, dtype=torch.float32) * 2 - 1
        source = np.ascontiguousarray(matrix.detach().to("cpu", torch.float32).numpy())
        parallel_for(
            partial(_fold_rows, source, signs.numpy(), out, at), split_range(n, max(1, (1 << 18) // max(len(signs), 1)))
        )
        at = (at + len(signs)) % most
    return out


def _fold_rows(source: NDArray[Any], signs: NDArray[Any], out: NDArray[Any], at: int, part: slice) -> None:
    _add_signed(source, signs, out, at, part.start, part.stop)


@njit(nogil=True, cache=True)
def _add_signed(source: Any, signs: Any, out: Any, at: Any, lo: Any, hi: Any) -> Any:
    width, most = source.shape[1], out.shape[1]
    for r in range(lo, hi):
        first, into = 0, at
        while first < width:
            run = min(width - first, most - into)
            for c in range(run):
                out[r, into + c] += signs[first + c] * source[r, first + c]
            first, into = first + run, 0


def _find_matrices(spec: UnitSpec, state: Mapping[str, Tensor], axis: str, *, read: bool) -> list[Tensor]:
    out: list[Tensor] = []
    for name, dim in spec.readers(axis):
        if name not in spec.trainable and spec.trainable and not state[name].requires_grad and _is_statistic(name):
            continue
        if (axis in spec.sums.get((name, dim), ())) == read and state[name].is_floating_point():
            out.extend(iter_unit_rows(state[name], dim, spec.parameters[name][dim], axis, spec.sizes))
    return out


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def _sample_columns(matrix: Tensor, width: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(matrix.shape[1], generator=generator)[:width].sort().values
    return matrix.index_select(1, chosen.to(matrix.device))
