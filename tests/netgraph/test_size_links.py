"""Sizes that a network works out in Python follow the inputs in each run, judged by the network's own answers on other sizes."""

import pytest
import torch
from nets import Fn
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.network.oracles import check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.recording.graph_module import network_from_document

SIZES = [(10, 30), (13, 30), (10, 41), (7, 19), (30, 30)]  # nodes and edges


def draw_graph(n_nodes, n_edges):
    random = torch.Generator().manual_seed(n_nodes + n_edges)
    return torch.randn(n_nodes, 6, generator=random).double(), torch.randint(n_nodes, (2, n_edges), generator=random)


def convolve(m, x, edge_index):
    """Two graph convolutions with self loops (Kipf and Welling, ICLR 2017), as libraries write them."""
    source, target = edge_index[0], edge_index[1]
    loops = source == target
    kept = torch.cat([edge_index[:, ~loops], torch.arange(len(x)).repeat(2, 1)], 1)
    weights = torch.ones(kept.shape[1], dtype=x.dtype)
    degree = torch.zeros(x.shape[0], dtype=x.dtype).scatter_add(0, kept[1], weights)
    for layer in (m.a, m.b):
        h = layer(x)
        messages = h[kept[0]] * (degree[kept[0]] * degree[kept[1]]).rsqrt()[:, None]
        x = h.new_zeros(len(h), h.shape[1]).index_add(0, kept[1], messages).relu()
    return x


def pool(m, x, edge_index):
    """A message to each node, then the mean over all nodes, written as a sum."""
    h = x.new_zeros(x.size(0), 8).index_add(0, edge_index[1], m.a(x)[edge_index[0]])
    return m.b(h.relu().sum(0) / x.size(0))


@pytest.mark.parametrize("run", [convolve, pool])
def test_graph_networks_run_on_any_number_of_nodes_and_edges(run):
    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double().eval()
    example = draw_graph(*SIZES[0])
    spec = ng.trace(model, example)
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-10
    recorded = coarse_network(model, spec, {})
    loaded = network_from_document(recorded.document(), recorded.tensors())
    for sizes in SIZES:
        graph = draw_graph(*sizes)
        torch.testing.assert_close(recorded(*graph), model(*graph))
        torch.testing.assert_close(loaded(*graph), model(*graph))


def test_a_division_by_the_number_of_rows_follows_the_batch():
    def run(m, x):
        h = m.a(x)
        return m.b(h.relu()) + functional.kl_div(h.log_softmax(1), h.softmax(1).detach(), reduction="batchmean")

    model, x = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double().eval(), torch.randn(4, 6).double()
    recorded = coarse_network(model, ng.trace(model, x), {})
    for n in (1, 4, 7):
        rows = torch.randn(n, 6).double()
        torch.testing.assert_close(recorded(rows), model(rows))


def test_two_rows_of_words_are_no_list_of_edges():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3)).eval()
    words = torch.randint(9, (2, 5))
    recorded = coarse_network(model, ng.trace(model, words), {})
    torch.testing.assert_close(recorded(words[:1]), model(words[:1]))
    assert recorded.input_shapes == [[None, 5]]


def attend_where_needed(m, x, mask):
    """A mask that is all true is left out, asked by its sum, as language models do."""
    scores = m.a(x) @ m.a(x).mT
    if mask.sum() != mask.numel():
        scores = scores.masked_fill(~mask[:, None], -100.0)
    return m.b((scores.softmax(-1) @ m.c(x)).relu())


def divide_by_all_entries(m, x, mask):
    return m.b(m.c(x).relu()) - m.c(x).sum() / m.c(x).numel() + mask.sum() / mask.numel()


def divide_by_a_product(m, x, mask):
    h = m.c(x).relu()
    return m.b(h) * (h.square().sum() / (h.shape[0] * h.shape[1] * h.shape[2]))


def divide_by_a_flat_size(m, x, mask):
    h = m.c(x).relu()
    return m.b(h) * (h.square().sum() / h.flatten().shape[0]) + m.b(h).sum() / mask.flatten().shape[0]


@pytest.mark.parametrize(
    "run", [attend_where_needed, divide_by_all_entries, divide_by_a_product, divide_by_a_flat_size]
)
def test_the_number_of_all_entries_follows_the_batch(run):
    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3), c=nn.Linear(6, 8)).double().eval()
    example = torch.randn(2, 5, 6).double(), torch.ones(2, 5, dtype=torch.bool)
    spec = ng.trace(model, example)
    assert spec.one_size is None
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-10
    recorded = coarse_network(model, spec, {})
    for n in (1, 2, 7):
        inputs = torch.randn(n, 5, 6).double(), torch.ones(n, 5, dtype=torch.bool)
        torch.testing.assert_close(recorded(*inputs), model(*inputs))
