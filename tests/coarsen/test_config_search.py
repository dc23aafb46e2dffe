"""Configs with equal numbers for different things, and experts in their own class."""

import copy
import types

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.user_class.expert_setting import choose_runnable_experts


class Config:
    """Four numbers of which each may be the one that has changed."""

    def __init__(self, hidden_size=8, latent_dim=4, rope_dim=4, head_dim=4):
        self.hidden_size, self.latent_dim, self.rope_dim, self.head_dim = hidden_size, latent_dim, rope_dim, head_dim


class Latent(nn.Module):
    """One projection makes a latent vector and dimensions with an angle of their own, as latent attention does."""

    config_class = Config

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.first = nn.Linear(5, config.hidden_size)
        self.down = nn.Linear(config.hidden_size, config.latent_dim + config.rope_dim)
        self.up = nn.Linear(config.latent_dim, config.head_dim)
        self.last = nn.Linear(config.head_dim + config.rope_dim, 3)
        self.register_buffer("angles", torch.arange(1.0, config.rope_dim + 1), persistent=False)

    def save_pretrained(self, folder):
        raise NotImplementedError

    def forward(self, x):
        latent, turned = self.down(self.first(x).relu()).split([self.config.latent_dim, self.config.rope_dim], -1)
        turned = turned * self.angles.to(x) + torch.arange(self.config.rope_dim).to(x)
        return self.last(torch.cat([self.up(latent.relu()).relu(), turned], -1))


def test_equal_numbers_of_a_config_are_told_apart_by_all_shapes_together():
    torch.manual_seed(0)
    network, example = Latent(Config()).eval(), torch.randn(6, 5)
    hierarchy = ng.build_hierarchy(network, example, n_levels=2, ratio=0.5)
    own = ng.own_class(hierarchy, example)
    assert vars(own.config) == {"hidden_size": 4, "latent_dim": 2, "rope_dim": 4, "head_dim": 2}
    torch.testing.assert_close(own(example), hierarchy.levels[1].model(example))
    assert vars(network.config) == vars(Config())


class Experts(nn.Module):
    """Experts of which one way to run wants widths of a multiple of four."""

    def __init__(self, way):
        super().__init__()
        self.config = types.SimpleNamespace(_experts_implementation=way)
        self.layer = nn.Linear(6, 6)

    def set_experts_implementation(self, way):
        self.config._experts_implementation = way

    def forward(self, x):
        if self.config._experts_implementation == "grouped_mm":
            raise RuntimeError("strides should be multiple of 16 bytes")
        return self.layer(x)


@pytest.mark.parametrize(("way", "expected"), [("grouped_mm", "batched_mm"), ("eager", "eager")])
def test_experts_run_in_a_way_that_their_widths_allow(way, expected):
    network = choose_runnable_experts(Experts(way), [torch.randn(2, 6)])
    assert network.config._experts_implementation == expected
    assert copy.deepcopy(network)(torch.randn(2, 6)).shape == (2, 6)
