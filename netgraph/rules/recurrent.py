"""Rules of recurrent layers: the rows of each weight are gates · hidden units."""

from __future__ import annotations

from torch import fx

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Space
from netgraph.rules.operator_call import Call, Spaces


def lstm_rule(call: Call) -> list[Spaces]:
    """LSTM with input, forget, cell and output gates (Hochreiter and Schmidhuber, Neural Computation 9(8), 1997)."""
    out, state = _unite_layers(call, call["hx"][0], gates=4)
    for space, other in zip(call.spaces(call["hx"][1]), state, strict=True):
        call.unite(space, other)
    return [out, state, list(state)]


def gru_rule(call: Call) -> list[Spaces]:
    """GRU with reset, update and new gates (Cho et al., EMNLP 2014)."""
    return list(_unite_layers(call, call["hx"], gates=3))


def rnn_rule(call: Call) -> list[Spaces]:
    """Recurrent network with one gate (Elman, Cognitive Science 14(2), 1990)."""
    return list(_unite_layers(call, call["hx"], gates=1))


def lstm_cell_rule(call: Call) -> list[Spaces]:
    """One step of an LSTM: hidden and cell state."""
    hidden, cell = call["hx"]
    out = _unite_step(call, hidden, gates=4)
    for space, other in zip(call.spaces(cell), out, strict=True):
        call.unite(space, other)
    return [out, list(out)]


def gru_cell_rule(call: Call) -> Spaces:
    """One step of a GRU."""
    return _unite_step(call, call["hx"], gates=3)


def rnn_cell_rule(call: Call) -> Spaces:
    """One step of an Elman network."""
    return _unite_step(call, call["hx"], gates=1)


def _unite_step(call: Call, state: fx.Node, gates: int) -> Spaces:
    """Unite the spaces of one recurrent cell, and return those of its state."""
    params = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if call.has(name)]
    *lead, incoming = call.spaces("input")
    *batch, hidden = call.spaces(state)
    _unite_cell(call, params, incoming, hidden, gates)
    for space, other in zip(lead, batch, strict=True):
        call.unite(space, other)
    return [sp.resolve(space) for space in (*batch, hidden)]


def _unite_layers(call: Call, first_state: object, gates: int) -> tuple[Spaces, Spaces]:
    """Unite the spaces of all layers and directions, and return those of the output and the state."""
    params, each = list(call["params"]), 4 if call["has_biases"] else 2
    hidden = call.spaces(params[1])[1]
    directions = 2 if call["bidirectional"] else 1
    *lead, incoming = call.spaces("input")
    if sp.size_of(call.spaces(params[1])[0]) != gates * sp.size_of(hidden) or len(params) % (each * directions):
        for node in params:
            for space in call.spaces(node):
                call.pin(space, "a projected recurrent layer")
        call.pin(incoming, "a projected recurrent layer")
        shapes = call.output_shapes()
        return (
            [*lead, call.new_pinned_space(shapes[0][-1], "a projected recurrent layer")],
            [call.new_pinned_space(n, "a projected recurrent layer") for n in shapes[1]],
        )
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            at = (layer * directions + direction) * each
            _unite_cell(call, params[at : at + each], incoming, hidden, gates)
        incoming = sp.concat([hidden] * directions)
    state = call.spaces(first_state)  # type: ignore[arg-type]
    call.unite(state[-1], hidden)
    batch = lead[0 if call["batch_first"] else -1] if len(lead) > 1 else sp.ONE
    if len(state) == 3:
        call.unite(state[1], batch)
    return [*lead, sp.resolve(incoming)], [sp.resolve(space) for space in state]


def _unite_cell(call: Call, params: list[object], incoming: Space, hidden: Space, gates: int) -> None:
    """Unite the rows of every parameter with gates · hidden, and its columns with the units that it reads."""
    w_in, w_hidden, *biases = params
    for node in (w_in, w_hidden, *biases):
        rows = call.spaces(node)[0]  # type: ignore[arg-type]
        gate, units = call.reshape([rows], [gates, sp.size_of(hidden)])
        call.pin(gate, "a gate")
        call.unite(units, hidden)
    call.unite(call.spaces(w_in)[1], incoming)  # type: ignore[arg-type]
    call.unite(call.spaces(w_hidden)[1], hidden)  # type: ignore[arg-type]
    call.sums(w_in, 1)  # type: ignore[arg-type]
    call.sums(w_hidden, 1)  # type: ignore[arg-type]


RULES = {
    "aten.lstm": lstm_rule,
    "aten.gru": gru_rule,
    "aten.rnn_tanh": rnn_rule,
    "aten.rnn_relu": rnn_rule,
    "aten.lstm_cell": lstm_cell_rule,
    "aten.gru_cell": gru_cell_rule,
    "aten.rnn_tanh_cell": rnn_cell_rule,
    "aten.rnn_relu_cell": rnn_cell_rule,
}
