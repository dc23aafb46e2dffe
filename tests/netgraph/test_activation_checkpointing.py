"""Recomputed activations give the same gradients from fewer stored numbers."""

import pytest
import torch
from nets import Fn
from torch import nn

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.models.cnn import resnet20
from netgraph.models.transformer import Decoder, Encoder
from netgraph.recording.activation_checkpointing import recompute_activations, split_segments
from netgraph.recording.interpreter import SWITCH

TOKENS = torch.randint(1, 40, (3, 12), generator=torch.Generator().manual_seed(0))
SIZES = {"width": 16, "n_heads": 4, "n_hidden": 24, "length": 12, "depth": 3, "dropout": 0.3}


def train_step(network):
    """Return the gradients of a training step with seeded dropout, and the number of tensor elements stored for them."""
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network.train().zero_grad()
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(TOKENS).square().mean()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize("make", [Encoder, Decoder])
def test_every_level_has_the_same_gradients_and_keeps_less(make):
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(make(40, **SIZES), TOKENS)
    for level in hierarchy.levels:
        plain, much = train_step(level.model)
        recompute_activations(level.model)
        again, little = train_step(level.model)
        assert all(torch.equal(plain[name], again[name]) for name in plain)
        assert little < much / 2
        with torch.no_grad():
            level.model.eval()(TOKENS)


def test_segments_hold_every_step_once_and_number_about_the_square_root():
    steps = ng.build_hierarchy(Encoder(40, **SIZES), TOKENS).levels[1].model.steps("train")
    parts = split_segments(steps)
    assert [step for part, _, _ in parts for step in part] == steps.steps
    assert abs(len(parts) - len(steps.steps) ** 0.5) <= 2


def test_a_copy_of_a_recomputing_network_recomputes_independently(tmp_path):
    network = ng.build_hierarchy(Encoder(40, **SIZES), TOKENS).levels[1].model
    recompute_activations(network)
    torch.save(network, tmp_path / "network.pt")
    copy = torch.load(tmp_path / "network.pt", weights_only=False)
    with torch.no_grad():
        next(copy.parameters()).add_(1.0)
    assert not torch.equal(train_step(copy)[0]["head.weight"], train_step(network)[0]["head.weight"])


def test_operators_that_cannot_run_twice_are_named():
    images = torch.randn(2, 3, 32, 32)
    coarse = ng.build_hierarchy(resnet20(width=4), images).levels[1].model
    with pytest.raises(NetgraphError, match="batch norm, which counts each batch"):
        recompute_activations(coarse)
    writing = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    with pytest.raises(NetgraphError, match="aten::relu_, which writes in place"):
        recompute_activations(ng.build_hierarchy(writing, torch.randn(2, 5)).levels[1].model)
    normed = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2))
    with pytest.raises(NetgraphError, match="batch norm, which counts each batch"):
        recompute_activations(ng.build_hierarchy(normed, torch.randn(2, 5)).levels[1].model)
    with pytest.raises(
        NetgraphError, match=r"batch norm stem.1 counts each batch .* on coarser levels\. Train without"
    ):
        recompute_activations(resnet20(width=4))
    written = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    with pytest.raises(NetgraphError, match="writes in place"):
        recompute_activations(ng.build_hierarchy(written, torch.randn(2, 5)).levels[1].model)
    with pytest.raises(NetgraphError, match="a Sequential has no attribute recompute"):
        recompute_activations(written)


def half_blind(m, x):
    with torch.no_grad():
        seen = m.a(x).relu()
    return m.c((seen + m.b(x)).relu())


def test_no_grad_blocks_stay_without_gradients_and_the_switch_of_the_caller_wins():
    model, x = Fn(half_blind, a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(8, 2)), torch.randn(3, 5)
    network = ng.build_hierarchy(model, x).levels[1].model
    assert SWITCH in {step.function for step in network.steps("eval").steps}
    network(x).sum().backward()
    blind = {name for name, p in network.named_parameters() if p.grad is None}
    assert blind == {"a.weight", "a.bias"}
    with torch.no_grad():
        assert not network(x).requires_grad
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
