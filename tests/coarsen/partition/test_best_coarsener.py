"""What is chosen by measured error, and the affinities that choose pairs: judged by numpy, torch and the errors themselves."""

import json

import numpy as np
import pytest
import torch
from command_line import run
from torch import nn

import netgraph as ng
from netgraph import plugins
from netgraph.coarsen.hierarchy.budget import GRID
from netgraph.coarsen.hierarchy.merge_plan import AUTO
from netgraph.coarsen.hierarchy.report import LEFT_ALONE, measure_coverage
from netgraph.coarsen.network.functional_error import compute_outputs, function_error
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import AxisUnits
from netgraph.models.perceptron import mlp

SIZES = (6, 32, 24, 4)


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("data", [None, torch.randn(40, 6)])
def test_auto_takes_on_each_axis_what_has_the_smallest_error(data):
    hierarchy = ng.build_hierarchy(mlp(SIZES), torch.randn(2, 6), coarsener="auto", data=data)
    chosen = hierarchy.levels[1].reasons["coarseners"]
    assert set(chosen) == {"0", "2"}
    for axis, errors in chosen.items():
        best = min(errors, key=errors.get)
        alone = ng.build_hierarchy(
            hierarchy.levels[0].model,
            torch.randn(2, 6),
            coarsener=best,
            keep=[a for a in chosen if a != axis],
            data=data,
        )
        assert set(errors) <= set(AUTO)
        assert np.array_equal(
            alone.levels[1].transfers[axis].aggregates, hierarchy.levels[1].transfers[axis].aggregates
        )
        if data is not None:
            assert alone.levels[1].reasons["error"] == pytest.approx(errors[best], rel=1e-4)


@pytest.mark.parametrize("kind", ["parameters", "flops", "units"])
@pytest.mark.parametrize("data", [None, torch.randn(40, 6)])
def test_a_budget_is_met_and_not_by_more_than_one_step_of_the_grid(kind, data):
    model = mlp(SIZES)
    levels = ng.build_hierarchy(model, torch.randn(2, 6), budget=f"{kind}=0.4", data=data).levels
    cost = {"flops": lambda v: v.flops, "units": lambda v: v.n_units, "parameters": lambda v: n_parameters(v.model)}[
        kind
    ]
    assert 0.2 * cost(levels[0]) < cost(levels[1]) <= 0.4 * cost(levels[0])


def test_an_axis_of_equal_aggregates_that_misses_its_ratio_is_named_and_no_other(tmp_path):
    model, x = nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.Linear(32, 24), nn.Linear(24, 3)), torch.randn(2, 6)
    ng.save(coarse_network(model, ng.trace(model, x), {}), tmp_path / "m.safetensors")
    words = ["coarsen", tmp_path / "m.safetensors", "--levels", 2, "--input", "2x6"]
    code, out, _ = run(*words, "--ratio", 0.75, "--json")
    assert code == 0
    found = json.loads(out)
    level = found["levels"][1]
    assert level["axes"] == {"0": 16, "2": 18}  # divisors of 32 are 16 and 32
    assert {name: (v["units"], v["asked"], v["got"]) for name, v in level["missed"].items()} == {"0": (32, 24, 16)}
    assert "layer_norm" in level["missed"]["0"]["why"]
    assert (found["options"]["coarsener"], found["options"]["affinity"]) == ("hem", "cosine")
    assert "level 1: 0: 16 of 32 units instead of 24: aggregates must have one size" in run(*words, "--ratio", 0.75)[1]
    assert "units instead of" not in run(*words)[1]  # half of 32 is a divisor


def test_what_a_budget_leaves_alone_is_not_laid_on_the_operator_that_reads_it():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 3, 8, 8), ratio={"2": 0.5, "*": 1})
    reasons = dict(measure_coverage(hierarchy)[1])
    assert reasons.keys() == {LEFT_ALONE, "a dimension of output 0"}
    assert reasons[LEFT_ALONE] * n_parameters(model) == pytest.approx(8 * 27 + 8)


def test_error_curves_are_those_after_repair():
    model, data = mlp(SIZES).double(), torch.randn(400, 6, dtype=torch.float64)
    options = {"budget": "units=0.5", "data": data, "coarsener": "ward"}
    plain, repaired = (
        ng.build_hierarchy(model, data[:2], **options, repair=rung).levels[1].reasons["curves"]
        for rung in ("none", "ridge")
    )
    for axis, curve in repaired.items():
        alone = ng.build_hierarchy(
            model,
            data[:2],
            coarsener="ward",
            ratio={axis: GRID[3], "*": 1},
            repair="ridge",
            data=data[256:],
        ).levels[1]
        wanted = function_error(compute_outputs(model, [data[:64]]), compute_outputs(alone.model, [data[:64]]))
        assert curve[3] == pytest.approx(wanted, rel=1e-6)
        assert curve[3] < plain[axis][3]


def test_auto_judges_after_repair_and_finds_pruning_where_it_is_best():
    model, data = mlp(SIZES).double(), torch.randn(400, 6, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight[1::2] *= 1e-9  # dead units: leaving them out loses nothing
        model[0].bias[1::2] = 0
    options = {"repair": "ridge", "keep": ["2"]}
    errors = (
        ng.build_hierarchy(model, data[:2], coarsener="auto", data=data, **options).levels[1].reasons["coarseners"]["0"]
    )
    assert min(errors, key=errors.__getitem__) == "magnitude"
    for name in ("magnitude", "ward"):
        alone = ng.build_hierarchy(model, data[:2], coarsener=name, data=data[256:], **options).levels[1]
        wanted = function_error(compute_outputs(model, [data[:64]]), compute_outputs(alone.model, [data[:64]]))
        assert errors[name] == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_an_error_budget_merges_alike_units_and_no_others():
    model = mlp(SIZES).double()
    with torch.no_grad():
        for i in range(16):  # the first layer's units in pairs; the second's are all different
            model[0].weight[2 * i + 1], model[0].bias[2 * i + 1] = model[0].weight[2 * i], model[0].bias[2 * i]
    data = torch.randn(50, 6, dtype=torch.float64)
    level = ng.build_hierarchy(model, data[:2], budget="error=0.0001", data=data).levels[1]
    assert level.transfers["0"].n_coarse == 16
    assert level.reasons["error"] < 1e-4


def test_copies_weigh_one_in_every_affinity_and_all_are_symmetric():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[5] = tensor[2]
        model[3].weight[:, 5] = model[3].weight[:, 2]
    spec = ng.trace(model, torch.randn(2, 3, 8, 8))
    seen = {"0": torch.randn(8, 100)[[0, 1, 2, 3, 4, 2, 6, 7]]}
    units = AxisUnits(spec, traced_state(model), "0", 0, lambda measure: seen)
    for name in set(plugins.list_plugins("netgraph.affinities")) - {
        "approximate"
    }:  # of an optional library: test_affinity.py
        graph = plugins.load_plugin("netgraph.affinities", name)(units, seed=0).toarray()
        assert np.array_equal(graph, graph.T), name
        assert graph[2, 5] == pytest.approx(1, abs=1e-6), name
        assert graph.max() <= 1, name
        assert (graph >= 0).all(), name


def test_a_folded_norm_is_what_torch_fuses():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=0.01), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    for tensor in (model[1].running_mean, model[1].weight.data, model[1].bias.data):
        tensor.normal_()
    model[1].running_var.uniform_(0.1, 3)
    units = AxisUnits(ng.trace(model, torch.randn(2, 3, 8, 8)), traced_state(model), "0")
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
    np.testing.assert_allclose(
        units.normed, torch.cat([fused.weight.flatten(1), fused.bias[:, None]], 1).detach(), rtol=1e-5
    )


def test_correlation_is_that_of_numpy_on_what_the_next_layer_reads():
    model, data = mlp(SIZES), torch.randn(300, 6)
    hierarchy = ng.build_hierarchy(model, data[:2], affinity="correlation", data=data, ratio=0.9)
    with torch.no_grad():
        wanted = (1 + np.corrcoef(model[:2](data).T.numpy())) / 2
    np.fill_diagonal(wanted, 0)
    i, j = np.unravel_index(wanted.argmax(), wanted.shape)
    aggregates = hierarchy.levels[1].transfers["0"].aggregates
    assert aggregates[i] == aggregates[j]


def test_a_network_that_does_not_run_on_its_example_is_not_blamed_on_a_rule():
    model, example = mlp((6, 8, 3)), torch.zeros(2, 6, dtype=torch.int64)
    with pytest.raises(ng.NetgraphError, match="network itself does not run on the example"):
        ng.build_hierarchy(model, example)


def test_a_budget_is_met_with_the_multiples_that_were_asked_for():
    model, x = mlp((8, 128, 64, 4)), torch.randn(2, 8)
    level = ng.build_hierarchy(model, x, budget="units=0.6", round_to=32).levels[1]
    assert level.n_units <= 0.6 * 192
    assert all(t.n_coarse % 32 == 0 for t in level.transfers.values())


@pytest.mark.parametrize("coarsener", ["hem", "ward", "magnitude"])
def test_fixed_units_stay_alone_on_every_level(coarsener):
    torch.manual_seed(0)
    model = mlp((6, 24, 16, 3))
    axis = ng.trace(model, torch.rand(2, 6)).free[0].name
    levels = ng.build_hierarchy(
        model, torch.rand(2, 6), n_levels=3, coarsener=coarsener, fixed={axis: [3, 17, 3]}
    ).levels
    whole = levels[1].transfers[axis].compose(levels[2].transfers[axis])
    for unit in (3, 17):
        assert whole.sizes[whole.aggregates[unit]] == 1
    assert levels[2].spec.axes[axis].size == 6
    first = dict(levels[2].model.named_parameters())["0.weight"].detach()
    torch.testing.assert_close(first[whole.aggregates[17]], model[0].weight.detach()[17])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"0": [24]}}, "axis '0' has no unit 24 to fix. Its units are 0 to 23"),
        ({"fixed": {"nowhere": [0]}}, "no axis is named 'nowhere'"),
        (
            {"fixed": {"0": [1]}, "keep": ["0"]},
            r"all its units stay alone \(you asked to keep it\). Leave it out of fixed",
        ),
    ],
)
def test_units_that_cannot_be_fixed_are_named(options, message):
    with pytest.raises(NetgraphError, match=message):
        ng.build_hierarchy(mlp((6, 24, 16, 3)), torch.rand(2, 6), **options)
