"""Refit of the layers of a coarse network by least squares.

Layers are fitted from the inputs to the outputs, and each corrects the layers before it. The target of a layer is the output of the fine layer, restricted to the coarse units. Behind a layer with a batch norm, targets
are in the scale of the norm. In front of a residual join, the target is the part that the skip connection does not supply::

    T = R (norm(W x) + skip) - skip_c          fine x and skip, coarse skip_c
    fitted by norm_c(W_c x_c)                  x_c comes out of layers that are refitted already

He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, sections 3.1 and 3.3, refit pruned
networks in this way, residual branches included. The regression is in `netgraph.coarsen.regression.solve`, on rows of
`netgraph.graph.im2col`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.regression.rows import HOLD_OUT_EVERY, RowBlock
from netgraph.coarsen.regression.solve import bound_rows, fit_ridge
from netgraph.coarsen.repair.left_weights import SHARED, is_merged
from netgraph.coarsen.repair.weight_products import find_transposed_weights
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.im2col import Places, build_columns, count_groups, count_places, draw_places, take_places
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import LINEAR
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec


@dataclass
class Refit:
    """Fits one layer after the other.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    transfers : dict of str to Transfer
    fine, coarse : dict of str to Tensor
        Parameters and buffers of both networks. The coarse ones are written to.
    strength : float, optional
        Strength of the ridge, as a share of the mean square of the columns. By default it is chosen for each layer on inputs that
        are held out.
    """

    spec: UnitSpec
    transfers: Mapping[str, Transfer]
    fine: Mapping[str, Tensor]
    coarse: Mapping[str, Tensor]
    strength: float | None = None
    layer_of: dict[str, Layer] = field(init=False)
    name_of: dict[int, str] = field(init=False)
    transposed: set[str] = field(init=False)
    random: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.layer_of = {layer.weight: layer for layer in find_layers(self.spec)}
        # A recorded call names a parameter only if no other call reads it. Storage addresses find the names of shared ones.
        self.name_of = {tensor.data_ptr(): name for name, tensor in self.coarse.items() if tensor.numel()}
        self.transposed = find_transposed_weights(self.spec)
        self.random = torch.Generator().manual_seed(0)

    def is_merged(self, name: str | None) -> bool:
        """Return True if a weight runs over an axis that shrinks."""
        return name is not None and is_merged(self.spec, self.transfers, name)

    def find_obstacle(self, fine: CallSite, stop: CallSite) -> tuple[str | None, str] | None:
        """Return the name of a coarse weight and the reason why it cannot be fitted.

        Returns
        -------
        tuple of (str or None, str) or None
            None if the layer can be fitted. The name is None if other operators make the weight.
        """
        (x, weight, *bias), name = stop.arguments[0], stop.names[1]
        if name is None:
            return self.name_of.get(weight.data_ptr()), SHARED
        if bias and bias[0] is not None and stop.names[2] is None:
            return name, "something else reads its bias too"
        if bias and bias[0] is not None and bias[0].ndim != 1:
            return name, "its bias has more than one dimension"
        if self.spec.sums.get((name, self.out_dim(name))):
            return name, "its rows are added up"
        if stop.function is LINEAR and fine.arguments[0][0].shape[:-1] != x.shape[:-1]:
            return name, "the rows of its inputs are units that merge"
        if x.ndim < 2 or (stop.function is not LINEAR and x.ndim != weight.ndim):
            return name, "its inputs come without a batch"
        return None

    def out_dim(self, name: str) -> int:
        """Return the dimension of a weight that runs over its outputs."""
        return int(name in self.transposed)

    def find_norm(self, weight: str) -> tuple[str, str, str, str] | None:
        """Return the names of the scale, shift, mean and variance of the batch norm behind a layer."""
        return self.layer_of[weight].norm if weight in self.layer_of else None

    def fit_layer(self, fine: CallSite, coarse: CallSite) -> tuple[float, float]:
        """Fit a layer and return the relative error of its outputs before and after."""
        name = coarse.names[1]
        assert name is not None
        weight, groups = coarse.arguments[0][1], count_groups(coarse.arguments[0], coarse.function)
        start = weight.flatten(1).unflatten(0, (groups, -1))  # (g, o, d)
        norm = self.find_norm(name)
        bias = coarse.arguments[0][2] if len(coarse.arguments[0]) > 2 else None
        available = [count_places(arguments, fine.function) for arguments in fine.arguments]
        most = -(-bound_rows(*start.shape) // len(available))  # for each batch
        n = sum(min(count, most) for count in available)
        blocks = self._iterate_blocks(fine, coarse, name, start, most)
        found = fit_ridge(blocks, n, start, self.strength, free=bias is not None or norm is not None)
        weight.copy_(found.W.flatten(0, 1).reshape(weight.shape))
        if bias is not None:
            bias.copy_(found.b.flatten())
        elif norm is not None:
            self.coarse[norm[2]].sub_(found.b.flatten().to(weight))
        return found.errors

    def _iterate_blocks(
        self, fine: CallSite, coarse: CallSite, name: str, start: Tensor, most: int
    ) -> Iterator[RowBlock]:
        """Yield the rows of each batch, at most ``most`` each."""
        for i, (fine_arguments, coarse_arguments) in enumerate(zip(fine.arguments, coarse.arguments, strict=True)):
            output = fine.function(*fine_arguments)
            places = draw_places(output, fine.function, most, self.random)
            skips = [None if stop.summand is None else stop.summand[i] for stop in (fine, coarse)]
            yield RowBlock(
                partial(_build_rows, coarse_arguments, coarse.function, places),
                partial(self._take_targets, name, fine.function, output, places, skips, len(start)),
                places[0] % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1,
            )

    def _take_targets(
        self,
        name: str,
        function: Callable[..., Any],
        output: Tensor,
        places: Places,
        skips: Sequence[Any],
        groups: int,
        index: Tensor,
    ) -> Tensor:
        """Return the targets of some rows, (m, g, o)."""
        chosen = tuple(p[index] for p in places)
        targets = self._compute_targets(name, function, output, chosen, *skips)
        return targets.unflatten(1, (groups, -1))  # type: ignore[no-any-return]  # it has no types in torch

    def _compute_targets(
        self,
        name: str,
        function: Callable[..., Any],
        output: Tensor,
        places: tuple[Tensor, ...],
        skip: Any,
        skip_c: Any,
    ) -> Tensor:
        """Return the target of a coarse layer at positions, in front of its norm: (n, out)."""
        gain, constant = self._norm_gain(name, self.fine)
        gain_c, constant_c = self._norm_gain(name, self.coarse)
        T: Tensor = gain * take_places(output, function, places).double() + constant
        joined = isinstance(skip, Tensor) and isinstance(skip_c, Tensor) and skip.shape == output.shape
        if joined:
            T = T + take_places(skip, function, places)
        T = self.restrict(name, T, self.out_dim(name))
        if joined:
            T = T - take_places(skip_c, function, places)
        return T.sub(constant_c).div(gain_c)

    def _norm_gain(self, name: str, state: Mapping[str, Tensor]) -> tuple[Any, Any]:
        """Return gain and constant of the norm behind a layer. They are 1 and 0 without a norm, and a gain of 0 becomes 1."""
        layer = self.layer_of.get(name)
        if layer is None or layer.norm is None:
            return 1.0, 0.0
        scale, shift, mean, variance = (state[n].double() for n in layer.norm)
        gain = scale / (variance + layer.eps).sqrt()
        gain = torch.where(gain.abs() > 1e-9, gain, torch.ones_like(gain))
        return gain, shift - gain * mean

    def restrict(self, name: str, values: Tensor, dim: int) -> Tensor:
        """Average the last dimension of values (..., n) over the aggregates that dimension ``dim`` of a weight runs over."""
        lead = ((),) * (values.ndim - 1)
        spec = replace(self.spec, parameters={name: (*lead, self.spec.parameters[name][dim])}, sums={})
        return inject(spec, self.transfers, {name: values})[name]


def _build_rows(arguments: Sequence[Any], function: Callable[..., Any], places: Places, index: Tensor) -> Tensor:
    """Return the columns of some rows, (m, g, d)."""
    return build_columns(arguments, function, tuple(p[index] for p in places))
