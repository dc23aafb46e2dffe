"""Refit of a coarse network's layers by least squares, from the inputs to the outputs, so that each corrects those before.

What a layer should answer is the fine layer's answer, restricted to the coarse units; behind a batch norm in the norm's
scale; in front of a residual join what the join lacks::

    T = R (norm(W x) + skip) - skip_c          fine x and skip, coarse skip_c
    fitted by norm_c(W_c x_c)                  x_c comes out of layers that are refitted already

He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, sections 3.1 and 3.3, refit pruned
networks so, their residual branches included. How: `netgraph.coarsen.repair.ridge`, on rows of `netgraph.coarsen.repair.im2col`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.repair.im2col import build_columns, count_groups, draw_places, take_places
from netgraph.coarsen.repair.ridge import UNJUDGED, RegressionSums, choose_strength, solve_ridge
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import LINEAR
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec

HELD = 4  # every so manieth input judges the strengths
LEAST = 32_768  # rows at least, where there are so many
PER_COLUMN = 32  # rows for each column, and a quarter of HELD at the least
PRODUCTS = 2e11  # products of a layer's sums beyond which rows become fewer


@dataclass
class Refit:
    """Fits one layer after the other.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    transfers : dict of str to Transfer
    fine, coarse : dict of str to Tensor
        Parameters and buffers of both networks; the coarse ones are written to.
    strength : float, optional
        Of the ridge, as a share of the columns' mean square; by default chosen for each layer on inputs held out.
    """

    spec: UnitSpec
    transfers: Mapping[str, Transfer]
    fine: Mapping[str, Tensor]
    coarse: Mapping[str, Tensor]
    strength: float | None = None
    made: dict[str, Layer] = field(init=False)
    names: dict[int, str] = field(init=False)
    random: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.made = {layer.weight: layer for layer in find_layers(self.spec)}
        self.names = {tensor.data_ptr(): name for name, tensor in self.coarse.items() if tensor.numel()}
        self.random = torch.Generator().manual_seed(0)

    def find_obstacle(self, stop: CallSite) -> tuple[str, str] | None:
        """Return a coarse layer's weight and why it cannot be fitted, None where it can."""
        (x, weight, *rest), name = stop.arguments[0], stop.names[1]
        if name is None:
            read = self.names.get(weight.data_ptr())
            return (read, "something else reads it too") if read else ("a weight", "other operators make it")
        if rest and rest[0] is not None and stop.names[2] is None:
            return name, "something else reads its bias too"
        if self.spec.sums.get((name, 0)):
            return name, "its rows are added up"
        if x.ndim < 2 or (stop.function is not LINEAR and x.ndim != weight.ndim):
            return name, "its inputs come without a batch"
        return None

    def norm(self, weight: str) -> tuple[str, str, str, str] | None:
        """Return the batch norm after a layer: its scale, shift, mean and variance by name."""
        return self.made[weight].norm if weight in self.made else None

    def layer(self, fine: CallSite, coarse: CallSite) -> tuple[float, float]:
        """Fit a layer and return the relative error of its answers before and after."""
        name = coarse.names[1]
        assert name is not None
        weight, groups = coarse.arguments[0][1], count_groups(coarse.arguments[0], coarse.function)
        start = weight.double().flatten(1).unflatten(0, (groups, -1))  # (g, o, d)
        norm = self.norm(name)
        bias = coarse.arguments[0][2] if len(coarse.arguments[0]) > 2 else None
        free = bias is not None or norm is not None
        fit, held = self._sums(fine, coarse, name, start.shape[-1])
        strength = self.strength or (UNJUDGED if held is None else choose_strength(fit, held, start, free=free))
        whole = fit if held is None else fit + held
        W, b = solve_ridge(whole, start, strength, free=free)
        errors = whole.error(start, whole.bias(start, free=free)), whole.error(W, b)
        weight.copy_(W.flatten(0, 1).reshape(weight.shape))
        if bias is not None:
            bias.copy_(b.flatten())
        elif norm is not None:
            self.coarse[norm[2]].sub_(b.flatten().to(weight))
        return errors

    def _sums(
        self, fine: CallSite, coarse: CallSite, name: str, d: int
    ) -> tuple[RegressionSums, RegressionSums | None]:
        """Return the sums of the inputs that are fitted and of those that judge, None where there are none of these."""
        parts: list[RegressionSums | None] = [None, None]
        for rows, answers, judges in self._rows(fine, coarse, name, d):
            for i, mask in enumerate((~judges, judges)):
                if mask.any():
                    new, old = RegressionSums.of(rows[mask], answers[mask]), parts[i]
                    parts[i] = new if old is None else old + new
        assert parts[0] is not None  # the first input of a batch never judges
        return parts[0], parts[1]

    def _rows(self, fine: CallSite, coarse: CallSite, name: str, d: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for each batch columns (n, g, d), answers (n, g, o) and which rows judge (n,)."""
        n = max(min(max(PER_COLUMN * d, LEAST), int(PRODUCTS / d**2)), HELD * d)
        for i, (a, b) in enumerate(zip(fine.arguments, coarse.arguments, strict=True)):
            output = fine.function(*a)
            places = draw_places(output, fine.function, -(-n // len(fine.arguments)), self.random)
            beside = [None if stop.beside is None else stop.beside[i] for stop in (fine, coarse)]
            answers = self._answers(name, fine.function, output, places, *beside)
            rows = build_columns(b, coarse.function, places)
            yield rows, answers.unflatten(1, (rows.shape[1], -1)), places[0] % HELD == HELD - 1

    def _answers(
        self, name: str, function: Any, output: Tensor, places: tuple[Tensor, ...], skip: Any, skip_c: Any
    ) -> Tensor:
        """Return what a coarse layer should answer at places, before its norm: (n, out)."""
        gain, constant = self._line(name, self.fine)
        gain_c, constant_c = self._line(name, self.coarse)
        T: Tensor = gain * take_places(output, function, places).double() + constant
        joined = isinstance(skip, Tensor) and isinstance(skip_c, Tensor) and skip.shape == output.shape
        if joined:
            T = T + take_places(skip, function, places)
        T = self._restricted(name, T)
        if joined:
            T = T - take_places(skip_c, function, places)
        return T.sub(constant_c).div(gain_c)

    def _line(self, name: str, state: Mapping[str, Tensor]) -> tuple[Any, Any]:
        """Return gain and constant of the norm after a layer, 1 and 0 where there is none or the gain is 0."""
        layer = self.made.get(name)
        if layer is None or layer.norm is None:
            return 1.0, 0.0
        scale, shift, mean, variance = (state[n].double() for n in layer.norm)
        gain = scale / (variance + layer.eps).sqrt()
        gain = torch.where(gain.abs() > 1e-9, gain, torch.ones_like(gain))
        return gain, shift - gain * mean

    def _restricted(self, name: str, answers: Tensor) -> Tensor:
        spec = replace(self.spec, parameters={name: ((), self.spec.parameters[name][0])}, sums={})
        return inject(spec, self.transfers, {name: answers})[name]
