"""Where the outputs that matter are named, the units of the other outputs merge and these outputs get smaller.

The judge is the network itself on parameters whose merged units are alike: outputs that matter are equal, and the others are those of
the network with one entry for each aggregate.
"""

import numpy as np
import pytest
import torch
from nets import Fn
from torch import nn
from typer.testing import CliRunner

import netgraph as ng
from netgraph.cli.main import app
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.errors import NetgraphError, NothingToMergeError, TraceError
from netgraph.utils.module_state import swap_state

ROWS, MORE_ROWS = (torch.randn(n, 6).double() for n in (4, 5))


def make_network():
    def run(m, x):
        hidden = m.a(x).relu()
        states = [hidden, m.b(hidden).tanh()]
        return {"logits": m.c(states[1]), "states": tuple(states), "mean": states[1].mean(0)}

    return Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 10), c=nn.Linear(10, 3)).double()


def test_all_outputs_matter_where_none_is_named():
    spec = ng.trace(make_network(), ROWS)
    assert not spec.free
    assert spec.axes["a"].kept == "a dimension of output states.0"


@pytest.mark.parametrize(
    ("outputs", "free"), [(["logits"], {"a", "b"}), (["logits", "states.0"], {"b"}), (["states"], {"c"})]
)
def test_only_the_units_of_outputs_that_matter_are_kept(outputs, free):
    model = make_network()
    spec = ng.trace(model, ROWS, outputs=outputs)
    assert {axis.name for axis in spec.free} == free
    for oracle in (check_duplicate_units, check_dead_units):
        error = oracle(model, spec, ROWS, spec.free).error
        assert (error is None) == (outputs == ["states"])  # these do not depend on the units of the logits
        assert error is None or error < 1e-12


def test_other_outputs_have_one_entry_for_each_aggregate():
    model = make_network()
    spec = ng.trace(model, ROWS, outputs=["logits"])
    transfers = {name: ng.Transfer(np.arange(n) % (n // 2)) for name, n in (("a", 8), ("b", 10))}
    state = inject(spec, transfers, traced_state(model))
    coarse = coarse_network(model, spec, transfers, state=state)
    for training in (False, True):
        coarse.train(training), model.train(training)
        with swap_state(model, prolong(spec, transfers, state)):
            expected = model(MORE_ROWS)
        found = coarse(MORE_ROWS)
        torch.testing.assert_close(found["logits"], expected["logits"])
        torch.testing.assert_close(found["states"][0], expected["states"][0][:, :4])
        torch.testing.assert_close(found["mean"], expected["mean"][:5])


def test_a_hierarchy_says_which_outputs_get_smaller_and_keeps_the_choice(tmp_path):
    model = make_network()
    hierarchy = ng.build_hierarchy(model, ROWS, outputs=["logits"], repair="tune", data=torch.randn(64, 6).double())
    assert "output states.0 gets smaller: (4, 8) becomes (4, 4), because only logits matters" in str(hierarchy)
    again = ng.build_hierarchy(model, ROWS, options=hierarchy.options, repair="none")
    assert again.levels[1].model(ROWS)["states"][1].shape == (4, 5)
    ng.save(hierarchy, tmp_path / "a.hierarchy")
    loaded = ng.load(tmp_path / "a.hierarchy", arch=make_network)
    assert loaded.levels[0].spec.outputs == ("logits",)
    assert loaded.options.outputs == ("logits",)
    torch.testing.assert_close(loaded.levels[1].model(ROWS)["logits"], hierarchy.levels[1].model(ROWS)["logits"])


def test_a_level_of_fewer_blocks_keeps_the_choice():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(4))

        def forward(self, x):
            h = self.first(x)
            for block in self.blocks:
                h = h + block(h)
            return self.last(h), h

    hierarchy = ng.build_hierarchy(Blocks().double(), ROWS, outputs=["0"], directions="channels+depth")
    logits, hidden = hierarchy.levels[1].model(ROWS)
    assert logits.shape == (4, 3)
    assert hidden.shape == (4, 4)


def test_a_mode_without_the_named_outputs_keeps_all_of_its_own():
    def run(m, x):
        h = m.a(x).relu()
        return {"logits": m.b(h), "extra": h} if m.training else m.b(h)

    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double()
    spec = ng.trace(model, ROWS, outputs=["logits"])
    assert [axis.name for axis in spec.free] == ["a"]


def test_a_network_that_returns_all_of_its_units_says_how_they_may_merge():
    with pytest.raises(
        NothingToMergeError, match=r"If only some of the outputs logits, states\.0, states\.1, mean matter, name these"
    ):
        ng.build_hierarchy(make_network(), ROWS)


def test_unknown_names_are_refused():
    with pytest.raises(
        TraceError, match=r"no output is named 'logit'\. The outputs are logits, states\.0, states\.1, mean"
    ):
        ng.trace(make_network(), ROWS, outputs=["logit"])
    single = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).double()
    with pytest.raises(TraceError, match="returns one tensor"):
        ng.build_hierarchy(single, ROWS, outputs=["logits"])
    spec = ng.trace(make_network(), ROWS)
    with pytest.raises(NetgraphError, match="the spec was traced for all outputs"):
        ng.build_hierarchy(make_network(), ROWS, outputs=["logits"], spec=spec)


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return {"logits": self.c(self.b(h).relu()), "hidden": h}
"""


def test_commands_take_the_names_of_outputs(tmp_path, monkeypatch):
    (tmp_path / "named_outputs_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    import named_outputs_net

    torch.save(named_outputs_net.Net().state_dict(), tmp_path / "net.pt")
    arguments = [str(tmp_path / "net.pt"), "--arch", "named_outputs_net:Net", "--input", "4x6", "--outputs", "logits"]
    said = {
        "coarsen": "output hidden gets smaller: (4, 8) becomes",
        "verify": "duplicate  a ",
        "inspect": "a  8 neurons  free",
    }
    for command, words in said.items():
        result = CliRunner().invoke(app, [command, *arguments])
        assert result.exit_code == 0, result.output
        assert words in result.output
    result = CliRunner().invoke(app, ["coarsen", *arguments[:-2]])
    assert "the outputs are logits, hidden. If only some of them matter, name these with --outputs" in result.output
