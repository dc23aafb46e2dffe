"""Reports of training runs: numbers equal loops over the records, charts hold the records, and the page opens in a real browser."""

import json
import math
import os
import re
import sys
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
from browser import chromium, logged, opened
from command_line import run
from hypothesis import given
from hypothesis import strategies as st
from selenium.webdriver.support.ui import WebDriverWait
from tracked_runs import begun

from netgraph.errors import LoadError, NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints
from netgraph.fas.monitoring.history import History, common_loss, summarize_run
from netgraph.fas.monitoring.mlflow_runs import read_mlflow_runs
from netgraph.fas.monitoring.mlflow_tracking import MLflow
from netgraph.fas.monitoring.run_file import read_run, write_run
from netgraph.viz.reports.charts import (
    CHARTS,
    draw_coarse_steps,
    draw_costs,
    draw_loss,
    draw_tau,
    draw_trace,
    escape_label,
)
from netgraph.viz.reports.page import render_run_page, write_run_page
from netgraph.viz.reports.sheet import plot_runs

HOSTILE = ["<script>document['title']='owned'</script>", "\"'><img src=x onerror=alert(1)>", "a\nb\x00<b>", "x" * 5000]


@pytest.fixture(scope="module")
def solution():
    solver, run = begun([], cycles=3)
    run.evaluations = 5
    return solver.finish(run)


@pytest.fixture(scope="module")
def histories(solution):
    solver, run = begun([], cycles=1)
    return [History.of(solution, "three cycles", network="mlp"), History.of(solver.finish(run), "one cycle")]


def test_numbers_of_a_run_equal_a_loop_over_its_records(solution):
    history = History.of(solution, "r", test={"accuracy": 0.5, "loss": 2.0})
    found = summarize_run(history)
    taken = rejected = skipped = 0
    losses = []
    for record in solution.history:
        if record["event"] == "up":
            taken, rejected = taken + (record["length"] > 0), rejected + (record["length"] == 0)
        if record["event"] == "skip":
            skipped += 1
        if record["event"] == "evaluate":
            losses.append(record["figures"]["loss"])
    assert (found["corrections_taken"], found["corrections_rejected"], found["coarse_steps_not_begun"]) == (
        taken,
        rejected,
        skipped,
    )
    assert taken + rejected + skipped > 0
    assert (found["loss"], found["best_loss"]) == (losses[-1], min(losses))
    assert (found["seconds"], found["flops"]) == (solution.seconds, solution.flops)
    assert found["test_accuracy"] == 0.5
    assert history.trace().tolist() == [[r["step"], r["level"]] for r in solution.events("smooth")]


@given(st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), min_size=1, max_size=4))
def test_costs_are_compared_at_the_lowest_loss_that_all_reached(losses):
    """The judge is a loop over every run and evaluation."""
    runs = [
        History("r", [
            {"event": "evaluate", "level": 0, "step": i, "seconds": i, "flops": 2 * i, "figures": {"loss": loss}}
            for i, loss in enumerate(own)
        ])
        for own in losses
    ]  # fmt: skip
    found = common_loss(runs)
    assert found == max(min(own) for own in losses)
    for history, own in zip(runs, losses, strict=True):
        first = next(i for i, loss in enumerate(own) if loss <= found)
        assert history.cost_to_reach(found) == (first, 2 * first)


def test_a_run_reads_back_equal_from_its_file_and_from_its_checkpoints(tmp_path, solution):
    ledger = solution.ledger.state_dict()
    write_run({"network": "mlp", "history": solution.history, "ledger": ledger}, tmp_path / "a")
    found = read_run(tmp_path / "a")
    assert (found.name, found.facts) == ("a", {"network": "mlp"})
    assert len(found.records) == len(solution.history)
    for kept, told in zip(found.records, solution.history, strict=True):
        assert all(kept[k] == v or (kept[k] is None and math.isnan(v)) for k, v in told.items())
    assert found.costs == ledger["rows"]
    solver, run_ = begun([Checkpoints(tmp_path / "points")], cycles=1)
    whole = solver.finish(run_)
    kept = read_run(tmp_path / "points")
    np.testing.assert_array_equal(kept.smoothing_curve("loss"), History.of(whole).smoothing_curve("loss"))
    assert {(row["level"], row["kind"]) for row in kept.costs} >= {(0, "smooth"), (1, "smooth"), (0, "tau")}


def test_a_run_of_mlflow_that_left_no_file_is_read_from_its_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    tracker = MLflow("trials", {"network": "mlp"}, name="first")
    solver, run_ = begun([tracker], cycles=2)
    solution = solver.finish(run_)
    (by_id,), (by_experiment,) = read_mlflow_runs(tracker.run_id), read_mlflow_runs("trials")
    wanted = History.of(solution)
    assert by_id.name == "first"
    assert by_id.facts["reason"] == solution.reason
    for found in (by_id, by_experiment):
        for level in wanted.levels:
            for what in ("loss", "lr"):
                np.testing.assert_allclose(
                    found.smoothing_curve(what, level), wanted.smoothing_curve(what, level), rtol=1e-6
                )
        np.testing.assert_allclose(found.tau_share(0)[:, [0, 3]], wanted.tau_share(0)[:, [0, 3]], rtol=1e-6)
        assert [s[:3] for s in found.coarse_steps().values()] == [s[:3] for s in wanted.coarse_steps().values()]
        np.testing.assert_array_equal(found.evaluation_curve("loss")[:, 3], wanted.evaluation_curve("loss")[:, 3])
    with pytest.raises(LoadError, match=r"no run is called 'none-such'.*no such experiment"):
        read_mlflow_runs("none-such")


def test_asking_for_a_run_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, _, err = run("report", "nothing")
    assert code == 1
    assert "no run is called 'nothing'" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"history": [{"eve', "is no complete JSON .* truncated"),
        ("[]", "has no history"),
        ('{"network": "mlp"}', "has no history"),
        ('{"history": []}', "empty history"),
        ('{"history": [{"event": "smooth"}]}', "belongs to no run"),
    ],
)
def test_an_incomplete_run_file_is_named(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(LoadError, match=message):
        read_run(tmp_path)
    with pytest.raises(LoadError, match=r"holds no run\.json and no checkpoint"):
        read_run((tmp_path / "empty").mkdir() or tmp_path / "empty")


@pytest.mark.parametrize(
    "change",
    [
        {"level": "0"}, {"level": None}, {"step": 1.5}, {"step": 2**70}, {"seconds": None}, {"seconds": "1"}, {"flops": [1]}, {"loss": "low"}, {"loss": 10**400},
        {"event": 3}, {"event": "evaluate"}, {"event": "evaluate", "figures": {"loss": []}},
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_refused_before_curves_are_made(tmp_path, change):
    record = {"event": "smooth", "level": 0, "step": 1, "seconds": 0.1, "flops": 1e6, "loss": 2.0, "lr": 0.1}
    (tmp_path / "run.json").write_text(json.dumps({"history": [record, {**record, **change}]}))
    with pytest.raises(LoadError, match=r"run\.json: a record belongs to no run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "facts",
    [{"ledger": {"rows": 3}}, {"ledger": {"rows": [{"level": 0, "kind": "smooth", "seconds": "1", "flops": 1}]}}, {"test": 7.5j}, {"test": {"loss": "low"}}],
)  # fmt: skip
def test_costs_of_another_form_are_refused_before_they_are_drawn(tmp_path, facts):
    record = {"event": "smooth", "level": 0, "step": 1, "seconds": 0.1, "flops": 1e6, "loss": 2.0, "lr": 0.1}
    (tmp_path / "run.json").write_text(json.dumps({"history": [record], **facts}, default=str))
    with pytest.raises(LoadError, match=r"belongs? to no (run|ledger)"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"history": ' + "[" * 100_000)
    with pytest.raises(LoadError, match="nests too deep"):
        read_run(tmp_path)


def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path):
    solver, run_ = begun([Checkpoints(tmp_path)], cycles=2)
    solver.finish(run_)
    newest, older = sorted(tmp_path.glob("*.safetensors"), reverse=True)[:2]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert older.name in read_run(tmp_path).facts["reason"]
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(LoadError, match=r"all checkpoints of .* are damaged"):
        read_run(tmp_path)


def test_charts_hold_the_records(solution, histories):
    one = histories[:1]
    (line, *marks) = draw_trace(one).data
    assert list(line.y)[1:] == [r["level"] for r in solution.events("smooth")]
    assert sum(len(mark.x) for mark in marks) == len(solution.events("up")) + len(solution.events("skip"))
    for what, total in (("seconds", solution.seconds), ("flops", solution.flops)):
        assert sum(sum(bar.x) for bar in draw_costs(one, what).data) == pytest.approx(total)
    assert sum(sum(bar.x) for bar in draw_coarse_steps(one).data) == sum(len(mark.x) for mark in marks)
    shares = [r["tau"] / r["restricted"] for r in solution.events("down")]
    assert list(draw_tau(one).data[0].y) == pytest.approx(shares)
    drawn = {trace.name: list(trace.y) for trace in draw_loss(one, "flops").data}
    for level in (0, 1):
        losses = [r["loss"] for r in solution.events("smooth") if r["level"] == level]
        assert drawn[f"training, level {level}"] == losses
    assert [trace.name for trace in draw_loss(histories, "seconds").data] == ["three cycles", "one cycle"]


def test_the_sheet_draws_the_same(solution, histories):
    axes = {ax.get_title("left"): ax for ax in plot_runs(histories[:1]).axes}
    loss = axes["Loss against FLOPs"].lines[-1]
    assert loss.get_ydata().tolist() == [r["figures"]["loss"] for r in solution.events("evaluate")]
    assert sum(bar.get_width() for bar in axes["FLOPs per level"].patches) == pytest.approx(solution.flops)
    assert len(plot_runs(histories).axes) == len(axes) + 1
    assert not matplotlib.pyplot.get_fignums()


def test_a_run_with_few_records_is_drawn(tmp_path):
    record = {"event": "begin", "level": 0, "step": 0, "seconds": 0.0, "flops": 0.0}
    write_run_page([History("begun", [record])], tmp_path / "page.html")
    plot_runs([History("begun", [record])]).savefig(tmp_path / "sheet.png")
    assert summarize_run(History("begun", [record]), 1.0)["loss"] is None


@given(st.text(max_size=80))
def test_names_on_charts_hold_no_tag_and_one_line(name):
    found = escape_label(name)
    assert not re.search(r"[<>\n\r\x00]|&(?!amp;|lt;|gt;)", found)
    found.encode("utf-8")


def test_the_page_contains_plotly_once_and_makes_no_requests(histories):
    text = render_run_page(histories)
    assert len(re.findall(r"\* plotly\.js v", text)) == 1
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.partition("style-src")[0]
    assert not re.findall(r'(?:src|href)="(?!#|data:,)', re.sub(r"<script>.*?</script>", "", text, flags=re.S))


def test_without_plotly_the_error_names_the_package_to_install(tmp_path, monkeypatch, histories):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(NetgraphError, match=r"pip install plotly \(the extra report\)"):
        render_run_page(histories)
    code, _, err = run("train", "mlp", "--report", tmp_path / "r")
    assert code == 1
    assert "plotly" in err


def test_train_leaves_a_report_and_runs_are_compared(tmp_path):
    small = ("--widths", "16,8", "--epochs", 2, "--levels", 2)
    code, out, err = run("train", "mlp", *small, "--cycle", "v", "--json", "--report", tmp_path / "fas")
    assert code == 0
    assert "report.html" in err
    assert json.loads((tmp_path / "fas" / "run.json").read_text()) == json.loads(out)
    assert run("train", "mlp", *small, "--plain", "--report", tmp_path / "plain")[0] == 0
    both = (tmp_path / "fas", tmp_path / "plain")
    for name in ("both.html", "both.svg"):
        code, shown, _ = run("report", *both, "-o", tmp_path / name)
        assert code == 0
        assert (tmp_path / name).stat().st_size > 10_000
    code, out, _ = run("report", *both, "--json")
    rows = json.loads(out)["runs"]
    assert [row["run"] for row in rows] == ["fas", "plain"]
    assert rows[0]["test_accuracy"] == json.loads((tmp_path / "fas" / "run.json").read_text())["test"]["accuracy"]
    for row, line in zip(rows, shown.splitlines()[1:], strict=False):
        assert f"{row['loss']:.4f}" in line
    for words, message in ((["-o", "x.bin"], "ends in .bin"), (["-o", tmp_path / "no" / "x.html"], "Create it first")):
        code, _, err = run("report", *both, *words)
        assert (code, message in err) == (1, True)


@pytest.fixture(scope="module")
def driver():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def written(tmp_path_factory, histories):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_run_page(histories, path)
    return path


@pytest.mark.browser
class TestInABrowser:
    def test_it_opens_without_log_messages_and_requests_and_shows_every_chart(self, driver, written, histories):
        opened(driver, written)
        drawn = driver.find_elements("css selector", "#charts figure .js-plotly-plot")
        assert len(drawn) == sum(draw(histories) is not None for _, _, draw in CHARTS)
        rows = driver.find_elements("css selector", "#numbers tbody tr")
        assert [row.find_element("tag name", "th").text for row in rows] == ["three cycles", "one cycle"]
        assert f"{summarize_run(histories[0])['loss']:.4f}" in rows[0].text
        assert logged(driver) == ([], [])

    def test_themes_change_the_charts_and_narrow_windows_scroll_down_only(self, driver, written):
        opened(driver, written)
        ink = "return getComputedStyle(document.querySelector('#chart0 .xtick text')).fill"
        before = driver.execute_script(ink)
        driver.find_element("id", "theme").click()
        waits = WebDriverWait(driver, 60)  # plotly draws, and follows the window, after a while
        waits.until(lambda driver: driver.execute_script(ink) != before)
        size = driver.get_window_size()
        try:
            driver.set_window_size(520, 900)
            fits = "return document.documentElement.scrollWidth <= innerWidth"
            waits.until(lambda driver: driver.execute_script(fits))
        finally:
            driver.set_window_size(size["width"], size["height"])
        assert logged(driver) == ([], [])

    def test_hostile_names_are_text(self, driver, tmp_path, histories):
        runs = [History(name, histories[0].records, histories[0].costs, {"reason": name}) for name in HOSTILE]
        write_run_page(runs, tmp_path / "page.html")
        opened(driver, tmp_path / "page.html")
        assert driver.title == f"{len(HOSTILE)} runs · training report"
        assert not driver.find_elements("css selector", "main img, main script, main b, main a")
        cells = driver.find_elements("css selector", "#numbers tbody th")
        assert [cell.get_attribute("textContent") for cell in cells] == HOSTILE
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert logged(driver) == ([], [])


def test_a_narrow_range_of_losses_has_ticks():
    pytest.importorskip("plotly")
    narrow, wide = ([{"event": "evaluate", "level": 0, "step": i, "seconds": float(i), "flops": float(i), "figures": {"loss": loss}}
                     for i, loss in enumerate(losses)] for losses in ((1.5, 1.39), (2.3, 0.1)))  # fmt: skip
    ticks = [draw_loss([History("one", records)], "seconds").layout.yaxis.dtick for records in (narrow, wide)]
    assert ticks == [None, "D2"]


@pytest.mark.parametrize("kind", ["device", "pipe", "huge"])
def test_a_run_is_not_read_from_what_has_no_end(kind, tmp_path):
    path = tmp_path / "run.json"
    if kind == "device":
        path = Path("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(2**42)  # a hole, which takes no space on the disk
    with pytest.raises(LoadError, match=r"no regular file|bytes, but"):
        read_run(path)
