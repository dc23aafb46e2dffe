"""Recorded networks call layers of PyTorch: what becomes a layer, what stays a plain step, and that results keep every bit.

The judges are the network's own forward, and what PyTorch's own tools do to it.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.hierarchy.serialize import load, save
from netgraph.errors import TraceError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.module_state import swap_state


def record(model: nn.Module, example: Tensor) -> GraphNetwork:
    """Return a network as its recorded graph, with no units merged."""
    return ng.coarse_network(model, ng.trace(model, example), {})


class Convolutions(nn.Module):
    """One of each layer with a weight, in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False, dilation=1, groups=1)
        self.norm = nn.BatchNorm2d(8, eps=1e-3, momentum=0.2)
        self.up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.groups = nn.GroupNorm(2, 8)
        self.same = nn.Conv2d(8, 8, (3, 5), padding="same", groups=4)
        self.strided = nn.Conv2d(8, 8, 3, stride=2)
        self.mean = nn.BatchNorm2d(8, momentum=None)
        self.own = nn.BatchNorm2d(8, track_running_stats=False)
        self.frozen = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 6)
        self.rows = nn.LayerNorm(6)
        self.scale = nn.RMSNorm(6)

    def train(self, mode: bool = True) -> Convolutions:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.up(self.norm(self.first(x)).relu()))
        x = self.frozen(self.own(self.mean(self.strided(self.same(x)))))
        return self.scale(self.rows(self.head(x.mean((2, 3)))))


class Recurrent(nn.Module):
    """Numbers of words, a recurrent layer, and scores."""

    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8, padding_idx=0)
        self.rows = getattr(nn, kind)(8, 6, batch_first=True, **options)
        self.scores = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.rows(self.words(x))[0])


def _recurrent(kind: str, **options: object) -> nn.Module:
    network = Recurrent(kind, **options)
    network(WORDS)
    return network


IMAGES, WORDS = torch.randn(4, 3, 8, 8), torch.randint(0, 10, (4, 5))
NETWORKS = {
    "convolutions": (Convolutions, IMAGES),
    "lstm": (lambda: _recurrent("LSTM", num_layers=2, bidirectional=True), WORDS),
    "projected": (lambda: _recurrent("LSTM", proj_size=3, bias=False), WORDS),
    "gru": (lambda: _recurrent("GRU"), WORDS),
    "rnn": (lambda: _recurrent("RNN", nonlinearity="relu"), WORDS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_have_the_classes_and_attributes_of_the_network(name):
    build, example = NETWORKS[name]
    model = build()
    recorded = record(model, example)
    for path, layer in model.named_modules():
        if path:
            assert repr(recorded.get_submodule(path)) == repr(layer)
            assert type(recorded.get_submodule(path)) is type(layer)
    assert list(recorded.state_dict()) == list(model.state_dict())
    assert [n for n, _ in recorded.named_parameters()] == [n for n, _ in model.named_parameters()]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_evaluation_keep_every_bit_of_the_network(name):
    build, example = NETWORKS[name]
    model = build()
    recorded = record(model, example)
    for network in (model, recorded):
        network.train()
        for _ in range(2):
            network(example).square().sum().backward()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), recorded.state_dict().values(), strict=True)
    )
    gradients = [[p.grad for p in network.parameters()] for network in (model, recorded)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert torch.equal(model.eval()(example), recorded.eval()(example))
    for copied in (copy.deepcopy(recorded), pickle.loads(pickle.dumps(recorded))):
        assert torch.equal(copied(example), recorded(example))
        assert [type(m) for m in copied.modules()] == [type(m) for m in recorded.modules()]


class Odd(nn.Module):
    """Parameters that look like those of layers, and are read in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(6, 6)
        self.more.register_parameter("scale", nn.Parameter(torch.ones(6)))
        self.turned = nn.Linear(6, 6)
        self.twice = nn.Linear(6, 6)
        self.apart = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.more(x) * self.more.scale
        x = x @ self.turned.weight + self.turned.bias
        x = self.twice(self.twice(x).relu()) + self.twice.weight.sum()
        return functional.linear(x, self.apart.weight) + self.apart.bias


def test_a_layer_needs_its_whole_computation_and_its_exact_tensors():
    model, example = Odd(), torch.randn(3, 6)
    recorded = record(model, example)
    kinds = {path: type(module) for path, module in recorded.named_children()}
    assert [path for path, kind in kinds.items() if kind is nn.Linear] == ["twice"]
    assert torch.equal(recorded(example), model(example))
    calls = []
    recorded.twice.register_forward_hook(lambda *_: calls.append(1))
    recorded(example)
    assert len(calls) == 2


class Tied(nn.Module):
    """A table of words that also scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle, self.scores = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.middle(self.words(x)))


def test_a_tied_table_is_an_embedding_and_a_decoder_with_one_parameter():
    model = Tied()
    recorded = record(model, WORDS)
    assert [type(m) for m in recorded.children()] == [nn.Embedding, nn.Linear, nn.Linear]
    assert recorded.scores.weight is recorded.words.weight
    assert torch.equal(recorded(WORDS), model(WORDS))


def test_a_hook_on_a_group_of_names_is_told_never_to_run(caplog):
    recorded = record(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)), torch.randn(2, 4))
    recorded.get_submodule("0").register_forward_hook(lambda *_: None)
    assert "only groups names" in caplog.text


def test_attributes_and_modes_of_single_layers_take_effect():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    example = torch.randn(5, 4)
    recorded = record(model, example)
    for network in (model, recorded):
        network.train()
        norm = network.get_submodule("1")
        norm.momentum, norm.eps = 0.5, 1e-2
        network(example)
        norm.eval()
        network(example)
    assert torch.equal(recorded(example), model(example))
    assert torch.equal(recorded.get_submodule("1").running_mean, model[1].running_mean)


def test_stacked_parameters_run_under_vmap_as_one_after_the_other():
    recorded = record(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(2, 4))
    example = torch.randn(3, 4)
    stacked = {name: torch.randn(5, *p.shape) for name, p in recorded.named_parameters()}
    together = torch.func.vmap(lambda state: torch.func.functional_call(recorded, state, (example,)))(stacked)
    single = [torch.func.functional_call(recorded, {n: p[i] for n, p in stacked.items()}, (example,)) for i in range(5)]
    assert torch.allclose(together, torch.stack(single), atol=1e-6)


def test_replaced_weights_reach_a_recurrent_layer():
    model = _recurrent("LSTM")
    recorded = record(model, WORDS)
    state = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    with swap_state(model, state), swap_state(recorded, state):
        assert torch.equal(recorded(WORDS), model(WORDS))
    assert torch.equal(recorded(WORDS), model(WORDS))


def test_a_walk_through_the_evaluation_graph_leaves_a_training_network_as_it_was():
    model = Convolutions().train()
    recorded = record(model, IMAGES).train()
    before = {name: tensor.clone() for name, tensor in recorded.state_dict().items()}
    modes = [module.training for module in recorded.modules()]
    linear = torch.ops.aten.linear.default
    (stop,) = recorded.walk([IMAGES], (linear,))
    inputs = []
    model.eval().head.register_forward_hook(lambda layer, args, result: inputs.append(args[0]))
    model(IMAGES)
    assert torch.equal(stop.arguments[0][0], inputs[0])
    assert stop.arguments[0][1] is recorded.head.weight
    assert stop.names[1:] == ("head.weight", "head.bias")
    assert [module.training for module in recorded.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in recorded.state_dict().items())


def test_a_saved_network_and_a_pickle_without_layers_get_them(tmp_path):
    recorded = record(Convolutions(), IMAGES).eval()
    save(recorded, tmp_path / "network.safetensors")
    opened = load(tmp_path / "network.safetensors")
    older = pickle.loads(pickle.dumps(recorded))
    state = older.__getstate__()
    del state["_layers"], state["_names"]  # a pickle of an older version, with groups in the place of layers
    state["_modules"] = {name: _make_plain(module) for name, module in older.named_children()}
    upgraded = GraphNetwork.__new__(GraphNetwork)
    upgraded.__setstate__(state)
    for network in (opened, upgraded):
        assert [repr(layer) for layer in network.children()] == [repr(layer) for layer in recorded.children()]
        assert torch.equal(network(IMAGES), recorded(IMAGES))


def _make_plain(layer: nn.Module) -> nn.Module:
    """Return a module without a forward that holds the tensors of a layer."""
    plain = nn.Module()
    for name, parameter in layer.named_parameters():
        plain.register_parameter(name, parameter)
    for name, buffer in layer.named_buffers():
        plain.register_buffer(name, buffer)
    plain.training = layer.training
    return plain


def test_a_weight_that_is_gone_and_read_elsewhere_is_named():
    recorded = record(Odd(), torch.randn(3, 6))
    recorded.twice = nn.Identity()
    with pytest.raises(TraceError, match=r"reads twice\.weight, and the Identity there has no such tensor"):
        recorded(torch.randn(3, 6))
