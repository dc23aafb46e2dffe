"""Rules of users and of other distributions: a rule that lies about its operator is named before anything merges."""

import sys

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph import plugins
from netgraph.errors import PluginError, TraceError
from netgraph.rules import registry
from netgraph.rules.pointwise import pointwise_rule
from netgraph.rules.registry import load_rules, use_rules

ATEN = torch.ops.aten


def ours_of(operator):
    return load_rules().get(operator, pointwise_rule)


class Net(nn.Module):
    """Eight units, an operation on them, and a layer that reads the result."""

    def __init__(self, operation, shape=(5, 8, 8, 3)):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.operation = nn.Linear(*shape[:2]), nn.Linear(*shape[2:]), operation
        self.square = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return self.b(self.operation(self, self.a(x)))


def names_the_wrong_axis(call):
    """``h @ W`` described as ``h @ W.T``."""
    h, weight = call.operands
    call.contract(h, 1, weight, 1)
    return [call.spaces(h)[0], call.spaces(weight)[0]]


def forgets_equal_sizes(call):
    """A mean described as a sum that needs no aggregates of one size."""
    return [space if size > 1 else () for space, size in zip(call.spaces("self"), call.shape(), strict=True)]


def forgets_the_other_operand(call):
    return call.spaces(call.operands[0])


LIES = {  # the operation, the operator and its wrong rule
    "cumsum as pointwise": (lambda net, h: h.cumsum(1), "aten.cumsum", pointwise_rule),
    "flip as pointwise": (lambda net, h: h.flip(1), "aten.flip", pointwise_rule),
    "roll as pointwise": (lambda net, h: h.roll(1, 1), "aten.roll", pointwise_rule),
    "softmax as pointwise": (lambda net, h: ATEN._softmax(h, 1, False), "aten._softmax", pointwise_rule),
    "sort as pointwise": (
        lambda net, h: h.sort(1)[0], "aten.sort", lambda call: [call.spaces("self")] * 2,
    ),
    "a product along the wrong axis": (lambda net, h: torch.mm(h, net.square), "aten.mm", names_the_wrong_axis),
    "a mean of aggregates of any sizes": (
        lambda net, h: h - h.mean(1, keepdim=True), "aten.mean", forgets_equal_sizes,
    ),
    "two operands that are not related": (lambda net, h: h.maximum(h @ net.square), "aten.maximum", forgets_the_other_operand),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_rule_that_lies_is_named_before_anything_merges(lie):
    operation, operator, rule = LIES[lie]
    example = torch.randn(4, 5)
    with use_rules({operator: rule}):
        assert ng.trace(Net(operation), example).free, "the rule lets units merge"
        with pytest.raises(
            TraceError, match=rf"the rule '{operator}' .*is wrong\. On axis .*call\.pin\(space, reason\)"
        ):
            ng.build_hierarchy(Net(operation), example)
    honest = ng.build_hierarchy(Net(operation), example) if lie.startswith("two") else None
    assert honest is None or all(v.passes(1e-4) for v in ng.verify(Net(operation), honest.levels[0].spec, example))


def test_the_proof_can_be_left_out_and_the_report_says_so():
    operation, operator, rule = LIES["flip as pointwise"]
    with use_rules({operator: rule}):
        hierarchy = ng.build_hierarchy(Net(operation), torch.randn(4, 5), prove=False)
    assert "not proven" in str(hierarchy)


def square_where_training(net, h):
    return h.cumsum(1) if net.training else h


def test_a_rule_that_training_alone_calls_is_tried_in_training():
    with (
        use_rules({"aten.cumsum": pointwise_rule}),
        pytest.raises(TraceError, match=r"rule 'aten\.cumsum' .*is wrong"),
    ):
        ng.build_hierarchy(Net(square_where_training), torch.randn(4, 5))
    with use_rules({"aten.tanh": pointwise_rule}):
        hierarchy = ng.build_hierarchy(Net(lambda net, h: h.tanh() if net.training else h), torch.randn(4, 5))
    assert hierarchy.levels[1].n_units == 4


def test_what_cannot_be_proven_is_said(caplog):
    def noisy(net, h):
        return torch.dropout(h, 0.5, train=True).cumsum(1) if net.training else h

    with use_rules({"aten.cumsum": pointwise_rule}):
        ng.build_hierarchy(Net(noisy), torch.randn(4, 5))
    assert "rule 'aten.cumsum': not proven on this network: training alone calls it, and draws random" in caplog.text


HONEST = {
    "aten.tanh": lambda net, h: h.tanh(),
    "aten.cumsum": lambda net, h: h.cumsum(1),
    "aten.flip": lambda net, h: h.flip(1),
    "aten._softmax": lambda net, h: ATEN._softmax(h, 1, False),
    "aten.sort": lambda net, h: h.sort(1)[0],
    "aten.mm": lambda net, h: torch.mm(h, net.square),
    "aten.mean": lambda net, h: h - h.mean(1, keepdim=True),
    "aten.layer_norm": lambda net, h: nn.functional.layer_norm(h, (8,)),
}


@pytest.mark.parametrize("operator", HONEST)
def test_a_right_rule_of_someone_else_passes_and_merges_what_ours_merges(operator):
    network, example = Net(HONEST[operator]), torch.randn(4, 5)
    ours = ng.trace(network, example)
    assert not ours.foreign_rules
    rule = ours_of(operator)
    with use_rules({operator: rule}):
        theirs = ng.trace(network, example)
        assert [rule.operator for rule in theirs.foreign_rules] == [operator]
        assert [axis.name for axis in theirs.free] == [axis.name for axis in ours.free]
        if ours.free:
            ng.build_hierarchy(network, example)


ANSWERS = {
    "nothing": (lambda call: None, "with a NoneType"),
    "text": (lambda call: "self", "with a str"),
    "too few spaces": (lambda call: call.spaces("self")[:1], r"with spaces of sizes \(4,\) for a result of shape \(4, 8\)"),
    "spaces of other sizes": (lambda call: call.spaces("self")[::-1], r"with spaces of sizes \(8, 4\)"),
    "sizes": (lambda call: [4, 8], "which holds other things than spaces"),
    "tensors": (lambda call: [torch.zeros(4), torch.zeros(8)], "which holds other things than spaces"),
    "lists of spaces": (lambda call: [call.spaces("self")], "which holds other things than spaces"),
    "an error": (lambda call: 1 / 0, r"fails.*ZeroDivisionError"),
    "an argument that is not there": (lambda call: call.spaces("nothing"), r"fails.*KeyError"),
    "the end of the process": (lambda call: sys.exit(3), r"fails.*SystemExit"),
    "no argument": (lambda: None, r"fails.*TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_rule_that_fails_or_answers_otherwise_is_refused_by_name(answer):
    rule, message = ANSWERS[answer]
    with use_rules({"aten.tanh": rule}), pytest.raises(TraceError, match=rf"^rule 'aten\.tanh' .*{message}"):
        ng.trace(Net(lambda net, h: h.tanh()), torch.randn(4, 5))


def test_several_results_need_a_list_of_spaces_for_each():
    def sort(net, h):
        return h.sort(1)[0]

    with (
        use_rules({"aten.sort": lambda call: call.spaces("self")}),
        pytest.raises(TraceError, match=r"rule 'aten\.sort' answers"),
    ):
        ng.trace(Net(sort), torch.randn(4, 5))
    with (
        use_rules({"aten.sort": lambda call: [call.spaces("self")]}),
        pytest.raises(TraceError, match="1 lists of spaces for 2 results"),
    ):
        ng.trace(Net(sort), torch.randn(4, 5))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution ``their-rules`` whose module has the given source."""

    def forget():
        plugins._find_entry_points.cache_clear()
        plugins.load_plugin.cache_clear()
        registry.forget_rules()

    def _install(source):
        info = tmp_path / "their_rules-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rules\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[netgraph.rules]\ntheirs = their_rules:RULES\n")
        (tmp_path / "their_rules.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        forget()

    yield _install
    monkeypatch.undo()
    sys.modules.pop("their_rules", None)
    forget()


def test_a_lie_of_an_installed_package_is_named_with_the_package_though_its_function_is_ours(install):
    install("from netgraph.rules.pointwise import pointwise_rule\nRULES = {'aten.cumsum': pointwise_rule}\n")
    with pytest.raises(TraceError, match=r"the rule 'aten\.cumsum' of their-rules at .* is wrong"):
        ng.build_hierarchy(Net(lambda net, h: h.cumsum(1)), torch.randn(4, 5))


@pytest.mark.parametrize("table", ["None", "[1]", "{'cumsum': print}", "{'aten.cumsum': 1}"])
def test_a_plugin_that_is_no_table_of_rules_is_named_with_its_distribution(install, table):
    install(f"RULES = {table}\n")
    with pytest.raises(
        PluginError, match=r"plug-in 'theirs' of their-rules is no table of rules: .* a dict of operator"
    ):
        ng.trace(Net(lambda net, h: h.cumsum(1)), torch.randn(4, 5))


CALLS = {  # a call, and the rule of netgraph for it
    "aten.tanh": (ATEN.tanh, torch.randn(2, 6)),
    "aten.log": (ATEN.log, torch.rand(2, 6) + 1),
    "aten.cumsum": (ATEN.cumsum, torch.randn(2, 6), 1),
    "aten.flip": (ATEN.flip, torch.randn(2, 6, 4), [2]),
    "aten._softmax": (ATEN._softmax, torch.randn(2, 6), 1, False),
    "aten.mean": (ATEN.mean.dim, torch.randn(2, 6, 4), [1]),
    "aten.mm": (ATEN.mm, torch.randn(2, 6), nn.Parameter(torch.randn(6, 6))),
    "aten.bmm": (ATEN.bmm, torch.randn(2, 4, 6), torch.randn(2, 6, 8)),
    "aten.conv2d": (ATEN.conv2d, torch.randn(2, 4, 6, 6), nn.Parameter(torch.randn(8, 4, 3, 3))),
    "aten.cat": (ATEN.cat, [torch.randn(2, 4), torch.randn(2, 6)], 1),
    "aten.embedding": (ATEN.embedding, nn.Parameter(torch.randn(7, 4)), torch.tensor([[1, 2], [3, 4]])),
    "aten.topk": (ATEN.topk, torch.randn(2, 6), 2),
}


@pytest.mark.parametrize("operator", CALLS)
def test_the_check_passes_the_rules_of_netgraph(operator):
    rule = ours_of(operator)
    ng.check_rule(lambda call: rule(call), *CALLS[operator])
    assert ours_of(operator) is rule
    assert rule.__module__.startswith("netgraph."), "the rule that was tried is taken back"


@pytest.mark.parametrize(
    ("operator", "rule", "place"),
    [
        ("aten.cumsum", pointwise_rule, "dimension 1 of operand 0"),
        ("aten.flip", pointwise_rule, "dimension 2 of operand 0 and dimension 2 of result 0"),
        ("aten._softmax", pointwise_rule, "dimension 1 of operand 0"),
        ("aten.mm", names_the_wrong_axis, "dimension 1 of operand 0 and dimension 1 of operand 1"),
        ("aten.mean", lambda call: [call.spaces("self")[i] for i in (0, 2)], "dimension 1 of operand 0"),
    ],
)
def test_the_check_names_the_dimensions_of_a_lie(operator, rule, place):
    with pytest.raises(TraceError, match=rf"^the rule of {operator.replace('.', '[.]')} is wrong in .*{place}"):
        ng.check_rule(rule, *CALLS[operator])


def test_the_check_says_what_it_cannot_try():
    with pytest.raises(ng.NetgraphError, match=r"is no operator of torch\.ops"):
        ng.check_rule(pointwise_rule, torch.tanh, torch.randn(2, 6))
    with pytest.raises(ng.NetgraphError, match=r"does not run on these operands \(RuntimeError"):
        ng.check_rule(pointwise_rule, ATEN.mm, torch.randn(2, 6), torch.randn(2, 6))
    with pytest.raises(ng.NetgraphError, match="returns no real numbers"):
        ng.check_rule(pointwise_rule, ATEN.argmax, torch.randn(2, 6))
