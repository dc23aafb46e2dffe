"""The three ways to a ridge regression, judged by dense least squares and by the bytes of their tensors."""

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.compression.peak_memory import StorageTracker, count_bytes
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.regression import dual_ridge, gradient_ridge, ridge, rows, solve
from netgraph.coarsen.repair.pipeline import repair_network
from netgraph.coarsen.transfer.transfer import Transfer

FITS = {"sums": ridge.fit_sums, "dual": dual_ridge.fit_dual, "gradients": gradient_ridge.fit_by_gradients}


def make_blocks(n, d, *, groups=2, o=3, noise=1.0, offset=2.0):
    """Return columns (n, g, d), targets (n, g, o), a mask of rows that are held out, and both in two blocks."""
    torch.manual_seed(0)
    C = torch.randn(n, groups, d).double() * torch.linspace(0.2, 3, d).double() + offset
    T = (
        torch.einsum("ngd,god->ngo", C, torch.randn(groups, o, d).double())
        + noise * torch.randn(n, groups, o).double()
        - 1
    )
    held_out = torch.arange(n) % 4 == 3
    cut = n // 3
    parts = [
        rows.RowBlock(C[part].__getitem__, T[part].__getitem__, held_out[part])
        for part in (slice(0, cut), slice(cut, n))
    ]
    return C, T, held_out, parts


def solve_stacked(C, T, start, strength, free):
    """Return weights and bias of one group by least squares of the columns over the root of the ridge."""
    c, t = (C - C.mean(0), T - T.mean(0)) if free else (C, T)
    s = strength * float(c.square().sum()) / c.shape[1]
    stacked = torch.cat([c, s**0.5 * torch.eye(c.shape[1]).double()])
    W = torch.linalg.lstsq(stacked, torch.cat([t, s**0.5 * start.T])).solution.T
    return W, T.mean(0) - W @ C.mean(0) if free else torch.zeros(len(W)).double()


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(("n", "d"), [(30, 12), (20, 33)])
def test_every_way_finds_the_solution_of_dense_least_squares(name, free, n, d, monkeypatch):
    monkeypatch.setattr(rows, "CHUNK_BYTES", 8 * 2 * d * 4)  # four rows at a time
    monkeypatch.setattr(gradient_ridge, "GRAM_BYTES", 8 * 6 * 2 * d * 2)  # two outputs at a time
    C, T, _, blocks = make_blocks(n, d)
    start = torch.randn(2, 3, d).double()
    found = FITS[name](blocks, start, 1e-2, free=free)
    for g in range(2):
        W, b = solve_stacked(C[:, g], T[:, g], start[g], 1e-2, free)
        torch.testing.assert_close(found.W[g], W, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found.b[g], b, atol=1e-6, rtol=1e-6)
    rest = T - torch.einsum("ngd,god->ngo", C, found.W) - found.b
    assert found.after == pytest.approx(float(rest.square().sum()), rel=1e-6)
    merged = T - torch.einsum("ngd,god->ngo", C, start)
    merged = merged - merged.mean(0) * free
    assert found.before == pytest.approx(float(merged.square().sum()), rel=1e-6)
    assert found.square == pytest.approx(float(T.square().sum()))


@pytest.mark.parametrize("noise", [0.01, 30.0])
@pytest.mark.parametrize("free", [True, False])
def test_every_way_chooses_the_same_strength_on_rows_that_are_held_out(noise, free):
    *_, blocks = make_blocks(40, 30, noise=noise)
    start = torch.zeros(2, 3, 30).double()
    wanted = FITS["sums"](blocks, start, None, free=free)
    for name in ("dual", "gradients"):
        found = FITS[name](blocks, start, None, free=free)
        torch.testing.assert_close(found.W, wanted.W, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found.b, wanted.b, atol=1e-6, rtol=1e-6)


def test_memory_chooses_the_way():
    side = int((ridge.GRAM_BYTES / 8) ** 0.5)  # 5,792
    assert solve.choose_solver(10**6, 1, side) == "sums"
    assert solve.choose_solver(side, 1, side) == "sums"
    assert solve.choose_solver(side, 1, side + 1) == "dual"
    assert solve.choose_solver(side + 1, 1, side + 1) == "gradients"
    assert solve.choose_solver(10**6, 4, side) == "gradients"
    assert solve.choose_solver(side // 2, 4, side) == "dual"


class Convolutions(nn.Module):
    """Grouped and strided convolutions with a batch norm, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, 2, 1, groups=2, bias=False),
            nn.BatchNorm2d(8),
        )
        self.c, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.b(torch.relu(self.a(x)))))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


@pytest.mark.parametrize("name", ["dual", "gradients"])
def test_a_network_repaired_in_every_way_is_the_same(name, monkeypatch):
    torch.manual_seed(0)
    model, data = Convolutions().eval().double(), torch.randn(16, 3, 11, 11, dtype=torch.float64)
    hierarchy = ng.build_hierarchy(model, data[:2])
    spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
    found = {}
    for way in ("sums", name):
        monkeypatch.setattr(solve, "choose_solver", lambda *_, way=way: way)
        coarse = coarse_network(model, spec, transfers).eval()
        report = repair_network(model, spec, transfers, coarse, data=data, batch=5, strength=1e-3)
        found[way] = coarse.tensors(), report.fitted
    assert set(found[name][1]) == {"b.weight", "c.weight", "head.weight"}
    for tensor, wanted in zip(found[name][0].values(), found["sums"][0].values(), strict=True):
        torch.testing.assert_close(tensor, wanted, atol=1e-6, rtol=1e-6)
    for layer, errors in found["sums"][1].items():
        assert found[name][1][layer] == pytest.approx(errors, rel=1e-6)


@pytest.mark.parametrize("name", ["dual", "gradients"])
def test_a_layer_of_20000_columns_takes_two_networks_and_256_mb(name, monkeypatch):
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(8, 40_000), nn.ReLU(), nn.Linear(40_000, 16)), torch.randn(200, 8)
    spec, transfers = (
        ng.trace(model, data[:2]),
        {"0": Transfer(torch.arange(40_000).div(2, rounding_mode="floor").numpy())},
    )
    coarse = coarse_network(model, spec, transfers).eval()
    monkeypatch.setattr(solve, "choose_solver", lambda *_: name)
    with StorageTracker() as tracker:
        report = repair_network(model, spec, transfers, coarse, data=data, strength=1e-2)
    before, after = report.fitted["2.weight"]
    assert after < 0.5 * before
    assert tracker.peak < 2 * count_bytes(model) + ridge.GRAM_BYTES  # C' C alone has 3.2e9 bytes
