"""Figures of a hierarchy: drawn values are compared with the hierarchy and with slow loops."""

import re
import unicodedata
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.models.perceptron import mlp
from netgraph.viz.figures.drawing import (
    compose_aggregates,
    compute_affinity,
    downsample_matrix,
    format_label,
    order_units,
)
from netgraph.viz.figures.hierarchy import FIGURES, plot_hierarchy


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    return ng.build_hierarchy(mlp((8, 24, 16, 4)), torch.randn(2, 8), n_levels=3)


def test_the_order_of_units_keeps_every_aggregate_of_every_level_together(hierarchy):
    order = order_units(hierarchy, "0", compute_affinity(hierarchy, "0"))
    assert sorted(order) == list(range(24))
    for groups in compose_aggregates(hierarchy, "0"):
        runs = 1 + np.count_nonzero(np.diff(groups[order]))
        assert runs == groups.max() + 1


def test_the_image_of_a_large_matrix_is_the_mean_of_its_blocks(monkeypatch, hierarchy):
    monkeypatch.setattr("netgraph.viz.figures.drawing.PIXELS", 8)
    matrix = compute_affinity(hierarchy, "0")
    dense = np.where(matrix.toarray() > 0, matrix.toarray(), np.nan).reshape(8, 3, 8, 3)
    np.testing.assert_allclose(downsample_matrix(matrix), np.nanmean(dense, axis=(1, 3)), rtol=1e-6)


def test_bars_of_complexity_add_up_to_the_complexities(hierarchy):
    (ax,) = plot_hierarchy(hierarchy, "complexity").axes
    units, parameters, _ = ([bar.get_height() for bar in group] for group in ax.containers)
    assert sum(units) == pytest.approx(hierarchy.grid_complexity)
    assert sum(parameters) == pytest.approx(hierarchy.operator_complexity)


def test_sparsity_draws_each_entry_of_P_and_R_once(hierarchy):
    transfer = hierarchy.levels[1].transfers["0"]
    for ax, matrix in zip(plot_hierarchy(hierarchy, "sparsity", axis="0").axes, (transfer.P, transfer.R), strict=True):
        (drawn,) = ax.collections
        found = np.zeros(matrix.shape)
        for x, y in np.asarray(drawn.get_offsets()):
            found[int(y), int(x)] += 1
        np.testing.assert_array_equal(found, matrix.toarray() != 0)


def test_error_curves_fall_as_more_units_stay_and_there_is_one_for_each_axis(hierarchy):
    (ax,) = plot_hierarchy(hierarchy, "error").axes
    assert len(ax.lines) == len(hierarchy.levels[1].transfers)
    for line in ax.lines:
        assert np.all(np.diff(line.get_ydata()) > 0)  # the grid of ratios falls


@pytest.mark.parametrize("name", [*FIGURES, "overview"])
def test_every_figure_is_written_as_raster_and_vector_file(hierarchy, tmp_path, name):
    ng.export(hierarchy, tmp_path / f"net.{name}.png")
    ng.export(hierarchy, tmp_path / f"net.{name}.svg")
    assert len(np.unique(np.asarray(Image.open(tmp_path / f"net.{name}.png").convert("L")))) > 10
    assert ET.parse(tmp_path / f"net.{name}.svg").getroot().tag.endswith("svg")
    first = (tmp_path / f"net.{name}.svg").read_bytes()
    ng.export(hierarchy, tmp_path / f"net.{name}.svg")
    assert (tmp_path / f"net.{name}.svg").read_bytes() == first


@given(st.text(max_size=60))
def test_names_are_drawn_in_one_line_and_never_as_formulas(name):
    drawn = format_label(name)
    assert not re.search(r"(?<!\\)\$|[\n\r\x00]", drawn)
    assert not any(unicodedata.category(c).startswith("C") for c in drawn)  # nor does one turn the direction of a line
    drawn.encode("utf-8")


def test_hostile_names_are_drawn(tmp_path):
    model = nn.Sequential()
    for i, name in enumerate(["$\\frac{$", "<script>\n\x00", "n" * 5000]):
        model.add_module(name, nn.Linear(6, 6))
        model.add_module(f"relu{i}", nn.ReLU())
    ng.export(ng.build_hierarchy(model, torch.randn(2, 6)), tmp_path / "net.svg")
    assert ET.parse(tmp_path / "net.svg").getroot().tag.endswith("svg")


def test_a_missing_figure_or_axis_is_named(hierarchy):
    with pytest.raises(NetgraphError, match=r"no figure is called 'pie'. Choose overview, affinity"):
        plot_hierarchy(hierarchy, "pie")
    with pytest.raises(NetgraphError, match="axis '9' is not merged"):
        plot_hierarchy(hierarchy, "affinity", axis="9")
