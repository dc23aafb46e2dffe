"""Low-rank adapters in `fine_tune`: what they train, that the product is added to the weights, and what is refused.

Without the package peft only the refusals of options run.
"""

import json

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen import TuneOptions, fine_tune
from netgraph.coarsen.tuning import adapters
from netgraph.coarsen.tuning.adapters import count_states, plan_adapters
from netgraph.errors import NetgraphError
from netgraph.models import Decoder, mlp
from netgraph.optim.optimizers import find_optimizer
from tests.support.command_line import run_main

TOKENS = torch.randint(1, 30, (32, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def peft():
    adapters.prepare_torchvision()
    return pytest.importorskip("peft")


class ConvNet(nn.Module):
    def __init__(self, groups=1):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.depthwise(self.norm(self.conv(x)).relu()).mean((2, 3)))


def decoder():
    torch.manual_seed(0)
    return Decoder(30, width=16, n_hidden=32, depth=2, n_heads=2, length=6, dropout=0.0)


def list_cases():
    """Return networks that have linear layers, convolutions and tied weights, as own classes and as recorded graphs."""
    torch.manual_seed(0)
    images, model = torch.randn(32, 3, 8, 8), decoder()
    recorded = ng.build_hierarchy(model, TOKENS[:2], ratio=0.5).levels[1].model
    return [(mlp((6, 40, 3)), torch.randn(32, 6)), (ConvNet(), images), (model, TOKENS), (recorded, TOKENS)]


@pytest.mark.parametrize("case", range(4))
def test_adapters_change_each_weight_by_a_matrix_of_their_rank_and_nothing_else(peft, case):
    network, inputs = list_cases()[case]
    teacher = list_cases()[case][0]
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules = {name: type(module) for name, module in network.named_modules()}
    plan = plan_adapters(network, 2)
    losses = fine_tune(network, teacher, inputs, epochs=15, batch=16, lr=0.01, adapters="lora:2")
    assert losses[-1] < losses[0]
    after = network.state_dict()
    assert after.keys() == before.keys(), "the network opens without peft"
    assert {name: type(module) for name, module in network.named_modules()} == modules
    assert all(p.requires_grad for p in network.parameters())
    for name, tensor in after.items():
        change = (tensor - before[name]).detach()
        layer = name.removesuffix(".weight")
        if layer in plan.ranks and name != layer:
            values = torch.linalg.svdvals(change.flatten(1).double())
            assert values[0] > 1e-4, f"{name} was trained"
            assert len(values) <= 2 or values[2] < 1e-5 * values[0], f"{name} changed by a matrix of rank 2"
        else:
            assert torch.equal(tensor, before[name]), f"{name} has no adapters"


def test_the_plan_counts_what_peft_trains_and_leaves_tied_and_grouped_weights_out(peft):
    for network, _ in list_cases():
        plan = plan_adapters(network, 4)
        wrapper = adapters._wrap_layers(network, plan, 0)
        assert plan.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)
        wrapper.unload()
    assert set(plan_adapters(ConvNet(), 4).ranks) == {"conv", "head"}
    assert set(plan_adapters(nn.Sequential(nn.Sequential(nn.Linear(5, 3)), nn.Linear(3, 2)), 4).ranks.values()) == {
        3,
        2,
    }
    model = decoder()
    model.head = nn.Linear(16, 30, bias=False)
    model.head.weight = model.embedding.weight
    assert "head" not in plan_adapters(model, 4).ranks


def test_one_seed_gives_one_network(peft):
    states = []
    for seed in (1, 1, 2):
        network, teacher = decoder(), decoder()
        with torch.no_grad():
            teacher.norm.weight.mul_(2)
        fine_tune(network, teacher, TOKENS, epochs=2, seed=seed, adapters="lora")
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


class Reader(nn.Module):
    """Calls a layer, and reads its weight too."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.first(x).relu() @ self.first.weight)


def test_a_network_that_reads_a_weight_without_calling_its_layer_is_left_as_it_was(peft):
    torch.manual_seed(0)
    network, inputs = Reader(), torch.randn(32, 6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(
        NetgraphError, match="cannot be added to the weights of this Reader: its outputs then change by"
    ):
        fine_tune(network, None, inputs, torch.randn(32, 2), epochs=5, lr=0.05, adapters="lora")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(NetgraphError, match="not finite"):
        fine_tune(network, None, inputs, torch.randn(32, 2), epochs=5, lr=1e30, clip=None, adapters="lora")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_fused_layers_of_pytorch_are_trained_too(peft):
    torch.manual_seed(0)
    layer, rows = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), torch.randn(16, 4, 16)
    teacher = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    before = layer.linear1.weight.detach().clone()
    fine_tune(layer, teacher, rows, epochs=3, batch=8, adapters="lora")
    assert not torch.equal(layer.linear1.weight, before)


def test_the_command_says_what_is_trained_and_writes_a_network_without_adapters(peft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network, rows = mlp((6, 40, 3)).eval(), torch.randn(120, 6)
    hierarchy = ng.build_hierarchy(network, rows[:2])
    ng.save(hierarchy, "small.hierarchy")
    torch.save((rows, network(rows).argmax(1)), "rows.pt")
    words = ("finetune", "small.hierarchy", "--data", "rows.pt", "--epochs", "2", "--adapters", "lora:2", "--json")
    code, out, err = run_main(*words, "-o", "tuned.hierarchy")
    assert code == 0, err
    trained, others = 2 * (6 + 20) + 2 * (20 + 3), 6 * 20 + 20 + 20 * 3 + 3
    assert f"adapters on 2 layers have {trained} numbers to train in place of {others}" in err
    assert f"take {12 * trained / 1e6:.3g} MB in place of {12 * others / 1e6:.3g} MB" in err
    assert json.loads(out)["adapters"] == {"ranks": {"0": 2, "2": 2}, "trained": trained, "others": others}
    tuned = ng.load("tuned.hierarchy").levels[1].model
    assert torch.equal(tuned.state_dict()["0.bias"], hierarchy.levels[1].model.state_dict()["0.bias"])
    assert not torch.equal(tuned.state_dict()["0.weight"], hierarchy.levels[1].model.state_dict()["0.weight"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_the_states_of_an_optimizer_are_counted(optimizer):
    layer = nn.Linear(30, 20, bias=False)
    found = find_optimizer(optimizer)([{"params": [layer.weight], "weight_decay": 0.0}], lr=0.1)
    layer(torch.randn(4, 30)).sum().backward()
    found.step()
    numbers = sum(
        v.numel() for v in found.state[layer.weight].values() if isinstance(v, torch.Tensor) and v.numel() > 1
    )
    assert count_states(optimizer) == numbers / 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:0", "adapters of rank 0 cannot be"),
        ("lora:", "no adapters are called 'lora:'"),
        ("lora:x", "no adapters are called 'lora:x'"),
        ("prefix", "no adapters are called 'prefix'. Give lora, or lora:RANK"),
    ],
)
def test_words_that_are_no_adapters_are_refused(text, message):
    with pytest.raises(NetgraphError, match=message):
        TuneOptions(adapters=text).check()
    with pytest.raises(NetgraphError, match="the loss hint compares the layers that adapters"):
        TuneOptions(adapters="lora", losses=("hint",)).check()


def test_a_network_without_layers_for_adapters_is_refused_by_name(peft):
    with pytest.raises(NetgraphError, match="not tied, and this BatchNorm1d has none"):
        fine_tune(nn.BatchNorm1d(6), None, torch.randn(8, 6), torch.randn(8, 6), adapters="lora")
