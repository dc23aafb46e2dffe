"""Autocast inside a network is part of its coarse networks. Judge: the network itself, whose merged units were equal."""

import copy
import json

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.errors import LoadError
from netgraph.models import mlp
from netgraph.recording.activation_checkpointing import recompute_activations, split_segments
from netgraph.recording.forward.autocast import enter_autocast
from netgraph.recording.graph_module import network_from_document


class Regions(nn.Module):
    """Layers in four kinds of regions, one within another."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.a.weight[4:], self.a.bias[4:] = self.a.weight[:4], self.a.bias[:4]

    def forward(self, x):
        if self.kind == "off":
            with torch.autocast("cpu", enabled=False):
                return self.b(self.a(x.float()).relu())
        if self.kind == "on":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = self.a(x).relu()
            return self.b(h.float())
        if self.kind == "off within on":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = self.a(x).relu()
                with torch.autocast(x.device.type, enabled=False):
                    return self.b(h.float()) * torch.ones(1, dtype=h.dtype)
        if self.kind == "decorated":
            return self.b(self.middle(x))
        with torch.autocast("cuda", enabled=False):
            return self.b(self.a(x).relu())

    @torch.autocast("cpu", enabled=False)
    def middle(self, x):
        return self.a(x).relu()


KINDS = ("off", "on", "off within on", "decorated", "of another device")


def coarse_of(kind):
    net = Regions(kind)
    return net.eval(), ng.build_hierarchy(net, torch.randn(4, 6), n_levels=2).levels[1].model.eval()


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "under autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_recorded_and_run(kind, outer):
    torch.manual_seed(0)
    net, coarse = coarse_of(kind)
    assert [tuple(p.shape) for p in coarse.parameters()] == [(4, 6), (4,), (3, 4), (3,)]
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer):
        expected, result = net(x), coarse(x)
    assert result.dtype == expected.dtype
    # a region in bfloat16 rounds sums of four units otherwise than sums of eight
    torch.testing.assert_close(result, expected, atol=2e-2 if outer or "on" in kind else 1e-5, rtol=1e-2)
    assert not torch.is_autocast_enabled("cpu")


def test_a_region_in_bfloat16_rounds_as_the_network_does():
    net = Regions("on").eval()
    spec = ng.trace(net, torch.randn(4, 6))
    same, x = ng.coarse_network(net, spec, {}), torch.randn(5, 6)
    assert torch.equal(same(x), net(x))
    assert not torch.equal(same(x), net.b(net.a(x).relu()))  # the region counts


def test_gradients_pass_through_regions():
    net = Regions("off within on")
    same = ng.coarse_network(net, ng.trace(net, torch.randn(4, 6)), {})
    x = torch.randn(5, 6)
    for network in (net, same):
        network(x).square().sum().backward()
    for expected, result in zip(net.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(result.grad, expected.grad)


def test_regions_survive_the_file_and_only_they_need_format_two(tmp_path):
    _, coarse = coarse_of("off within on")
    assert coarse.document()["format"] == 2
    ng.save(coarse, tmp_path / "coarse.safetensors")
    x = torch.randn(5, 6)
    assert torch.equal(ng.load(tmp_path / "coarse.safetensors")(x), coarse(x))
    assert ng.build_hierarchy(mlp((6, 8, 3)), x, n_levels=2).levels[1].model.document()["format"] == 1


@pytest.mark.parametrize(
    "arguments", [["cpu"], ["net", None, True, None], ["cpu", 3, True, None], ["cpu", None, [1], None]]
)
def test_a_file_with_another_region_is_refused(arguments):
    _, coarse = coarse_of("off")
    document = json.loads(json.dumps(coarse.document()))
    for graph in document["graphs"].values():
        for step in graph:
            if step[1] == "autocast:enter":
                step[2] = arguments
    with pytest.raises(LoadError):
        network_from_document(document, coarse.tensors())


def test_an_error_within_a_region_leaves_autocast_as_it_was():
    _, coarse = coarse_of("off within on")
    free = coarse.with_free_sizes()
    with pytest.raises(RuntimeError):
        free(torch.randn(5, 7))
    assert not torch.is_autocast_enabled("cpu")
    assert torch.autocast_increment_nesting() == 1  # no region is open
    torch.autocast_decrement_nesting()


def test_a_walk_pauses_outside_of_regions():
    _net, coarse = coarse_of("off within on")
    seen = []
    for site in coarse.walk([torch.randn(3, 6), torch.randn(2, 6)], {torch.ops.aten.linear.default}):
        seen.append((torch.is_autocast_enabled("cpu"), [args[0].dtype for args in site.arguments]))
    assert seen == [(False, [torch.float32] * 2), (False, [torch.float32] * 2)]
    for _ in coarse.walk([torch.randn(3, 6)], {torch.ops.aten.linear.default}):
        break  # a walk that is given up
    assert not torch.is_autocast_enabled("cpu")


def test_segments_do_not_cut_a_region():
    _, coarse = coarse_of("off within on")
    for segment, _, _ in split_segments(coarse.steps("train")):
        starts = sum(step.function is enter_autocast for step in segment)
        assert starts == 0 or segment[-1].function is not enter_autocast
    recomputed = copy.deepcopy(coarse).train()
    recompute_activations(recomputed)
    x = torch.randn(5, 6)
    torch.testing.assert_close(recomputed(x), coarse.train()(x))


def test_a_level_with_regions_is_traced_again_and_exported():
    _, coarse = coarse_of("off within on")
    x = torch.randn(5, 6)
    again = ng.coarse_network(coarse, ng.trace(coarse, x), {}).eval()
    assert torch.equal(again(x), coarse(x))
    exported = torch.export.export(coarse, (x,)).module()
    assert torch.equal(exported(x), coarse(x))
