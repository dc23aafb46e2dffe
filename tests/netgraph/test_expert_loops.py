"""Mixtures of experts as people write them: loops that skip idle experts, dispatch by products, soft experts, experts that choose.

The judge is the network's own forward, on more rows than the example and on so few that most experts are idle.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.hierarchy.report import build_report
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network


class Mixture(nn.Module):
    """Four experts between two linear layers. ``mix`` says how they run."""

    def __init__(self, mix, n_experts=4, k=2):
        super().__init__()
        self.mix, self.n_experts, self.k = mix, n_experts, k
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, n_experts), nn.Linear(8, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(n_experts)
        )

    def choose(self, x):
        return self.gate(x).softmax(-1).topk(self.k, -1)

    def forward(self, x):
        return self.last(self.mix(self, self.first(x)))


def skip_by_any(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        mask = (chosen == number).any(-1)
        if mask.any():
            weight = (weights * (chosen == number)).sum(-1)[mask]
            out[mask] += expert(x[mask]) * weight[:, None]
    return out


def skip_by_the_item_of_any(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        mask = chosen == number
        if not mask.any().item():
            continue
        row, rank = mask.nonzero(as_tuple=True)
        out.index_add_(0, row, expert(x[row]) * weights[row, rank, None])
    return out


def skip_by_length(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        row, rank = torch.where(chosen == number)
        if len(row) == 0:
            continue
        out.index_add_(0, row, expert(x[row]) * weights[row, rank, None])
    return out


def skip_by_shape(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        places = (chosen == number).nonzero()
        if places.shape[0] > 0:
            row, rank = places[:, 0], places[:, 1]
            out.index_add_(0, row, expert(x[row]) * weights[row, rank, None])
    return out


def skip_by_sum(net, x):
    weights, chosen = net.gate(x).softmax(-1).max(-1)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        mask = chosen == number
        if mask.sum() == 0:
            continue
        out[mask] = expert(x[mask]) * weights[mask][:, None]
    return out


def run_the_experts_that_were_hit(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    with torch.no_grad():
        mask = functional.one_hot(chosen, net.n_experts + 1).permute(2, 1, 0)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
    for number in hit:
        with torch.no_grad():
            rank, row = torch.where(mask[number].squeeze(0))
        out.index_add_(0, row, net.experts[number](x[None, row].reshape(-1, 8)) * weights[row, rank, None])
    return out


def run_a_list_of_those_that_were_hit(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    mask = functional.one_hot(chosen, net.n_experts).permute(2, 1, 0)
    for number in (mask.sum((-1, -2)) > 0).nonzero(as_tuple=True)[0].tolist():
        rank, row = torch.where(mask[number])
        out.index_add_(0, row, net.experts[number](x[row]) * weights[row, rank, None])
    return out


def run_the_experts_that_occur(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number in chosen.unique().tolist():
        row, rank = torch.where(chosen == number)
        out.index_add_(0, row, net.experts[number](x[row]) * weights[row, rank, None])
    return out


def name_the_expert(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    names = {f"expert_{i}": expert for i, expert in enumerate(net.experts)}
    mask = functional.one_hot(chosen, net.n_experts).permute(2, 1, 0)
    for number in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        rank, row = torch.where(mask[number[0]])
        out.index_add_(0, row, names[f"expert_{number[0]}"](x[row]) * weights[row, rank, None])
    return out


def dispatch_with_capacity(net, x):
    """Each expert takes its first rows, up to its capacity (Lepikhin et al., GShard, ICLR 2021)."""
    weights, chosen = net.gate(x).softmax(-1).max(-1)
    hot = functional.one_hot(chosen, net.n_experts).to(x.dtype)
    place = (hot.cumsum(0) * hot).sum(-1) - 1
    seats = functional.one_hot(place.long().clamp(0, 3), 4).to(x.dtype) * (place < 4)[:, None]
    dispatch = hot[:, :, None] * seats[:, None, :]  # (rows, experts, capacity)
    taken = torch.einsum("tec,td->ecd", dispatch, x)
    made = torch.stack([expert(rows) for expert, rows in zip(net.experts, taken, strict=True)])
    return torch.einsum("tec,ecd->td", dispatch * weights[:, None, None], made)


def switch_by_where(net, x):
    weights, chosen = net.gate(x).softmax(-1).max(-1)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        out = torch.where((chosen == number)[:, None], expert(x) * weights[:, None], out)
    return out


def mix_softly(net, x):
    """All rows go to all experts in shares (Puigcerver et al., ICLR 2024, with one slot each)."""
    scores = net.gate(x)
    taken = scores.softmax(0).t() @ x
    made = torch.stack([expert(row) for expert, row in zip(net.experts, taken, strict=True)])
    return scores.softmax(-1) @ made


def let_experts_choose(net, x):
    """Each expert takes the rows that score best (Zhou et al., NeurIPS 2022)."""
    weights, rows = net.gate(x).softmax(-1).t().topk(2, -1)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        out = out.index_add(0, rows[number], expert(x[rows[number]]) * weights[number][:, None])
    return out


def run_all_with_gates(net, x):
    scores, chosen = net.gate(x).topk(net.k, -1)
    gates = x.new_zeros(len(x), net.n_experts).scatter(-1, chosen, scores.softmax(-1))
    return sum(gates[:, i : i + 1] * expert(x) for i, expert in enumerate(net.experts))


WAYS = (
    skip_by_any, skip_by_the_item_of_any, skip_by_length, skip_by_shape, skip_by_sum, run_the_experts_that_were_hit,
    run_a_list_of_those_that_were_hit, run_the_experts_that_occur, name_the_expert, dispatch_with_capacity, switch_by_where,
    mix_softly, let_experts_choose, run_all_with_gates,
)  # fmt: skip


def make_mixture(mix):
    torch.manual_seed(0)
    return Mixture(mix).double().eval()


def draw_rows(n, seed=5):
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mix", WAYS)
def test_mixtures_are_recorded_exactly_and_their_experts_merge_inside(mix):
    network, example = make_mixture(mix), draw_rows(24)
    spec = ng.trace(network, example)
    assert not spec.unrecorded
    assert {f"experts.{i}.0" for i in range(4)} <= {axis.name for axis in spec.free}
    recorded = coarse_network(network, spec, {})
    with torch.no_grad():
        for n in (24, 31, 2):  # of two rows most experts are idle
            torch.testing.assert_close(recorded(draw_rows(n, n)), network(draw_rows(n, n)))
    assert check_duplicate_units(network, spec, example, spec.free).error < 1e-12
    assert check_dead_units(network, spec, example, spec.free).error < 1e-12


@pytest.mark.parametrize("mix", [skip_by_any, skip_by_length, run_the_experts_that_were_hit])
def test_an_expert_that_the_example_leaves_idle_is_recorded_too(mix):
    network = make_mixture(mix)
    with torch.no_grad():
        network.gate.bias.copy_(torch.tensor([5.0, 5.0, -50.0, -50.0]))
    spec = ng.trace(network, draw_rows(9))
    with torch.no_grad():
        network.gate.bias.copy_(torch.tensor([-5.0, 0.0, 5.0, 0.0]))
        torch.testing.assert_close(coarse_network(network, spec, {})(draw_rows(30)), network(draw_rows(30)))


@pytest.mark.parametrize("mix", [skip_by_any, run_the_experts_that_were_hit])
def test_gradients_of_experts_that_are_idle_are_none_or_zero(mix):
    network = make_mixture(mix)
    recorded = coarse_network(network, ng.trace(network, draw_rows(24)), {}).train()
    row = draw_rows(1)
    for net in (network, recorded):
        net(row).square().sum().backward()
    for (name, p), q in zip(network.named_parameters(), recorded.parameters(), strict=True):
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(torch.zeros_like(q) if q.grad is None else q.grad, expected, msg=name)


# The report


@pytest.mark.parametrize("mix", [skip_by_any, run_the_experts_that_were_hit, skip_by_length])
def test_the_report_counts_the_experts_of_a_list(mix):
    network, example = make_mixture(mix), draw_rows(24)
    hierarchy = ng.build_hierarchy(network, example, n_levels=2, ratio={"*": 1.0, "experts.0.0": 0.5})
    fine, coarse = (level["experts"] for level in build_report(hierarchy)["levels"])
    shared, expert = 6 * 8 + 8 + 8 * 4 + 4 + 8 * 3 + 3, 8 * 12 + 12 + 12 * 8 + 8
    assert fine["layers"] == [{"experts": 4, "chosen": 2}]
    assert fine["active_parameters"] == shared + 2 * expert
    assert coarse["active_parameters"] == shared + (3 * expert + 8 * 6 + 6 + 6 * 8 + 8) // 2
    assert fine["flops_per_token"] == 2 * (6 * 8 + 8 * 4 + 2 * (8 * 12 + 12 * 8) + 8 * 3)


# Experts whose idleness counts


def count_the_experts_that_ran(net, x):
    weights, chosen = net.choose(x)
    out, n = torch.zeros_like(x), 1
    for number, expert in enumerate(net.experts):
        row, rank = torch.where(chosen == number)
        if len(row) == 0:
            continue
        n += 1
        out.index_add_(0, row, expert(x[row]) * weights[row, rank, None])
    return out / n


def add_what_is_no_row(net, x):
    _, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        mask = (chosen == number).any(-1)
        if mask.any():
            out[mask] += expert(x[mask])
            out = out + expert[2].bias
    return out


def average_the_rows(net, x):
    _, chosen = net.choose(x)
    out = x
    for number, expert in enumerate(net.experts):
        mask = (chosen == number).any(-1)
        if mask.any():
            out = out + expert(x[mask]).mean(0)
    return out


def fail_without_rows(net, x):
    _, chosen = net.choose(x)
    out = None
    for number, expert in enumerate(net.experts):
        mask = (chosen == number).any(-1)
        if mask.any():
            rows = torch.zeros_like(x).masked_scatter(mask[:, None], expert(x[mask]))
            out = rows if out is None else out + rows
    return out * 1


def stop_after_the_first_that_was_hit(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    mask = functional.one_hot(chosen, net.n_experts).permute(2, 1, 0)
    for number in (mask.sum((-1, -2)) > 0).nonzero():
        rank, row = torch.where(mask[number].squeeze(0))
        out.index_add_(0, row, net.experts[number](x[row]) * weights[row, rank, None])
        break
    return out


def stop_after_two_of_a_list(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for i, number in enumerate(chosen.unique().tolist()):
        if i == 2:
            break
        row, rank = torch.where(chosen == number)
        out.index_add_(0, row, net.experts[number](x[row]) * weights[row, rank, None])
    return out


def stop_at_the_first_idle_one(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        row, rank = torch.where(chosen == number)
        if len(row) == 0:
            break
        out.index_add_(0, row, expert(x[row]) * weights[row, rank, None])
    return out


def return_at_the_first_idle_one(net, x):
    weights, chosen = net.choose(x)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        mask = (chosen == number).any(-1)
        if not mask.any():
            return out
        out[mask] += expert(x[mask]) * (weights * (chosen == number)).sum(-1)[mask][:, None]
    return out


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (stop_after_the_first_that_was_hit, "ends early .*test_expert_loops.py.* after 1 of 4"),
        (stop_after_two_of_a_list, "ends early .* after [23] of 4"),
        (stop_at_the_first_idle_one, "stops at the first mask of activations that holds nowhere .* after 1 of 4"),
        (return_at_the_first_idle_one, "stops at the first mask of activations that holds nowhere"),
        (count_the_experts_that_ran, "other 5 and 1"),
        (add_what_is_no_row, "holds nowhere"),
        (average_the_rows, "used otherwise than at their places"),
        (fail_without_rows, "does not run where a mask of activations holds nowhere"),
    ],
)
def test_a_network_in_which_an_idle_expert_counts_is_refused_by_that(mix, reason):
    with pytest.raises(ng.errors.TraceError, match=reason):
        ng.trace(make_mixture(mix), draw_rows(24))


def test_sizes_that_follow_activations_are_refused_by_what_was_read_of_them():
    def cut_by_counts(net, x):
        chosen = net.gate(x).argmax(-1)
        counts = (chosen[:, None] == torch.arange(net.n_experts)).sum(0)
        parts = x[chosen.argsort()].split(counts.tolist())
        return torch.cat([expert(part) for expert, part in zip(net.experts, parts, strict=True)])

    with pytest.raises(ng.errors.TraceError, match=r"numbers of its activations \(\.tolist\(\) of a tensor\)"):
        ng.trace(make_mixture(cut_by_counts), draw_rows(24))


def test_a_branch_on_how_many_rows_there_are_is_refused():
    def branch(net, x):
        mask = net.gate(x)[:, 0] > 0
        return x * 2 if mask.sum() > 3 else x

    with pytest.raises(ng.errors.TraceError, match="branches on numbers of its activations"):
        ng.trace(make_mixture(branch), draw_rows(24))
