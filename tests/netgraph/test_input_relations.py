"""Sizes of two inputs that a network ties by arithmetic in Python: the coarse network answers as the network does, or refuses."""

import pickle

import pytest
import torch
from nets import Fn
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError
from netgraph.io.example_inputs import guess_input
from netgraph.io.network_document import check_network_document
from netgraph.recording.graph_module import network_from_document


def take_last(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    return m.c(y[len(y) - len(x) :] + x)


def take_first_of_both(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    n = min(len(x), len(y))
    return m.c(x[:n] + y[:n])


def pad_to_the_longer(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    n = max(len(x), len(y))
    return m.c(torch.cat([x, x.new_zeros(n - len(x), 8)]) + torch.cat([y, y.new_zeros(n - len(y), 8)]))


def group_by_difference(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    return m.c(y.reshape(len(y) - len(x), -1, 8).sum(0)), x.sum()


def group_by_ratio(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    return m.c(y.reshape(len(x), len(y) // len(x), 8).sum(1) + x)


def weigh_the_sum(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    return m.c(torch.cat([x, y]) * torch.ones(len(x) + len(y), 1, dtype=x.dtype)) / (len(x) + len(y))


def scale_by_both(m, x, y):
    x, y = m.a(x).relu(), m.b(y).relu()
    return m.c(x) * (len(y) - len(x)), m.c(y) / max(len(x), len(y))


def leave_out_more_rows(m, x, y):
    n = min(len(x), len(y))
    return m.c(m.a(x).relu())[:n].sum(0) + m.b(y).relu().mean(0)[:3]


def ask_for_the_longer(m, x, y):
    x, y = m.a(x).relu().sum(0), m.b(y).relu().sum(0) * (2 if len(y) > len(x) else 3)
    return m.c(x + y)


def ask_for_equal(m, x, y):
    summed = m.a(x).relu().sum(0) + m.b(y).relu().sum(0)
    return m.c(summed * 5 if len(x) == len(y) else summed)


def pool_both(m, x, y):
    return m.c(m.a(x).relu().mean(0) + m.b(y).relu().mean(0))


NETWORKS = {
    leave_out_more_rows: ((3, 5), (5, 3), (4, 4)),
    ask_for_the_longer: ((3, 5), (5, 3), (4, 4)),
    ask_for_equal: ((3, 5), (4, 4)),
    pool_both: ((3, 5), (4, 4)),
    take_last: ((3, 5), (4, 4)),
    take_first_of_both: ((3, 5), (5, 3), (4, 4)),
    pad_to_the_longer: ((3, 5), (4, 4)),
    group_by_difference: ((3, 6), (4, 6), (4, 5)),
    group_by_ratio: ((3, 6), (3, 9), (4, 4)),
    weigh_the_sum: ((3, 5), (4, 4)),
    scale_by_both: ((3, 5), (5, 3)),
}
CASES = [(run, sizes) for run, listed in NETWORKS.items() for sizes in listed]


def build(run):
    torch.manual_seed(0)
    return Fn(run, a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3)).double().eval()


def draw(n, m):
    random = torch.Generator().manual_seed(100 * n + m)
    return tuple(torch.randn(rows, 8, generator=random).double() for rows in (n, m))


def answer(network, inputs):
    """Return the answers as a list, or None if the network itself does not run."""
    try:
        answers = network(*inputs)
    except (RuntimeError, ZeroDivisionError):
        return None
    return list(answers) if isinstance(answers, tuple) else [answers]


@pytest.mark.parametrize(("run", "sizes"), CASES, ids=[f"{run.__name__}-{n}-{m}" for run, (n, m) in CASES])
def test_other_sizes_are_answered_as_the_network_does_or_refused(run, sizes):
    model = build(run)
    recorded = coarse_network(model, ng.trace(model, draw(*sizes)), {})
    for n in range(1, 8):
        for m in range(1, 10):
            inputs = draw(n, m)
            expected = answer(model, inputs)
            if expected is None:
                continue
            try:
                found = recorded(*inputs)
            except NetgraphError:
                assert (n, m) != sizes
                continue
            torch.testing.assert_close(list(found) if isinstance(found, tuple) else [found], expected)


def test_sizes_that_keep_the_difference_of_the_example_run():
    model = build(take_last)
    recorded = coarse_network(model, ng.trace(model, draw(3, 5)), {})
    for n in (1, 2, 9):
        inputs = draw(n, n + 2)
        torch.testing.assert_close(recorded(*inputs), model(*inputs))
    sentence = (
        r"inputs (\w+) of shape \(5, 8\) and (\w+) of shape \(5, 8\) do not fit together: the network was traced for inputs where "
        r"dimension 0 of \2 has 2 more than dimension 0 of \1\. Trace it again on an example of these shapes\."
    )
    with pytest.raises(NetgraphError, match=sentence):
        recorded(*draw(5, 5))


@pytest.mark.parametrize("run", [weigh_the_sum, pool_both])
def test_sums_of_sizes_and_pooled_inputs_are_free(run):
    model = build(run)
    recorded = coarse_network(model, ng.trace(model, draw(3, 5)), {})
    assert recorded.size_relations == []
    for sizes in ((5, 5), (1, 9), (7, 2)):
        torch.testing.assert_close(recorded(*draw(*sizes)), model(*draw(*sizes)))


def test_a_relation_stays_in_files_copies_and_networks_that_are_traced_again(tmp_path):
    model = build(take_last)
    recorded = coarse_network(model, ng.trace(model, draw(3, 5)), {})
    ng.save(recorded, tmp_path / "net.safetensors")
    again = coarse_network(recorded, ng.trace(recorded, draw(4, 6)), {})
    for network in (ng.load_model(tmp_path / "net.safetensors"), pickle.loads(pickle.dumps(recorded)), again):
        torch.testing.assert_close(network.double()(*draw(6, 8)), model(*draw(6, 8)))
        with pytest.raises(NetgraphError, match="do not fit together"):
            network(*draw(5, 5))
    shapes = [tuple(leaf.shape) for leaf in guess_input(recorded)[0]]
    assert shapes == [(2, 8), (4, 8)]


def test_documents_and_pickles_without_relations_open():
    model = build(weigh_the_sum)
    recorded = coarse_network(model, ng.trace(model, draw(3, 5)), {})
    document = recorded.document()
    assert "relations" not in document  # equal bytes as before
    network_from_document(document, recorded.tensors())(*draw(2, 3))
    state = recorded.__getstate__()
    del state["_relations"]
    older = recorded.__class__.__new__(recorded.__class__)
    older.__setstate__(state)
    torch.testing.assert_close(older(*draw(2, 3)), model(*draw(2, 3)))


@pytest.mark.parametrize(
    "relations",
    [
        "x",
        [3],
        [[[0, 0, 0]]],
        [[[2, 0, 0, 1]]],
        [[[0, 2, 0, 1]]],
        [[[0, 0, 0, 0]]],
        [[[0, 0, -1, 1]]],
        [[[0, 0, 0.5, 1]]],
    ],
)
def test_relations_of_another_form_are_refused(relations):
    model = build(take_last)
    document = coarse_network(model, ng.trace(model, draw(3, 5)), {}).document()
    check_network_document(document)
    with pytest.raises(ValueError, match="relations"):
        check_network_document({**document, "relations": relations})
