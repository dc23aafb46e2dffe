"""Exports read back equal by the tools they are for: networkx, NetworKit, pydot, scipy, torch-geometric."""

import json
import re
import resource
import signal
import unicodedata
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pydot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import io, sparse
from torch import nn
from torch_geometric.data import HeteroData

import netgraph as ng
from netgraph.errors import NetgraphError, PluginError
from netgraph.models.perceptron import mlp
from netgraph.viz.formats.dot import format_dot
from netgraph.viz.formats.flat_graph import FlatGraph, build_flat_graph
from netgraph.viz.formats.graphml import format_gexf, format_graphml
from netgraph.viz.formats.metis import LARGEST, format_metis
from netgraph.viz.formats.node_link import format_node_link

HOSTILE = [
    "<script>alert(1)</script>",
    'a"b',
    "a\\",
    "\\",
    "a\nb\rc\td",
    "{x|y}",
    "&amp;",
    "名前",
    "x" * 10_000,
    "]]>",
    "%s",
]
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of characters without a picture
names = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=12))
xml_names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    return ng.build_hierarchy(mlp((6, 12, 10, 4)), torch.randn(2, 6), n_levels=3)


def graph_of(names):
    """Return a path through axes with these names, of two units each."""
    k = len(names)
    axis, index = np.repeat(np.arange(k), 2), np.tile([0, 1], k)
    rows, columns = np.arange(2 * k - 1), np.arange(1, 2 * k)
    values = np.random.default_rng(k).random(2 * k - 1).astype(np.float32)
    values[::2] *= 1e-6  # written with an exponent
    return FlatGraph(list(names), ["neuron"] * k, axis, index, rows, columns, values, {"level1": axis.copy()})


def check(graph, read, node=lambda i: i):
    """Compare what networkx has read with a graph: nodes with their attributes, edges with their weights."""
    assert read.number_of_nodes() == graph.n_nodes
    for i in range(graph.n_nodes):
        data = read.nodes[node(i)]
        assert (data["axis"], data["kind"]) == (graph.names[graph.axis[i]], "neuron")
        assert (data["index"], data["level1"]) == (graph.index[i], graph.aggregates["level1"][i])
    assert read.number_of_edges() == graph.n_edges
    for i, j, weight in zip(graph.rows, graph.columns, graph.values, strict=True):
        edge = read.edges[node(i), node(j)]
        assert edge["weight"] == weight
        assert edge["relation"] == ("affinity" if graph.axis[i] == graph.axis[j] else "connection")


xml_hostile = st.lists(st.one_of(xml_names, st.sampled_from(HOSTILE)), min_size=1, max_size=4)


@settings(max_examples=60)
@given(xml_hostile)
def test_graphml_reads_back_equal_in_networkx(names):
    graph = graph_of(names)
    check(graph, nx.parse_graphml("".join(format_graphml(graph))), lambda i: f"n{i}")


@settings(max_examples=60)
@given(xml_hostile)
def test_gexf_reads_back_equal_in_networkx(tmp_path_factory, names):
    graph, path = graph_of(names), tmp_path_factory.mktemp("gexf") / "g.gexf"
    path.write_text("".join(format_gexf(graph)), encoding="utf-8", newline="")
    check(graph, nx.read_gexf(path, version="1.3", node_type=int))


def test_ids_of_gexf_attributes_are_numbers_that_graphology_reads_as_their_titles():
    """graphology-gexf shows the id of an attribute in the place of its title unless the id is a number."""
    root = ElementTree.fromstring("".join(format_gexf(graph_of(["first", "second"]))))
    attributes = [*root.iter("{http://gexf.net/1.3}attribute")]
    assert {a.get("title") for a in attributes} >= {"axis", "kind", "index", "relation"}
    assert all(a.get("id").isdigit() for a in attributes)
    values = {v.get("for") for v in root.iter("{http://gexf.net/1.3}attvalue")}
    assert values <= {a.get("id") for a in attributes}


@given(st.lists(names, min_size=1, max_size=4))
def test_characters_that_xml_forbids_are_escaped_and_no_edge_is_lost(names):
    graph = graph_of(names)
    read = nx.parse_graphml("".join(format_graphml(graph)).encode("utf-8").decode("utf-8"))
    assert read.number_of_edges() == graph.n_edges


@pytest.mark.parametrize("format_graph", [format_graphml, format_gexf, format_dot, format_node_link])
@given(st.lists(names, min_size=1, max_size=3))
def test_the_text_of_a_graph_steers_no_terminal(format_graph, names):
    text = "".join(format_graph(graph_of([*names, "a\x1b[2J\x9b31m\u202e\u200b"])))
    assert not {unicodedata.category(c) for c in text if c not in "\n\x7f"} & HIDDEN


@settings(max_examples=60)
@given(st.lists(names, min_size=1, max_size=4))
def test_node_link_json_reads_back_equal_in_networkx(names):
    graph = graph_of(names)
    check(graph, nx.node_link_graph(json.loads("".join(format_node_link(graph))), edges="edges"))


def unescaped(text):
    """Read a quoted string as Graphviz does."""
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text[1:-1])


@settings(max_examples=40, deadline=None)
@given(st.lists(names, min_size=1, max_size=3))
def test_dot_reads_back_in_pydot_with_every_name_whole(names):
    graph = graph_of(names)
    (read,) = pydot.graph_from_dot_data("".join(format_dot(graph)))
    nodes = {n.get_name(): n.get_attributes() for n in read.get_nodes()}
    for i in range(graph.n_nodes):
        name = graph.names[graph.axis[i]]
        wanted = "".join(f"\\u{ord(c):04x}" if c != "\n" and unicodedata.category(c) in HIDDEN else c for c in name)
        assert unescaped(nodes[f"n{i}"]["axis"]) == wanted
        assert nodes[f"n{i}"]["level1"] == str(graph.aggregates["level1"][i])
    edges = {(e.get_source(), e.get_destination()): float(e.get("weight").strip('"')) for e in read.get_edges()}
    assert edges == {(f"n{i}", f"n{j}"): w for i, j, w in zip(graph.rows, graph.columns, graph.values, strict=True)}


def test_fields_of_records_are_escaped_in_labels():
    text = "".join(format_dot(graph_of(["{a|<b>}"])))
    assert r'label="\{a\|\<b\>\}[0]"' in text


def test_metis_files_read_back_in_networkit(hierarchy, tmp_path):
    import networkit

    path, graph = tmp_path / "net.graph", build_flat_graph(hierarchy)
    ng.export(hierarchy, path)
    read = networkit.readGraph(str(path), networkit.Format.METIS)
    assert (read.numberOfNodes(), read.numberOfEdges()) == (graph.n_nodes, graph.n_edges)
    scale = LARGEST / graph.values.max()
    for i, j, weight in zip(graph.rows, graph.columns, graph.values, strict=True):
        assert abs(read.weight(int(i), int(j)) - weight * scale) <= 1


def test_an_edgeless_graph_is_a_metis_file():
    none = np.arange(0)
    graph = FlatGraph(["a"], ["neuron"], np.zeros(2, int), np.arange(2), none, none, none.astype(float), {})
    assert list(format_metis(graph)) == ["2 0 001\n", "\n", "\n"]


def test_a_graph_of_any_level_is_the_unit_graph_of_that_level(hierarchy, tmp_path):
    for level, path in ((0, tmp_path / "net.graphml"), (1, tmp_path / "net.level1.gexf")):
        ng.export(hierarchy, path)
        read = nx.read_graphml(path) if level == 0 else nx.read_gexf(path, version="1.3")
        unit = ng.unit_graph(hierarchy.levels[level].model, hierarchy.levels[level].spec)
        np.testing.assert_array_equal(nx.to_numpy_array(read, dtype=np.float32), unit.to_scipy().toarray())
    joins = [data["level2"] for _, data in read.nodes(data=True) if data["axis"] == "0"]
    np.testing.assert_array_equal(joins, hierarchy.levels[2].transfers["0"].aggregates)


def test_transfers_read_back_equal_in_scipy_for_each_step_and_for_all_steps(hierarchy, tmp_path):
    read = {}
    for name in ("P", "R", "level1.P", "level2.P", "level1.R", "A"):
        for suffix, load in (("mtx", io.mmread), ("npz", sparse.load_npz)):
            ng.export(hierarchy, tmp_path / f"net.{name}.{suffix}")
            read[name, suffix] = load(tmp_path / f"net.{name}.{suffix}").toarray()
        np.testing.assert_array_equal(read[name, "mtx"], read[name, "npz"])
    matrices = {n: read[n, "npz"] for n in ("P", "R", "level1.P", "level2.P", "level1.R", "A")}
    np.testing.assert_array_equal(matrices["P"], matrices["level1.P"] @ matrices["level2.P"])
    np.testing.assert_allclose(matrices["R"] @ matrices["P"], np.eye(matrices["P"].shape[1]))
    step = hierarchy.levels[1].transfers["0"]
    rows, columns = ((named := np.load(tmp_path / f"net.level1.{x}.npz"))["begins"] for x in "PR")
    i, j = (begins[named["axes"].tolist().index('"0"')] for begins in (rows, columns))
    np.testing.assert_array_equal(matrices["level1.P"][i : i + 12, j : j + 6], step.P.toarray())
    np.testing.assert_array_equal(matrices["A"], build_flat_graph(hierarchy).adjacency().toarray())


def test_tensors_open_without_trust_and_are_the_graph(hierarchy, tmp_path):
    ng.export(hierarchy, tmp_path / "net.pt")
    data = HeteroData.from_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert data.num_nodes == 32
    assert data.num_edges == ng.unit_graph(hierarchy.levels[0].model, hierarchy.levels[0].spec).to_pyg().num_edges
    np.testing.assert_array_equal(data["0"].level1, hierarchy.levels[1].transfers["0"].aggregates)
    assert data["0"].axis == "0"


def test_axes_whose_names_differ_by_a_dot_only_stay_two_types_of_nodes():
    model = nn.Sequential()
    model.add_module("a", nn.Sequential(nn.Linear(3, 4)))
    model.add_module("a_0", nn.Linear(4, 5))
    model.add_module("b", nn.Linear(5, 2))
    graph = ng.unit_graph(model, ng.trace(model, torch.randn(2, 3)))
    assert {"a.0", "a_0"} <= set(graph.axes)
    assert [s.axis for s in graph.to_pyg().node_stores] == list(graph.axes)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("net.xyz", PluginError, "which no exporter writes. Installed: .dot"),
        ("net", PluginError, "ends in nothing"),
        ("none/net.dot", NetgraphError, "does not exist. Create it first."),
        ("net.level9.dot", NetgraphError, "the hierarchy has levels 0 to 2"),
        ("net.level0.P.mtx", NetgraphError, "there is no finer level"),
    ],
)
def test_mistakes_in_a_file_name_are_named(hierarchy, tmp_path, name, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ng.export(hierarchy, tmp_path / name)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = mlp((3, 4, 2))
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 3))
    model[0].weight.data[0, 0] = float("inf")
    with pytest.raises(NetgraphError, match="finite"):
        ng.export(hierarchy, tmp_path / "net.dot")


@pytest.mark.parametrize("name", ["net.mtx", "net.npz", "net.pt", "net.graphml", "net.html", "net.svg"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, name):
    """The limit of a file's size fails a write as a full disk does. scipy and PyTorch do not tell it by themselves."""
    hierarchy = ng.build_hierarchy(mlp((64, 48, 10)), torch.zeros(2, 64))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(NetgraphError, match=rf"{name} cannot be written"):
            ng.export(hierarchy, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
