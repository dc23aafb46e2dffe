"""Mixtures of experts: what merges inside experts, when experts themselves merge, and how a recording routes.

The judge of a merge is a loop in plain Python over tokens and over the experts that each of them chose.
"""

import ast
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import netgraph as ng
from netgraph.coarsen.hierarchy.report import build_report, describe_experts
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.partition.target_size import choose_n_coarse
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.recording.forward.expert_routing import BATCHED, REGISTRY, batch_experts
from netgraph.recording.operators.lookups import multiply_by_looked_up, multiply_looked_up

TOKENS = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def route_by_softmax(scores, k):
    weights, chosen = scores.softmax(-1).topk(k, -1)
    return weights, chosen


def route_by_renormalised_softmax(scores, k):
    weights, chosen = scores.softmax(-1).topk(k, -1)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_by_softmax_of_the_chosen(scores, k):
    weights, chosen = scores.topk(k, -1, sorted=False)
    return weights.softmax(-1), chosen


def route_by_sigmoid(scores, k):
    gates = scores.sigmoid()
    chosen = (gates + torch.linspace(0.01, 0.02, 1, dtype=scores.dtype)).topk(k, -1)[1]
    return gates.gather(-1, chosen), chosen


def route_within_groups(scores, k):
    """Two groups of experts: the better group, by the sum of its two best, and the k best in it."""
    groups = scores.view(*scores.shape[:-1], 2, scores.shape[-1] // 2)
    sums = groups.topk(2, -1)[0].sum(-1)
    mask = (
        torch.zeros_like(sums)
        .scatter(-1, sums.topk(1, -1)[1], 1.0)
        .unsqueeze(-1)
        .expand_as(groups)
        .reshape(scores.shape)
    )
    weights, chosen = scores.masked_fill(mask == 0, float("-inf")).topk(k, -1)
    return weights.softmax(-1), chosen


ROUTERS = (
    route_by_softmax,
    route_by_renormalised_softmax,
    route_by_softmax_of_the_chosen,
    route_by_sigmoid,
    route_within_groups,
)


class Experts(nn.Module):
    """Experts in fused parameters, between two linear layers."""

    def __init__(self, route, n_experts=8, k=4, inner=10):
        super().__init__()
        self.route, self.k = route, k
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, n_experts), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(n_experts, 8, inner))
        self.down = nn.Parameter(torch.randn(n_experts, inner, 8))
        self.bias = nn.Parameter(torch.randn(n_experts, 8))

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.route(self.gate(x), self.k)
        rows = x.repeat_interleave(self.k, 0)
        numbers = chosen.reshape(-1)
        hidden = torch.bmm(rows.unsqueeze(1), self.up[numbers]).relu()
        out = torch.bmm(hidden, self.down[numbers]).squeeze(1) + self.bias[numbers]
        return self.last((out.view(len(x), self.k, -1) * weights.unsqueeze(-1)).sum(1))


def run_in_a_loop(network, x, *, factor):
    """Return the answer of `Experts`, expert by expert of one token after the other."""
    answers = []
    for token in network.first(x):
        weights, chosen = network.route(network.gate(token), network.k)
        mixed = torch.zeros(8, dtype=x.dtype)
        for weight, number in zip(weights.tolist(), chosen.tolist(), strict=True):
            hidden = (token @ network.up[number]).clamp(min=0)
            mixed += factor * weight * (hidden @ network.down[number] + network.bias[number])
        answers.append(network.last(mixed))
    return torch.stack(answers)


def make_experts(route, **sizes):
    torch.manual_seed(0)
    return Experts(route, **sizes).double().eval()


def find_expert_axis(spec):
    return next(spec.axes[term[0]] for name, (term, *_) in spec.parameters.items() if name == "up")


@pytest.mark.parametrize("route", ROUTERS)
def test_clones_of_experts_merge_and_half_as_many_are_chosen(route):
    network = make_experts(route)
    spec = ng.trace(network, TOKENS)
    terms = spec.parameters["up"][0]
    axis = next(spec.axes[name] for name in terms if spec.axes[name].kept is None)
    transfer = ng.Transfer(np.arange(axis.size) // 2)
    state = inject(spec, {axis.name: transfer}, network.state_dict())
    with torch.no_grad():
        network.load_state_dict(prolong(spec, {axis.name: transfer}, state))  # clones in pairs
        coarse = coarse_network(network, spec, {axis.name: transfer})
        by_hand = make_experts(route, n_experts=4, k=2)
        by_hand.load_state_dict(state)
        summed_twice = 2.0 if route is route_by_sigmoid else 1.0  # gates that no sum divides count once for each clone
        torch.testing.assert_close(coarse(TOKENS), network(TOKENS))
        if route is not route_within_groups:  # its two groups keep their number
            torch.testing.assert_close(coarse(TOKENS), run_in_a_loop(by_hand, TOKENS, factor=summed_twice))
    assert coarse.up.shape == (4, 8, 10)


@pytest.mark.parametrize("route", ROUTERS)
def test_experts_their_neurons_and_all_else_merge_together(route):
    network = make_experts(route)
    spec = ng.trace(network, TOKENS)
    inner = spec.parameters["up"][2][0]
    assert {spec.axes[name].kept for name in (inner, spec.parameters["up"][1][0])} == {None}
    assert check_duplicate_units(network, spec, TOKENS, spec.free).error < 1e-12
    assert check_dead_units(network, spec, TOKENS, spec.free).error < 1e-12


@pytest.mark.parametrize(("k", "sizes"), [(4, {4, 2}), (2, {4}), (6, {4})])
def test_so_many_experts_merge_as_divide_the_number_of_the_chosen(k, sizes):
    spec = ng.trace(make_experts(route_by_softmax, k=k), TOKENS)
    axis = find_expert_axis(spec)
    assert {choose_n_coarse(axis, ratio) for ratio in (0.5, 0.25, 0.125)} == sizes
    assert axis.kind == "expert"
    smaller = spec.with_sizes({axis.name: 4})
    assert smaller.axes[axis.name].divided == axis.divided // 2
    assert {smaller.sizes[ranks] for ranks in smaller.follows} == {k // 2}


@pytest.mark.parametrize(("k", "reason"), [(1, "clones would have to be chosen together"), (3, "no common divisor")])
def test_experts_that_cannot_be_chosen_together_are_kept_by_that_reason(k, reason):
    network = make_experts(route_by_softmax, k=k)
    spec = ng.trace(network, TOKENS)
    axis = find_expert_axis(spec)
    assert reason in axis.kept
    assert f"{k} of 8 units are chosen by rank" in axis.kept
    assert check_duplicate_units(network, spec, TOKENS, spec.free).error < 1e-12


class NumbersLeave(Experts):
    """The numbers of the experts are an answer too."""

    def forward(self, x):
        return super().forward(x), self.route(self.gate(self.first(x)), self.k)[1]


class NumbersAreCounted(Experts):
    """The numbers of the experts are counted."""

    def forward(self, x):
        _, chosen = self.route(self.gate(self.first(x)), self.k)
        return super().forward(x) * functional.one_hot(chosen, 8).sum((0, 1)).amax()


@pytest.mark.parametrize(
    ("kind", "reason"), [(NumbersLeave, "output 1 holds numbers"), (NumbersAreCounted, "numbers of chosen units")]
)
def test_experts_whose_numbers_are_used_otherwise_are_kept(kind, reason):
    torch.manual_seed(0)
    spec = ng.trace(kind(route_by_softmax).double().eval(), TOKENS)
    kept = [axis.kept for axis in spec.axes.values() if axis.name in spec.used and axis.size == 8 and axis.kept]
    assert any(reason in text for text in kept)


# Look-ups of a coarse network


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor of a run has."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("table_first", [True, False])
def test_products_with_looked_up_matrices_equal_plain_ones_with_their_gradients(table_first):
    table = torch.randn(5, 4, 4, dtype=torch.float64, requires_grad=True)
    numbers = torch.randint(-5, 4, (40,))  # number 4 is never looked up from the front
    rows = torch.randn(40, 1, 4, dtype=torch.float64, requires_grad=True)
    columns = rows.detach().mT.clone().requires_grad_()
    if table_first:
        answers = multiply_looked_up(table, numbers, columns), torch.bmm(table[numbers], columns)
    else:
        answers = multiply_by_looked_up(rows, table, numbers), torch.bmm(rows, table[numbers])
    torch.testing.assert_close(*answers)
    leaves = (table, columns if table_first else rows)
    gradients = [torch.autograd.grad(answer.square().sum(), leaves) for answer in answers]
    torch.testing.assert_close(*gradients)


def test_a_coarse_network_makes_no_copy_of_an_expert_for_each_token():
    network = make_experts(route_by_softmax)
    coarse = coarse_network(network, ng.trace(network, TOKENS), {})
    many = torch.randn(200, 6, dtype=torch.float64)
    with torch.no_grad(), LargestTensor() as run:
        answer = coarse(many)
    assert run.most <= 200 * 4 * 10  # one row of the widest layer for each token and expert
    torch.testing.assert_close(answer, run_in_a_loop(network, many, factor=1.0))
    again = ng.trace(coarse, TOKENS)  # a coarse network is recorded with its look-ups as they are
    assert {axis.name for axis in again.free if axis.kind == "expert"} == {find_expert_axis(again).name}


# The report and the class


def test_the_report_counts_experts_active_parameters_and_operations_of_a_token():
    network = make_experts(route_by_softmax)
    hierarchy = ng.build_hierarchy(network, TOKENS, n_levels=2, ratio=0.5)
    for level, (n, k, width, inner) in zip(
        build_report(hierarchy)["levels"], [(8, 4, 8, 10), (4, 2, 4, 5)], strict=True
    ):
        shared = 6 * width + width + width * n + n + width * 3 + 3
        expert = 2 * width * inner + width
        assert level["parameters"] == shared + n * expert
        operations = 2 * (6 * width + width * n + k * 2 * width * inner + width * 3)
        assert level["experts"] == {
            "layers": [{"experts": n, "chosen": k}],
            "active_parameters": shared + k * expert,
            "flops_per_token": operations,
        }
    (line,) = describe_experts(hierarchy.levels[1])
    assert line.startswith("experts chosen for a token: 2 of 4 in 1 layer. It reads")
    dense = ng.build_hierarchy(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 6))
    assert "experts" not in build_report(dense)["levels"][0]


@pytest.mark.parametrize("route", [route_by_softmax, route_by_renormalised_softmax, route_by_softmax_of_the_chosen])
def test_merged_experts_come_back_in_the_class_of_the_network(route):
    hierarchy = ng.build_hierarchy(make_experts(route), TOKENS, n_levels=2, ratio=0.5)
    own = ng.own_class(hierarchy, TOKENS)
    assert (type(own), own.k, own.up.shape) == (Experts, 2, (4, 4, 5))
    torch.testing.assert_close(own(TOKENS), hierarchy.levels[1].model(TOKENS))


class FourOfThem(Experts):
    """Chooses a number of experts that is written in its code."""

    def forward(self, x):
        self.k = 4
        return super().forward(x)


def coarsen_experts(network, **options):
    return ng.build_hierarchy(network, TOKENS, ratio=0.5, **options)


@pytest.mark.parametrize(("n_levels", "factor"), [(2, 2), (3, 4)])
def test_gates_that_no_sum_divides_are_refused_by_the_class_for_their_factor(n_levels, factor):
    hierarchy = coarsen_experts(make_experts(route_by_sigmoid), n_levels=n_levels)
    with pytest.raises(ng.errors.OwnClassError, match=f"graph multiplies by {factor}, and no parameter"):
        ng.own_class(hierarchy, TOKENS)


def test_a_class_that_chooses_a_fixed_number_of_experts_is_refused_for_that():
    torch.manual_seed(0)
    network = FourOfThem(route_by_renormalised_softmax).double().eval()
    with pytest.raises(ng.errors.OwnClassError, match=r"went from 8 to 4, and those that a token chooses from 4 to 2"):
        ng.own_class(coarsen_experts(network), TOKENS)


@pytest.mark.parametrize("kind", ["factor", "number", "groups"])
def test_the_mend_of_a_refusal_for_merged_experts_works(kind):
    torch.manual_seed(0)
    network = {
        "factor": lambda: make_experts(route_by_sigmoid),
        "number": lambda: FourOfThem(route_by_softmax).double().eval(),
        "groups": lambda: make_experts(route_within_groups),
    }[kind]()
    with pytest.raises(ng.errors.OwnClassError) as refusal:
        ng.own_class(coarsen_experts(network), TOKENS)
    axes = ast.literal_eval(str(refusal.value).partition("keep=")[2].partition(" (")[0])
    hierarchy = coarsen_experts(network, keep=axes)
    own = ng.own_class(hierarchy, TOKENS)
    torch.testing.assert_close(own(TOKENS), hierarchy.levels[1].model(TOKENS))


# Experts in a list


class ListedExperts(nn.Module):
    """Experts as a list of modules. Each takes the tokens that chose it."""

    def __init__(self, look_up):
        super().__init__()
        self.look_up = look_up
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)) for _ in range(3))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = x.new_zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            row, rank = self.look_up(chosen == number)
            out = out.index_add(0, row, expert(x[row]) * weights[row, rank, None])
        return out


LOOK_UPS = {
    "where": torch.where,
    "nonzero": lambda mask: mask.nonzero(as_tuple=True),
    "columns of nonzero": lambda mask: mask.nonzero().unbind(1),
}


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
def test_listed_experts_merge_inside_and_take_other_tokens_than_the_example(look_up):
    torch.manual_seed(1)
    network = ListedExperts(look_up).double().eval()
    example, others = torch.randn(9, 6).double(), torch.randn(30, 6).double()
    spec = ng.trace(network, example)
    assert {axis.name for axis in spec.free} == {f"experts.{i}.0" for i in range(3)}
    assert check_duplicate_units(network, spec, example, spec.free).error < 1e-12
    with torch.no_grad():
        torch.testing.assert_close(coarse_network(network, spec, {})(others), network(others))


# The setting of a library


class Layer(nn.Module):
    def __init__(self, setting):
        super().__init__()
        self.config = types.SimpleNamespace(_experts_implementation_internal=setting)

    def read_setting(self):
        return self.config._experts_implementation_internal


def test_experts_are_batched_in_a_block_and_a_setting_of_ones_own_stays(monkeypatch):
    registry = types.SimpleNamespace(ALL_EXPERTS_FUNCTIONS={BATCHED: None, "mine": None})
    monkeypatch.setitem(sys.modules, REGISTRY, registry)
    network = nn.Sequential(Layer("eager"), Layer("grouped_mm"), Layer("mine"), nn.Linear(2, 2))

    def fail_in_the_block():
        with batch_experts(network):
            assert [layer.read_setting() for layer in network[:3]] == [BATCHED, BATCHED, "mine"]
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail_in_the_block()
    assert [layer.read_setting() for layer in network[:3]] == ["eager", "grouped_mm", "mine"]


SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_experts_per_tok": 2,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
NETWORKS = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {"head_dim": 8, "moe_intermediate_size": 24, "num_experts": 4},
    "Olmoe": {"num_experts": 4},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 4},
    "DeepseekV3": {**LATENT, "moe_intermediate_size": 24, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2, "topk_group": 1,
                   "first_k_dense_replace": 1},
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_ways_to_run_experts_answer_as_the_recording_and_the_setting_stays(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **NETWORKS[kind]})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    ids, others = torch.randint(3, 50, (2, 8)), torch.randint(3, 50, (3, 8))
    before = model.config._experts_implementation
    spec = ng.trace(model, ids)
    assert model.config._experts_implementation == before
    experts = [axis for axis in spec.free if axis.kind == "expert"]
    assert experts
    coarse = coarse_network(model, spec, {})
    with torch.no_grad():
        for way in ("grouped_mm", "batched_mm", "eager"):
            model.set_experts_implementation(way)
            torch.testing.assert_close(coarse(others).logits, model(others).logits, rtol=1e-4, atol=1e-6)
    for oracle in (check_duplicate_units, check_dead_units):
        assert oracle(model, spec, ids, spec.free).error < 1e-4
    assert check_duplicate_units(model, spec, ids, experts).error < 1e-4
