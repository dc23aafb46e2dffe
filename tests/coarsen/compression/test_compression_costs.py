"""Costs of networks: bytes counted by hand, sizes of files, the structure of a latency, and costs as functions of sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import netgraph as ng
from netgraph.coarsen import Latency, measure_costs, measure_latency
from netgraph.coarsen.compression import latency as latency_module
from netgraph.coarsen.compression.latency import has_rows, resize_rows
from netgraph.coarsen.compression.peak_memory import count_bytes, measure_peak_memory
from netgraph.coarsen.partition.size_costs import COSTS
from netgraph.errors import NetgraphError
from netgraph.models import mlp
from netgraph.models.transformer import Encoder

FLOAT = 4  # bytes
PARAMETERS = (4 * 8 + 8 + 8 * 2 + 2) * FLOAT


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("inplace", "alive"), [(False, 8 + 8), (True, 8 + 2)])
def test_the_peak_of_memory_is_counted_by_hand(rows, inplace, alive):
    # at the peak: parameters, the input, and both results of the ReLU, or hidden units and outputs where it works in place
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 2))
    assert measure_peak_memory(network, torch.zeros(rows, 4)) == PARAMETERS + rows * (4 + alive) * FLOAT


def test_a_result_that_stays_counts_until_the_end():
    class Skip(nn.Module):
        def forward(self, x):
            kept = x + 1
            for _ in range(3):
                x = x * 2
            return x + kept

    # input, kept, and two results of the loop at a time, or the last of it and the sum
    assert measure_peak_memory(Skip(), torch.zeros(10)) == 4 * 10 * FLOAT


def test_bytes_are_those_of_a_file_with_the_weights(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2).half())
    save_file(network.state_dict(), tmp_path / "x.safetensors")
    assert count_bytes(network) == sum(tensor.nbytes for tensor in load_file(tmp_path / "x.safetensors").values())
    tied = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    tied[1].weight = tied[0].weight
    assert count_bytes(tied) == 36 * FLOAT


def test_a_latency_has_its_batch_its_runs_and_its_order():
    network = mlp((6, 8, 3)).train()
    latency = measure_latency(network, torch.zeros(3, 6), batch=5, seconds=0.01)
    assert latency.low <= latency.median <= latency.high
    assert latency.runs >= 7
    assert (latency.batch, latency.threads) == (5, torch.get_num_threads())
    assert network.training, "it is left in its mode"
    assert str(Latency(2.0, 1.0, 3.0, 7, 1, 1)) == "2 ms (1-3)"


@pytest.mark.parametrize(
    ("times", "runs"),
    [
        ([10.0, 10.0], 16),  # 0.15 s are over, and nothing varies
        ([9.9, 10.1], 16),  # 1.25 x 0.2 / 2.56 / 4 / 10 = 0.24 percent
        ([9.75, 10.25], 24),  # 0.61 percent of 16 runs, 0.50 of 24
        ([8.0, 12.0], 60),  # 0.6 s are over
    ],
)
def test_measuring_ends_once_the_median_is_known(monkeypatch, times, runs):
    turn = iter(times * 400)
    monkeypatch.setattr(latency_module, "_time_run", lambda *_: next(turn))
    assert measure_latency(mlp((6, 3)), torch.zeros(3, 6)).runs == runs


def test_costs_are_measured_for_each_batch_or_for_inputs_without_rows():
    first, second = measure_costs([mlp((6, 8, 3)), mlp((6, 4, 3))], torch.zeros(2, 6), flops=[1.0, 2.0], batches=(1, 3))
    assert [latency.batch for latency in first.latency] == [1, 3]
    assert (first.parameters, second.parameters) == (83, 43)
    assert (first.flops, second.flops) == (1.0, 2.0)
    assert first.size == 83 * FLOAT

    class Graph(nn.Module):
        def forward(self, nodes, edges):
            return nodes[edges[0]]

    graph = (torch.zeros(4, 2), torch.zeros(2, 7).long())
    assert not has_rows(graph)
    assert [latency.batch for latency in measure_costs([Graph()], graph)[0].latency] == [1]


@given(st.integers(1, 9), st.integers(1, 20))
def test_rows_are_repeated_or_cut(n, wanted):
    rows = torch.arange(n * 2).reshape(n, 2)
    expected = torch.stack([rows[i % n] for i in range(wanted)])
    assert torch.equal(resize_rows(rows, wanted)[0], expected)
    assert torch.equal(resize_rows({"x": rows}, wanted)["x"], expected)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: measure_latency(mlp((6, 3)), torch.zeros(2, 6), batch=0), "Give 1 or more"),
        (lambda: measure_latency(mlp((6, 3)), torch.zeros(2, 6), batch=2**50), "bytes"),
        (lambda: measure_latency(mlp((6, 3)), torch.zeros(2, 6), seconds=0), "positive number of seconds"),
        (lambda: measure_latency(mlp((6, 3)), torch.zeros(2, 5)), "does not run on the example"),
        (lambda: measure_costs([], torch.zeros(2, 6)), "one network"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(call, match):
    with pytest.raises(NetgraphError, match=match):
        call()


class Cnn(nn.Sequential):
    """Two convolutions, a norm, a residual join and a head."""

    def __init__(self, stream=12, inner=20):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, stream, 3, padding=1), nn.BatchNorm2d(stream)
        self.inner, self.outer = nn.Conv2d(stream, inner, 3, padding=1), nn.Conv2d(inner, stream, 1)
        self.head = nn.Linear(stream, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "perceptron": lambda: (mlp((16, 24, 12, 5)), torch.randn(2, 16)),
    "convolution": lambda: (Cnn(), torch.randn(2, 3, 8, 8)),
    "transformer": lambda: (
        Encoder(30, 3, width=16, depth=1, n_heads=4, n_hidden=20, length=8).eval(),
        torch.randint(0, 30, (2, 8)),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def traced(request):
    torch.manual_seed(0)
    network, example = NETWORKS[request.param]()
    return network, example, ng.trace(network, example)


def test_costs_of_sizes_are_those_of_the_networks_with_these_sizes(traced):
    network, example, spec = traced
    parameters, flops = COSTS["parameters"](spec), COSTS["flops"](spec)
    assert parameters.measure({}) == sum(p.numel() for p in network.parameters())

    @settings(max_examples=5)
    @given(st.fixed_dictionaries({axis.name: st.sampled_from([0.25, 0.5, 0.75, 1.0]) for axis in spec.free}))
    def check(ratios):
        if all(ratio == 1 for ratio in ratios.values()):
            return
        options = ng.CoarsenOptions(ratio={**ratios, "*": 1.0}, coarsener="adjacent", prove=False)
        level = ng.build_hierarchy(network, example, spec=spec, options=options).levels[-1]
        sizes = {axis.name: axis.size for axis in level.spec.free}
        assert parameters.measure(sizes) == sum(p.numel() for p in level.model.parameters())
        assert flops.measure(sizes) == level.spec.flops
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            level.model.eval()(example)
        assert flops.measure(sizes) == pytest.approx(counter.get_total_flops(), rel=1e-6)

    check()


def test_the_saving_of_a_step_is_the_difference_of_two_costs(traced):
    _, _, spec = traced
    for kind in ("parameters", "flops", "units"):
        costs, now = COSTS[kind](spec), spec.sizes
        for axis in spec.free:
            smaller = costs.with_size(now, axis.name, max(axis.size // 2, 1))
            assert costs.saving(now, axis.name, smaller[axis.name]) == pytest.approx(
                costs.measure(now) - costs.measure(smaller)
            )
            now = smaller
