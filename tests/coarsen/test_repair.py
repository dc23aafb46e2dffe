"""Repair, judged by dense least squares, by torch's batch norm, and by networks that need no repair."""

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.functional_error import compute_outputs, function_error
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.regression.ridge import STRENGTHS, RegressionSums, choose_strength, solve_ridge
from netgraph.coarsen.repair.batch_norm import merge_with_norms
from netgraph.coarsen.repair.pipeline import repair_network
from netgraph.coarsen.repair.variance import variance_share
from netgraph.coarsen.transfer.parameter_maps import prolong
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.coarsen.tuning.batches import draw_batches
from netgraph.graph.im2col import build_columns, draw_places, take_places
from netgraph.models.perceptron import mlp
from netgraph.utils.choices import RUNGS


def conv_net():
    layers = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    for norm in (net[1], net[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval().double()


NETS = {
    "perceptron": (lambda: mlp((6, 16, 12, 4)).double(), (6,)),
    "convolutions": (conv_net, (3, 9, 9)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().double(), (5, 8)),
}


def merged(name, *, alike=False, ratio=0.5):
    make, shape = NETS[name]
    model, data = make(), torch.randn(64, *shape, dtype=torch.float64)
    hierarchy = ng.build_hierarchy(model, data[:2], ratio=ratio)
    spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
    if alike:
        state = prolong(spec, transfers, hierarchy.levels[1].model.tensors())
        model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    return model, spec, transfers, coarse_network(model, spec, transfers).eval(), data


def error(model, coarse, data):
    return function_error(compute_outputs(model, [data]), compute_outputs(coarse, [data]))


@pytest.mark.parametrize("name", ["perceptron", "encoder"])
@pytest.mark.parametrize("rung", ["rescale", "norms", "ridge"])
def test_a_network_that_lost_nothing_stays_the_same(name, rung):
    model, spec, transfers, coarse, data = merged(name, alike=True)
    before = {n: t.clone() for n, t in coarse.tensors().items()}
    repair_network(model, spec, transfers, coarse, rung=rung, data=data)
    for tensor, was in zip(coarse.tensors().values(), before.values(), strict=True):
        torch.testing.assert_close(tensor, was, atol=1e-9, rtol=1e-9)


def test_a_fit_keeps_norms_whose_inputs_are_those_of_the_fine_network():
    model, spec, transfers, coarse, data = merged("convolutions", alike=True)
    assert len(transfers) == 2
    # the statistics of the norms are far from those of the data, as they are for pictures of another kind than the network has seen
    repair_network(model, spec, transfers, coarse, rung="ridge", data=3 + 2 * data)
    assert error(model, coarse, data) < 1e-9


@pytest.mark.parametrize("name", NETS)
def test_each_rung_with_data_reduces_the_error(name):
    errors = {}
    for rung in ("none", "ridge", "tune"):
        torch.manual_seed(1)
        model, spec, transfers, coarse, data = merged(name)
        done = repair_network(model, spec, transfers, coarse, rung=rung, data=data)
        errors[rung] = error(model, coarse, data)
        assert rung == "none" or (
            done.fitted and all(after <= before + 1e-12 for before, after in done.fitted.values())
        )
    assert errors["tune"] < errors["ridge"] < errors["none"]


@pytest.mark.parametrize("axis", ["0", "2"])
def test_a_repair_of_the_merged_axis_alone_fits_its_readers_as_the_whole_repair_does_and_nothing_else(axis):
    model, data = mlp((6, 24, 16, 12, 4)).double(), torch.randn(200, 6, dtype=torch.float64)
    level = ng.build_hierarchy(model, data[:2], ratio={axis: 0.5, "*": 1}).levels[1]
    spec, networks = ng.trace(model, data[:2]), {}
    for way in ("merged", "whole", "readers"):
        networks[way] = coarse_network(model, spec, level.transfers).eval()
        if way != "merged":
            repair_network(model, spec, level.transfers, networks[way], data=data, merged_only=way == "readers")
    reader = f"{int(axis) + 2}."
    for name, found in networks["readers"].tensors().items():
        wanted = networks["whole" if name.startswith(reader) else "merged"].tensors()[name]
        torch.testing.assert_close(found, wanted, atol=0, rtol=0)
    errors = [error(model, networks[way], data) for way in ("whole", "readers", "merged")]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("name", ["convolutions", "encoder"])
def test_a_repair_of_the_merged_axes_alone_takes_less_error_away_and_never_fits_another_layer(name):
    model, spec, transfers, coarse, data = merged(name)
    before = error(model, coarse, data)
    done = repair_network(model, spec, transfers, coarse, data=data, merged_only=True)
    of_axes = {n for n, terms in spec.parameters.items() if any(t in transfers for term in terms for t in term)}
    assert done.fitted.keys() <= of_axes
    assert done.fitted
    assert error(model, coarse, data) < before


def grams(columns, answers):
    """Return the sums of rows that come in two parts."""
    return RegressionSums.from_rows(columns[:20], answers[:20]) + RegressionSums.from_rows(columns[20:], answers[20:])


@pytest.mark.parametrize("free", [True, False])
def test_the_ridge_is_the_least_squares_solution_of_the_stacked_system(free):
    C, T = torch.randn(50, 2, 7).double() - 1, torch.randn(50, 2, 3).double() + 2
    start, sums = torch.randn(2, 3, 7).double(), grams(C, T)
    W, b = solve_ridge(sums, start, 0.1, free=free)
    for g in range(2):
        c, t = (C[:, g] - C[:, g].mean(0), T[:, g] - T[:, g].mean(0)) if free else (C[:, g], T[:, g])
        s = 0.1 * float((c.T @ c).diagonal().mean())
        stacked = torch.cat([c, s**0.5 * torch.eye(7, dtype=torch.float64)])
        wanted = torch.linalg.lstsq(stacked, torch.cat([t, s**0.5 * start[g].T])).solution.T
        torch.testing.assert_close(W[g], wanted)
        torch.testing.assert_close(b[g], T[:, g].mean(0) - wanted @ C[:, g].mean(0) if free else torch.zeros_like(b[g]))
    left = T - torch.einsum("ngd,god->ngo", C, W) - b
    assert sums.error(W, b) == pytest.approx(float(left.norm() / T.norm()))


def test_columns_in_single_precision_far_from_zero_fit_as_in_double():
    C = torch.randn(400, 1, 7) + 1000
    T = C.double().sum(2, keepdim=True) + torch.randn(400, 1, 1).double()
    sums = [
        RegressionSums.from_rows(x[:100], T[:100]) + RegressionSums.from_rows(x[100:], T[100:]) for x in (C, C.double())
    ]
    found, wanted = (solve_ridge(s, torch.zeros(1, 1, 7).double(), 1e-4, free=True) for s in sums)
    torch.testing.assert_close(found[0], wanted[0], atol=0, rtol=1e-4)
    assert sums[0].error(*found) == pytest.approx(sums[1].error(*wanted), rel=1e-3)


def test_the_strength_with_the_smallest_error_on_held_out_inputs_is_chosen():
    start = torch.zeros(1, 1, 30).double()
    for noise, wanted in ((0.0, STRENGTHS[0]), (100.0, STRENGTHS[-1])):
        C = torch.randn(80, 1, 30).double()
        T = C.sum(2, keepdim=True) + noise * torch.randn(80, 1, 1).double()
        assert choose_strength(grams(C[:40], T[:40]), grams(C[40:], T[40:]), start, free=True) == wanted


ATEN = torch.ops.aten
LAYERS = [
    (ATEN.linear.default, torch.randn(5, 4, 6), torch.randn(3, 6), []),
    (ATEN.conv1d.default, torch.randn(5, 4, 9), torch.randn(6, 4, 3), [None, [2], [1], [2]]),
    (ATEN.conv2d.default, torch.randn(5, 4, 9, 7), torch.randn(6, 2, 3, 2), [None, [2, 1], [1, 0], [1, 2], 2]),
    (ATEN.conv2d.default, torch.randn(5, 4, 8, 8), torch.randn(4, 1, 3, 3), [None, [1], [1], [1], 4]),
    (ATEN.conv3d.default, torch.randn(5, 2, 4, 5, 6), torch.randn(3, 2, 2, 2, 2), []),
]


@pytest.mark.parametrize(("function", "x", "weight", "rest"), LAYERS)
def test_weights_times_columns_equal_torch_at_the_sampled_places(function, x, weight, rest):
    output = function(x, weight, *rest)
    for n in (11, 10**6):
        places = draw_places(output, function, n, torch.Generator().manual_seed(0))
        found = build_columns([x, weight, *rest], function, places)  # (n, g, d)
        assert (
            len(found)
            == min(n, output.numel() // len(weight))
            == len(set(zip(*(p.tolist() for p in places), strict=True)))
        )
        product = torch.einsum("ngd,god->ngo", found, weight.flatten(1).unflatten(0, (found.shape[1], -1)))
        torch.testing.assert_close(product.flatten(1), take_places(output, function, places), atol=1e-5, rtol=1e-5)


class Joined(nn.Module):
    """Two convolutions with batch norm in front of a join, after one that merges."""

    def __init__(self, groups=1):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False, groups=groups)
        self.b, self.norm, self.head = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def stream(self, x):
        x = self.stem(x)
        return x + self.norm(self.b(torch.relu(self.a(x))))

    def forward(self, x):
        return self.head(torch.relu(self.stream(x)))


def joined(groups=1, strength=1e-9, rung="ridge"):
    model, data = Joined(groups).eval().double(), torch.randn(16, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        model.norm.running_var.uniform_(0.5, 2)
    hierarchy = ng.build_hierarchy(model, data[:2], ratio=0.5)
    spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
    coarse = coarse_network(model, spec, transfers).eval()
    done = repair_network(model, spec, transfers, coarse, rung=rung, data=data, strength=strength)
    return model, spec, transfers, coarse, data, done


def test_mixtures_lie_between_two_inputs_of_a_round_and_tokens_stay_whole():
    data, random = torch.eye(10).double(), torch.Generator().manual_seed(0)
    drawn = [batch.args[0] for batch in draw_batches(data, 4, 5, random, mix=True)]
    assert all(len(rows) == 5 and bool((rows >= 0).all()) for rows in drawn)
    for rows in drawn:  # inputs are unit vectors, and rows show the shares of each input
        torch.testing.assert_close(rows.sum(1), torch.ones(5).double())
        assert int((rows > 0).sum(1).max()) == 2
    seen = [set((torch.cat(pair) > 0).any(0).nonzero().flatten().tolist()) for pair in (drawn[:2], drawn[2:])]
    assert seen == [set(range(10))] * 2  # two batches of five are a round
    tokens = torch.arange(10)[:, None]
    (args, kwargs, _), *_ = draw_batches({"ids": tokens, "scale": data}, 1, 10, random, mix=True)
    assert not args
    torch.testing.assert_close(kwargs["scale"], data[kwargs["ids"].flatten()])


class Neighbors(nn.Module):
    """One step of message passing: each node adds up the nodes at the other ends of its edges."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 24), nn.Linear(24, 24), nn.Linear(24, 2)

    def forward(self, nodes, edges):
        h = self.first(nodes).relu()
        summed = torch.zeros_like(h).index_add(0, edges[:, 0], h.index_select(0, edges[:, 1]))
        return self.last(self.second(summed).relu())


@pytest.mark.parametrize(("n_nodes", "n_edges"), [(30, 70), (100, 300), (150, 130)])
@pytest.mark.parametrize("rung", ["norms", "ridge", "tune"])
def test_a_graph_of_any_size_repairs_its_network_whole(rung, n_nodes, n_edges):
    torch.manual_seed(0)
    net = Neighbors()
    graph = (torch.randn(n_nodes, 4), torch.randint(0, n_nodes, (n_edges, 2)))
    spec = ng.trace(net, graph)
    plain = ng.build_hierarchy(net, graph, n_levels=2, spec=spec).levels[1]
    coarse = coarse_network(net, spec, plain.transfers)
    repair_network(net, spec, plain.transfers, coarse, rung=rung, data=graph, steps=60)
    with torch.no_grad():
        expected, merged, repaired = net(*graph), plain.model(*graph), coarse(*graph)
    assert (repaired - expected).norm() <= (merged - expected).norm() * (1 + 1e-6)
    if rung != "norms":  # a network without batch norms is left alone by that rung
        assert (repaired - expected).norm() < 0.8 * (merged - expected).norm()


def test_every_step_of_tuning_sees_all_edges_of_a_graph_with_their_nodes():
    nodes, edges = torch.randn(90, 4), torch.randint(0, 90, (200, 2))
    for batch in draw_batches((nodes, edges), 3, 64, torch.Generator().manual_seed(0), mix=True):
        assert torch.equal(batch.args[0], nodes)
        assert torch.equal(batch.args[1], edges)


def test_what_is_left_at_a_residual_join_is_orthogonal_to_what_its_layer_reads():
    model, spec, transfers, coarse, data, _ = joined()
    weights, conv = coarse.tensors(), nn.functional.conv2d
    with torch.no_grad():
        skip = conv(data, weights["stem.weight"], weights["stem.bias"], padding=1)
        inner = conv(skip, weights["a.weight"], padding=1).relu()
        weight, bias = fused(weights, "b", "norm")
        R = torch.from_numpy(transfers[spec.parameters["b.weight"][0][0]].R.toarray())
        wanted = torch.einsum("kc,nchw->nkhw", R, model.stream(data))
        left = wanted - skip - conv(inner, weight, bias, padding=1)
    read = nn.functional.unfold(inner, 3, padding=1)
    assert left.mean((0, 2, 3)).abs().max() < 1e-9
    assert torch.einsum("nkp,ndp->kd", left.flatten(2), read).abs().max() < 1e-3
    assert left.square().mean() > 1e-6


def test_a_norm_behind_a_fit_has_the_statistics_of_its_inputs():
    _, _, _, coarse, data, _ = joined()
    weights, conv = coarse.tensors(), nn.functional.conv2d
    x = conv(data, weights["stem.weight"], weights["stem.bias"], padding=1)
    x = conv(conv(x, weights["a.weight"], padding=1).relu(), weights["b.weight"], padding=1)
    torch.testing.assert_close(weights["norm.running_mean"], x.mean((0, 2, 3)))
    torch.testing.assert_close(weights["norm.running_var"], x.transpose(0, 1).flatten(1).var(1))


@pytest.mark.parametrize("groups", [2, 8])
def test_grouped_and_depthwise_convolutions_are_fitted_group_by_group(groups):
    *_, done = joined(groups)
    assert set(done.fitted) == {"a.weight", "b.weight", "head.weight"}
    assert done.left == {"stem.weight": "its inputs have not changed"}
    assert all(after < 0.99 * before for before, after in done.fitted.values())


def test_a_weight_that_is_read_twice_is_reported_as_not_refitted():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.c(self.b(torch.relu(self.b(torch.relu(self.a(x))))))

    model, data = Twice(), torch.randn(40, 6)
    level = ng.build_hierarchy(model, data[:2], repair="ridge", data=data).levels[1]
    assert level.reasons["repair"]["left"] == {
        "a.weight": "its inputs have not changed",
        "b.weight": "something else reads it too",
    }
    assert set(level.reasons["repair"]["fitted"]) == {"c.weight"}


def test_norm_statistics_are_those_that_torch_finds_in_one_training_step():
    model, spec, transfers, coarse, data = merged("convolutions")
    repair_network(model, spec, transfers, coarse, rung="norms", data=data, batch=13)
    weights = coarse.tensors()
    norm = nn.BatchNorm2d(len(weights["1.running_mean"]), momentum=1.0).double().train()
    norm(nn.functional.conv2d(data, weights["0.weight"]))
    torch.testing.assert_close(weights["1.running_mean"], norm.running_mean)
    torch.testing.assert_close(weights["1.running_var"], norm.running_var)


def fused(weights, conv, norm, eps=1e-5):
    """Return weight and bias of a convolution and its norm in one, by torch's own fusion."""
    names = [f"{norm}.{n}" for n in ("running_mean", "running_var", "weight", "bias")]
    mean, variance, scale, shift = (weights[n] for n in names)
    return torch.nn.utils.fusion.fuse_conv_bn_weights(
        weights[f"{conv}.weight"], weights.get(f"{conv}.bias"), mean, variance, eps, scale, shift
    )


def test_a_layer_and_its_norm_are_averaged_as_one_map():
    model, spec, transfers, coarse, _ = merged("convolutions")
    with torch.no_grad():
        model[1].weight.uniform_(-2, 2)
        model[1].bias.normal_()
    merge_with_norms(model, spec, transfers, coarse)
    weight, bias = fused(model.state_dict(), "0", "1")
    weight_c, bias_c = fused(coarse.tensors(), "0", "1")
    R = torch.from_numpy(transfers["0"].R.toarray())
    torch.testing.assert_close(weight_c, torch.tensordot(R, weight, 1))
    torch.testing.assert_close(bias_c, R @ bias)


def test_merging_in_the_scale_of_norms_keeps_the_function_of_channels_that_differ_by_scale_alone():
    model, data = conv_net(), torch.randn(16, 3, 9, 9, dtype=torch.float64)
    factors = torch.tensor([1.0, 7.0] * 4).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model[1], name).copy_(torch.randn(4).repeat_interleave(2))
        model[0].weight.copy_(torch.randn(4, 3, 3, 3).repeat_interleave(2, 0) * factors[:, None, None, None])
        model[1].running_mean.copy_(torch.randn(4).repeat_interleave(2) * factors)
        model[1].running_var.copy_((torch.rand(4).repeat_interleave(2) + 1) * factors.square())
        model[1].eps = 1e-12
    spec, transfers = ng.trace(model, data[:2]), {"0": Transfer([0, 0, 1, 1, 2, 2, 3, 3])}
    coarse = coarse_network(model, spec, transfers).eval()
    assert error(model, coarse, data) > 0.01
    merge_with_norms(model, spec, transfers, coarse)
    assert error(model, coarse, data) < 1e-9


def test_the_variance_that_averaging_takes_is_that_of_white_inputs():
    rows = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    share = variance_share(rows, Transfer([0, 0, 1, 1, 2]))
    torch.testing.assert_close(share, torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))
    x = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = x @ rows.T.double()
    torch.testing.assert_close((z[:, 2] + z[:, 3]).div(2).var() / z[:, 2:4].var(0).mean(), share[1], atol=0.01, rtol=0)


def test_the_fine_network_and_its_mode_are_left_alone():
    for rung in RUNGS:
        model, spec, transfers, coarse, data = merged("convolutions")
        before = {n: t.clone() for n, t in model.state_dict().items()}
        coarse.train()
        repair_network(model, spec, transfers, coarse, rung=rung, data=data, steps=3)
        assert coarse.training
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"repair": "magic"}, "no repair is called 'magic'. Choose one of none"),
        ({"repair": "ridge"}, "repair 'ridge' needs calibration data"),
        ({"repair": "ridge", "data": torch.randn(8, 7)}, "does not run on the calibration data"),
        (
            {"affinity": "correlation"},
            "axis '0': this affinity compares activations, and there are no calibration data",
        ),
        ({"budget": "parameters"}, "is not KIND=SHARE"),
        ({"budget": "parameters=1.5"}, "is not KIND=SHARE"),
        ({"budget": "parameters=0.001"}, "cannot be met"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(options, says):
    with pytest.raises(ng.NetgraphError, match=says):
        ng.build_hierarchy(mlp((6, 16, 12, 4)), torch.randn(2, 6), **options)
