"""The sets of operators by property, judged by PyTorch: each operator of a set runs on random numbers."""

from collections import Counter

import pytest
import torch
from nets import Fn
from torch import nn

import netgraph as ng
from netgraph.analysis.remove_blocks import drop_blocks
from netgraph.analysis.residual_chains import PROPORTIONAL_TO_FIRST, find_chains
from netgraph.analysis.row_provenance import KEEPS_PLACES, MOVES
from netgraph.coarsen.repair.relu_scale import find_scalable_axes
from netgraph.coarsen.user_class.factor_folding import find_parameter_factors
from netgraph.recording.recorder import record_network
from netgraph.rules import operators
from netgraph.tracing.unit_spec import Factor

ATEN = torch.ops.aten
P = 0.25
CALLS = {  # operator: overload, and its arguments but for the first
    "to": ("dtype", torch.float32), "_to_copy": ("default",), "contiguous": ("default",), "clone": ("default",),
    "detach": ("default",), "alias": ("default",), "lift_fresh": ("default",), "lift_fresh_copy": ("default",),
    "positive": ("default",), "resolve_conj": ("default",), "resolve_neg": ("default",),
    "view": ("default", [6, 8]), "_unsafe_view": ("default", [6, 8]), "reshape": ("default", [4, -1]), "flatten": ("using_ints", 1),
    "unflatten": ("int", 1, [2, 3]), "ravel": ("default",), "squeeze": ("dim", 0), "unsqueeze": ("default", 1),
    "permute": ("default", [2, 0, 1]), "transpose": ("int", 0, 2), "t": ("default",), "mT": ("default",), "numpy_T": ("default",),
    "swapaxes": ("default", 0, 2), "swapdims": ("default", 0, 2), "movedim": ("int", 0, 2), "moveaxis": ("int", 0, 2),
    "select": ("int", 2, 1), "slice": ("Tensor", 2, 1, 4, 2), "narrow": ("default", 2, 1, 2), "split": ("Tensor", 3, 2),
    "split_with_sizes": ("default", [1, 3], 2), "chunk": ("default", 2, 2), "unbind": ("int", 2),
    "expand": ("default", [3, 2, 6, 4]), "expand_as": ("default", torch.empty(3, 2, 6, 4)), "broadcast_to": ("default", [3, 2, 6, 4]),
    "repeat": ("default", [2, 1, 3]), "repeat_interleave": ("self_int", 3, 2),
    "cat": ("default", 1), "concat": ("default", 1), "concatenate": ("default", 1), "stack": ("default", 1),
    "dropout": ("default", P, True), "dropout_": ("default", P, True), "feature_dropout": ("default", P, True),
    "feature_dropout_": ("default", P, True),
    "relu": ("default",), "relu_": ("default",), "leaky_relu": ("default", 0.1), "leaky_relu_": ("default", 0.1), "neg": ("default",),
    "type_as": ("default", torch.empty(1, dtype=torch.float32)), "index_select": ("default", 2, torch.tensor([3, 1, 1])),
    "sum": ("dim_IntList", [2]), "mean": ("dim", [2]),
    **{f"max_pool{n}d": ("default", [2] * n, [1] * n, [1] * n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": ("default", [2] * n, [1] * n, [1] * n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": ("default", [3] * n) for n in (1, 2, 3)},
}  # fmt: skip
SHAPES = {  # of the first argument, where it is not (2, 6, 4); the units run over dimension 1
    "squeeze": (1, 6, 4), "t": (4, 6), "view": (2, 6, 4),
    **{f"{kind}{n}d": (2, 6, *(4, 5, 3)[:n]) for kind in ("max_pool", "avg_pool", "adaptive_avg_pool") for n in (1, 2, 3)},
}  # fmt: skip


def example_of(operator):
    """Return numbers for an operator's first argument, no two of them alike, and half of them negative."""
    shape = SHAPES.get(operator.removeprefix("aten."), (2, 6, 4))
    n = torch.Size(shape).numel()
    return (torch.randperm(n, generator=torch.Generator().manual_seed(n)).double() - n // 2 + 0.5).view(shape)


def run(operator, x, *arguments):
    """Return an operator's result on numbers of its own, with the same random draws in every call."""
    name = operator.removeprefix("aten.")
    overload, *given = CALLS[name]
    torch.manual_seed(0)
    x = [part.clone() for part in x] if isinstance(x, list) else x.clone()
    return getattr(getattr(ATEN, name), overload)(x, *(arguments or given))


def count_numbers(*tensors):
    return Counter(number for tensor in tensors for number in tensor.flatten().tolist())


def each(operators_):
    return pytest.mark.parametrize("operator", sorted(operators_))


@each(operators.COPIES)
def test_a_copy_has_the_shape_and_the_numbers_of_its_operand(operator):
    x = example_of(operator)
    torch.testing.assert_close(run(operator, x).double(), x, rtol=0, atol=0)


@each(operators.VIEWS)
def test_a_view_holds_every_number_once(operator):
    x = example_of(operator)
    assert count_numbers(run(operator, x)) == count_numbers(x)


@each(operators.PARTS)
def test_each_part_holds_numbers_of_the_whole_once(operator):
    x = example_of(operator)
    result = run(operator, x)
    for part in [result] if isinstance(result, torch.Tensor) else result:
        assert count_numbers(part) < count_numbers(x)


@each(operators.EXPANSIONS | operators.REPEATS)
def test_an_expansion_holds_every_number_equally_often(operator):
    x = example_of(operator)
    counts = count_numbers(run(operator, x))
    assert counts.keys() == count_numbers(x).keys()
    assert len(set(counts.values())) == 1 < counts.most_common(1)[0][1]


@each(operators.JOINS)
def test_a_join_holds_every_number_of_every_operand_once(operator):
    x = example_of(operator)
    assert count_numbers(run(operator, [x, x + 1000])) == count_numbers(x, x + 1000)


@each(operators.DROPOUTS)
def test_dropout_is_the_identity_in_evaluation_and_a_random_factor_in_training(operator):
    x = example_of(operator)
    assert torch.equal(run(operator, x, P, False), x)
    factors = run(operator, x) / x
    assert {round(f, 9) for f in factors.flatten().tolist()} == {0.0, round(1 / (1 - P), 9)}
    torch.testing.assert_close(run(operator, -3 * x) / (-3 * x), factors)


@each(operators.POSITIVELY_HOMOGENEOUS)
@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_a_positive_factor_passes_through(operator, factor):
    x = example_of(operator)
    results = run(operator, x), run(operator, factor * x)
    for once, scaled in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in results), strict=True):
        torch.testing.assert_close(scaled, factor * once)


@each(operators.POSITIVELY_HOMOGENEOUS - operators.PARTS)
def test_positive_factors_of_units_pass_through_unit_by_unit(operator):
    """f(s x) f(1) = f(s) f(x), where s is one number for each unit: what `relu_scale` asks for."""
    x = example_of(operator)
    s = (torch.arange(6.0).double() + 1).view(6, *[1] * (x.ndim - 2)).expand(x.shape)
    f = [run(operator, argument) for argument in (s * x, torch.ones_like(x), s, x)]
    torch.testing.assert_close(f[0] * f[1], f[2] * f[3])


@each(PROPORTIONAL_TO_FIRST)
def test_a_branch_is_proportional_to_its_end_through_these_operators(operator):
    x = example_of(operator)
    torch.testing.assert_close(run(operator, -0.5 * x), -0.5 * run(operator, x))


@each(KEEPS_PLACES)
def test_numbers_that_stay_in_place_are_multiplied_by_one_number(operator):
    x = example_of(operator)
    factors = run(operator, x).double() / x
    assert len({round(abs(f), 9) for f in factors.flatten().tolist()} - {0.0}) == 1


@each(MOVES - {"aten.view", "aten._unsafe_view"})  # which row numbers go through as reshapes
def test_a_move_of_row_numbers_that_share_memory_makes_no_other_numbers(operator):
    name = operator.removeprefix("aten.")
    overload, *arguments = CALLS[name]
    shape = SHAPES.get(name, (2, 6, 4))
    ids = torch.arange(shape[-1]).expand(shape)
    result = getattr(getattr(ATEN, name), overload)([ids, ids] if operator in operators.JOINS else ids, *arguments)
    for tensor in [result] if isinstance(result, torch.Tensor) else result:
        assert set(tensor.flatten().tolist()) <= set(range(shape[-1]))
    assert torch.equal(ids, torch.arange(shape[-1]).expand(shape))


@each(operators.LAYERS)
def test_a_layer_is_linear_in_its_operand(operator):
    n = 0 if operator == "aten.linear" else int(operator[-2])
    layer = getattr(ATEN, operator.removeprefix("aten.")).default
    x, y = torch.randn(2, 2, 3, *[5] * n, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, *[2] * n, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    offset = layer(torch.zeros_like(x), weight, bias)
    torch.testing.assert_close(
        layer(2 * x - y, weight, bias) - offset, 2 * layer(x, weight, None) - layer(y, weight, None)
    )


@each(operators.NORMS)
def test_a_norm_leaves_numbers_in_their_places_and_forgets_their_scale(operator):
    norm = getattr(ATEN, operator.removeprefix("aten.")).default
    x, order = torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(norm(x[..., order], [4], None, *[None] * ("layer" in operator), eps=0.0), norm(
        x, [4], None, *[None] * ("layer" in operator), eps=0.0)[..., order])  # fmt: skip
    torch.testing.assert_close(norm(5 * x, [4], eps=0.0), norm(x, [4], eps=0.0))


def test_conversions_to_integers_and_readings_of_bits_pass_no_factor():
    def passing(forward):
        graph = record_network(Fn(forward), torch.randn(2, 4), training=False).graph
        calls = [node for node in graph.nodes if node.op == "call_function"]
        return [operators.passes_positive_factor(node) for node in calls]

    assert passing(lambda m, x: x.to(torch.float64).relu().view(4, 2)) == [True, True, True]
    assert passing(lambda m, x: x.to(torch.int64)) == [False]
    assert passing(lambda m, x: x.view(torch.float16)) == [False]
    assert passing(lambda m, x: x.sigmoid()) == [False]


class Residual(nn.Module):
    """Adds a branch to a copy of its input."""

    def __init__(self, copy):
        super().__init__()
        self.a, self.b, self.copy = nn.Linear(6, 8), nn.Linear(8, 6), copy

    def forward(self, x):
        return self.copy(x) + self.b(self.a(x).relu()).swapaxes(0, 1).moveaxis(0, 1)


@pytest.mark.parametrize(
    "copy", [torch.clone, torch.Tensor.contiguous, torch.detach], ids=["clone", "contiguous", "detach"]
)
def test_blocks_that_add_to_a_copy_of_the_stream_are_a_chain_and_merge(copy):
    model = nn.Sequential(nn.Linear(5, 6), nn.Sequential(*(Residual(copy) for _ in range(3))), nn.Linear(6, 2))
    x = torch.randn(4, 5)
    (chain,), reasons = find_chains(ng.trace(model, x))
    assert chain.blocks == ("1.0", "1.1", "1.2"), reasons
    spec = drop_blocks(ng.trace(model, x), dict(model.named_parameters()), {"1.1"})
    shorter = nn.Sequential(model[0], nn.Sequential(model[1][0], model[1][2]), model[2])
    x = torch.randn(9, 5)
    torch.testing.assert_close(ng.coarse_network(model, spec, {})(x), shorter(x))


def test_scales_of_relu_units_pass_through_every_view_and_copy_in_front_of_a_layer():
    net = Fn(
        lambda m, x: m.b(m.a(x).relu().unsqueeze(1).expand(-1, 3, -1).clone()[:, 1:].squeeze(0)),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 2),
    )
    assert set(find_scalable_axes(ng.trace(net, torch.randn(4, 5)))) == {"a"}
    rounding = Fn(lambda m, x: m.b(m.a(x).relu().to(torch.int64).float()), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert not find_scalable_axes(ng.trace(rounding, torch.randn(4, 5)))


@pytest.mark.parametrize("after", [
    lambda y: nn.functional.leaky_relu(y, 0.1).swapaxes(0, 1).moveaxis(0, 1).narrow(0, 0, 2), lambda y: (-y).detach().expand_as(torch.ones(2, 4, 8)),
    lambda y: nn.functional.max_pool1d(y[None], 2).squeeze(0), lambda y: nn.functional.adaptive_avg_pool1d(y.relu_(), 3).ravel(),
], ids=["leaky_relu and views", "negation and copies", "max_pool", "avg_pool"])  # fmt: skip
def test_a_factor_of_the_graph_moves_into_the_layer_in_front_of_these_operators(after):
    net, x = Fn(lambda m, x: after(m.a(x)), a=nn.Linear(5, 8)).double(), torch.randn(4, 5).double()
    spec = ng.trace(net, x)
    for plan in spec.plans.values():
        last = [node for node in plan.graph.nodes if node.op == "call_function"][-1]
        plan.factors = {last.name: [Factor(None, spec.parameters["a.weight"][0], 1.0)]}
    factors = find_parameter_factors(spec, spec.sizes | dict.fromkeys(spec.parameters["a.weight"][0], 2))
    once = net(x).detach()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.mul_(factors[name])
    assert factors["a.weight"] > 1
    torch.testing.assert_close(net(x).detach(), factors["a.weight"] * once)
