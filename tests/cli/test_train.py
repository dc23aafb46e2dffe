"""``netgraph train``, typed as a user would. The judges are loops, a closed form and a bare PyTorch loop."""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import run
from datafolders import write_idx
from torch import nn

import netgraph as ng
from netgraph.cli.console.progress import RunDisplay
from netgraph.cli.options.train import choose_augmentation
from netgraph.errors import NetgraphError
from netgraph.fas.levels.grid import SEED
from netgraph.fas.solver.problem import Problem, make_batch_loss
from netgraph.fas.solver.train_options import TrainOptions
from netgraph.io.load import load_model
from netgraph.models.data import datasets
from netgraph.models.data.augmentation import random_crop
from netgraph.models.data.datasets import Dataset, DataSplit
from netgraph.models.data.loader import Loader
from netgraph.models.perceptron import mlp
from netgraph.models.training.evaluation import METRICS, evaluate
from netgraph.models.training.tasks import make_task

SMALL = ("--widths", "16,8", "--epochs", 2, "--levels", 2)


@pytest.fixture(scope="module")
def digits():
    return datasets.load_dataset("digits")


def test_training_prints_levels_costs_the_reason_and_figures_and_writes_a_network_that_opens(tmp_path, digits):
    code, out, err = run("train", "mlp", *SMALL, "--cycle", "full", "-o", tmp_path / "m.safetensors")
    assert code == 0
    for part in ("operator complexity", "spent on", "coarse steps", "the 2 epochs are spent", "calibration error"):
        assert part in out
    assert "level 1" in err
    assert "s left" in err
    score = evaluate(load_model(str(tmp_path / "m.safetensors")), digits.flat())
    assert f"test accuracy {score.accuracy:.2%}, loss {score.loss:.4f}" in out


def test_json_holds_finite_numbers_only_and_its_confusion_gives_its_accuracy(tmp_path, digits):
    code, out, _ = run("train", "mlp", *SMALL, "--cycle", "v", "--json", "-o", tmp_path / "m.pt")
    assert code == 0
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    confusion = torch.tensor(document["test"]["confusion"])
    assert confusion.sum() == len(digits.test)
    assert math.isclose(document["test"]["accuracy"], confusion.trace() / confusion.sum(), rel_tol=1e-6)
    assert len(document["hierarchy"]["levels"]) == 2
    model = mlp((64, 16, 8, 10))
    model.load_state_dict(torch.load(tmp_path / "m.pt"))
    assert math.isclose(evaluate(model, digits.flat()).loss, document["test"]["loss"], rel_tol=1e-5)


@pytest.mark.parametrize("one_hot", [False, True])
def test_plain_training_is_a_bare_loop(tmp_path, digits, one_hot):
    words = ["--plain", "--optimizer", "adam", "--schedule", "constant", "--lr", 0.01, *["--one-hot"] * one_hot]
    assert run("train", "mlp", *SMALL, *words, "-o", tmp_path / "m.pt")[0] == 0
    task = make_task("mlp", digits, widths=(16, 8))
    optimizer = torch.optim.Adam(task.network.parameters(), lr=0.01)
    loader = Loader(task.data, task.defaults.batch)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(task.network(inputs), targets).backward()
            optimizer.step()
    written = torch.load(tmp_path / "m.pt")
    for name, tensor in task.network.state_dict().items():
        torch.testing.assert_close(written[name], tensor, rtol=1e-4 if one_hot else 0, atol=1e-6 if one_hot else 0)


def test_with_ema_the_running_mean_is_evaluated_and_written(tmp_path, digits):
    code, out, _ = run("train", "mlp", *SMALL, "--ema", 0.9, "-o", tmp_path / "m.safetensors")
    assert code == 0
    assert "of the running mean" in out
    assert f"loss {evaluate(load_model(str(tmp_path / 'm.safetensors')), digits.flat()).loss:.4f}" in out


def test_a_terminal_gets_a_bar_in_place_of_lines(monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    code, _, err = run("train", "mlp", *SMALL)
    assert code == 0
    assert "━" in err
    assert "▁█" in err  # the coarsest level, then the finest
    assert "netgraph: step" not in err


def test_the_trace_of_a_run_is_the_levels_it_smoothed():
    lines = []
    display = RunDisplay(lambda display, event: lines.append(display.format_line(display.digits)))
    model = SimpleNamespace(grids=[None] * 3)
    for level in (0, 0, 1, 2, 1, 0):
        display(
            model,
            {
                "event": "smooth" if lines else "begin",
                "level": level,
                "step": len(lines),
                "cycle": 1,
                "steps": 9,
                "loss": 0.5,
            },
        )
    display(model, {"event": "evaluate", "level": 0, "step": 6, "cycle": 1, "figures": {"accuracy": 0.25}})
    assert lines[-1] == "level 0  cycle 1  0 1 2 1 0  loss 0.5000  accuracy 25.00%"
    assert display.blocks in ("█▅▁▅█", "█▄▁▄█")


def test_the_loss_that_is_shown_is_of_the_level_that_is_shown():
    lines = []
    display = RunDisplay(lambda display, event: lines.append(display.format_line(display.digits)))
    record = {"step": 7, "cycle": 1}
    display(SimpleNamespace(grids=[None] * 2), {**record, "event": "begin", "level": 1, "steps": 9})
    display(None, {**record, "event": "smooth", "level": 1, "loss": 2.25})
    assert lines[-1].endswith("loss 2.2500")
    display(None, {**record, "event": "start", "level": 0})
    assert lines[-1].startswith("level 0")
    assert "loss" not in lines[-1]


@pytest.mark.parametrize("cycle", ["full", "v"])
def test_an_evaluation_follows_the_smoothing_of_its_steps(cycle, digits):
    """Each line shows the mean loss of the steps since the line before, on the same level."""
    code, out, _ = run("train", "mlp", *SMALL, "--cycle", cycle, "--option", "gate.share=inf", "--json")
    assert code == 0
    history = [r for r in json.loads(out)["history"] if r["event"] in ("smooth", "evaluate")]
    for before, record in pairwise(history):
        if record["event"] == "evaluate":
            assert (before["event"], before["step"]) == ("smooth", record["step"])
    assert sum(r["event"] == "evaluate" for r in history) == 2


def test_a_run_that_an_alert_stopped_is_resumed_to_the_weights_of_one_that_went_through(tmp_path):
    words = ["train", "mlp", *SMALL, "--cycle", "full"]
    assert run(*words, "-o", tmp_path / "whole.pt")[0] == 0
    kept = ["--checkpoints", tmp_path / "kept"]
    code, out, _ = run(*words, *kept, "--alert", "memory(share=0.000001):stop")
    assert code == 0
    assert "the alert memory at step" in out
    code, out, err = run(*words, *kept, "--resume", "--log-json", "-o", tmp_path / "again.pt")
    assert code == 0
    assert "resumed at step" in err
    assert all(json.loads(line) for line in err.splitlines() if line.startswith("{"))
    whole, again = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "again.pt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    code, _, err = run(*words, *kept)
    assert code == 1
    assert "Resume the old run" in err


def test_training_by_gradients_of_several_levels_prints_their_samples_and_variances():
    options = ("--share", "1,0", "--option", "estimate.kind=multilevel", "--option", "estimate.pilot=4")
    code, out, _ = run("train", "mlp", "--data", "digits", "--levels", "2", "--epochs", "0.3", *options)
    assert code == 0
    assert re.search(r"gradient of level 0 from levels? 0.*multilevel", out)
    assert re.search(r"variance predicted \S+, measured \S+; of a plain gradient of the same cost", out)
    assert re.search(r"^ +0  variance ", out, re.M)


def test_levels_are_matched_as_far_as_a_gap_allows_and_again_as_training_goes_on():
    words = [
        "train",
        "mlp",
        *SMALL,
        "--cycle",
        "v",
        "--json",
        "--option",
        "adapt.rematch=1",
        "--option",
        "gate.share=inf",
    ]
    code, out, _ = run(*words, "--ratio", "gap:10")
    assert code == 0
    document = json.loads(out)
    assert [level["units"] for level in document["hierarchy"]["levels"]] == [
        24,
        6,
    ]  # a quarter, the least that is tried
    assert {tuple(r["units"]) for r in document["history"] if r["event"] == "rematch"} == {(24, 6)}
    code, out, _ = run(*words, "--ratio", "gap:0.01")
    units = [r["units"][1] for r in json.loads(out)["history"] if r["event"] == "rematch" and not r["why"]]
    assert code == 0
    assert all(6 <= n < 24 for n in units)


def test_a_gap_is_measured_on_one_minibatch_with_dropout_alike_and_no_trace():
    torch.manual_seed(0)
    network, batch = (
        nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)),
        (torch.randn(8, 6), torch.arange(8) % 3),
    )
    loss = make_batch_loss(Problem([batch], nn.functional.cross_entropy), batch)
    statistics = network[1].running_mean.clone()
    value = loss(network)
    assert loss(network) == value
    assert torch.equal(network[1].running_mean, statistics)
    torch.manual_seed(SEED)
    assert math.isclose(float(nn.functional.cross_entropy(network(batch[0]), batch[1]).detach()), value, rel_tol=1e-6)


@pytest.mark.parametrize("each", [False, True])
def test_a_schedule_is_one_over_all_levels_or_one_for_each(each):
    """At the end of the coarse level's turn a schedule of one level is at its lowest rate. A schedule over all levels is not."""
    words = ["--schedule", "cosine", "--lr", 0.01, "--json", *["--schedule-per-level"] * each]
    code, out, _ = run("train", "mlp", *SMALL, *words)
    assert code == 0
    rates = [r["lr"] for r in json.loads(out)["history"] if r["event"] == "smooth" and r["level"] == 1]
    assert (rates[-1] < 0.01 * 0.05) == each


def test_a_run_is_not_resumed_with_another_loss_or_other_levels(tmp_path):
    words = ["train", "mlp", *SMALL, "--checkpoints", tmp_path]
    assert run(*words, "--alert", "memory(share=0.000001):stop")[0] == 0
    for option, value, theirs in (
        ("--label-smoothing", "0.1", "0.0"),
        ("--coarsener", "kmeans", '"hem"'),
        ("--affinity", "normed", '"cosine"'),
    ):
        code, out, err = run(*words, "--resume", option, value)
        assert (code, out) == (1, "")
        assert f"another setting: {option} is {theirs} there" in err


def test_the_augmentation_of_the_task_belongs_to_the_fingerprint_of_a_run():
    task = SimpleNamespace(defaults=SimpleNamespace(augment="crop-flip"))
    for options, augment in ((TrainOptions(), "crop-flip"), (TrainOptions(augment="none"), "none")):
        assert options.fingerprint(choose_augmentation(options, task))["--augment"] == augment


def test_options_are_listed_with_defaults_and_meanings():
    code, out, _ = run("train", "--options")
    assert code == 0
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["gate.gap"].startswith("0.1 ")
    meanings = [text.split(maxsplit=1)[-1] for name, text in rows.items() if name != "level.N.NAME"]
    assert all(len(meaning.split()) > 1 for meaning in meanings)
    assert len(set(meanings)) == len(meanings)  # one each


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "no network to train"),
        (["mlp", "--data", "none"], "no data set is called"),
        (["mlp", "--epochs", "0"], "above 0"),
        (["mlp", "--optimizer", "none"], "no optimizer"),
        (["mlp", "--option", "gate.gap"], "NAME=VALUE"),
        (["mlp", "--option", "gate.none=1"], "no option is called"),
        (["mlp", "--option", "gate.gap=wide"], "Its default is 0.1"),
        (["mlp", "--widths", "many"], "no list of numbers"),
        (["mlp", "--widths", "0"], "at least 1, got 0"),
        (["mlp", "--ema", "2"], "below 1"),
        (["mlp", "--label-smoothing", "-1"], "below 1"),
        (["mlp", "--task", "lm"], "cannot predict tokens"),
        (["mlp", "--network-arg", "norm=post"], "mlp has no argument 'norm'"),
        (["mlp", "--network-arg", "sizes=[64,8,10]"], "mlp has no argument 'sizes'"),
        (["mlp", "--network-arg", "activation=3"], "building mlp fails"),
        (["mlp", "--widths", str(10**10)], "mlp asks for 2,560,000,000,000 bytes, but"),
        (["mlp", "--epochs", "1e308"], "epochs is 1e+308, which makes inf steps"),
        (["mlp", "--lr", "1e308"], "at most 1e+30"),
        (["mlp", "--weight-decay", "1e308"], "at most 1e+30"),
        (["mlp", "--coarsen", "channels," * 10**5], "names too many directions"),
        (["mlp", "--levels", str(10**10)], "Give at most 1,000"),
        (["wide-resnet", "--data", "digits", "--network-arg", f"depth={6 * 10**8 + 4}"], "more than 8,192 tensors"),
        (["cnn", "--data", "digits", "--network-arg", "width=[2]"], "building resnet20 fails"),
        (["vgg", "--data", "digits", "--network-arg", f"pools={10**9}"], "halves images"),
        (["mlp", "--network-arg", "norm"], "--network-arg 'norm' is not of the form key=value"),
        (["mlp", "--recompute", "7"], "There are levels 0 to"),
        (["vgg", "--data", "digits"], "halves images"),
        (["vgg", "--data", "digits", "--network-arg", "pools=4"], "halves images 4 times"),
        (
            ["torchvision:nosuch", "--data", "digits"],
            "torchvision has no classifier 'nosuch'. Choose one of alexnet",
        ),
        (["torchvision:resnet18", "--data", "digits"], "does not run on the images of digits, 1 × 8 × 8"),
        (["torchvision:resnet18", "--data", "digits", "--widths", "4"], "Leave widths out"),
        (["cnn", "--data", "digits", "--recompute", "all"], "batch norm stem.1 counts each batch"),
        (["transformer", "--data", "digits"], "--data imdb"),
        (["mlp", "--augment", "none-such"], "no augmentation"),
        (["mlp", "--batch", "0"], "at least 1, got 0"),
        (["mlp", "-o", "m.bin"], "ends in .bin"),
        (["mlp", "--device", "nowhere"], "Take cpu"),
        (["cnn", "--data", "digits", "--widths", "3,4"], "Give one"),
        (["mlp", "--resume"], "--checkpoints FOLDER"),
        (["mlp", "--alert", "boredom:warn"], "no rule is called"),
    ],
)
def test_mistakes_get_a_sentence_before_work_begins(words, message):
    code, out, err = run("train", *words)
    assert code == 1
    assert message in err
    assert out == ""


def test_a_damaged_file_is_refused_by_digest_before_it_is_opened(tmp_path, monkeypatch):
    write_idx(tmp_path, monkeypatch)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = run("train", "mlp", "--data", "mnist", "--data-root", tmp_path)
    assert code == 1
    assert "train-images-idx3-ubyte" in err
    assert "MD5" in err or "md5" in err


def coloured(n=24):
    x = torch.randint(0, 255, (n, 3, 16, 16), dtype=torch.uint8)
    split = DataSplit(x, torch.arange(n) % 2)
    return Dataset("cifar10", ("red", "blue"), split, split, split, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def written(n=24):
    split = DataSplit(torch.randint(1, 30, (n, 12), dtype=torch.int32), torch.arange(n) % 2)
    return Dataset("imdb", ("bad", "good"), split, split, split, padding=0)


def test_texts_of_like_length_share_a_batch_where_training_is_plain_and_flops_are_theirs(tmp_path, monkeypatch):
    torch.manual_seed(0)
    tokens = torch.randint(1, 30, (24, 64), dtype=torch.int32)
    tokens[::2, 10:] = 0
    split = DataSplit(tokens, torch.arange(24) // 2 % 2)
    data = Dataset("imdb", ("bad", "good"), split, split, split, padding=0)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: data)
    words = ["--widths", 16, "--batch", 8, "--epochs", 2, "--network-arg", "dropout=0.0", "--network-arg", "depth=1"]
    how = ["--optimizer", "adam", "--schedule", "constant", "--lr", 0.01]
    code, out, _ = run("train", "transformer", "--plain", *words, *how, "--json", "-o", tmp_path / "m.pt")
    assert code == 0
    task = make_task("transformer", data, widths=(16,), options={"dropout": 0.0, "depth": 1}, fixed_length=False)
    flops = {edge: ng.trace(task.network, task.example[:, :edge]).flops / 2 for edge in (16, 64)}
    assert json.loads(out)["history"][-1]["flops"] == pytest.approx(2 * 3 * 12 * sum(flops.values()), rel=1e-6)
    optimizer, loader, seen = torch.optim.Adam(task.network.parameters(), lr=0.01), Loader(data, 8), set()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for inputs, targets in loader:
            seen.add(inputs.shape[1])
            optimizer.zero_grad()
            nn.functional.cross_entropy(task.network(inputs), targets).backward()
            optimizer.step()
    assert seen == {16, 64}
    assert all(torch.equal(torch.load(tmp_path / "m.pt")[name], t) for name, t in task.network.state_dict().items())


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_tokenizer_is_trained_by_its_name(monkeypatch, kind):
    kinds = []

    def loaded(*args, **options):
        kinds.append(options["tokenizer"])
        raise NetgraphError("enough")

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    assert "enough" in run("train", "transformer", "--tokenizer", kind)[2]
    assert kinds == [kind]


@pytest.mark.parametrize(
    ("network", "data", "words"),
    [
        # oneDNN without AVX-512 writes past its memory in strided 1 x 1 kernels of 4 channels, channels innermost
        ("cnn", coloured, ["--widths", 16]),
        ("cnn", coloured, ["--widths", 16, "--coarsen", "channels+space+depth", "--channels-last"]),
        ("torchvision:resnet18", coloured, ["--augment", "rotate"]),
        ("transformer", written, ["--widths", 16]),
        ("transformer", written, ["--widths", 16, "--task", "lm", "--recompute", "all"]),
        ("transformer", written, ["--widths", 16, "--network-arg", "norm=post", "--network-arg", "positions=rotary"]),
        ("transformer", written, ["--widths", 16, "--coarsen", "depth", "--depth-by", "copy"]),
        ("transformer", written, ["--widths", 16, "--network-arg", "positions=rotary", "--inside-heads"]),
    ],
)
def test_other_networks_come_through_the_same_code(monkeypatch, network, data, words):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: data())
    code, out, _ = run(
        "train", network, *words, "--batch", 8, "--epochs", 4, "--levels", 2, "--cycle", "full", "--lr", 1e-3
    )
    assert code == 0
    assert "the 4 epochs are spent" in out
    assert ("perplexity" in out) == ("lm" in words)


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--coarsen", "channels+depth"], ["level 1: depth was left out: depth merges alike residual blocks"]),
        (
            ["--coarsen", "channels,depth", "--levels", 3],
            ["level 1: depth was left out: depth merges", "2 levels instead of 3: nothing more can be merged"],
        ),
    ],
)
def test_train_warns_of_a_direction_without_effect_as_coarsen_does(words, lines):
    code, _, err = run("train", "mlp", *SMALL, "--epochs", 0.1, *words)
    assert code == 0
    assert all(part in err for part in lines)


def test_a_pass_of_the_loader_has_each_row_once_in_an_order_of_the_seed_and_the_pass(digits):
    rows = torch.arange(len(digits.train), dtype=torch.float32)[:, None]
    data = replace(digits, train=DataSplit(rows, digits.train.targets))
    loader = Loader(data, 100, seed=1)
    batches = list(loader)
    assert len(batches) == len(loader)
    inputs = torch.cat([x for x, _ in batches]).flatten()
    assert torch.equal(inputs.sort().values, rows.flatten())
    assert torch.equal(torch.cat([t for _, t in batches]), digits.train.targets[inputs.long()])
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, loader, strict=True))
    loader.set_epoch(1)
    assert not torch.equal(torch.cat([x for x, _ in loader]).flatten(), inputs)
    moved = Loader(replace(digits, padding=None), 100, augment=random_crop, seed=1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(moved, moved, strict=True))


def test_figures_are_those_of_loops_over_the_rows():
    x = torch.randn(200, 5)
    split = DataSplit(x, torch.randint(0, 3, (200,)))
    data = Dataset("rows", ("a", "b", "c"), split, split, split)
    model = mlp((5, 8, 3))
    evaluation = evaluate(model, data, batch=64, metrics=METRICS)
    with torch.no_grad():
        shares = model(x).softmax(1).double().numpy()
    wanted, confusion, bins = split.targets.numpy(), np.zeros((3, 3)), [[] for _ in range(15)]
    for share, target in zip(shares, wanted, strict=True):
        confusion[target, share.argmax()] += 1
        bins[min(int(share.max() * 15), 14)].append((share.max(), share.argmax() == target))
    error = sum(len(b) / 200 * abs(np.mean([c for c, _ in b]) - np.mean([r for _, r in b])) for b in bins if b)
    np.testing.assert_array_equal(evaluation.confusion, confusion)
    assert math.isclose(evaluation.accuracy, np.trace(confusion) / 200, rel_tol=1e-6)
    assert math.isclose(evaluation.calibration_error, error, rel_tol=1e-4)
    assert math.isclose(evaluation.loss, -np.mean(np.log(shares[np.arange(200), wanted])), rel_tol=1e-5)
