"""Refit of the layers of an LSTM, a GRU or an Elman network by least squares.

The gates of a layer are linear in its input and in its own states one step earlier. With the states of the fine layer in place of
its own, all steps are rows of one regression (teacher forcing: Williams and Zipser, Neural Computation 1(2), 1989)::

    z_t = W_i x_t + W_h h_t-1 + b                          fine
    T   = R z_t,    C = [x_c,t, R h_t-1]                    x_c comes out of layers that are refitted already

On its own, the layer makes errors, and its states drift away from R h. It is fitted again on the states that it then has,
C = [x_c,t, h_c,t-1] (Venkatraman, Hebert, Bagnell, "Improving multi-step prediction of learned time series models", AAAI 2015). Of
the merged weights and all fits, those with the smallest error of the states stay.

The new gate of a GRU multiplies its part of the states by the reset gate before it adds the input. Both parts are fitted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from netgraph.coarsen.regression.ridge import relative_error
from netgraph.coarsen.regression.rows import HOLD_OUT_EVERY, RowBlock
from netgraph.coarsen.regression.solve import bound_rows, fit_ridge
from netgraph.coarsen.repair.refit import Refit
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import ATEN

GATES = {ATEN.lstm.input: 4, ATEN.gru.input: 3, ATEN.rnn_tanh.input: 1, ATEN.rnn_relu.input: 1}
ROUNDS = 3  # fits of a layer: one on the states of the fine layer, the others on its own


@dataclass(frozen=True)
class RecurrentCell:
    """One direction of one layer, in one network.

    Parameters
    ----------
    function : operator
    parameters : list of Tensor
        Input weights (gates · h, in), state weights (gates · h, h), and two biases (gates · h,) or none.
    states : list
        For each batch the state before the first step, (1, batch, h), of an LSTM a list of two.
    batch_first, reverse : bool
    """

    function: Any
    parameters: list[Tensor]
    states: list[Any]
    batch_first: bool
    reverse: bool

    def run(self, signals: Sequence[Tensor]) -> list[Tensor]:
        """Return the states of all steps for the inputs of each batch, in the order of the inputs."""
        time, rest = int(self.batch_first), (len(self.parameters) == 4, 1, 0.0, False, False, self.batch_first)
        inputs = [x.flip(time) if self.reverse else x for x in signals]
        results = [self.function(x, s, self.parameters, *rest)[0] for x, s in zip(inputs, self.states, strict=True)]
        return [result.flip(time) if self.reverse else result for result in results]

    def shift(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the states that each step reads: those of the step before it."""
        time, shifted = int(self.batch_first), []
        for output, state in zip(outputs, self.states, strict=True):
            first = (state[0] if isinstance(state, list) else state)[0].unsqueeze(time)
            n = output.shape[time] - 1
            rest = output.narrow(time, int(self.reverse), n)
            shifted.append(torch.cat([rest, first] if self.reverse else [first, rest], time))
        return shifted


def find_recurrent_obstacle(refit: Refit, stop: CallSite) -> tuple[list[str], str] | None:
    """Return the names of the weights of a recurrent call and the reason why they cannot be fitted, or None."""
    x, _, parameters, has_biases, n_layers, _, _, bidirectional = stop.arguments[0][:8]
    found = [refit.name_of.get(tensor.data_ptr()) for tensor in parameters]
    names = [name for name in found if name is not None and len(refit.spec.parameters[name]) > 1]
    if None in stop.listed[2]:
        return names, "something else reads it too" if None not in found else "other operators make some of them"
    if len(parameters) != (4 if has_biases else 2) * n_layers * (2 if bidirectional else 1):
        return names, "a recurrent layer with a projection has no fit"
    if x.ndim != 3:
        return names, "its inputs come without a batch"
    return None


def fit_recurrent(refit: Refit, fine: CallSite, coarse: CallSite) -> dict[str, tuple[float, float]]:
    """Fit all layers and directions of a recurrent call, and return relative errors before and after by weight."""
    has_biases, n_layers, _, _, bidirectional, _ = fine.arguments[0][3:9]
    directions, each = 2 if bidirectional else 1, 4 if has_biases else 2
    signals = [[arguments[0] for arguments in stop.arguments] for stop in (fine, coarse)]
    errors: dict[str, tuple[float, float]] = {}
    for layer in range(n_layers):
        outputs: list[list[list[Tensor]]] = [[], []]
        for direction in range(directions):
            k = layer * directions + direction
            cells = [_take_cell(stop, k, each, reverse=direction == 1) for stop in (fine, coarse)]
            names = [str(name) for name in coarse.listed[2][k * each : (k + 1) * each]]
            fit = _CellFit(refit, cells[0], cells[1], names, signals[0], signals[1])
            errors |= fit.fit()
            outputs[0].append(fit.fine_states)
            outputs[1].append(cells[1].run(signals[1]))
        signals = [[torch.cat(parts, 2) for parts in zip(*network, strict=True)] for network in outputs]
    return errors


def _take_cell(stop: CallSite, k: int, each: int, *, reverse: bool) -> RecurrentCell:
    """Return direction and layer number k of a recurrent call."""
    states = [
        [state[k : k + 1] for state in hx] if isinstance(hx, (list, tuple)) else hx[k : k + 1]
        for _, hx, *_ in stop.arguments
    ]
    parameters = list(stop.arguments[0][2][k * each : (k + 1) * each])
    return RecurrentCell(stop.function, parameters, states, bool(stop.arguments[0][8]), reverse)


class _CellFit:
    """The fit of one direction of one layer."""

    def __init__(
        self,
        refit: Refit,
        fine: RecurrentCell,
        coarse: RecurrentCell,
        names: Sequence[str],
        fine_inputs: Sequence[Tensor],
        coarse_inputs: Sequence[Tensor],
    ) -> None:
        self.refit, self.fine, self.coarse, self.names = refit, fine, coarse, names
        self.fine_inputs, self.coarse_inputs = fine_inputs, coarse_inputs
        self.fine_states = fine.run(fine_inputs)
        self.wanted = [refit.restrict(names[1], states, 1) for states in self.fine_states]

    def fit(self) -> dict[str, tuple[float, float]]:
        """Fit the weights in place, and return relative errors of the states before and after by weight."""
        read = self.coarse.shift(self.wanted)
        square = sum(float(states.double().square().sum()) for states in self.wanted)
        first = best = self._measure_rest()
        kept = [p.clone() for p in self.coarse.parameters]
        merged = list(kept)
        for _ in range(ROUNDS):
            for parameter, start in zip(self.coarse.parameters, merged, strict=True):
                parameter.copy_(start)
            self._fit_gates(read)
            rest = self._measure_rest()
            if rest < best:
                best, kept = rest, [p.clone() for p in self.coarse.parameters]
            read = self.coarse.shift(self.coarse.run(self.coarse_inputs))
        for parameter, value in zip(self.coarse.parameters, kept, strict=True):
            parameter.copy_(value)
        errors = relative_error(first, square), relative_error(best, square)
        return dict.fromkeys(self.names[:2], errors)

    def _measure_rest(self) -> float:
        """Return |h_c - R h|² over all steps of all inputs."""
        pairs = zip(self.coarse.run(self.coarse_inputs), self.wanted, strict=True)
        return sum(float((states.double() - wanted).square().sum()) for states, wanted in pairs)

    def _fit_gates(self, read: Sequence[Tensor]) -> None:
        """Fit all gates at once. The parts of a GRU's new gate are fitted apart."""
        gates = GATES[self.coarse.function]
        if gates != 3:
            self._fit_rows(read, slice(0, gates), inputs=True, states=True)
            return
        self._fit_rows(read, slice(0, 2), inputs=True, states=True)
        self._fit_rows(read, slice(2, 3), inputs=True, states=False)
        self._fit_rows(read, slice(2, 3), inputs=False, states=True)

    def _fit_rows(self, read: Sequence[Tensor], gates: slice, *, inputs: bool, states: bool) -> None:
        """Fit some gates to the fine pre-activations, from the inputs, the states, or both."""
        W_i, W_h, *biases = self.coarse.parameters
        h = W_h.shape[1]
        rows = slice(gates.start * h, gates.stop * h)
        start = torch.cat([W[rows] for W in [W_i] * inputs + [W_h] * states], 1)[None]
        counts = [x.shape[0] * x.shape[1] for x in self.coarse_inputs]
        most = -(-bound_rows(*start.shape) // len(counts))
        n = sum(min(count, most) for count in counts)
        blocks = self._iterate_blocks(read, rows, most, inputs=inputs, states=states)
        found = fit_ridge(blocks, n, start, self.refit.strength, free=bool(biases))
        W, b = found.W[0].to(W_i), found.b[0]
        if inputs:
            W_i[rows] = W[:, : W_i.shape[1]]
        if states:
            W_h[rows] = W[:, -h:]
        if biases:  # one of the two bears the change
            other = biases[1][rows] if inputs and states else 0.0
            biases[0 if inputs else 1][rows] = (b - other).to(W_i)

    def _iterate_blocks(
        self, read: Sequence[Tensor], rows: slice, most: int, *, inputs: bool, states: bool
    ) -> Iterator[RowBlock]:
        """Yield the rows of each batch, at most ``most`` steps each."""
        before = self.fine.shift(self.fine_states)
        batch = 1 - int(self.coarse.batch_first)
        for x, h, x_c, h_c in zip(self.fine_inputs, before, self.coarse_inputs, read, strict=True):
            n = x.shape[0] * x.shape[1]
            chosen = torch.randperm(n, generator=self.refit.random)[:most].sort().values.to(x.device)
            places = torch.unravel_index(chosen, x.shape[:2])
            parts_c = [x_c] * inputs + [h_c] * states
            parts = [x if inputs else None, h if states else None]
            yield RowBlock(
                partial(_join_rows, parts_c, places),
                partial(self._take_targets, parts, places, rows),
                places[batch] % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1,
            )

    def _take_targets(
        self, parts: Sequence[Tensor | None], places: tuple[Tensor, ...], rows: slice, index: Tensor
    ) -> Tensor:
        """Return the restricted pre-activations of some steps, (m, 1, rows)."""
        at, weights, biases = tuple(p[index] for p in places), self.fine.parameters[:2], self.fine.parameters[2:]
        terms = [
            functional.linear(part[at], weights[i], biases[i] if biases else None).double()
            for i, part in enumerate(parts)
            if part is not None
        ]
        return self.refit.restrict(self.names[0], torch.stack(terms).sum(0), 0)[:, None, rows]


def _join_rows(parts: Sequence[Tensor], places: tuple[Tensor, ...], index: Tensor) -> Tensor:
    """Return inputs and states of some steps side by side, (m, 1, d)."""
    at = tuple(p[index] for p in places)
    return torch.cat([part[at] for part in parts], 1)[:, None]
