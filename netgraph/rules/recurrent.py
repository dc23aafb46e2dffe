"""Rules of recurrent layers: the rows of each weight are gates · hidden units."""

from __future__ import annotations

from torch import fx

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Space
from netgraph.rules.operator_call import Call, Spaces


def lstm_rule(call: Call) -> list[Spaces]:
    """LSTM with input, forget, cell and output gates (Hochreiter and Schmidhuber, Neural Computation 9(8), 1997)."""
    out, state = _unite_layers(call, call["hx"][0], gates=4)
    units = sp.resolve(call.spaces(call["params"][-1])[1]) if _is_projected(call) else state[-1]
    cells = [*state[:-1], units]
    for space, other in zip(call.spaces(call["hx"][1]), cells, strict=True):
        call.unite(space, other)
    return [out, state, [sp.resolve(space) for space in cells]]


def _is_projected(call: Call) -> bool:
    """Return True if the layers have a last parameter each that maps their units to fewer numbers (Sak et al., Interspeech 2014)."""
    each = 4 if call["has_biases"] else 2
    return bool(len(call["params"]) // (call["num_layers"] * (2 if call["bidirectional"] else 1)) == each + 1)


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
    params, projected = list(call["params"]), _is_projected(call)
    each = (4 if call["has_biases"] else 2) + projected
    out, units = call.spaces(params[1])[1], call.spaces(params[each - 1])[1] if projected else None
    directions = 2 if call["bidirectional"] else 1
    *lead, incoming = call.spaces("input")
    for at in range(0, len(params), each * directions):
        for first in range(at, at + each * directions, each):
            cell = params[first : first + each]
            if projected:
                _unite_projection(call, cell.pop(), out, units)
            _unite_cell(call, cell, incoming, out, gates, units)
        incoming = sp.concat([out] * directions)
    state = call.spaces(first_state)  # type: ignore[arg-type]
    call.unite(state[-1], out)
    batch = lead[0 if call["batch_first"] else -1] if len(lead) > 1 else sp.ONE
    if len(state) == 3:
        call.unite(state[1], batch)
    return [*lead, sp.resolve(incoming)], [sp.resolve(space) for space in state]


def _unite_projection(call: Call, weight: object, out: Space, units: Space | None) -> None:
    """Unite the rows of a projection with the numbers that leave the layer, and sum over its units."""
    rows, columns = call.spaces(weight)  # type: ignore[arg-type]
    call.unite(rows, out)
    call.unite(columns, units or ())
    call.sums(weight, 1)  # type: ignore[arg-type]


def _unite_cell(
    call: Call, params: list[object], incoming: Space, hidden: Space, gates: int, units: Space | None = None
) -> None:
    """Unite the rows of every parameter with gates · units, and its columns with what it reads.

    The units are the numbers ``hidden`` of the last step, unless a projection stands between them.
    """
    w_in, w_hidden, *biases = params
    for node in (w_in, w_hidden, *biases):
        rows = call.spaces(node)[0]  # type: ignore[arg-type]
        own = hidden if units is None else units
        gate, each = call.reshape([rows], [gates, sp.size_of(own)])
        call.pin(gate, "a gate")
        call.unite(each, own)
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
