"""The house: imports go one way, no two files share a name, and the rooms are imported by their full names."""

import ast
import importlib
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse

import netgraph as ng
from netgraph.models.perceptron import mlp

ROOT = Path(__file__).parent.parent
ROOMS = ("netgraph", "coarsen", "fas", "models", "viz")
LEAVES = (
    "netgraph.errors",
    "netgraph.io.pickle_scan",
    "netgraph.utils.torchvision_compat",
)  # know nothing of units; models may ask them
RANK = {
    "coarsen": 2,
    "fas": 3,
    "viz": 4,
    "building": 5,
    "exporting": 5,
    "featuring": 5,
    "fitting": 5,
    "idle": 5,
    "keeping": 5,
    "lasting": 5,
    "outcome": 5,
    "picturing": 5,
    "reporting": 5,
    "watching": 5,
    "cli": 5,
    "__main__": 5,
    "serve": 5,
    "__init__": 6,
    "graph": 1,
}


def files():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if not any((ROOT / p).is_symlink() for p in path.relative_to(ROOT).parents if str(p) != "."):
                yield path


def rank(module):
    parts = module.split(".")[1:] or ["__init__"]
    return RANK.get(parts[0], 0)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def name_of(path):
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == "netgraph" else ("netgraph", *relative.parts)
    return ".".join(parts)


@pytest.mark.parametrize("path", files(), ids=str)
def test_imports_go_down_and_by_full_names(path):
    mine = name_of(path)
    for module in imports(path):
        assert module.split(".")[0] not in ROOMS[1:], f"{module} makes a second copy of every class"
        if mine.startswith("netgraph.models."):
            assert not module.startswith("netgraph") or module.startswith("netgraph.models") or module in LEAVES
        elif module.startswith("netgraph.") and not mine.endswith("__init__"):
            assert rank(module) <= rank(mine), f"{mine} imports {module}"
            assert not module.startswith("netgraph.models") or rank(mine) >= 5


def test_no_two_files_share_a_name():
    names = [p.name for p in files() if p.name != "__init__.py"]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


def test_files_end_before_400_lines():
    assert not [(p.name, n) for p in files() if (n := len(p.read_text().splitlines())) > 400]


def test_the_top_level_holds_what_the_owner_named():
    allowed = {
        *ROOMS,
        "tests",
        "docs",
        "benchmarks",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "constraints.txt",
    }
    made = {"netgraph_coarsening.egg-info", "build", "netgraph-demo", "mlruns"}
    assert {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - made <= allowed


def test_public_names_load_and_are_documented():
    for name in ng.__all__:
        assert getattr(ng, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ng.nothing


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


def test_the_benchmark_of_stages_times_functions_where_they_are_called():
    stages = importlib.import_module("stages")
    for place in stages.PLACES.values():
        module, _, name = place.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
