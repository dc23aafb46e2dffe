"""The weights of each unit of an axis, gathered from all parameters: the features that an affinity compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.environment.kernel_cache import compile_kernel
from netgraph.errors import NetgraphError
from netgraph.graph.activations import collect_activations
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.parallel import parallel_for, split_range
from netgraph.utils.seeds import make_generator

Measure = Callable[[Any, UnitSpec, Sequence[Any]], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class AxisUnits:
    """The units of one axis as an affinity sees them. Every property is computed on first use.

    Parameters
    ----------
    spec : UnitSpec
        The axes and parameters of this level.
    state : dict of str to Tensor
        Parameters and buffers of this level.
    axis : str
        Name of the axis.
    seed : int, default 0
        Seed of the random signs and columns, which keep very long features short.
    seen : callable, optional
        Runs the network of this level on calibration data. ``seen(measure)`` returns the result of
        ``measure(network, spec, batches)``, a dict by axis, and computes it once for all axes. Measures are
        `netgraph.graph.activations.collect_activations` and those of `netgraph.affinity.head_attention`.
    """

    spec: UnitSpec
    state: Mapping[str, Tensor]
    axis: str
    seed: int = 0
    seen: Callable[[Measure], Mapping[str, Tensor]] | None = None

    @cached_property
    def incoming(self) -> NDArray[np.floating]:
        """Incoming weights and bias, (n_units, d). If no parameter makes the units, the weights that read them."""
        return unit_features(self.spec, self.state, self.axis, seed=self.seed)

    @cached_property
    def outgoing(self) -> NDArray[np.floating]:
        """Weights that read the units, (n_units, d), with d = 0 if there are none."""
        return _join_columns(
            _find_matrices(self.spec, self.state, self.axis, read=True), self.spec.axes[self.axis].size, self.seed
        )

    @cached_property
    def normed(self) -> NDArray[np.floating]:
        """Incoming weights and bias with the following batch norm folded in, (n_units, d). Without one, `incoming`."""
        made = [layer for layer in find_layers(self.spec) if layer.axis == self.axis]
        if not made or any(layer.norm is None for layer in made):
            return self.incoming
        return _join_columns(
            [_fold_batch_norm(layer, self.state) for layer in made], self.spec.axes[self.axis].size, self.seed
        )

    @cached_property
    def activations(self) -> NDArray[np.floating]:
        """Activations of the units on calibration data, (n_units, samples).

        Raises
        ------
        NetgraphError
            There are no calibration data, or no layer reads the units.
        """
        if self.seen is None:
            raise NetgraphError(
                "this affinity compares activations, and there are no calibration data. Give data or choose another affinity."
            )
        activations = self.seen(collect_activations).get(self.axis)
        if activations is None:
            raise NetgraphError(
                "this affinity compares activations, and no linear layer or convolution reads these units. "
                "Keep the axis or choose another affinity."
            )
        return np.asarray(activations.to("cpu", torch.float32).numpy())


def _fold_batch_norm(layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """Return the weights and bias of a layer with its batch norm folded in (Jacob et al., CVPR 2018, section 3.2)."""
    assert layer.norm is not None
    scale, shift, mean, variance = (state[name].double() for name in layer.norm)
    gain = scale / (variance + layer.eps).sqrt()
    bias = state[layer.bias].double() if layer.bias is not None else 0.0
    return torch.cat(
        [gain[:, None] * state[layer.weight].double().flatten(1), (shift + gain * (bias - mean))[:, None]], 1
    )


# Comparing n units by d numbers each takes n d products for every unit. The length d therefore falls as n grows, within
# two bounds. Longer features are folded to that length, and of very long ones only a random part is read.
MAX_COLUMNS = 8192  # numbers of each unit on small axes
MIN_COLUMNS = 1024  # numbers of each unit on large axes
MAX_PRODUCTS = 1 << 20  # products for each unit between these bounds
READ_RATIO = 8  # how many times as many numbers are read as compared


def unit_features(spec: UnitSpec, state: Mapping[str, Tensor], axis: str, *, seed: int = 0) -> NDArray[np.floating]:
    """Return the incoming weights and bias of each unit of an axis.

    Parameters
    ----------
    spec : UnitSpec
        The axes and parameters of the network.
    state : dict of str to Tensor
        Parameters and buffers.
    axis : str
        Name of the axis.
    seed : int, default 0
        Seed of the random signs and columns.

    Returns
    -------
    array of shape (n_units, d)
        d is at most `count_columns`. If no parameter makes the units, the rows hold the weights that read them.
    """
    matrices = _find_matrices(spec, state, axis, read=False) or _find_matrices(spec, state, axis, read=True)
    return _join_columns(matrices, spec.axes[axis].size, seed)


def count_columns(n: int) -> int:
    """Return the number of features of each unit on an axis of n units."""
    return max(MIN_COLUMNS, min(MAX_COLUMNS, MAX_PRODUCTS // max(n, 1)))


def _join_columns(matrices: list[Tensor], n: int, seed: int) -> NDArray[np.floating]:
    """Return matrices of n rows side by side, folded to the width `count_columns` if they are wider.

    Folding adds each number, with a random sign, to one of the columns. The products of rows keep their expectation, equal
    rows stay equal, and zero rows stay zero.

    References
    ----------
    Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009, section 3. The hash here is regular,
    since the random signs alone make the products unbiased.
    """
    width, limit = sum(m.shape[1] for m in matrices), count_columns(n)
    if width <= limit:
        parts = [m.detach().to("cpu", torch.float32) for m in matrices] or [torch.zeros(n, 0)]
        return np.asarray(torch.cat(parts, 1).numpy())  # a copy: the result never shares memory with the network
    generator, out, at = make_generator(seed), np.zeros((n, limit), dtype=np.float32), 0
    for matrix in matrices:
        if width > READ_RATIO * limit:
            matrix = _sample_columns(matrix, max(1, matrix.shape[1] * READ_RATIO * limit // width), generator)
        signs = torch.randint(0, 2, (matrix.shape[1],), generator=generator, dtype=torch.float32) * 2 - 1
        source = np.ascontiguousarray(matrix.detach().to("cpu", torch.float32).numpy())
        parallel_for(
            partial(_fold_rows, source, signs.numpy(), out, at), split_range(n, max(1, (1 << 18) // max(len(signs), 1)))
        )
        at = (at + len(signs)) % limit
    return out


def _fold_rows(source: NDArray[Any], signs: NDArray[Any], out: NDArray[Any], at: int, part: slice) -> None:
    """Fold the rows of one slice. `parallel_for` calls it in several threads."""
    _add_signed(source, signs, out, at, part.start, part.stop)


@compile_kernel(nogil=True)
def _add_signed(source: Any, signs: Any, out: Any, at: Any, lo: Any, hi: Any) -> Any:
    """Add the signed columns of ``source`` to ``out``, for rows lo to hi - 1, from column ``at`` on and around."""
    width, most = source.shape[1], out.shape[1]
    for r in range(lo, hi):
        first, into = 0, at
        while first < width:
            run = min(width - first, most - into)
            for c in range(run):
                out[r, into + c] += signs[first + c] * source[r, first + c]
            first, into = first + run, 0


def _find_matrices(spec: UnitSpec, state: Mapping[str, Tensor], axis: str, *, read: bool) -> list[Tensor]:
    """Return the matrices (n_units, numbers) of the parameters that make the units, or with ``read`` that read them."""
    out: list[Tensor] = []
    for name, dim in spec.readers(axis):
        if name not in spec.trainable and spec.trainable and not state[name].requires_grad and _is_statistic(name):
            continue
        tensor = torch.view_as_real(state[name].detach()) if state[name].is_complex() else state[name]
        if (axis in spec.sums.get((name, dim), ())) == read and tensor.is_floating_point():
            out.extend(iter_unit_rows(tensor, dim, spec.parameters[name][dim], axis, spec.sizes))
    return out


def _is_statistic(name: str) -> bool:
    """Return True if a buffer holds running statistics of a batch norm."""
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def _sample_columns(matrix: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Return a random choice of columns, in their order."""
    chosen = torch.randperm(matrix.shape[1], generator=generator)[:width].sort().values
    return matrix.index_select(1, chosen.to(matrix.device))
