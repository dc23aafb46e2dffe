"""Numbers that are not finite are named, in the verdict, in the report and by the exit code."""

import json

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.finite_values import find_nonfinite_outputs
from tests.support.command_line import run

ARCH = ("--arch", "netgraph.models.perceptron:mlp", "--arch-arg", "sizes=(6,8,3)", "--input", "4x6")


def save_mlp(path, change):
    from netgraph.models import mlp

    torch.manual_seed(0)
    state = mlp((6, 8, 3)).state_dict()
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_verify_fails_a_network_whose_outputs_are_not_finite(tmp_path, name, value):
    save_mlp(tmp_path / "m.pt", lambda state: state[name].fill_(value))
    code, out, err = run("verify", tmp_path / "m.pt", *ARCH)
    assert code == 4
    assert "numbers of its outputs are not finite" in out
    assert f"{name} is not finite" in err
    code, out, _ = run("verify", tmp_path / "m.pt", *ARCH, "--json")
    assert code == 4
    row = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))[0]
    assert (row["oracle"], row["error"], row["passes"]) == ("finite", None, False)


class Divides(nn.Module):
    """Answers nan although all weights are finite."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))) / x.new_zeros(())


class Masks(nn.Module):
    """Minus infinity is a mask and no fault."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))).masked_fill(torch.tensor([True, False, False]), -torch.inf)


def test_the_verdict_looks_at_outputs_and_spares_masks():
    x = torch.randn(4, 6)
    net = Divides()
    verdicts = ng.verify(net, ng.trace(net, x, prove=False), x)
    assert [(v.oracle, v.passes(1.0)) for v in verdicts] == [("finite", False)]
    assert find_nonfinite_outputs(Masks(), x) is None
    assert find_nonfinite_outputs(nn.Linear(6, 2), x) is None


def test_merging_that_overflows_is_named_in_the_report_and_by_the_exit_code(tmp_path):
    save_mlp(tmp_path / "m.pt", lambda state: state["2.weight"].fill_(60000.0))
    torch.save({k: v.half() for k, v in torch.load(tmp_path / "m.pt").items()}, tmp_path / "m.pt")
    from netgraph.models import mlp

    net = mlp((6, 8, 3)).half()
    net.load_state_dict(torch.load(tmp_path / "m.pt"))
    level = ng.build_hierarchy(net, torch.zeros(4, 6).half()).levels[1]
    assert level.reasons["overflowed"] == ["2.weight"]
    own = tmp_path / "half.safetensors"
    ng.save(ng.build_hierarchy(mlp((6, 8, 3)).half(), torch.zeros(4, 6).half()).levels[1].model, own)
    from netgraph.io.bundle import read_bundle, write_bundle

    tensors, document = read_bundle(own)
    tensors["2.weight"].fill_(60000.0)
    write_bundle(own, tensors, document)
    code, out, err = run("coarsen", own, "--input", "4x6:float16")
    assert code == 4
    assert "not finite: sums of merged weights overflow float16 in 2.weight. Coarsen the network in float32" in out
    assert "level 1 is not finite" in err
