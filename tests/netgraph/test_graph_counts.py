"""Counts of edges, nodes and owners in a graph follow the graph of each run, judged by the network itself on other graphs."""

import pytest
import torch
from nets import Fn
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.oracles import check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import GuardError, TraceError
from netgraph.recording.graph_module import network_from_document

SIZES = [(8, 20), (8, 33), (11, 20), (12, 12), (5, 9)]  # nodes and edges


def draw_graph(n_nodes, n_edges, *, loops=True):
    """Return a graph in which the last node has an edge."""
    random = torch.Generator().manual_seed(n_nodes + n_edges)
    edges = torch.randint(n_nodes, (2, n_edges), generator=random)
    if not loops:
        edges[1] = torch.where(edges[0] == edges[1], (edges[0] + 1) % n_nodes, edges[1])
    edges[:, -1] = torch.tensor([0, n_nodes - 1])
    return torch.randn(n_nodes, 6, generator=random).double(), edges


def weigh_edges_that_are_left(m, x, edges):
    """The Laplacian of Chebyshev layers: edges without loops get weights of one."""
    kept = edges[:, edges[0] != edges[1]]
    weights = torch.ones(kept.size(1), dtype=x.dtype)
    degree = torch.zeros(len(x), dtype=x.dtype).scatter_add(0, kept[0], weights)
    scale = (degree[kept[0]] * degree[kept[1]]).clamp(min=1).rsqrt()
    return m.b(torch.zeros_like(m.a(x)).index_add(0, kept[1], m.a(x)[kept[0]] * scale[:, None]).relu())


def number_edges_that_are_left(m, x, edges):
    kept = edges[:, edges[0] != edges[1]]
    order = torch.arange(kept.shape[1]).flip(0)
    messages = m.a(x)[kept[0][order]].view(kept.shape[1], 2, -1)
    out = x.new_zeros((x.size(0), 2, 4)).index_add(0, kept[1][order], messages)
    return m.b(out.flatten(1).relu()) / kept.size(1)


def halve_the_first_edges(m, x, edges):
    kept = edges[:, edges[0] != edges[1]]
    messages = m.a(x)[edges[0]][: kept.size(1)]
    return m.b(x.new_zeros(x.size(0), 8).index_add(0, kept[1], messages.expand(kept.size(1), 8)).relu())


def average_by_owner(m, x, edges):
    """The mean of the messages to each node, with a check that every node has one."""
    count = torch.bincount(edges[1])
    if count.shape[0] != x.shape[0]:
        count = torch.cat([count, count.new_ones(x.shape[0] - count.shape[0])])
    out = x.new_zeros([count.shape[0], 8]).index_add(0, edges[1], m.a(x)[edges[0]])
    return m.b((out / count.clamp(min=1)[:, None]).relu())


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize(
    "run", [weigh_edges_that_are_left, number_edges_that_are_left, halve_the_first_edges, average_by_owner]
)
@pytest.mark.parametrize("sizes", [(8, 20), (9, 9)])
def test_counts_in_a_graph_follow_the_graph(run, loops, sizes):
    """An example without loops has as many edges left as there were, and other graphs have fewer."""
    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double().eval()
    example = draw_graph(*sizes, loops=loops)
    spec = ng.trace(model, example)
    assert spec.one_size is None
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-10
    recorded = coarse_network(model, spec, {})
    loaded = network_from_document(recorded.document(), recorded.tensors())
    for n_nodes, n_edges in SIZES:
        graph = draw_graph(n_nodes, n_edges)
        for mode in (True, False):
            torch.testing.assert_close(recorded.train(mode)(*graph), model.train(mode)(*graph))
        torch.testing.assert_close(loaded(*graph), model(*graph))


def test_a_count_that_must_equal_the_number_of_nodes_is_guarded_by_that_number():
    model = Fn(average_by_owner, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double().eval()
    recorded = coarse_network(model, ng.trace(model, draw_graph(8, 20)), {})
    x, edges = draw_graph(11, 30)
    with pytest.raises(GuardError, match="a count was == 11, and it is 10 here"):
        recorded(x, edges.clamp(max=9))


def run_once_for_each_edge(m, x, kept):
    h = m.a(x)
    for _ in range(kept.shape[1] // 8):
        h = h.relu() + 0.1
    return h


COUNTED = {
    "length": lambda m, x, kept: m.a(x) / len(kept[0]),
    "product": lambda m, x, kept: m.a(x) * (2 * kept.shape[1]),
    "quotient": lambda m, x, kept: m.a(x) * (kept.shape[1] / 7),
    "tensor": lambda m, x, kept: m.a(x) * torch.tensor(kept.shape[1]),
    "float": lambda m, x, kept: m.a(x) * float(kept.size(1)),
    "loop": run_once_for_each_edge,
}


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("name", COUNTED)
def test_a_count_that_becomes_a_plain_number_is_never_that_of_the_example(name, loops):
    """Such a number stays what it is in the recording, even if the example has no edge to leave out."""

    def run(m, x, edges):
        return m.b(COUNTED[name](m, x, edges[:, edges[0] != edges[1]]))

    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double().eval()
    with pytest.raises(TraceError, match=r"other numbers.*test_graph_counts.py:\d+"):
        ng.trace(model, draw_graph(8, 40, loops=loops))


@pytest.mark.parametrize("options", [{}, {"num_bases": 2}, {"num_blocks": 4}])
def test_layers_with_a_weight_for_each_kind_of_edge_run_on_other_graphs(options):
    layers = pytest.importorskip("torch_geometric.nn")

    def draw(n_nodes, n_edges):
        x, edges = draw_graph(n_nodes, n_edges)
        return x, edges, torch.arange(n_edges) % 3

    def run(m, x, edges, kinds):
        return m.b(m.c(m.a(x).relu(), edges, kinds).relu())

    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3), c=layers.RGCNConv(8, 8, 3, **options)).double().eval()
    recorded = coarse_network(model, ng.trace(model, draw(8, 20)), {})
    for sizes in SIZES:
        graph = draw(*sizes)
        for mode in (True, False):
            torch.testing.assert_close(recorded.train(mode)(*graph), model.train(mode)(*graph))
