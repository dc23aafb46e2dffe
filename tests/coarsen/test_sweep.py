"""Sweeps: rows against plain hierarchies, the Pareto set against its definition, files that are read back, runs that stop and go on."""

import csv
import io
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import netgraph as ng
from netgraph.affinity import cosine
from netgraph.coarsen import CoarsenOptions, Metric, Sweep, sweep
from netgraph.coarsen.sweeps.combinations import parse_ratios
from netgraph.coarsen.sweeps.pareto import find_pareto
from netgraph.coarsen.sweeps.result import SETTINGS
from netgraph.coarsen.sweeps.table_files import format_csv, format_document, format_latex
from netgraph.errors import LoadError, NetgraphError, PluginError
from netgraph.models import mlp
from netgraph.viz import plot_sweep, write_sweep

TIMED = ("seconds", "ms_batch_1", "ms_batch_32", "speed_batch_1", "speed_batch_32")


@pytest.fixture(scope="module")
def case():
    """A network, inputs for calibration, and rows of a test with the classes that the network answers for nearby inputs."""
    torch.manual_seed(0)
    network = mlp((6, 16, 12, 3))
    inputs, test = torch.randn(96, 6), torch.randn(64, 6)
    with torch.no_grad():
        network[-1].bias.zero_()  # so that all classes are answered
        classes = network(test + 0.3 * torch.randn_like(test)).argmax(1)
    return network, inputs, (test, classes)


def run_sweep(case, **changes):
    network, inputs, test = case
    options = {"ratios": [0.5], "coarseners": ["hem"], "latency": False, "test": test}
    return sweep(network, inputs, **(options | changes))


@pytest.fixture(scope="module")
def result(case):
    """A sweep with a coarsener that fails and one that leaves units out, timed."""

    def mine_100(graph, n_coarse, *, seed=0):
        raise ValueError("this is mine")

    return run_sweep(case, ratios="1,0.75,0.4", coarseners=["ward", "magnitude", mine_100], latency=True)


def test_budgets_are_spread_by_errors_after_repair_as_compress_does_it(case, tmp_path):
    network, inputs, _ = case
    settings = {
        "coarseners": ["ward"],
        "repairs": ["none", "ridge"],
        "budgets": ["flops"],
        "options": CoarsenOptions(round_to=2),
    }
    plain, repaired = (
        run_sweep(case, **settings, repaired_errors=flag, resume=tmp_path / f"{flag}.jsonl").rows[1:]
        for flag in (False, True)
    )
    options = CoarsenOptions(coarsener="ward", repair="ridge", round_to=2)
    expected = [
        ng.compress(network, inputs, target="flops=0.5", options=options, repaired_errors=flag).axes
        for flag in (False, True)
    ]
    assert [row["axes"] for row in plain] == [{name: n for name, (_, n) in expected[0].items()}] * 2
    assert repaired[0]["axes"] == plain[0]["axes"], "without a repair there are no errors after it"
    assert repaired[1]["axes"] == {name: n for name, (_, n) in expected[1].items()}
    assert repaired[1]["axes"] != plain[1]["axes"]
    with pytest.raises(LoadError, match="repaired_errors"):
        run_sweep(case, **settings, resume=tmp_path / "True.jsonl")


def drop_times(rows):
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def test_every_row_is_the_hierarchy_that_these_settings_build(case):
    network, inputs, (test, classes) = case
    rows = run_sweep(
        case, ratios="0.7,0.4", coarseners=["hem", "ward", "magnitude", "auto"], repairs=["none", "ridge"]
    ).rows[1:]
    assert len(rows) == 16
    with torch.no_grad():
        expected = network(test)
    for row in rows:
        settings = {name: row[name] for name in ("coarsener", "ratio", "repair")}
        level = ng.build_hierarchy(network, inputs[:2], data=inputs, **settings).levels[1]
        with torch.no_grad():
            answer = level.model.eval()(test)
        assert row["parameters"] == sum(p.numel() for p in level.model.parameters())
        assert row["top1"] == pytest.approx(float((answer.argmax(1) == classes).float().mean()), abs=1e-6)
        assert row["error"] == pytest.approx(float((answer - expected).norm() / expected.norm()), rel=1e-4)
        assert row["axes"] == {name: transfer.n_coarse for name, transfer in level.transfers.items()}
        assert row["flops_per_sample"] == level.flops / 2


def test_a_ratio_of_one_is_the_original(result):
    original = {name: value for name, value in result.rows[0].items() if name not in SETTINGS}
    whole = [row for row in result.rows[1:] if row["ratio"] == 1]
    assert len(whole) == 6
    assert all({name: row[name] for name in original} == original for row in whole)
    assert (original["error"], original["speed_batch_1"], original["reason"]) == (0, 1, None)


def test_rows_of_one_shape_have_one_measurement(result):
    times = {}
    for row in result.measured:
        times.setdefault(tuple(row["axes"].items()), set()).add((row["ms_batch_1"], row["ms_batch_32"], row["class"]))
    assert len(times) == 3
    assert all(len(one) == 1 for one in times.values())


POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=20)


@settings(max_examples=200, deadline=None)
@given(POINTS)
def test_the_pareto_set_is_that_of_its_definition(points):
    def dominates(a, b):
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    assert find_pareto(points) == [not any(dominates(other, point) for other in points) for point in points]


@pytest.mark.parametrize("larger", [True, False])
def test_the_pareto_rows_follow_the_way_of_the_metric(larger):
    rows = [{"coarsener": "a", "parameters": n, "score": s} for n, s in ((1, 5.0), (2, 3.0), (3, 9.0))]
    best = Sweep(rows, "score", larger_is_better=larger).pareto()
    assert [row["parameters"] for row in best] == ([1, 3] if larger else [1, 2])


def test_what_cannot_be_had_is_a_row_with_its_reason(case):
    def refuses_cosine(units, *, seed=0):
        raise NetgraphError("this affinity needs a thing that is missing")

    def keeps_all(graph, n_coarse, *, seed=0):
        return torch.arange(graph.n_units).numpy()

    rows = run_sweep(case, coarseners=["hem", keeps_all], affinities=["cosine", refuses_cosine], repairs=["none"]).rows[
        1:
    ]
    reasons = {(row["affinity"], row["coarsener"]): row["reason"] for row in rows}
    assert reasons["cosine", "hem"] is None
    assert "found no two units alike" in reasons["cosine", "keeps_all"]
    assert "a thing that is missing" in reasons["refuses_cosine", "hem"]
    (row,) = run_sweep(case, budgets=["flops"], ratios=[0.001], repairs=["none"]).rows[1:]
    assert "the budget flops=0.001 cannot be met" in row["reason"]
    assert row["parameters"] is None


def test_a_missing_package_does_not_end_the_sweep(case, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pymetis", None)
    rows = run_sweep(case, coarseners=["metis", "ward"], repairs=["none"]).rows[1:]
    assert "pip install pymetis" in rows[0]["reason"]
    assert rows[1]["reason"] is None


def test_the_affinity_of_an_axis_is_computed_once(case):
    calls = []

    def counted(units, *, seed=0):
        calls.append(units.axis)
        return cosine(units, seed=seed)

    run_sweep(
        case, ratios="0.8:0.4:0.2", coarseners=["hem", "graclus"], affinities=[counted], budgets=["none", "units"]
    )
    assert sorted(calls) == sorted({*calls})
    assert len(calls) == 2


def test_a_budget_bounds_its_cost(case):
    rows = run_sweep(case, budgets=["parameters", "flops", "units"], ratios="0.8,0.5", repairs=["none"]).rows
    units = {tuple(row["axes"]): row for row in rows}
    assert units
    for row in rows[1:]:
        if row["budget"] == "units":
            whole = {"0": 16, "2": 12, **row["axes"]}
            share = sum(whole.values()) / 28
        else:
            cost = {"parameters": "parameters", "flops": "flops_per_sample"}[row["budget"]]
            share = row[cost] / rows[0][cost]
        assert row["ratio"] - 0.15 < share <= row["ratio"] + 1e-9


def test_a_sweep_that_was_stopped_goes_on_to_the_same_rows(case, tmp_path):
    file = tmp_path / "rows.jsonl"
    wanted = {"ratios": "0.7,0.4", "coarseners": ["ward", "hem"]}

    def stop(combination, done, total):
        assert total == 8
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(case, **wanted, resume=file, progress=stop)
    first = [json.loads(line)["row"] for line in file.read_text().splitlines()]
    assert len(first) == 3
    whole, resumed = run_sweep(case, **wanted), run_sweep(case, **wanted, resume=file)
    assert drop_times(resumed.rows) == drop_times(whole.rows)
    assert [row["seconds"] for row in resumed.rows[1:4]] == [row["seconds"] for row in first]  # not built again
    assert [json.loads(line)["row"]["seconds"] for line in file.read_text().splitlines()] == [
        row["seconds"] for row in resumed.rows[1:]
    ]


def test_rows_without_milliseconds_are_measured_when_these_are_asked_for(case, tmp_path):
    file = tmp_path / "rows.jsonl"
    run_sweep(case, resume=file, repairs=["none"])
    timed = run_sweep(case, resume=file, repairs=["none"], latency=True)
    assert timed.rows[1]["ms_batch_32"] > 0
    again = run_sweep(case, resume=file, repairs=["none"], latency=True)
    assert again.rows[1] == timed.rows[1]
    assert "ms_batch_32" not in run_sweep(case, resume=file, repairs=["none"]).rows[1]


def test_a_file_of_another_sweep_is_refused(case, tmp_path):
    network, inputs, test = case
    file = tmp_path / "rows.jsonl"
    run_sweep(case, resume=file)
    before = file.read_bytes()
    torch.manual_seed(1)
    other = mlp((6, 16, 12, 3))
    for changed, changes, what in (
        ((other, inputs, test), {}, "another network"),
        ((network, inputs + 1, test), {}, "other data"),
        ((network, inputs, (test[0], (test[1] + 1) % 3)), {}, "other data"),
        (case, {"options": CoarsenOptions(seed=1)}, r"other options \(seed is 7619 there and 1 here\)"),
        (case, {"metric": "loss"}, r"other options \(metric is \"top1\" there and \"loss\" here\)"),
    ):
        with pytest.raises(LoadError, match=f"holds rows of {what}. Give another file"):
            run_sweep(changed, resume=file, **changes)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: text.replace('"parameters": ', '"parameters": "x", "p": '),
        lambda text: text.replace('"axes": {', '"axes": {"a": "b", '),
        lambda text: text.replace('"ratio": 0.5', '"ratio": NaN'),
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: "[" * 99999,
        lambda text: "notes of mine\n" + text,
        lambda text: "\n" + text,
    ],
)
def test_a_damaged_file_is_refused_and_kept(case, tmp_path, damage):
    file = tmp_path / "rows.jsonl"
    run_sweep(case, resume=file, repairs=["none"])
    damaged = damage(file.read_text())
    file.write_text(damaged)
    with pytest.raises(LoadError, match=r"rows\.jsonl"):
        run_sweep(case, resume=file, repairs=["none"])
    assert file.read_text() == damaged


def read_latex(text):
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r"\\")]
    return [[re.sub(r"\\textbf{(.*)}", r"\1", cell) for cell in line.split(" & ")] for line in lines]


def test_csv_json_and_latex_hold_the_same_numbers(result):
    from_csv = list(csv.DictReader(io.StringIO(format_csv(result))))
    from_json = json.loads(format_document(result))["rows"]
    head, *from_latex = read_latex(format_latex(result))
    assert len(from_csv) == len(from_json) == len(result.rows)
    for line, row, told in zip(from_csv, result.rows, from_json, strict=True):
        assert {name: told[name] for name in row} == row
        for name, value in row.items():
            if name != "axes":
                text = line[name]
                assert value == (None if text == "" else type(value)(text))
        assert line["pareto"].split() == told["pareto"]
    scale = {"parameters": 1, "top1": 1, "error": 1, "ms, batch 1": 1, "ms, batch 32": 1, "MFLOPs/sample": 1e6}
    names = {"ms, batch 1": "ms_batch_1", "ms, batch 32": "ms_batch_32", "MFLOPs/sample": "flops_per_sample"}
    assert {*scale} <= {*head}
    for cells, row in zip(from_latex, result.measured, strict=True):
        line = dict(zip(head, cells, strict=True))
        for name, factor in scale.items():
            value = row[names.get(name, name)]
            assert float(line[name]) * factor == pytest.approx(value, rel=6e-4)
            assert "e" not in line[name]


def test_the_frame_is_the_table(result):
    frame = result.to_frame()
    assert list(frame.columns) == result.columns
    assert frame["parameters"].dropna().tolist() == [row["parameters"] for row in result.measured]
    assert len(frame[frame["pareto"].str.contains("parameters")]) == len(result.pareto("parameters"))


def test_the_text_tells_settings_marks_and_reasons(result):
    lines = str(result).splitlines()
    assert lines[0].split()[:4] == ["coarsener", "ratio", "repair", "parameters"]  # one affinity and no budget
    assert lines[1].startswith("original")
    assert len([line for line in lines if line.startswith("magnitude")]) == 6
    assert "2 rows of mine_100 could not be had" in lines[-1]
    assert "this is mine" in lines[-1]


def test_the_picture_has_a_curve_for_each_coarsener_and_repair_and_the_pareto_set(result):
    figure = plot_sweep(result)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["ward", "magnitude", r"mine_100", "repair none", "repair ridge", "original", "Pareto set"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["parameters", "milliseconds, batch 32"]
    steps = [line for line in figure.axes[0].lines if line.get_linewidth() == 4]
    best = result.pareto("parameters")
    assert steps[0].get_xdata().tolist() == [row["parameters"] for row in best]
    narrow = plot_sweep(result, size=(3.3, 5))
    assert narrow.axes[0].get_position().y0 > narrow.axes[1].get_position().y0


@pytest.mark.parametrize("size", [(10.5, 4.8), (3.4, 5.4)])
def test_no_words_of_the_picture_lie_on_one_another(result, size):
    figure = plot_sweep(result, size=size)
    figure.draw_without_rendering()
    words = [*figure.legends[0].get_texts()]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            words += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    boxes = [text.get_window_extent() for text in words if text.get_text() and text.get_visible()]
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b) and a != b]


def test_the_page_is_one_offline_file_with_escaped_names(case, tmp_path):
    def merge(graph, n_coarse, *, seed=0):
        return (torch.arange(graph.n_units) * n_coarse // graph.n_units).numpy()

    merge.__name__ = "<script>alert(1)</script>"
    found = run_sweep(case, coarseners=[merge])
    write_sweep(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http-equiv", "")
    assert page.count("<tr>") == 1 + len(found.rows)
    write_sweep(found, tmp_path / "t.tex")
    assert "<script>" in (tmp_path / "t.tex").read_text()  # LaTeX has no meaning for it


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_pictures_are_written_equal_twice(result, tmp_path, suffix):
    write_sweep(result, tmp_path / f"a{suffix}")
    write_sweep(result, tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_metric_that_is_not_finite_is_a_reason(case):
    network, *_ = case
    count = sum(p.numel() for p in network.parameters())

    def measure(one):
        return math.nan if sum(p.numel() for p in one.parameters()) < count else 1.0

    (row,) = run_sweep(case, metric=Metric("mine", measure), repairs=["none"]).rows[1:]
    assert "the metric mine is nan" in row["reason"]
    assert row["mine"] is None
    with pytest.raises(NetgraphError, match="the network itself cannot be judged"):
        run_sweep(case, metric=lambda one: math.inf)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratios": "0.9:0.3:0"}, "step 0"),
        ({"ratios": "0.9:0.3:-0.1"}, "positive step"),
        ({"ratios": "0.9:0.3:1e-9"}, "fewer than"),
        ({"ratios": "0.9:x"}, "neither a number nor"),
        ({"ratios": [1.5]}, "hold 1.5"),
        ({"ratios": []}, "no number"),
        ({"ratios": "nan"}, "hold nan"),
        ({"coarseners": []}, "one or more"),
        ({"coarseners": "hem"}, "one or more"),
        ({"repairs": ["all"]}, "a repair is 'all'"),
        ({"budgets": ["error"]}, "a budget is 'error'"),
        ({"budgets": []}, "there is no budget"),
        ({"options": CoarsenOptions(ratio=0.3, coarsener="ward")}, "set coarsener, ratio"),
        ({"metric": Metric("seconds", lambda one: 1.0)}, "a column already"),
        ({"coarseners": [lambda graph, n, *, seed: 0, lambda graph, n, *, seed: 1]}, "have the name '<lambda>'"),
    ],
)
def test_wrong_settings_are_refused_before_work_begins(case, changes, message):
    with pytest.raises(NetgraphError, match=message):
        run_sweep(case, **changes, progress=lambda *_: pytest.fail("work has begun"))


def test_an_unknown_coarsener_is_refused_with_the_names(case):
    with pytest.raises(PluginError, match=r"no coarsener named 'hemm'. Installed: .*hem"):
        run_sweep(case, coarseners=["hem", "hemm"])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 30))
def test_a_range_of_ratios_has_all_multiples_of_its_step(first, last, step):
    wanted = range(first, last - 1, -step) if first >= last else range(first, last + 1, step)
    assert parse_ratios(f"{first / 100}:{last / 100}:{step / 100}") == pytest.approx([i / 100 for i in wanted])
