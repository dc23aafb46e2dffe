"""Networks in bfloat16 and float16 are verified as exactly as others, and roundoff is allowed only where it cannot be avoided."""

import dataclasses

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network import oracles
from netgraph.coarsen.network.oracles import verify
from netgraph.coarsen.network.precision import bound_roundoff
from netgraph.errors import OwnClassError

HALVES = [torch.bfloat16, torch.float16]


class Norm(nn.Module):
    """An RMS norm that computes in single precision and returns the precision of its input, as in most language models."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Block(nn.Module):
    """Attention and an MLP, with single precision inside."""

    def __init__(self, dim=16, heads=4, inner=24):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = Norm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down, self.head = nn.Linear(dim, inner), nn.Linear(inner, dim), nn.Linear(dim, 3)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2)).softmax(-1, dtype=torch.float32).to(q.dtype)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return self.head(x + self.down(torch.nn.functional.silu(self.up(x))))


class Naming(nn.Module):
    """Asks for a half precision by name, and follows its weights elsewhere."""

    def __init__(self, half):
        super().__init__()
        self.half, self.a, self.b, self.norm = half, nn.Linear(6, 8), nn.Linear(8, 3), Norm(3)

    def forward(self, x):
        return self.norm(self.b(self.a(x).to(self.half).relu().to(self.b.weight.dtype)))


@pytest.mark.parametrize("half", HALVES)
def test_a_network_of_half_precision_is_proven_to_single_precision(half):
    torch.manual_seed(0)
    net, x = Block().to(half).eval(), torch.randn(2, 5, 16).to(half)
    for verdict in verify(net, ng.trace(net, x), x):
        assert verdict.passes(1e-4), verdict
        assert verdict.roundoff == 0
    hierarchy = ng.build_hierarchy(net, x, n_levels=2)
    small = ng.own_class(hierarchy, x)
    assert {p.dtype for p in small.parameters()} == {half}
    graph = hierarchy.levels[1].model
    assert torch.allclose(small(x).float(), graph(x).float(), atol=0.05)


@pytest.mark.parametrize("half", HALVES)
def test_a_small_mistake_is_not_taken_for_roundoff(half, monkeypatch):
    net, x = Block().to(half).eval(), torch.randn(2, 5, 16).to(half)
    spec, build = ng.trace(net, x), oracles.coarse_network

    def build_wrongly(*args, **options):
        network = build(*args, **options)
        network.head.bias.data += 0.003 * network.head.bias.data.abs().max()
        return network

    monkeypatch.setattr(oracles, "coarse_network", build_wrongly)
    verdicts = verify(net, spec, x)
    assert not any(verdict.passes(1e-4) for verdict in verdicts if verdict.error is not None)
    assert max(verdict.error for verdict in verdicts if verdict.error is not None) < bound_roundoff(half, 1e-4)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("weights", [torch.float32, *HALVES])
def test_a_network_that_names_its_precision_passes_within_the_roundoff_of_it(half, weights):
    torch.manual_seed(0)
    net, x = Naming(half).to(weights).eval(), torch.randn(4, 6).to(weights)
    spec = ng.trace(net, x)
    verdicts = verify(net, spec, x)
    assert all(verdict.passes(1e-4) for verdict in verdicts)
    assert all(verdict.roundoff <= 8 * torch.finfo(torch.bfloat16).eps for verdict in verdicts)


def test_a_verdict_passes_within_tolerance_or_roundoff():
    verdict = oracles.Verdict("dead", ("a",), 0.01)
    assert not verdict.passes(1e-4)
    assert dataclasses.replace(verdict, roundoff=0.02).passes(1e-4)
    assert not dataclasses.replace(verdict, error=float("nan"), roundoff=0.02).passes(1e-4)
    assert dataclasses.replace(verdict, error=None).passes(0)


class Regrouping(Block):
    """Groups the wrong dimensions as heads once they are fewer."""

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, -1, 4).permute(2, 0, 4, 1, 3)
        weights = (q @ k.transpose(-1, -2)).softmax(-1, dtype=torch.float32).to(q.dtype)
        return self.head(x + self.out((weights @ v).permute(0, 2, 1, 3).flatten(2)))


def test_an_own_class_of_half_precision_that_computes_something_else_is_refused(monkeypatch):
    net, x = Block().bfloat16().eval(), torch.randn(2, 5, 16).bfloat16()
    hierarchy = ng.build_hierarchy(net, x, n_levels=2)
    monkeypatch.setattr(Block, "forward", Regrouping.forward)
    with pytest.raises(OwnClassError, match="differ"):
        ng.own_class(hierarchy, x)
