"""``--rules module:TABLE`` gives a rule that is missing, in the way that the message about it asks for."""

import pytest
import torch
from command_line import run

from netgraph.errors import PluginError
from netgraph.rules import registry

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu()) + torch.geqrf(x)[0].sum()


def pin_all(call):
    for space in call.spaces("self"):
        call.pin(space, "factored")
    return [[call.new_pinned_space(n, "factored") for n in shape] for shape in call.output_shapes()]


RULES = {"aten.geqrf": pin_all}
WRONG = {"geqrf": 1}
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words of a command on a network with an operator that has no rule."""
    monkeypatch.setattr(registry, "_ADDED", {})
    registry.forget_rules()
    (tmp_path / "factored_network.py").write_text(SOURCE)
    torch.save({"a.weight": torch.randn(8, 5), "a.bias": torch.randn(8), "b.weight": torch.randn(3, 8), "b.bias": torch.randn(3)}, tmp_path / "w.pt")  # fmt: skip
    yield ("verify", tmp_path / "w.pt", "--arch", "factored_network:Net", "--code-dir", tmp_path, "--input", "2x5")
    registry.forget_rules()


def test_a_missing_rule_is_given_by_name(words):
    code, _, error = run(*words)
    assert code == 1
    assert "aten.geqrf has no rule" in error
    assert "--rules module:TABLE" in error
    assert run(*words, "--rules", "factored_network:RULES")[0] == 0


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("factored_network", "names no table"),
        ("factored_network:NONE", "has no attribute 'NONE'"),
        ("no_such_module:RULES", "No module named"),
        ("factored_network:WRONG", "a dict of operator names and functions"),
    ],
)
def test_a_table_that_is_none_is_refused(words, reference, reason):
    code, _, error = run(*words, "--rules", reference)
    assert code == 1
    assert reason in error


def test_rules_are_added_in_python(words):
    registry.add_rules({"mylib.swish": lambda call: call.spaces("self")})
    assert "mylib.swish" in registry.load_rules()
    with pytest.raises(PluginError):
        registry.add_rules([("mylib.swish", None)])
