"""The weighted graph of units: one graph in scipy, networkx and torch-geometric."""

import networkx as nx
import numpy as np
import torch
from scipy import sparse

import netgraph as ng
from netgraph.models.perceptron import mlp


def test_the_unit_graph_is_one_graph_in_scipy_networkx_and_pyg():
    model, x = mlp((5, 8, 6, 3)), torch.randn(2, 5)
    graph = ng.unit_graph(model, ng.trace(model, x))
    matrix = graph.to_scipy()
    assert matrix.shape == (22, 22)
    assert (matrix != matrix.T).nnz == 0
    assert nx.to_scipy_sparse_array(graph.to_networkx()).nnz == matrix.nnz
    np.testing.assert_allclose(nx.to_numpy_array(graph.to_networkx()), matrix.toarray(), rtol=1e-6)
    data = graph.to_pyg()
    assert sum(store.edge_index.shape[1] for store in data.edge_stores) == graph.n_connections + sum(
        a.nnz for a in graph.affinities.values()
    )
    block = graph.blocks["0", "2"]
    np.testing.assert_allclose(block, model[2].weight.detach().abs().T, rtol=1e-5)
    assert "22 units" in repr(graph)


def test_connections_of_convolutions_are_root_mean_squares_over_the_kernel():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3), torch.nn.Flatten(), torch.nn.Linear(80, 2)
    )
    graph = ng.unit_graph(model, ng.trace(model, torch.randn(2, 3, 8, 8)))
    w = model[2].weight.detach()
    np.testing.assert_allclose(graph.blocks["0", "2"], w.square().mean((2, 3)).sqrt().T, rtol=1e-5)
    joined = model[4].weight.detach().view(2, 5, 16).square().mean(2).sqrt().T
    np.testing.assert_allclose(graph.blocks["2", "4"], joined, rtol=1e-5)


def test_contraction_of_a_unit_graph_is_restriction_on_both_sides():
    model, x = mlp((5, 8, 6, 3)), torch.randn(2, 5)
    graph = ng.unit_graph(model, ng.trace(model, x))
    t = ng.Transfer(np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    coarse = ng.contract(graph, {"0": t})
    np.testing.assert_allclose(coarse.blocks["0", "2"], t.R.toarray() @ graph.blocks["0", "2"], rtol=1e-6)
    wanted = t.R.toarray() @ graph.affinities["0"].toarray() @ t.R.toarray().T
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(coarse.affinities["0"].toarray(), wanted, rtol=1e-6)
    assert isinstance(coarse.affinities["0"], sparse.csr_array)
