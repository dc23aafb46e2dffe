"""Repair of layers that are written as products, judged by the same networks of `nn.Linear` and by dense least squares."""

import pytest
import torch
from torch import nn

import netgraph as ng


class Addmm(nn.Module):
    """A layer as GPT-2 has it: addmm on rows, with a weight (in, out)."""

    beta, alpha = 1, 1

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n_in, n_out)), nn.Parameter(torch.empty(n_out))

    def forward(self, x):
        rows = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight, beta=self.beta, alpha=self.alpha)
        return rows.view(*x.shape[:-1], rows.shape[-1])


class Matmul(Addmm):
    def forward(self, x):
        return x @ self.weight + self.bias


class RowsMatmul(Addmm):
    def forward(self, x):
        return (x.flatten(0, 1) @ self.weight).view(*x.shape[:-1], -1) + self.bias


class Scaled(Addmm):
    beta, alpha = 0.5, 2


class Residual(nn.Module):
    """Layers around a residual join, with dropout in front of it."""

    def __init__(self, layer):
        super().__init__()
        self.stem, self.inner, self.out, self.head = layer(6, 16), layer(16, 24), layer(24, 16), layer(16, 3)
        self.drop = nn.Dropout(0.1)

    def stream(self, x):
        h = self.stem(x)
        return h + self.drop(self.out(torch.relu(self.inner(h))))

    def forward(self, x):
        return self.head(torch.relu(self.stream(x)))


def make_twin(linear, layer):
    """Return the network with all of its layers written as products."""
    twin = Residual(layer).double().eval()
    state = {name: t.mT.clone() if t.ndim == 2 else t.clone() for name, t in linear.state_dict().items()}
    twin.load_state_dict(state)
    return twin


def repair(model, data, **options):
    return ng.build_hierarchy(model, data[:2], ratio=0.5, repair="ridge", data=data, **options).levels[1]


def make_linear():
    torch.manual_seed(0)
    return Residual(nn.Linear).double().eval(), torch.randn(70, 5, 6, dtype=torch.float64)


@pytest.mark.parametrize("layer", [Addmm, Matmul, RowsMatmul])
def test_products_are_repaired_as_the_linear_layers_that_they_are(layer):
    linear, data = make_linear()
    wanted, found = repair(linear, data), repair(make_twin(linear, layer), data)
    with torch.no_grad():
        torch.testing.assert_close(found.model(data), wanted.model(data), atol=1e-8, rtol=1e-8)
        plain = ng.build_hierarchy(linear, data[:2], ratio=0.5).levels[1].model(data)
    assert (plain - wanted.model(data)).norm() > 0.1 * plain.norm()
    reports = [level.reasons["repair"] for level in (found, wanted)]
    assert set(reports[0]["fitted"]) == set(reports[1]["fitted"]) == {"inner.weight", "out.weight", "head.weight"}
    for name, errors in reports[0]["fitted"].items():
        assert errors == pytest.approx(reports[1]["fitted"][name], rel=1e-6)
    assert reports[0]["left"] == reports[1]["left"] == {"stem.weight": "its inputs have not changed"}


@pytest.mark.parametrize("layer", [Addmm, Matmul])
def test_the_last_layer_is_the_least_squares_map_of_what_it_reads(layer):
    linear, data = make_linear()
    model = make_twin(linear, layer)
    weights = repair(model, data).model.tensors()
    with torch.no_grad():
        stem, inner, out, head = (
            (weights[f"{n}.weight"], weights[f"{n}.bias"]) for n in ("stem", "inner", "out", "head")
        )
        h = data @ stem[0] + stem[1]
        read = torch.relu(h + torch.relu(h @ inner[0] + inner[1]) @ out[0] + out[1]).flatten(0, 1)
        targets = model(data).flatten(0, 1)
    rows = torch.cat([read, torch.ones(len(read), 1, dtype=torch.float64)], 1)
    best = (rows @ torch.linalg.lstsq(rows, targets).solution - targets).norm()
    assert best <= (read @ head[0] + head[1] - targets).norm() <= 1.01 * best


def test_an_addmm_with_factors_is_left_and_named():
    linear, data = make_linear()
    report = repair(make_twin(linear, Scaled), data).reasons["repair"]
    assert not report["fitted"]
    assert set(report["left"].values()) == {"aten.addmm with beta = 0.5 and alpha = 2 has no fit"}


class Mixed(nn.Module):
    """Weights that products read in other ways."""

    def __init__(self):
        super().__init__()
        make = lambda *sizes: nn.Parameter(torch.randn(*sizes))  # noqa: E731
        self.stem, self.twice, self.turned, self.last = make(6, 16), make(16, 16), make(12, 16), make(12, 3)
        self.register_buffer("fixed", torch.randn(16, 16))

    def forward(self, x):
        h = torch.relu(torch.relu(x @ self.stem) @ self.twice) @ self.twice
        h = torch.relu(torch.relu(h @ self.fixed) @ self.turned.T)
        return h @ self.last


def test_weights_that_products_read_in_other_ways_are_left_and_named():
    torch.manual_seed(0)
    report = repair(Mixed(), torch.randn(40, 6)).reasons["repair"]
    assert set(report["fitted"]) == {"last"}
    assert report["left"] == {
        "stem": "its inputs have not changed",
        "twice": "something else reads it too",
        "turned": "aten.numpy_T has no fit",
        "fixed": "it is no parameter",
    }


class Factors(nn.Module):
    """A weight that is the product of two parameters: its rows are units."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.up, self.down = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(4, 16))

    def forward(self, x):
        return self.head(torch.relu(nn.functional.linear(torch.relu(self.stem(x)), self.up @ self.down)))


def test_a_product_of_two_parameters_is_left_where_its_rows_are_units_that_merge():
    torch.manual_seed(0)
    report = repair(Factors(), torch.randn(40, 6)).reasons["repair"]
    assert report["left"]["down"] == "the rows of its inputs are units that merge"
    assert "head.weight" in report["fitted"]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, n) for n in (8, 8, 8, 3))

    def forward(self, x):
        return self.out(torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x))


def test_products_of_attention_are_no_layers():
    torch.manual_seed(0)
    report = repair(Attention(), torch.randn(40, 5, 8)).reasons["repair"]
    assert set(report["fitted"]) == {"out.weight"}
    assert set(report["left"].values()) <= {"its inputs have not changed"}
