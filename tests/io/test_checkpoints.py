"""Checkpoints as people have them: the weights are found under their key, and their names are fitted to the network."""

import argparse
import collections
import pathlib
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from netgraph.errors import LoadError, LoadWarning, UntrustedError
from netgraph.io.load import load_model

CODE = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width)), nn.Linear(width, 3)
    def forward(self, x):
        return self.head(self.encoder(x).relu())
class Counting(Net):
    def get_extra_state(self):
        return {"steps": 3}
    def set_extra_state(self, state):
        self.steps = state["steps"]
class Normed(nn.Module):
    def __init__(self, kind=None):
        super().__init__()
        conv = nn.Conv1d(4, 6, 3)
        norm = {"old": nn.utils.weight_norm, "new": nn.utils.parametrizations.weight_norm, None: lambda layer: layer}[kind]
        self.body = norm(conv)
    def forward(self, x):
        return self.body(x)
class Wrapping(nn.Module):  # with words of wrappers in its own names
    def __init__(self):
        super().__init__()
        self.module = nn.Linear(6, 6)
        self.rest = nn.Sequential(nn.Linear(6, 3))
    def forward(self, x):
        return self.rest(self.module(x))
"""


@pytest.fixture(scope="module")
def code_dir(tmp_path_factory):
    """Return a folder with `CODE` as a module."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "checkpoint_nets.py").write_text(CODE)
    return folder


@pytest.fixture
def open_saved(tmp_path, code_dir):
    """Return a function that saves a value and opens it as a network of `CODE`."""

    def save_and_open(value, name="Net", **options):
        torch.save(value, tmp_path / "m.ckpt")
        return load_model(tmp_path / "m.ckpt", arch=f"checkpoint_nets:{name}", code_dir=code_dir, **options)

    return save_and_open


@pytest.fixture
def nets():
    """Return a function that makes a network of `CODE` with random statistics."""
    namespace = {}
    exec(CODE, namespace)

    def make(name="Net", seed=0, **options):
        torch.manual_seed(seed)
        net = namespace[name](**options)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return net.eval()

    return make


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


X = torch.linspace(-1, 1, 24).reshape(4, 6)


@pytest.mark.parametrize(
    "key",
    [
        "state_dict",
        "model",
        "model_state_dict",
        "params_ema",
        "ema",
        "teacher",
        "generator",
        "network_weights",
        "netG",
        "weights",
    ],
)
def test_weights_open_under_any_key_and_without_a_word_if_no_others_are_there(open_saved, nets, key):
    net = nets()
    optimizer = torch.optim.Adam(net.parameters())
    sum(p.sum() for p in net.parameters()).backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoadWarning)
        opened = open_saved({key: net.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict()})
    assert torch.equal(opened(X), net(X))


def test_of_trained_and_averaged_weights_the_trained_are_taken_and_the_choice_is_told(open_saved, nets):
    trained, averaged = nets(seed=1), nets(seed=2)
    for keys in (("params", "params_ema"), ("state_dict", "ema_state_dict"), ("model", "ema"), ("netG", "netG_ema")):
        value = dict(zip(reversed(keys), (averaged.state_dict(), trained.state_dict()), strict=True))
        with pytest.warns(LoadWarning, match=rf"under {keys[0]} were taken.*{keys[1]}.*--key"):
            assert torch.equal(open_saved(value)(X), trained(X))
        with warnings.catch_warnings():
            warnings.simplefilter("error", LoadWarning)
            assert torch.equal(open_saved(value, key=keys[1])(X), averaged(X))


def test_equally_likely_weights_are_listed_and_a_key_chooses(open_saved, nets):
    student, teacher = nets(seed=1), nets(seed=2)
    nested = {"student": student.state_dict(), "teacher": teacher.state_dict()}
    flat = {"state_dict": prefixed("student.", student.state_dict()) | prefixed("teacher.", teacher.state_dict())}
    for value in (nested, flat):
        with pytest.raises(LoadError, match=r"student, .*teacher.*--key"):
            open_saved(value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LoadWarning)
            assert torch.equal(open_saved(value, key="teacher")(X), teacher(X))
        with pytest.raises(LoadError, match=r"--key pupil.*student"):
            open_saved(value, key="pupil")


def test_a_key_may_be_the_first_part_the_last_part_or_all_of_a_path(open_saved, nets):
    student, teacher = nets(seed=1), nets(seed=2)
    value = {
        "student": prefixed("module.backbone.", student.state_dict()) | {"module.head.w": torch.ones(2)},
        "best": {"teacher": teacher.state_dict(), "averages": [torch.ones(2)]},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoadWarning)
        for key, net in (("student", student), ("teacher", teacher), ("best", teacher), ("best.teacher", teacher)):
            assert torch.equal(open_saved(value, key=key)(X), net(X))


def test_weights_that_do_not_fit_the_architecture_are_no_candidates(open_saved, nets):
    generator, discriminator = nets(width=8), nets(width=16)
    value = {"discriminator": discriminator.state_dict(), "generator": generator.state_dict()}
    with pytest.warns(LoadWarning, match=r"under generator were taken.*discriminator"):
        assert torch.equal(open_saved(value)(X), generator(X))
    with pytest.raises(LoadError, match=r"under discriminator\) does not fit.*generator"):
        open_saved(value, "Wrapping")


def test_a_training_class_may_hold_more_than_the_network(open_saved, nets):
    net = nets()
    state = prefixed("model.", net.state_dict()) | {
        "criterion.weight": torch.ones(3),
        "accuracy.total": torch.tensor(4),
    }
    with pytest.warns(LoadWarning, match=r"under model were taken. Left out: criterion.weight, accuracy.total"):
        opened = open_saved({"state_dict": state, "pytorch-lightning_version": "2.6.0", "epoch": 1})
    assert torch.equal(opened(X), net(X))
    state["model.extra"] = torch.ones(1)  # beside the network's own names: not the same network
    with pytest.raises(LoadError, match=r"unexpected extra"):
        open_saved({"state_dict": state})


WRAPPED = ["module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module._orig_mod"]


@pytest.mark.parametrize("word", WRAPPED)
def test_words_of_wrappers_are_taken_off_wherever_they_stand(open_saved, nets, word):
    net = nets()
    inside = {k.replace("encoder.", f"encoder.{word}."): v for k, v in net.state_dict().items()}
    for state in (prefixed(f"{word}.", net.state_dict()), inside, prefixed("net._orig_mod.", inside)):
        assert torch.equal(open_saved({"state_dict": state})(X), net(X))


def test_words_of_wrappers_in_the_names_of_the_network_stay(open_saved, nets):
    net = nets("Wrapping")
    states = [net.state_dict(), prefixed("module.", net.state_dict()), prefixed("_orig_mod.module.", net.state_dict())]
    for state in states:
        assert torch.equal(open_saved(state, "Wrapping")(X), net(X))


def test_averaged_models_of_torch_open(open_saved, nets):
    net = nets()
    averaged = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    averaged.update_parameters(nets(seed=5))
    averaged.update_parameters(nets(seed=6))
    with pytest.warns(LoadWarning, match="n_averaged"):
        opened = open_saved(averaged.state_dict())
    assert torch.equal(opened(X), averaged.module.eval()(X))


def test_modules_in_a_checkpoint_open_with_trust_alone(tmp_path):
    net, other = nn.Sequential(nn.Linear(6, 3)), nn.Sequential(nn.Linear(6, 3))
    torch.save({"epoch": 9, "model": net, "ema": None, "train_args": {"size": 640}}, tmp_path / "best.pt")
    assert torch.equal(load_model(tmp_path / "best.pt", trust=True)(X), net(X))
    with pytest.raises(UntrustedError, match=r"Sequential.*--trust"):
        load_model(tmp_path / "best.pt")
    torch.save({"model": net, "ema": other}, tmp_path / "two.pt")
    with pytest.warns(LoadWarning, match=r"under model was taken.*ema"):
        assert torch.equal(load_model(tmp_path / "two.pt", trust=True)(X), net(X))
    assert torch.equal(load_model(tmp_path / "two.pt", trust=True, key="ema")(X), other(X))
    with pytest.raises(LoadError, match=r"--key head.*model, ema"):
        load_model(tmp_path / "two.pt", trust=True, key="head")


class Settings(dict):
    """Stands for a subclass of dict."""


def test_settings_beside_weights_are_read_as_nothing_and_their_classes_are_never_imported(
    open_saved, nets, tmp_path, code_dir
):
    net = nets()
    value = {
        "model": net.state_dict(),
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b"), best=np.float64(0.5), kind=int),
        "history": collections.defaultdict(list, loss=[1.0]),
        "array": np.ones(3),
    }
    assert torch.equal(open_saved(value)(X), net(X))
    Settings.__module__, Settings.__qualname__ = "easydict", "EasyDict"  # not installed here
    try:
        sys.modules["easydict"] = types.SimpleNamespace(EasyDict=Settings)
        torch.save({"model": net.state_dict(), "settings": Settings(lr=0.1)}, tmp_path / "m.pt")
    finally:
        del sys.modules["easydict"]
    opened = load_model(tmp_path / "m.pt", arch="checkpoint_nets:Net", code_dir=code_dir)
    assert torch.equal(opened(X), net(X))
    assert "easydict" not in sys.modules


def test_settings_are_read_alike_whatever_other_packages_have_allowed(open_saved, nets):
    net = nets()
    value = {"model": net.state_dict(), "history": collections.defaultdict(list, loss=[1.0]), "best": np.float64(0.5)}
    # PyTorch takes any of several objects of one name, in the order of a set: with thirty the stand-in is seldom the last
    kinds = [type(f"Kind{k}", (collections.defaultdict,), {}) for k in range(30)]
    theirs = [dict, list, collections.defaultdict, *((kind, "collections.defaultdict") for kind in kinds)]
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(theirs)
    try:
        assert torch.equal(open_saved(value)(X), net(X))
        assert set(torch.serialization.get_safe_globals()) == {*before, *theirs}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_extra_state_reaches_its_module_and_is_missed_where_it_lacks(open_saved, nets):
    net = nets("Counting")
    assert open_saved(net.state_dict(), "Counting").steps == 3
    with pytest.raises(LoadError, match=r"missing _extra_state"):
        open_saved(nets().state_dict(), "Counting")
    with pytest.raises(LoadError, match=r"unexpected _extra_state"):
        open_saved(net.state_dict())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]
)
def test_weights_in_other_precisions_are_the_same_numbers(open_saved, nets, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in nets().state_dict().items()}
    opened = open_saved(state)
    for name, tensor in opened.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)), name


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_integers_and_complex_numbers_do_not_become_weights(open_saved, nets, dtype):
    state = nets().state_dict()
    state["head.weight"] = state["head.weight"].to(dtype)
    with pytest.raises(LoadError, match=r"head.weight holds (int8|complex) numbers"):
        open_saved(state)


def test_pruned_weights_are_multiplied_by_their_masks(open_saved, nets):
    net = nets()
    prune.l1_unstructured(net.head, "weight", amount=0.5)
    prune.random_unstructured(net.head, "bias", amount=1)
    prune.ln_structured(net.encoder[0], "weight", amount=2, n=2, dim=0)
    opened = open_saved({"state_dict": prefixed("module.", net.state_dict())})
    assert torch.equal(opened(X), net(X))
    assert int((opened.head.weight == 0).sum()) == 12


WIDE, HIGH = torch.ones(1, 2**21), torch.ones(2**21, 1)  # their product has 16 TiB


@pytest.mark.parametrize(
    "parts",
    [
        {"weight_orig": WIDE, "weight_mask": HIGH},
        {"weight_g": HIGH, "weight_v": WIDE},
        {"parametrizations.weight.original0": HIGH, "parametrizations.weight.original1": WIDE},
        {"weight_orig": torch.ones(3, 8), "weight_mask": torch.ones(8, 3)},
        {"weight_g": torch.ones(3, 1), "weight_v": torch.ones(3, 8, dtype=torch.int64)},
    ],
)
def test_parts_of_a_weight_without_a_product_are_refused_before_they_are_multiplied(open_saved, nets, parts):
    state = nets().state_dict()
    del state["head.weight"]
    with pytest.raises(LoadError, match=r"the weight head\.weight is stored in parts that cannot be multiplied"):
        open_saved({**state, **{f"head.{name}": part for name, part in parts.items()}})


def test_weight_norm_opens_under_both_pairs_of_names_and_without(open_saved, nets):
    x = torch.linspace(-1, 1, 40).reshape(2, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old kind is deprecated
        for stored in ("old", "new"):
            net = nets("Normed", kind=stored)
            for built in ("old", "new", None):
                opened = open_saved(net.state_dict(), "Normed", arch_args={"kind": built})
                assert torch.allclose(opened(x), net(x), atol=1e-6), (stored, built)


def test_what_does_not_fit_is_told_by_the_names_behind_the_prefix(open_saved, nets):
    state = prefixed("module.", nets(width=8).state_dict())
    with pytest.raises(LoadError, match=r"under model\).*encoder.0.weight is \(8, 6\), not \(16, 6\).*also has ema"):
        open_saved({"model": state, "ema": state}, arch_args={"width": 16})
    flat = {"_fsdp_wrapped_module._flat_param": torch.ones(9)}
    with pytest.raises(LoadError, match=r"flat parameters of FSDP"):
        open_saved(flat)
    adapted = {
        "base_model.model.head.base_layer.weight": torch.ones(3, 8),
        "base_model.model.head.lora_A.default.weight": torch.ones(2, 8),
    }
    with pytest.raises(LoadError, match=r"LoRA.*lora_A.*merge_and_unload"):
        open_saved(adapted)


def test_a_file_without_weights_is_told_with_its_keys(tmp_path):
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "m.pt")
    with pytest.raises(LoadError, match=r"keys epoch, loss and no state dict"):
        load_model(tmp_path / "m.pt", arch="torch.nn:Identity")
    torch.save({"ema": {"w": torch.ones(2)}}, tmp_path / "m.pt")
    with pytest.raises(LoadError, match=r"under ema\) without an architecture"):
        load_model(tmp_path / "m.pt")
