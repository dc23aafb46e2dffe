"""Decisions of a network on numbers: kept as guards, folded, or refused, judged by the network's own answers."""

import json

import pytest
import torch
from nets import Fn
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import GuardError, LoadError, TraceError
from netgraph.recording.graph_module import network_from_document
from netgraph.recording.operators.guards import check_decision
from netgraph.recording.recorder import record_network

X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
FULL = torch.ones(4, 5, dtype=torch.bool)
PADDED = FULL.clone()
PADDED[0, 3:] = False


def layers(run, **modules):
    return Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3), **modules).eval()


def mask_if_needed(m, x, mask):
    h = m.a(x)
    if not mask.all():
        h = h.masked_fill(~mask[..., None], 0)
    return m.b(h.relu())


def cut_to_longest(m, x, lengths):
    longest = int(lengths.max())
    mask = torch.arange(longest) < lengths[:, None]
    return m.b((m.a(x[:, :longest]) * mask[..., None]).relu())


def sum_each_row(m, x, lengths):
    return m.b(torch.stack([m.a(x[i, :n]).relu().sum(0) for i, n in enumerate(lengths.tolist())]))


def use_experts(m, x):
    out = x.new_zeros(len(x), 3)
    for i, expert in enumerate((m.a, m.c)):
        rows = ((x[:, 0] > 0).long() == i).nonzero().squeeze(-1)
        if rows.numel():
            out = out.index_add(0, rows, m.b(expert(x[rows]).relu()))
    return out


def record(model, *example):
    return coarse_network(model, ng.trace(model, example), {})


def test_a_mask_that_is_all_true_takes_the_way_of_such_masks_alone():
    model = layers(mask_if_needed)
    full, padded = record(model, X, FULL), record(model, X, PADDED)
    torch.testing.assert_close(full(X, FULL), model(X, FULL))
    torch.testing.assert_close(padded(X, PADDED), model(X, PADDED))
    with pytest.raises(
        GuardError, match=r"on the inputs of Fn at .*test_guards.py:\d+.* Record again with such an example"
    ):
        full(X, PADDED)
    with pytest.raises(GuardError):
        padded(X, FULL)


def test_units_merge_between_decisions_on_inputs():
    model = layers(mask_if_needed)
    coarse = ng.build_hierarchy(model, (X, FULL), n_levels=2).levels[1].model
    assert coarse.a.weight.shape[0] < 8
    with pytest.raises(GuardError):
        coarse(X, PADDED)


def test_lengths_are_guarded_by_what_the_network_reads_of_them():
    model, lengths = layers(cut_to_longest), torch.tensor([5, 3, 2, 1])
    recorded, other = record(model, X, lengths), torch.tensor([1, 5, 4, 4])
    torch.testing.assert_close(recorded(X, other), model(X, other))
    with pytest.raises(GuardError, match="a number was == 5, and it is 4 here"):
        recorded(X, other.clamp(max=4))


def test_a_list_of_numbers_is_guarded_as_a_whole():
    model, lengths = layers(sum_each_row), torch.tensor([5, 3, 2, 1])
    recorded = record(model, X, lengths)
    torch.testing.assert_close(recorded(X.flip(1), lengths), model(X.flip(1), lengths))
    with pytest.raises(GuardError):
        recorded(X, lengths.flip(0))


@pytest.mark.parametrize(
    "read", [lambda t: t.unique().tolist(), lambda t: t.reshape(1, -1).amax(1, keepdim=True).tolist()[0]]
)
def test_a_list_of_one_number_holds_that_number(read):
    model = layers(lambda m, x, kind: m.b(m.a(x).relu() if 1 in read(kind) else m.a(x).tanh()))
    recorded = record(model, X, torch.ones(4, dtype=torch.long))
    kind = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(recorded(X, kind), model(X, kind))
    with pytest.raises(GuardError):
        recorded(X, 0 * kind)


def test_an_expert_that_was_idle_is_not_left_out_in_silence():
    model, mixed = layers(use_experts, c=nn.Linear(6, 8)), X[:, 0]
    assert 0 < (mixed[:, 0] > 0).sum() < 4
    recorded = record(model, mixed)
    other = torch.cat([X[:, 1], X[:, 2]])  # other rows, other numbers of them for each expert
    torch.testing.assert_close(recorded(other), model(other))
    with pytest.raises(GuardError, match="a count was != 0, and it is 0 here"):
        recorded(mixed.abs())
    with pytest.raises(GuardError):
        record(model, mixed.abs())(mixed)


def test_guards_are_saved_and_older_versions_refuse_the_document():
    recorded = record(layers(mask_if_needed), X, FULL)
    document = json.loads(json.dumps(recorded.document()))
    assert document["format"] == 2
    copy = network_from_document(document, recorded.tensors())
    torch.testing.assert_close(copy(X, FULL), recorded(X, FULL))
    with pytest.raises(GuardError):
        copy(X, PADDED)
    step = next(step for step in document["graphs"]["eval"] if step[1] == "builtin:check_decision")
    step[2][2] = "system"
    with pytest.raises(LoadError):
        network_from_document(document, recorded.tensors())


def test_a_network_without_decisions_is_written_as_before():
    assert record(layers(lambda m, x: m.b(m.a(x))), X).document()["format"] == 1


def test_a_recorded_network_with_guards_is_recorded_again():
    recorded = record(layers(mask_if_needed), X, FULL)
    again = record(recorded.eval(), X, FULL)
    with pytest.raises(GuardError, match=r"test_guards.py"):
        again(X, PADDED)


class Flagged(nn.Module):
    def __init__(self, forget=False):
        super().__init__()
        self.a, self.b, self.forget = nn.Linear(6, 8), nn.Linear(8, 3), forget
        self.register_buffer("start", torch.tensor(1.0))

    def forward(self, x):
        h = self.a(x)
        if self.start.item() == 1:
            h = 2 * h
        if self.forget and self.training:
            self.start.zero_()
        return self.b(h.relu())


def test_a_buffer_that_stays_is_folded():
    model = Flagged().eval()
    recorded = record(model, X)
    torch.testing.assert_close(recorded(X), model(X))
    assert not [step for step in recorded.document()["graphs"]["eval"] if "check" in step[1]]


def test_a_buffer_that_the_run_writes_is_guarded():
    recorded = record(Flagged(forget=True), X).train()
    recorded(X)
    with pytest.raises(GuardError, match=r"on start of Flagged .*a number was == 1.0, and it is 0.0 here"):
        recorded(X)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda m, x: m.b(m.a(x) if m.a(x).sum() > 0 else -m.a(x)), "branches on numbers of its activations"),
        (lambda m, x: m.b(m.a(x) if m.a.bias.sum() > 0 else -m.a(x)), "branches on numbers of its parameters"),
        (lambda m, x: m.b(m.a(x) if torch.rand(()) > 0.5 else -m.a(x)), "branches on random numbers"),
        (lambda m, x: m.b(m.a(x) * x.abs().max().item()), "takes the number .* out of its inputs"),
        (lambda m, x: m.b(m.a(x) * torch.from_numpy(x.detach().numpy() > 0).sum()), "hands tensors to NumPy"),
    ],
)
def test_decisions_that_no_guard_can_hold_are_refused_by_their_cause(run, reason):
    with pytest.raises(TraceError, match=rf"{reason}.*test_guards.py:\d+"):
        ng.trace(layers(run), X)


def test_packed_rows_are_refused_by_name():
    def run(m, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return m.b(m.rnn(packed)[1][0][-1])

    model = Fn(run, rnn=nn.LSTM(6, 8, batch_first=True), b=nn.Linear(8, 3))
    with pytest.raises(TraceError, match=r"pack_padded_sequence.*Pass padded rows"):
        ng.trace(model, (X, torch.tensor([5, 3, 2, 1])))


def test_a_mask_behind_a_column_reads_its_own_count():
    """The first dimension of ``x[:, mask]`` is not the one that the mask makes."""

    def run(m, x, keep):
        return m.b(m.a(x[:, keep]).relu()).sum(1)

    model, keep = layers(run), torch.tensor([True, False, True, True, False])
    recorded = coarse_network(model, ng.trace(model, (X, keep)), {})
    other = torch.tensor([True, True, True, True, False])
    torch.testing.assert_close(recorded(X, other), model(X, other))


def test_guards_step_aside_where_a_recorded_network_is_exported():
    recorded = record(layers(mask_if_needed), X, FULL)
    program = torch.export.export(recorded, (X, FULL))
    torch.testing.assert_close(program.module()(X, FULL), recorded(X, FULL))


def test_a_guard_says_what_it_found():
    check_decision(torch.zeros(3), 0, "<=", 3, "")
    with pytest.raises(GuardError, match="a count was < 3, and it is 3 here"):
        check_decision(torch.zeros(3), 0, "<", 3, "")


@pytest.mark.parametrize("make", [torch.ones_like, torch.zeros_like, lambda x: x.new_ones(x.shape)])
def test_a_mask_that_a_network_makes_itself_needs_no_slower_recorder(make):
    model = layers(lambda m, x: m.b(m.a(x).masked_fill(make(x[..., :1]).bool(), 0.5)))
    assert record_network(model, X, training=False).way == "meta"
    torch.testing.assert_close(record(model, X)(X), model(X))


KINDS = {
    "kinds": lambda x: len(x.unique()),
    "runs": lambda x: x.unique_consecutive().shape[0],
    "rows of a kind": lambda x: x.unique(dim=0).size(0),
    "largest number": lambda x: torch.bincount(x.flatten()).numel(),
    "columns": lambda x: functional.one_hot(x).shape[-1],
}


@pytest.mark.parametrize("name", KINDS)
def test_a_count_of_kinds_of_numbers_is_no_part_of_a_recording(name):
    """Repeated rows have as many kinds as the rows themselves, so that other rows have to show it."""
    count = KINDS[name]
    model = layers(lambda m, x: m.b(m.a(m.e(x)).relu()) * count(x), e=nn.Embedding(9, 6))
    with pytest.raises(TraceError, match="it takes another way for other numbers"):
        ng.trace(model, torch.tensor([[0, 1, 4], [2, 3, 1], [4, 0, 2]]))


def test_kinds_of_numbers_with_a_place_for_each_are_recorded():
    model = layers(
        lambda m, x: m.b(m.a(m.e(x)).relu()) * torch.bincount(x.flatten(), minlength=9)[x][..., None],
        e=nn.Embedding(9, 6),
    )
    coarse, other = record(model, torch.tensor([[0, 1, 4], [2, 3, 1]])), torch.tensor([[8, 1, 8], [2, 3, 1], [0, 0, 7]])
    torch.testing.assert_close(coarse(other), model(other))
