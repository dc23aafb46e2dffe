"""Networks and their training, against published sizes, outputs of other libraries, the oracles and explicit formulas."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.errors import NetgraphError
from netgraph.models.cnn import resnet20, resnet56, vgg, wide_resnet
from netgraph.models.data.augmentation import crop_and_flip
from netgraph.models.data.datasets import Dataset, DataSplit, load_dataset
from netgraph.models.perceptron import mlp
from netgraph.models.training.evaluation import METRICS, evaluate
from netgraph.models.training.trainer import fit
from netgraph.models.transformer import Attention, Decoder, Encoder, apply_rotary, rotary_angles
from netgraph.optim.optimizers import OPTIMIZERS
from netgraph.optim.schedules import SCHEDULES

SMALL = {"width": 16, "n_hidden": 24, "n_heads": 4, "length": 12}


def tokens(n=3, length=10, vocabulary=30):
    ids = torch.randint(3, vocabulary, (n, length))
    ids[1, length // 2 :] = 0
    return ids


def images(size=16):
    return torch.randn(2, 3, size, size)


NETS = {
    "vgg": lambda: (vgg(width=4), images(32)),
    "resnet20": lambda: (resnet20(width=4), images()),
    "wide resnet": lambda: (wide_resnet(widen=2, width=4), images()),
    "encoder": lambda: (Encoder(30, 3, **SMALL), tokens()),
    "rotary post-norm encoder": lambda: (Encoder(30, 3, norm="post", positions="rotary", **SMALL), tokens()),
    "encoder that reads CLS": lambda: (Encoder(30, 3, pooling="cls", **SMALL), tokens()),
    "encoder with a mask": lambda: (Encoder(30, 3, positions="rotary", **SMALL), (tokens(), tokens() != 0)),
    "decoder": lambda: (Decoder(30, **SMALL), tokens()),
    "rotary decoder": lambda: (Decoder(30, positions="rotary", norm="post", **SMALL), tokens()),
}


@pytest.mark.parametrize("name", NETS)
def test_both_oracles_find_that_a_network_coarsens_exactly(name):
    model, example = NETS[name]()
    spec = ng.trace(model, example)
    verdicts = [oracle(model, spec, example, spec.free) for oracle in (check_dead_units, check_duplicate_units)]
    assert [len(v.axes) for v in verdicts][1] == len(spec.free)
    assert all(v.error is not None and v.error < 1e-5 for v in verdicts), verdicts


@pytest.mark.parametrize("name", NETS)
def test_every_level_of_a_network_runs_and_is_smaller(name):
    model, example = NETS[name]()
    levels = ng.build_hierarchy(model, example, n_levels=3).levels
    sizes = [level.n_parameters for level in levels]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]
    args = example if isinstance(example, tuple) else (example,)
    shapes = {level.model(*args).shape for level in levels}
    assert shapes == {model(*args).shape}


def test_resnet56_has_an_axis_for_each_block_and_one_for_each_stage():
    spec = ng.trace(resnet56(width=2), images())
    assert len(spec.free) == 27 + 3


def convolutions(*plan):
    """Count parameters of convolutions without bias, each with its norm: (in, out, kernel, times)."""
    return sum(times * (n_in * n_out * kernel**2 + 2 * n_out) for n_in, n_out, kernel, times in plan)


@pytest.mark.parametrize(("make", "n"), [(resnet20, 3), (resnet56, 9)])
def test_residual_networks_have_the_parameters_of_the_papers_table(make, n):
    blocks = convolutions((16, 16, 3, 2 * n), (32, 32, 3, 2 * n - 1), (64, 64, 3, 2 * n - 1))
    wanted = convolutions((3, 16, 3, 1), (16, 32, 3, 1), (32, 64, 3, 1), (16, 32, 1, 1), (32, 64, 1, 1)) + blocks + 650
    found = sum(p.numel() for p in make().parameters())
    assert found == wanted
    assert f"{found / 1e6:.2f}" == {3: "0.27", 9: "0.86"}[n]
    weighted = [m for m in make().modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.shape[-1] != 1]
    assert len(weighted) == 6 * n + 2


def test_the_wide_network_has_the_published_parameters():
    assert round(sum(p.numel() for p in wide_resnet().parameters()) / 1e6, 1) == 2.7  # Zagoruyko and Komodakis, table 4
    assert wide_resnet()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert vgg(7, channels=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("before", [True, False])
def test_the_encoder_computes_as_the_one_of_torch(before):
    model = Encoder(30, 3, depth=1, norm="pre" if before else "post", **SMALL).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, activation="gelu", batch_first=True, norm_first=before).eval()
    block = model.blocks[0]
    attention = (block.attention.query, block.attention.key, block.attention.value)
    state = {
        "self_attn.in_proj_weight": torch.cat([f.weight for f in attention]),
        "self_attn.in_proj_bias": torch.cat([f.bias for f in attention]),
    }
    names = {
        "self_attn.out_proj": block.attention.out,
        "linear1": block.up,
        "linear2": block.down,
        "norm1": block.norm1,
        "norm2": block.norm2,
    }
    for name, module in names.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    theirs.load_state_dict(state)
    ids = tokens()
    x = model.embedding(ids) + model.positions.weight[:10]
    x = model.norm(theirs(x, src_key_padding_mask=ids == 0))
    pooled = torch.stack([row[i != 0].mean(0) for row, i in zip(x, ids, strict=True)])
    torch.testing.assert_close(model(ids), model.head(pooled), atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing():
    for positions in ("learned", "rotary"):
        model = Encoder(30, 3, positions=positions, **SMALL).eval()
        ids = torch.randint(3, 30, (2, 5))
        longer = torch.cat([ids, torch.zeros(2, 6, dtype=torch.int64)], 1)
        torch.testing.assert_close(model(ids), model(longer), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(longer), model(longer, longer != 0))


def test_rotary_attention_knows_only_distances():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    q, k = (apply_rotary(x.expand(1, 1, 9, 8), rotary_angles(8)) for x in (q, k))
    scores = (q @ k.transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], atol=1e-5, rtol=1e-5)  # angles are single
    assert not torch.allclose(scores[0, 1], scores[0, 2])
    torch.testing.assert_close(q.norm(dim=-1), q.norm(dim=-1)[..., :1].expand(1, 1, 9))


def test_rotary_pairs_turn_like_complex_numbers():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    speed = 10_000.0 ** (-torch.arange(3) / 3)
    turn = torch.exp(1j * torch.arange(5, dtype=torch.float64)[:, None] * speed)
    wanted = torch.complex(x[..., :3], x[..., 3:]) * turn
    torch.testing.assert_close(
        apply_rotary(x, rotary_angles(6)), torch.cat([wanted.real, wanted.imag], -1), atol=1e-6, rtol=1e-6
    )


def test_the_decoder_sees_no_later_token_and_gives_its_embedding_back():
    model, ids = Decoder(30, **SMALL).eval(), tokens()
    changed = ids.clone()
    changed[:, 6:] = 5
    torch.testing.assert_close(model(ids)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(ids)[:, 6:], model(changed)[:, 6:])
    model.embedding.weight.data[7] = 0
    assert (model(tokens(vocabulary=7))[..., 7] == 0).all()


def test_unknown_choices_of_a_transformer_are_refused():
    for options in ({"norm": "mid"}, {"positions": "none"}, {"pooling": "max"}, {"n_heads": 3}):
        with pytest.raises(NetgraphError, match=r"Choose one of|Change one"):
            Encoder(30, **options)
    with pytest.raises(NetgraphError, match="13 tokens, and the network takes 12"):
        Decoder(30, **SMALL)(torch.ones(2, 13, dtype=torch.int64))
    assert Attention(16, 4)(torch.zeros(2, 3, 16)).shape == (2, 3, 16)


def blobs(n=60, n_classes=3):
    """Return points around three corners."""
    targets = torch.arange(n) % n_classes
    inputs = functional.one_hot(targets, 4).float() + 0.1 * torch.randn(n, 4)
    split = DataSplit(inputs, targets)
    return Dataset("blobs", ("a", "b", "c"), split, split, split)


def test_muon_is_refused_where_nobody_knows_which_layers_are_hidden():
    with pytest.raises(NetgraphError, match="muon takes the matrices of hidden layers"):
        fit(mlp((4, 16, 3)), blobs(), epochs=1, optimizer="muon")


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "muon"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimizer_and_schedule_learns(optimizer, schedule):
    model, data = mlp((4, 16, 3)), blobs()
    before = evaluate(model, data)
    losses = []
    fit(
        model, data, epochs=25, batch=16, optimizer=optimizer, schedule=schedule, lr=0.02, weight_decay=1e-4,
        report=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    after = evaluate(model, data)
    assert after.accuracy == 1.0
    assert after.loss < before.loss / 4
    assert len(losses) == 25
    assert losses[-1] < losses[0]
    assert not model.training


def test_a_step_follows_the_gradient_of_the_smoothed_loss():
    data = blobs(8)
    model, twin = mlp((4, 3)), mlp((4, 3))
    twin.load_state_dict(model.state_dict())
    fit(
        model,
        data,
        epochs=1,
        batch=8,
        optimizer="sgd",
        schedule="constant",
        lr=0.1,
        label_smoothing=0.3,
        weight_decay=0.5,
    )
    logs = twin(data.train.inputs).log_softmax(1)
    wanted = 0.7 * functional.one_hot(data.train.targets, 3) + 0.1
    loss = -(wanted * logs).sum(1).mean()
    weight, bias = torch.autograd.grad(loss, [twin[0].weight, twin[0].bias])
    step = 0.1 * 1.9  # Nesterov's first step is 1 + momentum times the gradient
    torch.testing.assert_close(model[0].bias, twin[0].bias - step * bias)
    torch.testing.assert_close(model[0].weight, twin[0].weight - step * (weight + 0.5 * twin[0].weight))


def test_training_repeats_exactly_and_restores_the_global_generator():
    state = torch.get_rng_state()
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        torch.set_rng_state(state)
        fit(model, blobs_fixed(), epochs=2, batch=7)
        assert torch.equal(torch.get_rng_state(), state)
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def blobs_fixed():
    x = torch.linspace(-1, 1, 80).reshape(20, 4)
    split = DataSplit(x, torch.arange(20) % 3)
    return Dataset("fixed", ("a", "b", "c"), split, split, split)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_small_vgg_learns_two_colours_whatever_the_crop(bf16):
    x = torch.zeros(32, 3, 32, 32, dtype=torch.uint8)
    x[::2, 0] = 200
    x[1::2, 2] = 200
    split = DataSplit(x, torch.arange(32) % 2)
    data = Dataset("colours", ("red", "blue"), split, split, split, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model = vgg(2, width=4)
    fit(model, data, epochs=4, batch=8, lr=0.01, augment=crop_and_flip, bf16=bf16)
    assert evaluate(model, data).accuracy == 1.0
    assert all(p.dtype == torch.float32 for p in model.parameters())


def texts(n=64):
    """Return texts of many lengths whose class is whether they begin with 3 or 4."""
    random = np.random.default_rng(0)
    inputs = torch.zeros(n, 40, dtype=torch.int32)
    for i, row in enumerate(inputs):
        size = int(random.integers(2, 40))
        row[:size] = torch.tensor([3 + i % 2] * size)
    split = DataSplit(inputs, torch.arange(n) % 2)
    return Dataset("texts", ("three", "four"), split, split, split, padding=0)


def test_an_encoder_learns_texts_of_many_lengths_and_its_coarse_network_takes_full_length():
    data = texts()
    model = Encoder(6, 2, width=16, n_hidden=24, n_heads=2, length=40, dropout=0.0)
    fit(model, data, epochs=10, batch=8, lr=0.01)
    assert evaluate(model, data).accuracy == 1.0
    short, whole = evaluate(model, data), evaluate(model, data.fixed_length())
    assert math.isclose(short.loss, whole.loss, abs_tol=1e-5)
    example = data.ready(data.test.inputs[:2])
    coarse = ng.build_hierarchy(model, example, n_levels=2).levels[1].model
    assert 0 <= evaluate(coarse, data.fixed_length()).accuracy <= 1


def test_a_decoder_learns_to_repeat_and_its_loss_is_over_text_alone():
    data = texts(24).next_tokens()
    model = Decoder(6, width=16, n_hidden=24, n_heads=2, length=40, positions="rotary", dropout=0.0)
    before = evaluate(model, data)
    with torch.no_grad():
        logs = model.eval()(data.ready(data.test.inputs)).log_softmax(-1).numpy()
    targets = data.test.targets.numpy()
    row, place = np.nonzero(targets > 0)
    assert math.isclose(before.loss, -logs[row, place, targets[row, place]].mean(), rel_tol=1e-5)
    fit(model, data, epochs=8, batch=8, lr=0.01)
    assert evaluate(model, data).accuracy > 0.95
    with pytest.raises(NetgraphError, match="digits has no texts"):
        load_dataset("digits").next_tokens()


def test_accuracy_is_the_share_of_right_answers_and_modes_are_restored():
    data = blobs(50)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    model[1].eval()
    found = evaluate(model, data, batch=7)
    assert [m.training for m in model] == [True, False, True]
    outputs = model.eval()(data.test.inputs)
    assert math.isclose(found.accuracy, (outputs.argmax(1) == data.test.targets).double().mean(), rel_tol=1e-6)
    assert math.isclose(found.loss, functional.cross_entropy(outputs, data.test.targets).item(), rel_tol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_follow_the_schedule_over_all_steps_of_the_training(schedule, monkeypatch):
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    fit(mlp((4, 3)), blobs(40), epochs=5, batch=8, schedule=schedule, lr=0.1)
    at = np.arange(25)
    cosine = 0.05 * (1 + np.cos(np.pi * at / 25))
    up, down = 0.3 * 25 - 1, 24 - (0.3 * 25 - 1)  # Smith's cycle as torch has it, from 1/25 and down to 1/250,000
    rise = 0.004 + 0.096 * (1 - np.cos(np.pi * at / up)) / 2
    fall = 4e-7 + (0.1 - 4e-7) * (1 + np.cos(np.pi * (at - up) / down)) / 2
    wanted = {"constant": np.full(25, 0.1), "cosine": cosine, "one-cycle": np.where(at <= up, rise, fall)}
    wanted["wsd"] = 0.1 * np.minimum(1, (25 - at) / 6)  # a warm-up of one step, and the last quarter
    np.testing.assert_allclose(rates, wanted[schedule], rtol=1e-6)
    for epochs in (1, 2, 3):
        fit(mlp((4, 3)), blobs(4), epochs=epochs, batch=8, schedule=schedule)  # few steps


def test_unknown_names_and_losses_that_are_not_finite_are_errors():
    data = blobs()
    for options, match in (
        ({"optimizer": "lion"}, "no optimizer is called 'lion'. There are adam, adamw, rmsprop, sgd"),
        ({"schedule": "step"}, "no schedule is called 'step'"),
        ({"optimizer": "sgd", "lr": 1e30, "epochs": 5}, "Train with a smaller lr"),
    ):
        with pytest.raises(NetgraphError, match=match):
            fit(mlp((4, 8, 3)), data, **options)
    with pytest.raises(NetgraphError, match="no split is called 'dev'"):
        evaluate(mlp((4, 3)), data, split="dev")
    with pytest.raises(NetgraphError, match="no metric is called 'recall'"):
        evaluate(mlp((4, 3)), data, metrics=["recall"])


def test_further_metrics_leave_accuracy_and_loss_as_they_are():
    model, data = mlp((4, 8, 3)), blobs(50)
    plain, full = evaluate(model, data, batch=7), evaluate(model, data, batch=7, metrics=METRICS)
    assert plain.figures() == full.figures()
    assert plain.document() == {**plain.figures(), "calibration_error": None, "confusion": None}
    assert full.confusion.sum() == 50
    assert math.isclose(full.confusion.trace() / 50, full.accuracy, rel_tol=1e-6)


def test_evaluation_works_in_a_process_of_its_own():
    code = (
        "from netgraph.models import evaluate, load_dataset, mlp\nprint(evaluate(mlp(), load_dataset('digits').flat()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.startswith("Evaluation("), done.stderr


@pytest.mark.data
def test_a_perceptron_learns_mnist_in_two_epochs():
    data = load_dataset("mnist").flat()
    model = mlp((784, 64, 10))
    fit(model, data, epochs=2, batch=64, lr=5e-3)
    assert evaluate(model, data).accuracy > 0.95
