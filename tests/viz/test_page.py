"""The page in a real browser: it opens, expands, filters and searches, makes no requests, and hostile names are inert."""

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import TWO_FRAMES, chromium, logged, opened, press
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch import nn

import netgraph as ng
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.models.perceptron import mlp
from netgraph.viz.page import page as page_module
from netgraph.viz.page.page import escape_json, render_page
from netgraph.viz.page.page_data import (
    build_page_data,
    compare_with_aggregates,
    find_strongest,
    order_axes,
    pack_integers,
)

HOSTILE = [
    "<script>document['title']='owned'</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a\nb\r\u2028c\x00",
    "x" * 10_000,
]

PIXELS = (
    "let n = 0; for (const c of document.querySelectorAll('#graph canvas')) { "
    "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; "
    "for (let i = 3; i < d.length; i += 4) n += d[i] > 0; } return n"
)


def no_edges(units, *, seed=0):
    """An affinity without edges, for fast tests of large networks."""
    n = units.spec.axes[units.axis].size
    return sparse.csr_array((n, n))


def merge_runs(graph, n_coarse, *, seed=0):
    return np.arange(graph.n_units) * n_coarse // graph.n_units


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed[1]), dtype=f"<u{packed[0]}")


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    return ng.build_hierarchy(mlp((6, 40, 24, 4)), torch.randn(2, 6), n_levels=3)


@pytest.fixture(scope="module")
def written(hierarchy, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "net.html"
    ng.export(hierarchy, path)
    return path


@pytest.fixture(scope="module")
def driver():
    with chromium() as found:
        yield found


@given(st.lists(st.integers(0, 2**31)))
def test_packed_numbers_are_recovered_exactly(numbers):
    assert unpack(pack_integers(np.array(numbers, dtype=np.int64))).tolist() == numbers


@given(st.text())
def test_no_tag_begins_in_data_and_it_reads_back_equal(text):
    written = escape_json({"name": text})
    assert written.isascii()
    assert not re.search("[<>&]", written)
    assert json.loads(written) == {"name": text}


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_kept_connections_are_the_heaviest_of_the_units_at_either_end(n, m, k, seed):
    block = np.random.default_rng(seed).permutation(n * m).reshape(n, m) + 1.0
    found = set(zip(*map(list, find_strongest(block, k)), strict=True))
    wanted = {(i, j) for i in range(n) for j in np.argsort(-block[i])[:k]}
    assert found == wanted | {(i, j) for j in range(m) for i in np.argsort(-block[:, j])[:k]}


def test_similarity_to_an_aggregate_is_the_cosine_with_its_mean():
    x, aggregates = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 0, -1, 1, 1])
    found = compare_with_aggregates(x, Transfer(aggregates), np.linalg.norm(x, axis=1))
    for i in (0, 1, 2, 4, 5):
        mean = x[aggregates == aggregates[i]].mean(0)
        wanted = (1 + x[i] @ mean / np.linalg.norm(x[i]) / np.linalg.norm(mean)) / 2
        assert found[i] == pytest.approx(wanted)
    assert found[3] == 0


def test_axes_stand_in_the_order_of_the_computation(hierarchy):
    assert order_axes(hierarchy.levels[0].spec) == ["0.in", "0", "2", "4"]


def test_data_of_the_page_are_the_hierarchy(hierarchy):
    data = build_page_data(hierarchy)
    for axis, level in ((1, 0), (1, 1), (2, 0), (2, 1)):
        name = data["axes"][axis]["name"]
        joins = unpack(data["levels"][level]["axes"][axis]["joins"]).astype(int) - 1
        np.testing.assert_array_equal(joins, hierarchy.levels[level + 1].transfers[name].aggregates)
    assert data["axes"][1]["sizes"] == [40, 20, 10]


def test_the_page_is_one_file_and_its_policy_allows_its_own_scripts_only(written):
    text = written.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r'(?:src|href)="(?!#|data:,)', re.sub(r"<script>.*?</script>", "", text, flags=re.S))


@pytest.mark.browser
class TestInABrowser:
    def test_it_opens_without_log_messages_and_requests(self, driver, written):
        opened(driver, written)
        assert logged(driver) == ([], [])
        assert "operator complexity" in driver.find_element("id", "summary").text
        rows = driver.find_elements("css selector", "#axes tbody tr")
        assert [row.text.split()[:5] for row in rows][1] == ["0", "neuron", "40", "20", "10"]

    def test_an_axis_opens_into_units_and_an_aggregate_into_its_members(self, driver, written, hierarchy):
        opened(driver, written)
        driver.find_element("id", "collapse").click()
        driver.find_elements("css selector", "#axes tbody button")[1].click()
        press(driver, "Enter")
        selected = driver.find_element("id", "selected")
        assert selected.find_element("tag name", "h2").text == "0[0]"
        members = np.flatnonzero(hierarchy.levels[2].transfers["0"].aggregates == 0)
        assert f"{len(members)}: {', '.join(map(str, members))}" in selected.text
        press(driver, "Enter")
        assert selected.find_element("tag name", "h2").text == f"0[{members[0]}]"
        press(driver, "Enter")
        (first, *_) = np.flatnonzero(hierarchy.levels[1].transfers["0"].aggregates == members[0])
        assert selected.find_element("tag name", "h2").text == f"0[{first}]"
        press(driver, "Escape", "Escape", "Escape")
        assert selected.find_element("tag name", "h2").text == "0"
        assert "Axis 0, level 2, 10 neurons" in driver.find_element("id", "said").get_attribute("textContent")
        assert logged(driver) == ([], [])

    def test_arrows_go_from_level_to_level_and_from_axis_to_axis(self, driver, written):
        opened(driver, written)
        driver.find_element("id", "collapse").click()
        driver.execute_script("document.getElementById('graph').focus()")
        press(driver, "ArrowDown", "ArrowDown", "ArrowRight")
        assert "Axis 0, level 1, 20 neurons" in driver.find_element("id", "said").get_attribute("textContent")

    def test_the_threshold_hides_lighter_edges(self, driver, written):
        opened(driver, written)
        counts = [self.drawn(driver)]
        for value in (40, 100):
            script = "const t = document.getElementById('threshold'); t.value = arguments[0]; t.dispatchEvent(new Event('input'))"
            driver.execute_script(script, value)
            counts.append(self.drawn(driver))
        assert counts[0] > counts[1] > counts[2] > 0
        assert driver.find_element("id", "shown").text == "100 %"

    @staticmethod
    def drawn(driver):
        """Count the drawn pixels, which include edges."""
        driver.execute_async_script(TWO_FRAMES)
        return driver.execute_script(PIXELS)

    def test_it_is_drawn_without_any_animation_frame(self, driver, written):
        """A browser that takes a screenshot after virtual time may render no frame. Half of its pictures had an empty canvas."""
        source = {"source": "window.requestAnimationFrame = () => 0"}
        added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
        driver.get(written.as_uri())
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        assert driver.execute_script(PIXELS) > 10_000

    def test_the_first_view_shows_all_axes_or_counts_those_below(self, driver, written, tmp_path):
        beyond = opened(driver, written).find_element("id", "beyond")
        assert not beyond.is_displayed()
        ng.export(ng.build_hierarchy(mlp((4,) * 24), torch.randn(2, 4)), tmp_path / "deep.html")
        beyond = opened(driver, tmp_path / "deep.html").find_element("id", "beyond")
        below = int(beyond.text.split()[1])
        assert beyond.text == f"↓ {below} of 24 axes below"
        beyond.click()
        assert int(beyond.text.split()[1]) < below
        driver.find_element("id", "fit").click()
        assert not beyond.is_displayed()

    def test_names_in_the_architecture_are_unique(self, driver, written):
        opened(driver, written)
        assert driver.find_element("id", "architecture").text.split() == [
            "0",
            "46",
            "itself",
            "40",
            "in",
            "6",
            "2",
            "24",
            "4",
            "4",
        ]

    def test_search_finds_an_axis_and_a_unit(self, driver, written):
        opened(driver, written)
        box = driver.find_element("id", "search")
        box.send_keys("2[17]\n")
        assert driver.find_element("css selector", "#selected h2").text == "2[17]"
        box.clear()
        box.send_keys("0[3]\n")  # not of 0.in, which stands before it
        assert driver.find_element("css selector", "#selected h2").text == "0[3]"
        driver.find_element("id", "collapse").click()
        assert not driver.find_elements("css selector", "#selected h2")
        box.clear()
        box.send_keys("nothing like it")
        assert driver.find_element("id", "said").get_attribute("textContent") == "0 axes found."
        assert not driver.find_elements("css selector", "#results li")

    def test_colours_and_themes_change_without_log_messages(self, driver, written):
        opened(driver, written)
        for value in ("kind", "affinity", "weight", "level", "axis"):
            script = "const c = document.getElementById('color'); c.value = arguments[0]; c.dispatchEvent(new Event('change'))"
            driver.execute_script(script, value)
        before = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        driver.find_element("id", "theme").click()
        assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") != before
        assert logged(driver) == ([], [])

    def test_the_stage_follows_the_window_and_narrow_windows_scroll_down_only(self, driver, written):
        opened(driver, written)
        size = driver.get_window_size()
        try:
            for width in (1500, 560):
                driver.set_window_size(width, 800)
                driver.execute_async_script(TWO_FRAMES)
                script = "const g = document.getElementById('graph'), c = g.querySelector('canvas'); return g.clientWidth - c.clientWidth"
                assert driver.execute_script(script) == 0
                assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        finally:
            driver.set_window_size(size["width"], size["height"])

    def test_hostile_names_are_inert(self, driver, tmp_path):
        model = nn.Sequential()
        for i, name in enumerate(HOSTILE):
            model.add_module(name, nn.Linear(6, 6))
            model.add_module(f"relu{i}", nn.ReLU())
        ng.export(ng.build_hierarchy(model, torch.randn(2, 6)), tmp_path / "p.html")
        opened(driver, tmp_path / "p.html")
        for button in driver.find_elements("css selector", "#axes tbody button"):
            button.click()
            press(driver, "Enter")
        assert driver.title == "Sequential · hierarchy"
        assert not driver.find_elements("css selector", "img, #axes script, #architecture script, #selected script")
        assert driver.execute_script("return document.body.scrollWidth <= innerWidth")
        assert logged(driver) == ([], [])

    def test_every_control_has_a_name_and_tables_have_headings(self, driver, written):
        opened(driver, written)
        for control in driver.find_elements("css selector", "button, input, select, [role=application]"):
            assert control.accessible_name or not control.is_displayed(), control.get_attribute("outerHTML")
        assert len(driver.find_elements("css selector", "#axes thead th[scope=col]")) == 7

    def test_ten_thousand_units_open_collapsed_and_expand(self, driver, tmp_path):
        sizes = (16, *([2500] * 4), 10)
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        found = ng.build_hierarchy(
            nn.Sequential(*layers[:-1]), torch.randn(2, 16), coarsener=merge_runs, affinity=no_edges
        )
        ng.export(found, tmp_path / "p.html")
        opened(driver, tmp_path / "p.html")
        driver.find_elements("css selector", "#axes tbody button")[1].click()
        press(driver, "Enter")
        assert driver.find_element("css selector", "#selected h2").text == "0[0]"
        driver.find_element("id", "search").send_keys("2[2499]\n")
        assert driver.find_element("css selector", "#selected h2").text == "2[2499]"
        assert logged(driver) == ([], [])


def test_a_million_units_make_a_page_of_axes_only():
    """Units are packed, and connections between single units are left out."""
    model = nn.Sequential(nn.Linear(4, 500_000), nn.ReLU(), nn.Linear(500_000, 4))
    found = ng.build_hierarchy(model, torch.randn(1, 4), coarsener=merge_runs, affinity=no_edges)
    data = build_page_data(found)
    assert data["levels"][0]["edges"] == []
    assert len(data["levels"][0]["links"]) == 2
    assert len(render_page(data)) < 6e6


def test_the_vendored_library_is_the_file_of_the_registry():
    # npm pack cytoscape@3.35.0, package/dist/cytoscape.min.js
    library = (Path(page_module.__file__).parent / "vendor" / "cytoscape.min.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() == "71fa9ebec21a7ca2c40cff6aacc30d1f6464e363662ad4b2c197e1adc770cd94"
    assert b'.version="3.35.0"' in library
