"""A tracking server that fails in any way: training goes on as without it, one warning names the fault, and nothing hangs."""

import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

import pytest

from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints, resume
from netgraph.fas.monitoring import background_sender, mlflow_tracking
from netgraph.fas.monitoring.background_sender import BackgroundSender
from netgraph.fas.monitoring.mlflow_tracking import MLflow
from netgraph.fas.monitoring.run_lock import open_store_alone
from netgraph.io.files.writers import Writer, identify_process
from tests.support import command_line
from tests.support.tracked_runs import begun
from tests.support.tracking_server import serve_tracking

FAULTS = {  # how the server fails, and what the warning says of it
    "500": r"500",
    "silent": r"no answer within|[Tt]imed? ?out|by the end of the run",
    "garbage": r"JSON|Sign in|json",
    "redirects": r"redirect",
    "hang up": r"[Cc]onnection|RemoteDisconnected",
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mlflow_tracking, "FIRST", 60.0)  # however busy the machine is, the first answer comes first
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serve_tracking(tmp_path / "artefacts") as state:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", state.address)
        yield state


def read_losses(solution):
    return [record["loss"] for record in solution.events("smooth")]


def list_warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def finish(callbacks, cycles=2):
    solver, run = begun(callbacks, cycles=cycles)
    return solver.finish(run)


@pytest.mark.parametrize("mode", FAULTS)
def test_a_server_that_fails_from_the_start_is_one_warning_before_or_while_training(server, caplog, mode):
    server.mode = mode
    first = []

    def note(run, record):
        if record["event"] == "smooth" and not first:
            first.append(len(list_warnings(caplog)))

    with caplog.at_level(logging.INFO):
        tracked = finish([MLflow(timeout=0.5 if mode == "silent" else 30.0), note])
    assert read_losses(tracked) == read_losses(finish([]))
    (warning,) = list_warnings(caplog)
    assert warning.startswith(f"the tracking store {server.address} does not answer (")
    assert "\x1b" not in warning
    assert "\n" not in warning
    assert re.search(FAULTS[mode], warning), warning
    assert first == [1] or mode == "silent", "an error is told before the first step"
    assert re.search(r"\d+ records were dropped\. The history of the run has them", caplog.text)
    assert not server.runs


@pytest.mark.parametrize("mode", FAULTS)
def test_a_server_that_dies_and_comes_back_has_all_records(server, caplog, monkeypatch, mode):
    monkeypatch.setattr(background_sender, "LONG_PAUSE", 0.05)
    tracker = MLflow(timeout=0.2)

    def turn(run, record):
        if record["event"] == "begin":
            wait_until(lambda: tracker.run_id)
        if record["event"] == "cycle" and run.cycles == 1:
            server.mode, asked = mode, server.asked
            tracker._sender.interval = 0.0
            wait_until(lambda: server.asked > asked)
        if record["event"] == "cycle" and run.cycles == 2:
            wait_until(lambda: tracker._sender._check_call() or tracker._sender.lost)
            server.mode = "ok"
            server.ended.set()
            wait_until(lambda: not tracker._sender.lost)

    with caplog.at_level(logging.INFO):
        tracked = finish([tracker, turn], cycles=3)
    (run,) = server.runs.values()
    sent = {(m["key"], m["step"]): m["value"] for m in run["metrics"] if m["key"].startswith("loss/level_")}
    expected = {(f"loss/level_{r['level']}", r["step"]): r["loss"] for r in tracked.events("smooth")}
    assert sent == pytest.approx(expected)
    assert run["status"] == "FINISHED"
    assert run["tags"]["netgraph.reason"] == "the 3 cycles are spent"
    assert len(list_warnings(caplog)) == 1
    assert "answers again" in caplog.text
    assert "were dropped" not in caplog.text


def wait_until(condition):
    while not condition():
        time.sleep(0.005)


def test_a_server_that_dies_for_good_ends_the_run_with_its_count_of_lost_records(server, caplog):
    tracker = MLflow(timeout=0.2)

    def die(run, record):
        if record["event"] == "begin":
            wait_until(lambda: tracker.run_id)
        if record["event"] == "cycle":
            server.mode = "hang up"

    with caplog.at_level(logging.INFO):
        finish([tracker, die])
    assert len(list_warnings(caplog)) == 1
    assert re.search(r"[1-9]\d* records were dropped", caplog.text)
    assert [run["status"] for run in server.runs.values()] == ["RUNNING"], "nobody can tell the server"


def test_a_slow_server_gets_everything_and_stdout_nothing(server, caplog, capsys):
    server.mode = "slow"
    finish([MLflow(artefacts=[lambda folder: (folder / "a.txt").write_text("a")])])
    (run,) = server.runs.values()
    assert run["status"] == "FINISHED"
    assert run["params"]["levels"] == "2"
    assert not list_warnings(caplog)
    assert capsys.readouterr().out == ""


def test_an_attempt_that_fails_half_way_makes_no_second_run(server, monkeypatch):
    real, failures = server.answer, []

    def answer(path, fields):
        if path.endswith("log-batch") and len(failures) < 2:
            failures.append(path)
            return 500, {"error_code": "INTERNAL_ERROR", "message": "not now"}
        return real(path, fields)

    monkeypatch.setattr(server, "answer", answer)
    tracker = MLflow()
    finish([tracker, lambda run, record: wait_until(lambda: tracker.run_id)])
    (run,) = server.runs.values()
    assert run["params"]["levels"] == "2"
    assert len(failures) == 2


def test_a_record_that_the_store_never_takes_does_not_hold_up_the_others(server, monkeypatch, caplog):
    real = server.answer

    def answer(path, fields):
        if path.endswith("set-tag"):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such tag"}
        return real(path, fields)

    monkeypatch.setattr(server, "answer", answer)
    finish([MLflow()])
    (run,) = server.runs.values()
    assert any(metric["key"] == "seconds" for metric in run["metrics"])
    (warning,) = list_warnings(caplog)
    assert "does not take a record" in warning
    assert "no such tag" in warning


def test_a_kind_of_store_that_mlflow_does_not_know_is_refused_before_training(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htpp://user:secret@tracking.example")
    solver, run = begun([MLflow()])
    with pytest.raises(NetgraphError, match=r"knows no tracking store htpp://tracking\.example\. Give an address"):
        solver.finish(run)
    assert run.steps == 0


def test_the_folder_of_a_local_store_is_checked_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    solver, run = begun([MLflow()])
    with pytest.raises(NetgraphError, match=rf"the folder {tmp_path}/nowhere does not exist"):
        solver.finish(run)
    assert run.steps == 0


@pytest.mark.parametrize(("fault", "words"), [("gone", "readonly"), ("full", "disk")])
def test_a_local_store_that_is_gone_or_full_while_a_run_goes_on_is_one_warning(tmp_path, caplog, fault, words):
    """The kernel refuses: the file was removed, or files may not grow further."""
    tracker, store = MLflow(timeout=0.5), tmp_path / "mlflow.db"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def spoil(run, record):
        if record["event"] == "begin":
            wait_until(lambda: tracker.run_id)
        if record["event"] == "cycle" and run.cycles == 1:
            if fault == "gone":
                store.unlink()
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (store.stat().st_size // 2, limits[1]))

    try:
        tracked = finish([tracker, spoil])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_losses(tracked) == read_losses(finish([]))
    (warning,) = [line for line in list_warnings(caplog) if "tracking store" in line]
    assert words in warning


def test_a_queue_that_is_full_without_an_error_is_told_at_the_end(caplog):
    sender = BackgroundSender(lambda items: [time.sleep(0.2), items.clear()], "a store", timeout=60.0, size=2)
    for number in range(50):
        sender.put(number)
    sender.close(60.0)
    (warning,) = list_warnings(caplog)
    assert warning == f"a store: {sender.dropped} records were dropped. The history of the run has them"


def test_variables_that_name_a_run_for_mlflow_are_not_ignored_in_silence(server, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    finish([MLflow()])
    assert list_warnings(caplog) == [
        "netgraph makes a run of its own in MLflow, and does not use MLFLOW_RUN_ID and MLFLOW_EXPERIMENT_NAME"
    ]
    assert list(server.runs) != ["0" * 32]


def stop_once_tracked(tracker):
    def stop(run, record):
        if record["event"] == "cycle":
            wait_until(lambda: tracker.run_id)
            run.notes["mlflow"] = tracker.run_id
            run.stop("a pause")

    return stop


def begin_tracked(folder):
    tracker = MLflow()
    solver, run = begun([tracker, stop_once_tracked(tracker), Checkpoints(folder)])
    solver.finish(run)
    return tracker.run_id


HOLD = """
import sys, time
from netgraph.fas.monitoring.run_lock import RunLock
lock = RunLock()
assert lock.acquire(sys.argv[1]) == ""
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_do_not_write_into_one_mlflow_run(server, tmp_path, caplog):
    first = begin_tracked(tmp_path / "points")
    other = subprocess.Popen([sys.executable, "-c", HOLD, first], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        before = len(server.runs[first]["metrics"])
        tracker = MLflow()
        solver, run = begun([tracker])
        resume(run, tmp_path / "points")
        solver.finish(run)
        assert tracker.run_id != first
        assert len(server.runs[first]["metrics"]) == before
        assert f"the MLflow run {first} is in use by process {other.pid} on " in caplog.text
        assert "This run is tracked as a new one" in caplog.text
    finally:
        other.kill()
        other.wait()
    tracker = MLflow()
    solver, run = begun([tracker])
    resume(run, tmp_path / "points")
    solver.finish(run)
    assert tracker.run_id == first, "that process has ended"
    assert server.runs[first]["status"] == "FINISHED"
    assert not [name for name in os.listdir(tmp_path) if "mlflow" in name]


def test_two_processes_open_a_local_store_one_after_the_other(tmp_path):
    """MLflow makes the tables of a new store in many steps, and its lock does not cover them all."""
    store = tmp_path / "mlflow.db"
    with open_store_alone(store, longest=10.0):
        assert os.listdir(tmp_path) == [".netgraph-lock-mlflow.db"]
        child = os.fork()
        if child == 0:
            with open_store_alone(store, longest=60.0):
                os._exit(0 if (tmp_path / "first is ready").exists() else 1)
        time.sleep(0.3)  # time in which the other one waits
        (tmp_path / "first is ready").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with open_store_alone(store, longest=10.0):
        pass
    assert os.listdir(tmp_path) == ["first is ready"], "the lock of an ended process is taken over"


def test_a_run_of_another_machine_that_has_not_ended_is_continued_with_a_warning(server, tmp_path, caplog):
    first = begin_tracked(tmp_path / "points")
    server.runs[first]["status"] = "RUNNING"
    here = identify_process()
    server.runs[first]["tags"]["netgraph.process"] = str(Writer("elsewhere", here.space, 12, 1))
    tracker = MLflow()
    solver, run = begun([tracker])
    resume(run, tmp_path / "points")
    solver.finish(run)
    assert tracker.run_id == first
    assert "was begun by process 12 on elsewhere and has not ended" in caplog.text


def test_a_run_that_was_deleted_in_mlflow_is_tracked_as_a_new_one(server, tmp_path, caplog):
    first = begin_tracked(tmp_path / "points")
    del server.runs[first]
    solver, run = begun([MLflow()])
    resume(run, tmp_path / "points")
    solver.finish(run)
    (stored,) = server.runs.values()
    assert stored["status"] == "FINISHED"
    assert f"does not continue the MLflow run {first}" in caplog.text


def test_names_and_values_of_files_are_escaped_cut_and_renamed_for_mlflow(server, caplog):
    steer = "layer\x1b]0;title\x07\nname\u202e"
    params = {steer: steer, "a//../b": 1, "a/b": 2, "k" * 400: "x", "long": "v" * 9000, "": "empty"}
    with caplog.at_level(logging.INFO):
        finish([MLflow(f"trials\n{steer}", params, name=f"first\n{steer}")])
    (run,) = server.runs.values()
    words = [run["name"], *server.experiments, *run["params"], *run["params"].values(), *run["tags"].values()]
    assert not [word for word in words if re.search("[\x00-\x1f\x7f\u202e]", word)]
    assert run["params"]["layer__0_title__name_"] == r"layer\x1b]0;title\x07\nname\u202e"
    assert run["params"]["a/b"] == "1"
    assert re.fullmatch(r"a/b_[0-9a-f]{8}", next(key for key in run["params"] if key.startswith("a/b_")))
    assert max(map(len, run["params"])) == 250
    assert run["params"]["long"].endswith("… (cut, 9000 characters)")
    assert len(run["params"]["long"]) == 6000
    assert "the parameter long is cut after 6000 characters" in caplog.text
    assert "the parameter a/b is called a/b_" in caplog.text


def test_every_key_that_is_sent_is_one_that_mlflow_takes():
    from hypothesis import given
    from hypothesis import strategies as st
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

    from netgraph.fas.monitoring.mlflow_names import clean_params

    @given(st.dictionaries(st.text(max_size=300), st.text(), max_size=8))
    def check(params):
        cleaned = clean_params(params)
        assert len(cleaned) == len(params), "no two share a key"
        for key in cleaned:
            _validate_metric_name(key)
            assert len(key) <= MAX_ENTITY_KEY_LENGTH

    check()


@pytest.mark.parametrize("jump", [-40 * 365 * 86400.0, -3600.0, 3600.0, 40 * 365 * 86400.0])
def test_a_clock_that_is_set_moves_no_timestamp_and_loses_no_server(server, monkeypatch, caplog, jump):
    real, begin = time.time, time.time()

    def jump_clock(run, record):
        if record["event"] == "cycle":
            monkeypatch.setattr(time, "time", lambda: real() + jump)

    finish([MLflow(), jump_clock])
    monkeypatch.undo()
    (run,) = server.runs.values()
    stamps = [metric["timestamp"] / 1000 for metric in run["metrics"]]
    assert begin - 1 < min(stamps)
    assert max(stamps) < time.time() + 1
    assert run["status"] == "FINISHED"
    assert not list_warnings(caplog)


def test_a_clock_before_1970_gives_timestamps_that_mlflow_takes(server, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: -1e6)
    finish([MLflow()])
    (run,) = server.runs.values()
    assert min(metric["timestamp"] for metric in run["metrics"]) == 0


@pytest.mark.parametrize("mode", ["ok", "hang up"])
def test_the_command_ends_with_its_result_and_0_whatever_the_server_does(server, mode):
    server.mode = mode
    words = (
        "train",
        "mlp",
        "--data",
        "digits",
        "--widths",
        "16",
        "--epochs",
        "0.5",
        "--levels",
        "2",
        "--mlflow",
        "--json",
    )
    code, out, err = command_line.run(*words)
    assert code == 0
    assert json.loads(out)["history"], "MLflow prints nothing between the lines"
    assert ("does not answer" in err) == (mode != "ok")
    assert [run["status"] for run in server.runs.values()] == ["FINISHED"] * (mode == "ok")
