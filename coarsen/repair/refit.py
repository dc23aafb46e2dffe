"""Refit of the layers of a coarse network by least squares.

Layers are fitted from the inputs to the outputs, and each corrects the layers before it. The target of a layer is the output of the fine layer, restricted to the coarse units. Behind a layer with a batch norm, targets
are in the scale of the norm. In front of a residual join, the target is the part that the skip connection does not supply::

    T = R (norm(W x) + skip) - skip_c          fine x and skip, coarse skip_c
    fitted by norm_c(W_c x_c)                  x_c comes out of layers that are refitted already

He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, sections 3.1 and 3.3, refit pruned
networks in this way, residual branches included. The regression is in `netgraph.coarsen.repair.ridge`, on rows of
`netgraph.coarsen.repair.im2col`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.repair.im2col import build_columns, count_groups, draw_places, take_places
from netgraph.coarsen.repair.ridge import DEFAULT_STRENGTH, RegressionSums, choose_strength, solve_ridge
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import LINEAR
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec

HOLD_OUT_EVERY = 4  # one input in four is held out to choose the strength of the ridge
MIN_ROWS = 32_768  # at least, if there are that many
ROWS_PER_COLUMN = 32  # and never fewer than HOLD_OUT_EVERY for each column
MAX_PRODUCTS = 2e11  # multiplications for the sums of a layer, beyond which fewer rows are taken


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
    random: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.layer_of = {layer.weight: layer for layer in find_layers(self.spec)}
        # A recorded call names a parameter only if no other call reads it. Storage addresses find the names of shared ones.
        self.name_of = {tensor.data_ptr(): name for name, tensor in self.coarse.items() if tensor.numel()}
        self.random = torch.Generator().manual_seed(0)

    def find_obstacle(self, stop: CallSite) -> tuple[str, str] | None:
        """Return the name of a coarse weight and the reason why it cannot be fitted.

        Returns
        -------
        tuple of (str, str) or None
            None if the layer can be fitted.
        """
        (x, weight, *bias), name = stop.arguments[0], stop.names[1]
        if name is None:
            reader = self.name_of.get(weight.data_ptr())
            return (reader, "something else reads it too") if reader else ("a weight", "other operators make it")
        if bias and bias[0] is not None and stop.names[2] is None:
            return name, "something else reads its bias too"
        if self.spec.sums.get((name, 0)):
            return name, "its rows are added up"
        if x.ndim < 2 or (stop.function is not LINEAR and x.ndim != weight.ndim):
            return name, "its inputs come without a batch"
        return None

    def find_norm(self, weight: str) -> tuple[str, str, str, str] | None:
        """Return the names of the scale, shift, mean and variance of the batch norm behind a layer."""
        return self.layer_of[weight].norm if weight in self.layer_of else None

    def fit_layer(self, fine: CallSite, coarse: CallSite) -> tuple[float, float]:
        """Fit a layer and return the relative error of its outputs before and after."""
        name = coarse.names[1]
        assert name is not None
        weight, groups = coarse.arguments[0][1], count_groups(coarse.arguments[0], coarse.function)
        start = weight.double().flatten(1).unflatten(0, (groups, -1))  # (g, o, d)
        norm = self.find_norm(name)
        bias = coarse.arguments[0][2] if len(coarse.arguments[0]) > 2 else None
        free = bias is not None or norm is not None
        fit, held = self._accumulate_sums(fine, coarse, name, start.shape[-1])
        strength = self.strength or (DEFAULT_STRENGTH if held is None else choose_strength(fit, held, start, free=free))
        total = fit if held is None else fit + held
        W, b = solve_ridge(total, start, strength, free=free)
        errors = total.error(start, total.fit_bias(start, free=free)), total.error(W, b)
        weight.copy_(W.flatten(0, 1).reshape(weight.shape))
        if bias is not None:
            bias.copy_(b.flatten())
        elif norm is not None:
            self.coarse[norm[2]].sub_(b.flatten().to(weight))
        return errors

    def _accumulate_sums(
        self, fine: CallSite, coarse: CallSite, name: str, d: int
    ) -> tuple[RegressionSums, RegressionSums | None]:
        """Return the sums of the inputs for the fit and of those held out. The latter are None if no input is held out."""
        parts: list[RegressionSums | None] = [None, None]
        for rows, targets, held_out in self._iterate_rows(fine, coarse, name, d):
            for i, mask in enumerate((~held_out, held_out)):
                if mask.any():
                    new, old = RegressionSums.from_rows(rows[mask], targets[mask]), parts[i]
                    parts[i] = new if old is None else old + new
        assert parts[0] is not None  # the first input of a batch is never held out
        return parts[0], parts[1]

    def _iterate_rows(
        self, fine: CallSite, coarse: CallSite, name: str, d: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for each batch columns (n, g, d), targets (n, g, o) and a mask of the rows that are held out (n,)."""
        n = max(min(max(ROWS_PER_COLUMN * d, MIN_ROWS), int(MAX_PRODUCTS / d**2)), HOLD_OUT_EVERY * d)
        for i, (fine_arguments, coarse_arguments) in enumerate(zip(fine.arguments, coarse.arguments, strict=True)):
            output = fine.function(*fine_arguments)
            places = draw_places(output, fine.function, -(-n // len(fine.arguments)), self.random)
            skips = [None if stop.summand is None else stop.summand[i] for stop in (fine, coarse)]
            targets = self._compute_targets(name, fine.function, output, places, *skips)
            rows = build_columns(coarse_arguments, coarse.function, places)
            yield rows, targets.unflatten(1, (rows.shape[1], -1)), places[0] % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1

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
        T = self._restrict_outputs(name, T)
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

    def _restrict_outputs(self, name: str, targets: Tensor) -> Tensor:
        """Average outputs of a fine layer over the aggregates of its units."""
        spec = replace(self.spec, parameters={name: ((), self.spec.parameters[name][0])}, sums={})
        return inject(spec, self.transfers, {name: targets})[name]
