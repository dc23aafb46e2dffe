"""``netgraph finetune`` and ``netgraph compress --tune-epochs``: what is trained, printed, written and refused."""

import json
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen import compress_in_rounds, own_class, save_own_class
from netgraph.coarsen.compression.deploy import record_levels
from netgraph.coarsen.compression.training.rounds import plan_rounds
from netgraph.models import evaluate, fit, load_dataset, mlp
from tests.support.command_line import run_main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with a trained network, and coarse ones in every form."""
    path = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    data = load_dataset("digits").flat()
    network, example = mlp((64, 48, 32, 10)), data.train.inputs[:2]
    fit(network, data, epochs=10, lr=5e-3)
    hierarchy = ng.build_hierarchy(network, example, ratio=0.2)
    ng.save(hierarchy, path / "small.hierarchy")
    ng.save(hierarchy.levels[1].model, path / "small.safetensors")
    ng.save(ng.coarse_network(network, hierarchy.levels[0].spec, {}), path / "net.safetensors")
    save_own_class(own_class(hierarchy, example), path / "small.pt")
    torch.save(network.state_dict(), path / "net.pt")
    return path


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return folder


def accuracy(network):
    return evaluate(network, load_dataset("digits").flat()).accuracy


@pytest.mark.parametrize(
    ("small", "out", "further"),
    [
        ("small.hierarchy", "out.hierarchy", ["--losses", "labels,knowledge,hint"]),
        ("small.hierarchy", "out.safetensors", []),
        ("small.safetensors", "out2.safetensors", ["--teacher", "net.safetensors"]),
        ("small.pt", "out.pt", ["--trust"]),
    ],
)
def test_a_network_is_tuned_and_written_in_its_form(inside, small, out, further):
    words = ["finetune", small, "--data", "digits", "--epochs", "8", "--lr", "5e-3", "-o", out, "--json", *further]
    code, printed, err = run_main(*words)
    assert code == 0, err
    result = json.loads(printed)
    opened = ng.load(out) if out.endswith(".hierarchy") else ng.load_model(out, trust=out.endswith(".pt"))
    network = opened.levels[-1].model if out.endswith(".hierarchy") else opened
    assert result["after"] == pytest.approx(accuracy(network))  # torchmetrics counts, on the file
    assert result["after"] > result["before"] + 0.1
    assert (result["teacher_value"] is None) is (small == "small.pt")
    if result["teacher_value"] is not None:
        lost, left = (result["teacher_value"] - result[name] for name in ("before", "after"))
        assert result["won_back"] == pytest.approx(1 - left / lost)
    assert f"wrote {out}" in err


def test_a_state_dict_is_opened_with_its_architecture_and_written_as_one(inside):
    arch = ["--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[64,48,32,10]"]
    code, _, err = run_main("finetune", "net.pt", "--data", "digits", "--epochs", "1", "-o", "state.pt", *arch)
    assert code == 0, err
    before, after = (torch.load(name, weights_only=True) for name in ("net.pt", "state.pt"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_no_epoch_says_so_and_the_table_has_the_teacher(inside):
    code, out, err = run_main("finetune", "small.hierarchy", "--data", "digits", "--epochs", "0")
    assert code == 0
    assert "0 epochs change nothing" in err
    assert [line.split()[0] for line in out.splitlines()] == ["network", "teacher", "before", "after"]


@pytest.mark.parametrize(("metric", "unit"), [("top1", 100), ("loss", 1)])
def test_a_network_that_training_made_worse_has_won_nothing_back(inside, metric, unit):
    words = ["finetune", "small.hierarchy", "--data", "digits", "--epochs", "1", "--lr", "3", "--metric", metric]
    code, out, err = run_main(*words)
    assert code == 0, err
    before, after = (float(line.split()[1]) for line in out.splitlines()[2:4])
    said = re.search(r"^Nothing is won back: the training lost a further (\S+) (points )?of (\w+)\. 1 epoch", out, re.M)
    assert float(said[1]) == pytest.approx(unit * abs(after - before), rel=0.06)
    assert (said[2], said[3]) == ("points " if metric == "top1" else None, metric)
    assert "-" not in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["small.safetensors"], "Give --data"),
        (["small.safetensors", "--data", "digits", "--losses", "knowledge"], "needs the original network"),
        (
            ["small.safetensors", "--data", "digits", "--losses", "labels", "--temperature", "3"],
            "only the loss knowledge",
        ),
        (["small.safetensors", "--data", "digits", "--losses", "labels", "--weights", "hint=1"], "Name it in --losses"),
        (["small.safetensors", "--data", "digits", "--hint-layers", "0.weight"], "only the loss hint"),
        (["small.safetensors", "--data", "digits", "--epochs", "-1"], "epochs is -1"),
        (["small.safetensors", "--data", "digits", "-o", "x.pt"], "Give NAME.safetensors"),
        (["small.safetensors", "--data", "digits", "-o", "x.hierarchy"], "one network was opened"),
        (["small.pt", "--trust", "--data", "digits", "-o", "x.safetensors"], "Give NAME.pt"),
        (["small.safetensors", "--data", "digits", "--device", "nowhere"], "is not available"),
        (["small.safetensors", "--data", "digits", "--lr", "1e30", "--optimizer", "sgd"], "not finite"),
        (["small.safetensors", "--data", "rows.pt"], "neither targets nor an original"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(inside, words, says):
    torch.save(torch.randn(8, 64), "rows.pt")
    code, out, err = run_main("finetune", *words)
    assert (code, out) == (1, "")
    assert says in err.splitlines()[-1]


def test_compress_tunes_what_it_merged(inside):
    words = ["compress", "net.safetensors", "--data", "digits", "--target", "parameters=0.2", "--no-prove", "--json"]
    code, out, err = run_main(*words, "--tune-epochs", "5", "-o", "half.safetensors")
    assert code == 0, err
    document = json.loads(out)
    assert [stage["name"] for stage in document["stages"]] == ["original", "merged", "repaired", "tuned"]
    assert document["stages"][-1]["metric"] == pytest.approx(accuracy(ng.load_model("half.safetensors")))
    assert "1,213 rows of the training split train" in err
    code, _, err = run_main(*words, "--tune-samples", "100")
    assert code == 1
    assert "--tune-epochs is 0" in err


def test_compress_takes_epochs_in_python():
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(256, 8)
    result = ng.compress(network, inputs, target="parameters=0.3", tune=30)
    assert [stage.name for stage in result.stages] == ["original", "merged", "repaired", "tuned"]
    assert result.stages[-1].metric < result.stages[-2].metric
    assert len(ng.compress(network, inputs, target="parameters=0.3", tune=0).stages) == 3
    with pytest.raises(ng.NetgraphError, match="epochs is -1"):
        ng.compress(network, inputs, tune=-1)


# Rounds


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_the_shares_of_rounds_fall_evenly_to_the_target(schedule):
    shares = [1.0, *plan_rounds(0.2, 4, schedule)]
    steps = [a - b if schedule == "linear" else b / a for a, b in pairwise(shares)]
    assert shares[-1] == 0.2
    assert steps == pytest.approx([steps[0]] * 4)


def test_rounds_end_at_the_target_with_one_hierarchy_from_the_original(tmp_path):
    torch.manual_seed(0)
    data = load_dataset("digits").flat()
    network = mlp((64, 48, 32, 10))
    fit(network, data, epochs=8, lr=5e-3)
    result = compress_in_rounds(
        network, data.train.inputs[:512], targets=data.train.targets[:512], rounds=3, tune=3, target="parameters=0.3",
        test=(data.test.inputs, data.test.targets),
    )  # fmt: skip
    counts = [stage.costs.parameters for stage in result.stages]
    assert [stage.name for stage in result.stages] == ["original", "round 1", "round 2", "merged", "repaired", "tuned"]
    assert [counts[i] / counts[0] for i in (1, 2, 3)] == pytest.approx([0.3 ** (i / 3) for i in (1, 2, 3)], rel=0.05)
    assert result.is_met
    assert result.stages[-1].metric == pytest.approx(accuracy(result.model))
    (transfers,) = (level.transfers for level in result.hierarchy.levels[1:])
    for name, transfer in transfers.items():
        index = name.split(".")[0]
        assert transfer.n_fine == network.get_submodule(index).out_features
        assert transfer.n_coarse == result.model.get_submodule(index).out_features
    ng.save(record_levels(result), tmp_path / "rounds.hierarchy")
    opened = ng.load(tmp_path / "rounds.hierarchy")
    assert accuracy(opened.levels[1].model) == pytest.approx(accuracy(result.model))
    assert accuracy(opened.levels[0].model) == pytest.approx(accuracy(network))


def test_compress_takes_rounds_and_refuses_them_without_tuning(inside):
    words = ["compress", "net.safetensors", "--data", "digits", "--no-prove", "--json", "--rounds", "2"]
    code, out, err = run_main(*words, "--target", "parameters=0.3", "--tune-epochs", "1", "-o", "rounds.hierarchy")
    assert code == 0, err
    assert [stage["name"] for stage in json.loads(out)["stages"]][:3] == ["original", "round 1", "merged"]
    assert len(ng.load("rounds.hierarchy").levels) == 2
    for further, says in (
        ([], "--tune-epochs is 0"),
        (["--tune-epochs", "1", "--target", "error=0.1"], "leads to a share"),
        (["--tune-epochs", "1", "--round-schedule", "cubic"], "cubic"),
        (["--tune-epochs", "1", "--rounds", "0"], "rounds is 0"),
    ):
        code, _, err = run_main(*words, *further)
        assert code == 1
        assert says in err
