"""``netgraph compress`` and ``netgraph evaluate``: what they print and write, and what they refuse in one sentence."""

import json

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.compression import deploy
from netgraph.models import mlp
from tests.support.command_line import run_main

ARCH = ("--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[6,40,3]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with a network of twin units and rows whose labels are its own answers."""
    place = tmp_path_factory.mktemp("compress")
    torch.manual_seed(0)
    network, rows = mlp((6, 40, 3)).eval(), torch.randn(120, 6)
    with torch.no_grad():
        network[0].weight[20:] = network[0].weight[:20] + 0.02 * torch.randn(20, 6)
    torch.save(network.state_dict(), place / "net.pt")
    torch.save((rows, network(rows).argmax(1)), place / "labelled.pt")
    torch.save(rows, place / "rows.pt")
    torch.save((rows, torch.randn(120)), place / "values.pt")
    ng.save(ng.coarse_network(network, ng.trace(network, rows[:2]), {}), place / "net.safetensors")
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_recorded_graph_is_compressed_written_and_judged_without_options(here):
    words = (
        "compress",
        "net.safetensors",
        "--data",
        "labelled.pt",
        "--target",
        "parameters=0.5",
        "-o",
        "small.safetensors",
    )
    code, out, err = run_main(*words)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["original", "merged", "repaired"]
    assert "netgraph: 60 of 120 rows calibrate, 30 of 120 rows give the metric" in err
    assert "netgraph: wrote small.safetensors, the recorded graph" in err
    small = ng.load_model("small.safetensors")
    assert sum(p.numel() for p in small.parameters()) <= 0.5 * (6 * 40 + 40 + 40 * 3 + 3)
    code, out, err = run_main("evaluate", "net.safetensors", "small.safetensors", "--data", "labelled.pt", "--json")
    assert code == 0, err
    first, second = json.loads(out)["networks"]
    rows, _ = torch.load("labelled.pt")
    test = ng.models.load_splits("labelled.pt", example=rows[:2]).test
    expected = float((small(test.inputs).argmax(1) == test.targets).float().mean())
    assert (first["metrics"]["top1"], second["metrics"]["top1"]) == (1.0, pytest.approx(expected))
    assert second["parameters"] == sum(p.numel() for p in small.parameters())
    assert second["flops"] == 2 * (6 * second_units(small) + second_units(small) * 3)
    assert [latency["batch"] for latency in second["latency"]] == [1, 32]


def second_units(network):
    return max(p.shape[0] for p in network.parameters())


def test_the_own_class_is_written_and_judged(here):
    code, _, err = run_main("compress", "net.pt", *ARCH, "--data", "rows.pt", "--target", "flops=0.5", "-o", "small.pt")
    assert code == 0, err
    assert "wrote small.pt, a Sequential" in err
    assert isinstance(torch.load("small.pt", weights_only=False), nn.Sequential)
    code, out, err = run_main(
        "evaluate", "net.safetensors", "small.pt", "--trust", "--data", "rows.pt", "--metric", "error"
    )
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["net.safetensors", "small.pt"]


def test_a_hierarchy_has_both_levels_and_a_line_for_each(here):
    code, out, err = run_main(
        "compress", "net.pt", *ARCH, "--data", "rows.pt", "--target", "error=0.3", "-o", "net.hierarchy", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["met"]
    assert document["reached"] <= 0.3
    assert document["rows"]["validation"] == "30 of 120 rows"
    assert "30 of 120 rows judge candidates" in err
    code, out, err = run_main("evaluate", "net.hierarchy", "--data", "rows.pt")
    assert code == 0, err
    lines = out.splitlines()
    assert [line[: len("net.hierarchy level 0")] for line in lines[1:3]] == [
        "net.hierarchy level 0",
        "net.hierarchy level 1",
    ]
    assert lines[1].split()[-1] == "0", "level 0 has no error against itself"


def test_a_state_dict_stands_beside_a_file_that_needs_no_architecture(here):
    code, out, err = run_main(
        "evaluate", "net.pt", "net.safetensors", *ARCH, "--data", "labelled.pt", "--metric", "top1", "--metric", "loss"
    )
    assert code == 0, err
    first, second = (line.split() for line in out.splitlines()[1:3])
    assert first[-2:] == second[-2:]
    assert first[-2] == "1"


@pytest.mark.parametrize("multiple", ["64", "8", "2", "1"])
def test_a_multiple_that_units_do_not_have_is_told(here, multiple):
    words = ("compress", "net.safetensors", "--data", "rows.pt", "--target", "parameters=0.5", "--round-to", multiple)
    code, out, err = run_main(*words, "--json")
    assert code == 0, err
    document = json.loads(out)
    ((name, (_, units)),) = document["axes"].items()
    told = [note for note in document["notes"] if note.startswith("Could not round")]
    assert bool(told) is bool(units % int(multiple))
    assert all(note.startswith(f"Could not round {name} to a multiple of {multiple}. ") for note in told)
    _, out, _ = run_main("sweep", *words[1:4], "--ratios", "0.5", "--no-latency", "--round-to", multiple)
    assert (f"Could not round {name} to a multiple of {multiple}. " in out) is (multiple == "64")  # 20 or 16 units


def test_errors_after_a_repair_are_those_of_python(here):
    words = ("compress", "net.safetensors", "--data", "labelled.pt", "--target", "parameters=0.5", "--json")
    plain, repaired = (json.loads(run_main(*words, *more)[1])["errors"] for more in ((), ("--repaired-errors",)))
    rows = ng.models.load_splits("labelled.pt", example=torch.zeros(2, 6)).calibration.inputs
    again = ng.compress(ng.load_model("net.safetensors"), rows, target="parameters=0.5", repaired_errors=True)
    for name, curve in again.errors.items():
        assert {float(share): error for share, error in repaired[name].items()} == pytest.approx(dict(curve), rel=1e-4)
        assert repaired[name]["0.25"] < plain[name]["0.25"]


def test_errors_after_a_repair_need_one_that_reads_data(here):
    words = ("--data", "rows.pt", "--repaired-errors")
    code, _, err = run_main("compress", "net.safetensors", *words, "--repair", "rescale")
    assert code == 1
    assert "--repaired-errors would have no effect: --repair rescale fits nothing to data" in err
    for more, match in (
        ((), "Give budgets, such as flops"),
        (("--budgets", "flops", "--repairs", "none"), "reads data"),
    ):
        code, out, err = run_main("sweep", "net.safetensors", *words, *more)
        assert (code, out) == (1, "")
        assert match in err.splitlines()[-1]


def test_a_metric_that_is_asked_for_twice_has_one_column(here):
    words = ("evaluate", "net.safetensors", "--data", "labelled.pt")
    _, out, _ = run_main(*words, "--metric", "top1", "--metric", "loss", "--metric", "top1")
    assert out.splitlines()[0].split()[-2:] == ["top1", "loss"]
    assert out.splitlines()[0].count("top1") == 1
    assert out.count("Its standard error") == 1


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, images, words):
        return self.last((self.first(images) + self.second(words)).relu())


@pytest.mark.parametrize("command", ["compress", "sweep", "evaluate"])
def test_a_network_of_two_inputs_is_refused_with_the_call_that_takes_them(here, command):
    network, rows = Sum(), {"images": torch.randn(40, 6), "words": torch.randn(40, 4)}
    ng.save(ng.coarse_network(network, ng.trace(network, rows), {}), "two.safetensors")
    shapes = ("--input", "images=2x6", "--input", "words=2x4")
    code, out, err = run_main(command, "two.safetensors", *shapes, "--data", "rows.pt")
    assert (code, out) == (1, "")
    assert "netgraph.compress(model, {'images': ..., 'words': ...})" in err.splitlines()[-1]
    if command == "compress":
        assert ng.compress(network, rows).is_met, "the call that is named takes them"


def test_a_target_out_of_reach_ends_with_3_and_the_nearest_network_is_written(here):
    code, out, err = run_main(
        "compress", "net.pt", *ARCH, "--data", "rows.pt", "--target", "parameters=0.01", "-o", "least.safetensors"
    )
    assert code == 3
    assert "not met: this is the nearest network" in out
    assert "netgraph: the target parameters=0.01 is not met: the nearest network has 0." in err
    assert ng.load_model("least.safetensors")(torch.zeros(2, 6)).shape == (2, 3)


def test_a_class_that_is_not_proven_equal_leaves_the_recorded_graph_beside(here, monkeypatch):
    def refuse(*_, **__):
        raise ng.errors.OwnClassError("the class cannot hold it")

    monkeypatch.setattr(deploy, "own_class", refuse)
    code, out, err = run_main("compress", "net.pt", *ARCH, "--data", "rows.pt", "-o", "odd.pt")
    assert code == 1
    assert "the class cannot hold it" in out
    assert "odd.pt was not written" in err
    assert not (here / "odd.pt").exists()
    assert ng.load_model("odd.pt.safetensors")(torch.zeros(2, 6)).shape == (2, 3)


def test_nothing_to_merge_ends_with_3(here):
    torch.save(nn.Linear(6, 3).state_dict(), "linear.pt")
    words = ("--arch", "torch.nn:Linear", "--arch-arg", "in_features=6", "--arch-arg", "out_features=3")
    code, _, err = run_main("compress", "linear.pt", *words, "--data", "rows.pt")
    assert code == 3
    assert "nothing in this network can be merged" in err


BAD = {
    "no data": ((), "Give --data"),
    "metric without labels": (("--data", "rows.pt", "--metric", "top1"), "top1 needs targets"),
    "targets that are no classes": (("--data", "values.pt", "--metric", "top1"), "whole numbers as targets"),
    "accuracy without labels": (("--data", "rows.pt", "--target", "accuracy=-1"), "needs an accuracy"),
    "a metric that does not exist": (("--data", "rows.pt", "--metric", "f1"), "no metric is called 'f1'"),
    "a target of 1": (("--data", "rows.pt", "--target", "flops=1"), "no share"),
    "a target above 1": (("--data", "rows.pt", "--target", "latency=2"), "no share"),
    "a speed that is none": (("--data", "rows.pt", "--speed", "0.5x"), "no factor above 1"),
    "target and speed": (("--data", "rows.pt", "--target", "flops=0.5", "--speed", "2x"), "Give one of the two"),
    "data of another shape": (("--data", "other.pt"), "network takes rows × 6"),
    "an idle batch": (("--data", "rows.pt", "--latency-batch", "4"), "no latency"),
    "an idle affinity": (("--data", "rows.pt", "--affinity", "cosine"), "reads no affinities"),
    "no folder": (("--data", "rows.pt", "-o", "nowhere/x.safetensors"), "does not exist"),
    "another suffix": (("--data", "rows.pt", "-o", "x.onnx"), "ends in .onnx"),
    "the class of a recorded graph": (("--data", "rows.pt", "-o", "x.pt"), "is a recorded graph"),
    "no rows of the test": (("--data", "rows.pt", "--test-samples", "0"), "1 row or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named_in_one_sentence_before_work_begins(case, here, monkeypatch):
    words, match = BAD[case]
    torch.save(torch.zeros(8, 5), "other.pt")
    monkeypatch.setattr("netgraph.coarsen.compression.pipeline.Chooser", None)  # work begins there
    code, out, err = run_main("compress", "net.safetensors", *words)
    assert code == 1
    assert out == ""
    assert match in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("net.safetensors",), "Give --data"),
        (("net.safetensors", "--data", "rows.pt", "--metric", "loss"), "loss needs targets"),
        (("net.safetensors", "--data", "rows.pt", "--arch", "x:y"), "would have no effect"),
        (("net.safetensors", "nowhere.pt", "--data", "rows.pt"), "does not exist"),
        (("net.safetensors", "other.safetensors", "--data", "rows.pt"), "other.safetensors: input input has shape"),
    ],
)
def test_what_cannot_be_judged_is_named_in_one_sentence(words, match, here):
    other = mlp((5, 4, 3))
    ng.save(ng.coarse_network(other, ng.trace(other, torch.zeros(2, 5)), {}), "other.safetensors")
    code, out, err = run_main("evaluate", *words)
    assert code == 1
    assert out == ""
    assert match in err.splitlines()[-1]
