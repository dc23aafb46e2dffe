"""ng.compress: stages add up, the deployed network equals the recorded graph, targets are judged on rows of their own."""

import copy
import math

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen import Metric, Target, compress_in_rounds, sweep
from netgraph.coarsen.compression.deploy import record_levels
from netgraph.errors import NetgraphError
from netgraph.models import Encoder

OPTIONS = ng.CoarsenOptions(coarsener="ward", repair="ridge", prove=False)
ROWS = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).long()


@pytest.fixture(scope="module")
def network():
    """Return a perceptron with twins among its units, trained for a moment."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 2))
    with torch.no_grad():
        model[0].weight[24:] = model[0].weight[:24] + 0.05 * torch.randn(24, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ROWS), LABELS).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def result(network):
    return ng.compress(network, ROWS, targets=LABELS, target="parameters=0.5", metric="loss", options=OPTIONS)


def test_the_stages_add_up(result, network):
    original, merged, repaired = result.stages
    assert [stage.name for stage in result.stages] == ["original", "merged", "repaired"]
    assert original.metric == pytest.approx(float(nn.functional.cross_entropy(network(ROWS), LABELS)), rel=1e-5)
    assert repaired.metric == pytest.approx(float(nn.functional.cross_entropy(result.model(ROWS), LABELS)), rel=1e-4)
    assert merged.won_back is None
    lost = merged.metric - original.metric
    assert repaired.won_back == pytest.approx((merged.metric - repaired.metric) / lost, rel=1e-6)
    assert merged.costs == repaired.costs
    assert merged.costs.parameters == sum(p.numel() for p in result.model.parameters())
    assert original.costs.parameters == sum(p.numel() for p in network.parameters())
    assert result.reached == merged.costs.parameters / original.costs.parameters
    assert result.is_met
    assert result.reached == (23 * 11 + 2) / (48 * 11 + 2), "one unit more is above a half"


def test_the_deployed_network_is_in_its_own_class_and_equals_the_recorded_graph(result):
    assert type(result.model) is nn.Sequential
    torch.testing.assert_close(result.model(ROWS), result.hierarchy.levels[-1].model(ROWS))


def test_the_original_is_left_as_it_was(network):
    state, mode = copy.deepcopy(network.state_dict()), network.training
    ng.compress(network, ROWS, target="flops=0.4", options=OPTIONS)
    assert network.training == mode
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_table_the_text_and_the_document_have_the_same_numbers(result):
    document, text = result.document(), str(result)
    assert [row["network"] for row in result.table] == ["original", "merged", "repaired"]
    for row, stage in zip(result.table, document["stages"], strict=True):
        assert row["parameters"] == stage["costs"]["parameters"]
        assert row["loss"] == stage["metric"]
        assert f"{row['parameters']:,}" in text
    assert document["axes"] == {"0": [48, result.model[0].out_features]}
    assert document["errors"]["0"].keys() == {0.9, 0.75, 0.5, 0.25, 0.125}
    assert "target parameters=0.5" in text
    assert "<table" in result._repr_html_()


def test_a_tuned_network_is_the_last_stage_and_what_is_recorded(network):
    seen = []

    def tune(small, original):
        seen.append((small, original))
        with torch.no_grad():
            small[2].bias += 1.0

    result = ng.compress(network, ROWS, targets=LABELS, target="parameters=0.5", options=OPTIONS, tune=tune)
    assert [stage.name for stage in result.stages][-1] == "tuned"
    assert seen == [(result.model, network)]
    untuned = result.hierarchy.levels[-1].model(ROWS)
    torch.testing.assert_close(result.model(ROWS), untuned + 1.0)
    torch.testing.assert_close(record_levels(result).levels[-1].model(ROWS), untuned + 1.0)


def test_an_error_is_kept_on_rows_that_were_held_out(network):
    result = ng.compress(network, ROWS, target="error=0.2", options=OPTIONS)
    held = ROWS[::4]
    error = float((result.model(held) - network(held)).norm() / network(held).norm())
    assert error <= 0.2
    assert result.reached == pytest.approx(error, rel=1e-4)
    assert result.is_met


def test_an_accuracy_is_kept_on_the_validation_rows_and_told_for_the_test(network):
    valid, test = (ROWS[:100], LABELS[:100]), (ROWS[100:], LABELS[100:])
    result = ng.compress(network, ROWS, target="accuracy=-2", validation=valid, test=test, options=OPTIONS)

    def accuracy(model, rows, labels):
        return float((model(rows).argmax(1) == labels).float().mean())

    points = 100 * (accuracy(result.model, *valid) - accuracy(network, *valid))
    assert result.reached == pytest.approx(points, abs=1e-4)
    assert result.reached >= -2
    assert result.is_met
    assert result.stages[-1].metric == pytest.approx(accuracy(result.model, *test))


def test_a_bound_that_no_network_keeps_gives_the_largest_one_below_the_original(network):
    result = ng.compress(network, ROWS, target="error=1e-9", options=OPTIONS)
    assert not result.is_met
    assert result.reached > 1e-9
    assert 0.9 < result.stages[-1].costs.parameters / result.stages[0].costs.parameters < 1
    assert "not met" in str(result)


def test_a_share_below_reach_gives_the_smallest_network(network):
    result = ng.compress(network, ROWS, target="parameters=0.01", options=OPTIONS)
    assert not result.is_met
    assert result.model[0].out_features == 48 / 8


def test_a_latency_is_that_of_its_batch(network):
    result = ng.compress(network, ROWS, target=Target.parse_speed("1.01x"), latency_batch=3, options=OPTIONS)
    before, after = (stage.costs.latency for stage in (result.stages[0], result.stages[-1]))
    assert [latency.batch for latency in before] == [1, 3, 32]
    assert result.reached == after[1].low / before[1].low
    assert result.is_met == (result.reached <= 1.02 / 1.01)


def test_a_function_of_a_network_is_a_metric(network):
    def count_negative_weights(model):
        return -float(sum(p.numel() for p in model.parameters()))

    result = ng.compress(network, ROWS, target="flops=0.5", metric=count_negative_weights, options=OPTIONS)
    assert result.metric == "count_negative_weights"
    assert result.stages[-1].metric == -result.stages[-1].costs.parameters


BAD = {
    "a ratio": ({"options": ng.CoarsenOptions(ratio=0.3)}, "compress chooses them"),
    "a budget": ({"options": ng.CoarsenOptions(budget="flops=0.5")}, "compress chooses them"),
    "another direction": ({"options": ng.CoarsenOptions(directions="space")}, "compress makes channels and depth smaller"),
    "a batch of none": ({"latency_batch": 0}, "1 row or more"),
    "an accuracy without labels": ({"target": "accuracy=-1"}, "needs an accuracy"),
    "an accuracy of a loss": ({"target": "accuracy=-1", "metric": "loss", "targets": LABELS}, "needs an accuracy"),
    "a metric without labels": ({"metric": "top1"}, "top1 needs targets"),
    "targets that are no classes": ({"metric": "top1", "targets": ROWS}, "needs whole numbers"),
    "other rows": ({"targets": LABELS[:7]}, "targets"),
    "test rows of another shape": ({"test": (torch.zeros(4, 5), None)}, "does not run on the rows"),
    "a metric that fails": ({"metric": Metric("mine", lambda _: 1 / 0)}, "metric mine fails: ZeroDivisionError"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_before_work_begins(case, network, monkeypatch):
    keywords, match = BAD[case]
    monkeypatch.setattr("netgraph.coarsen.compression.pipeline.Chooser", None)  # work begins there
    with pytest.raises(NetgraphError, match=match):
        ng.compress(network, ROWS, **{"options": OPTIONS, **keywords})


@pytest.mark.parametrize("coarsener", ["ward", "auto"])
def test_the_hierarchy_is_the_one_that_its_options_build(coarsener, network):
    options = ng.CoarsenOptions(coarsener=coarsener, repair="ridge")
    result = ng.compress(network, ROWS, target="parameters=0.5", options=options)
    again = ng.build_hierarchy(network, ROWS[:2], options=result.hierarchy.options, data=ROWS)
    expected = again.levels[1].model.state_dict()
    found = result.hierarchy.levels[1].model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert result.hierarchy.levels[1].reasons == again.levels[1].reasons


def test_tokens_without_a_vector_and_rows_of_too_many_are_told_apart_from_other_shapes():
    network = Encoder(20, 2, width=16, depth=1, n_heads=2, n_hidden=16, length=8)
    tokens = torch.randint(1, 20, (8, 8))
    with pytest.raises(NetgraphError, match="Tokens have numbers beyond its vocabulary"):
        ng.compress(network, tokens + 19, example=tokens[:2])
    with pytest.raises(NetgraphError, match="or a row has more of them than it has positions"):
        ng.compress(network, tokens, test=(tokens + 19, None))


SPOILED = ROWS.index_fill(0, torch.tensor([7]), float("nan"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"data": SPOILED}, r"the calibration data hold numbers that are not finite, in 1 of 256 rows"),
        ({"data": ROWS[:0]}, r"the calibration data have no rows"),
        ({"test": (SPOILED, LABELS)}, r"the rows of the metric hold numbers that are not finite"),
        ({"test": (ROWS[:0], LABELS[:0])}, r"have no rows"),
        ({"test": ROWS}, r"test is a Tensor, and a pair of inputs and targets is asked for"),
        ({"metric": lambda _: math.nan}, r"of the original is nan, so that nothing can be compared"),
    ],
)
def test_rows_and_metrics_that_say_nothing_are_refused_by_compress_and_sweep(network, given, sentence):
    data, others = given.get("data", ROWS), {name: value for name, value in given.items() if name != "data"}
    with pytest.raises(NetgraphError, match=sentence):
        ng.compress(network, data, options=OPTIONS, **others)
    with pytest.raises(NetgraphError, match=sentence if "metric" not in given else "the metric <lambda> is nan"):
        sweep(network, data, ratios=[0.5], latency=False, **others)


def test_a_validation_of_inputs_alone_and_calibration_with_nan_are_refused(network):
    with pytest.raises(NetgraphError, match=r"validation is a Tensor"):
        ng.compress(network, ROWS, target="error=0.1", validation=ROWS, options=OPTIONS)
    with pytest.raises(NetgraphError, match=r"the calibration data hold numbers that are not finite"):
        ng.build_hierarchy(network, ROWS[:2], data=SPOILED, repair="ridge")


def test_a_training_that_spoils_the_network_is_refused(network):
    def spoil(small, _):
        with torch.no_grad():
            small[0].bias[0] = math.nan

    with pytest.raises(NetgraphError, match=r"the training has left 0.bias with numbers that are not finite"):
        ng.compress(network, ROWS, options=OPTIONS, tune=spoil)


def test_a_value_that_is_not_finite_wins_nothing_back():
    metric = Metric("loss", lambda _: 0.0, larger_is_better=False)
    assert metric.find_share_won_back(0.1, 0.3, math.inf) is None
    assert metric.find_share_won_back(0.1, math.nan, 0.2) is None
    assert metric.find_share_won_back(0.1, 0.3, 0.2) == pytest.approx(0.5)


def test_rounds_say_the_standard_error_of_the_original_alone(network):
    rows = torch.randn(40, 8)
    result = compress_in_rounds(
        network, ROWS, targets=LABELS, test=(rows, (rows[:, 0] + rows[:, 1] > 0.5).long()), rounds=2, target="flops=0.3", options=OPTIONS,
    )  # fmt: skip
    right = result.stages[0].metric
    said = [note for note in result.notes if "standard error" in note]
    assert said == [
        f"top1 counts 40 targets. Its standard error is {100 * (right * (1 - right) / 40) ** 0.5:.2g} points."
    ]


def test_errors_after_a_repair_that_reads_no_data_are_told_to_be_those_before(network):
    options = ng.CoarsenOptions(coarsener="ward", repair="rescale", prove=False)
    plain, asked = (
        ng.compress(network, ROWS, target="parameters=0.5", options=options, repaired_errors=flag)
        for flag in (False, True)
    )
    assert asked.errors == plain.errors
    assert [note for note in asked.notes if note not in plain.notes] == [
        "repaired_errors had no effect, because the repair rescale fits nothing to data."
    ]
