"""Constants of a recording: tensors that a forward makes of plain numbers. Their names never meet those of parameters."""

import torch
from nets import Fn
from torch import nn

import netgraph as ng
from netgraph.coarsen import coarse_network

ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def scale_rows(m, x):
    return m.out(m.a(x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).relu())


def make_network():
    return Fn(scale_rows, a=nn.Linear(6, 16), out=nn.Linear(16, 3)).eval()


class Named(nn.Module):
    """Parameters under the name that recordings give to constants."""

    def __init__(self):
        super().__init__()
        self.constants = nn.ParameterList([torch.randn(16, 6), torch.randn(16)])
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        weight, bias = self.constants
        return self.out(nn.functional.linear(x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), weight, bias).relu())


def test_a_coarse_network_with_constants_is_coarsened_again(tmp_path):
    coarse = ng.build_hierarchy(make_network(), ROWS, n_levels=2).levels[1].model
    ng.save(coarse, tmp_path / "coarse.safetensors")
    for network in (coarse, ng.load_model(tmp_path / "coarse.safetensors")):
        hierarchy = ng.build_hierarchy(network, ROWS, n_levels=2)
        same = coarse_network(network, ng.trace(network, ROWS), {})
        torch.testing.assert_close(same(ROWS), coarse(ROWS))
        assert hierarchy.levels[1].model(ROWS[:1]).isfinite().all()  # its constants have numbers


def test_equal_units_of_a_coarse_network_with_constants_merge_exactly():
    network = coarse_network(make_network(), ng.trace(make_network(), ROWS), {})
    for verdict in ng.verify(network, ng.trace(network, ROWS), ROWS):
        assert verdict.error is None or verdict.error < 1e-9, verdict


def test_a_network_with_parameters_of_the_name_of_constants_is_coarsened(tmp_path):
    network = Named().eval()
    spec = ng.trace(network, ROWS)
    torch.testing.assert_close(coarse_network(network, spec, {})(ROWS), network(ROWS))
    for verdict in ng.verify(network, spec, ROWS):
        assert verdict.error is None or verdict.error < 1e-9, verdict
    hierarchy = ng.build_hierarchy(network, ROWS, n_levels=2)
    ng.save(hierarchy, tmp_path / "named.hierarchy")
    loaded = ng.load(tmp_path / "named.hierarchy", arch=Named)
    for before, after in zip(hierarchy.levels, loaded.levels, strict=True):
        torch.testing.assert_close(after.model.eval()(ROWS), before.model.eval()(ROWS))
