"""Tables for notebooks show the values of the objects, and names of a network stay text."""

from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import netgraph as ng
from netgraph.models.perceptron import mlp
from netgraph.utils.html_table import CHARACTERS, ROWS, render_table


class Cells(HTMLParser):
    """Tags of a page, and the text of its cells by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


PLAIN = {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    return ng.build_hierarchy(mlp((6, 12, 10, 4)), torch.randn(2, 6), n_levels=3)


def test_a_hierarchy_shows_the_numbers_of_its_levels_and_axes(hierarchy):
    cells = Cells(hierarchy._repr_html_())
    assert cells.tags == PLAIN
    for i, level in enumerate(hierarchy.levels):
        assert cells.rows[1 + i][:3] == [str(i), str(level.n_units), str(level.n_parameters)]
    assert ["0", "12", "6", "3"] in cells.rows


def test_a_spec_shows_every_parameter_and_why_axes_are_kept(hierarchy):
    spec = hierarchy.levels[0].spec
    cells = Cells(spec._repr_html_())
    assert ["0.weight", "0, 0.in", "0.in"] in cells.rows
    assert ["4", "4", "neuron", "kept: " + spec.axes["4"].kept] in cells.rows
    assert ["0", "12", "neuron", "free"] in cells.rows


def test_a_unit_graph_shows_its_edges(hierarchy):
    graph = ng.unit_graph(hierarchy.levels[0].model, hierarchy.levels[0].spec)
    rows = Cells(graph._repr_html_()).rows
    assert ["0", "12", "neuron", str(12 * 11 // 2)] in rows
    assert [row[:3] for row in rows if row[:2] == ["0", "2"]] == [["0", "2", "120"]]


def test_a_solution_shows_what_it_cost_and_why_it_ended(hierarchy):
    batches = [(torch.randn(8, 6), torch.randint(0, 4, (8,))) for _ in range(4)]
    problem = ng.Problem(batches, nn.functional.cross_entropy, valid=lambda model: {"<b>loss": 1.5})
    solution = ng.FAS("v", cycles=1).solve(hierarchy, problem)
    html = solution._repr_html_()
    cells = Cells(html)
    assert cells.tags == PLAIN
    assert [row[:2] for row in cells.rows[1:]] == [[str(r["level"]), r["kind"]] for r in solution.ledger.rows()]
    assert all(
        row[3].startswith(f"{r['flops']:.3g}") for row, r in zip(cells.rows[1:], solution.ledger.rows(), strict=True)
    )
    assert "the 1 cycles are spent" in html
    assert "&lt;b&gt;loss 1.5, coarse steps: " in html


def test_names_of_a_network_stay_text():
    model = nn.Sequential()
    model.add_module("<script>alert(1)</script>", nn.Linear(4, 8))
    model.add_module("\"'&\n", nn.Linear(8, 2))
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 4))
    spec = hierarchy.levels[0].spec
    for value in (hierarchy, spec, ng.unit_graph(model, spec)):
        assert Cells(value._repr_html_()).tags == PLAIN - ({"p"} if value is spec else set())


@given(st.lists(st.text(max_size=2 * CHARACTERS), min_size=1, max_size=2 * ROWS))
def test_any_text_is_one_cell_and_long_tables_are_counted(words):
    cells = Cells(render_table("t", ["word"], [[word] for word in words]))
    assert cells.tags <= PLAIN
    assert len(cells.rows) == 1 + min(len(words), ROWS) + (len(words) > ROWS)
    for row, word in zip(cells.rows[1:], words[:ROWS], strict=False):
        assert len(row) == 1
        assert row[0] == word or not word.isprintable() or len(word) > CHARACTERS
