"""Refit of recurrent layers, judged by networks whose exact weights are known, by dense least squares, and by a trained network."""

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.hierarchy.report import describe_level
from netgraph.coarsen.network.functional_error import compute_outputs, function_error
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.repair import recurrent
from netgraph.coarsen.repair.pipeline import repair_network
from netgraph.coarsen.transfer.parameter_maps import prolong
from netgraph.models import load_dataset


class Sequences(nn.Module):
    """A recurrent network, from first states that depend on the input, and a linear layer on all of its steps."""

    def __init__(self, kind, *, width=12, n_in=5, n_out=4, **options):
        super().__init__()
        self.cells = kind(n_in, width, **options)
        self.first = nn.Linear(n_in, width)
        self.head, self.of_last = nn.Linear(width * (1 + self.cells.bidirectional), n_out), nn.Linear(width, n_out)

    def forward(self, x):
        n = self.cells.num_layers * (1 + self.cells.bidirectional)
        state = self.first(x[:, 0]).tanh().expand(n, -1, -1).contiguous()
        signal = x if self.cells.batch_first else x.transpose(0, 1)
        out, last = self.cells(signal, (state, state) if isinstance(self.cells, nn.LSTM) else state)
        last = last[0] if isinstance(last, tuple) else last
        return self.head(out), self.of_last(last.sum(0))


KINDS = {
    "lstm": (nn.LSTM, {"batch_first": True}),
    "lstm of two layers": (nn.LSTM, {"num_layers": 2, "batch_first": True}),
    "lstm in both directions": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm without bias": (nn.LSTM, {"bias": False}),
    "gru": (nn.GRU, {"num_layers": 2, "batch_first": True}),
    "gru in both directions": (nn.GRU, {"bidirectional": True}),
    "elman": (nn.RNN, {"num_layers": 2, "batch_first": True}),
    "elman of relu": (nn.RNN, {"nonlinearity": "relu", "bias": False, "bidirectional": True}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_network_of_equal_units_gets_its_function_back_from_wrong_weights(name):
    torch.manual_seed(0)
    kind, options = KINDS[name]
    model, data = Sequences(kind, **options).double(), torch.randn(48, 7, 5, dtype=torch.float64)
    hierarchy = ng.build_hierarchy(model, data[:2])
    spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
    state = prolong(spec, transfers, hierarchy.levels[1].model.tensors())
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    coarse = coarse_network(model, spec, transfers).eval()
    exact = compute_outputs(model, [data])
    assert function_error(exact, compute_outputs(coarse, [data])) < 1e-9
    with torch.no_grad():
        for weight, tensor in coarse.tensors().items():
            if weight.startswith("cells."):
                tensor.add_(0.2 * torch.randn_like(tensor))
    assert function_error(exact, compute_outputs(coarse, [data])) > 0.02
    report = repair_network(model, spec, transfers, coarse, data=data, batch=20, strength=1e-12)
    assert function_error(exact, compute_outputs(coarse, [data])) < 1e-6
    weights = {n for n, tensor in coarse.tensors().items() if n.startswith("cells.") and tensor.ndim == 2}
    assert weights <= set(report.fitted)


class First(nn.Module):
    """A recurrent layer and a linear one."""

    def __init__(self, kind=nn.RNN, n_in=5, width=8, **options):
        super().__init__()
        self.cells = kind(n_in, width, batch_first=True, **options)
        self.head = nn.Linear(options.get("proj_size", width), 3)

    def forward(self, x):
        return self.head(self.cells(x)[0])


def test_the_first_fit_is_least_squares_on_the_states_of_the_fine_layer(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(recurrent, "ROUNDS", 1)
    model = First().double()
    data = torch.randn(16, 9, 5, dtype=torch.float64)
    hierarchy = ng.build_hierarchy(model, data[:2])
    spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
    coarse = coarse_network(model, spec, transfers).eval()
    repair_network(model, spec, transfers, coarse, data=data, strength=1e-12)
    R = torch.from_numpy(transfers[spec.parameters["cells.weight_hh_l0"][1][0]].R.toarray())
    with torch.no_grad():
        states = model.cells(data)[0]
        before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
        columns = torch.cat([data, before @ R.T, torch.ones_like(data[..., :1])], 2).flatten(0, 1)
        wanted = torch.linalg.lstsq(columns, (torch.atanh(states) @ R.T).flatten(0, 1)).solution.T
    found = coarse.tensors()
    torch.testing.assert_close(found["cells.weight_ih_l0"], wanted[:, :5], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found["cells.weight_hh_l0"], wanted[:, 5:-1], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        found["cells.bias_ih_l0"] + found["cells.bias_hh_l0"], wanted[:, -1], atol=1e-6, rtol=1e-6
    )


class Rows(nn.Module):
    """An LSTM that reads the rows of a picture of a digit."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 48, 2, batch_first=True), nn.Linear(48, 10)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


@pytest.fixture(scope="module")
def trained():
    """Return an LSTM that a few seconds have trained on digits, inputs for the repair, and others."""
    torch.manual_seed(0)
    digits, model = load_dataset("digits").flat(), Rows()
    x, y = digits.train.inputs.reshape(-1, 8, 8), digits.train.targets
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        rows = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval(), x[:512], digits.test.inputs.reshape(-1, 8, 8)


@pytest.mark.parametrize("ratio", [0.75, 0.5])
@pytest.mark.parametrize("coarsener", ["ward", "magnitude"])
def test_ridge_reduces_the_error_of_a_trained_lstm_on_other_inputs(trained, coarsener, ratio, monkeypatch):
    model, data, others = trained
    exact, errors = compute_outputs(model, [others]), {}
    for name in ("merging", "head alone", "all layers"):
        rung = "none" if name == "merging" else "ridge"
        if name == "head alone":
            monkeypatch.setattr(recurrent._CellFit, "fit", lambda _: {})
        else:
            monkeypatch.undo()
        level = ng.build_hierarchy(
            model, data[:2], n_levels=2, coarsener=coarsener, ratio=ratio, repair=rung, data=data
        ).levels[1]
        errors[name] = function_error(exact, compute_outputs(level.model.eval(), [others]))
    assert errors["all layers"] < 0.5 * errors["merging"]
    assert errors["all layers"] < 0.8 * errors["head alone"]


class Steps(nn.Module):
    """A recurrent cell that is called for each step."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = c = torch.zeros(len(x), 16)
        for t in range(4):
            h, c = self.cell(x[:, t], (h, c))
        return self.head(h)


class Shared(nn.Module):
    """A recurrent network that is called twice."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        once, _ = self.cells(x)
        again, _ = self.cells(x.flip(1))
        return self.head(once + again)


def test_recurrent_weights_that_stay_are_named_with_the_reason():
    data = torch.randn(16, 4, 8)
    projected = First(nn.LSTM, 8, 16, proj_size=6)
    for model, names, reason in (
        (Steps(), {"cell.weight_ih", "cell.weight_hh"}, "step by step"),
        (Shared(), {"cells.weight_ih_l0", "cells.weight_hh_l0"}, "something else reads it too"),
        (projected, {"cells.weight_ih_l0", "cells.weight_hh_l0", "cells.weight_hr_l0"}, "projection"),
    ):
        level = ng.build_hierarchy(model, data[:2], repair="ridge", data=data).levels[1]
        left = level.reasons["repair"]["left"]
        assert {name for name, why in left.items() if reason in why} == names


CNN = lambda: nn.Sequential(  # noqa: E731
    nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 8, 1),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
)  # fmt: skip


class Words(nn.Module):
    """An embedding in front of an encoder."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 3)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x):
        return self.head(self.block(self.table(x)).mean(1))


NETWORKS = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)),
        (8,),
    ),
    "depthwise": (CNN, (3, 8, 8)),
    "encoder": (Words, None),
    "lstm": (lambda: Sequences(nn.LSTM, batch_first=True, n_in=8), (4, 8)),
    "cell": (Steps, (4, 8)),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.Conv2d(6, 3, 1)),
        (3, 6, 6),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_a_merged_layer_is_fitted_or_left_with_a_reason_that_the_report_names(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    data = torch.randint(30, (32, 5)) if shape is None else torch.randn(32, *shape)
    fine, level = ng.build_hierarchy(make().eval(), data[:2], n_levels=2, repair="ridge", data=data).levels
    shapes = {n: t.shape for n, t in fine.model.state_dict().items()}
    smaller = {n for n, t in level.model.tensors().items() if t.ndim > 1 and t.shape != shapes[n]}
    repair = level.reasons["repair"]
    assert smaller
    assert smaller <= set(repair["fitted"]) | set(repair["left"])
    assert not set(repair["fitted"]) & set(repair["left"])
    text = "\n".join(describe_level(level))
    assert all(weight in text and reason in text for weight, reason in repair["left"].items())
