"""MLflow: the content of a stored run, and the cost of a store that is down or never answers."""

import logging
import os
import socket
import sys
import time

import mlflow
import numpy as np
import pytest
import torch
from tracked_runs import begun

from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints, resume
from netgraph.fas.monitoring.background_sender import BackgroundSender
from netgraph.fas.monitoring.mlflow_tracking import MLflow, tracking_uri


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_is_stored_completely_and_continues_when_resumed(tmp_path):
    (tmp_path / "notes.txt").write_text("by hand")
    given = {"params": {"data": "made up", "smoothing.pre": 2}, "example": torch.randn(2, 6)}
    artefacts = [tmp_path / "notes.txt", lambda folder: (folder / "page.html").write_text("<p>levels</p>")]
    tracker = MLflow("trials", name="first", artefacts=artefacts, **given)

    def stop(run, record):
        if record["event"] == "cycle":
            while not tracker.run_id:  # a store makes its tables first
                time.sleep(0.01)
            run.stop("a pause")

    solver, run = begun([tracker, Checkpoints(tmp_path / "points"), stop])
    solver.finish(run)
    run_id = tracker.run_id
    again = MLflow("trials", **given)
    solver, run = begun([again])
    resume(run, tmp_path / "points")
    solution = solver.finish(run)
    assert again.run_id == run_id

    client = mlflow.MlflowClient(tracking_uri())
    kept = client.get_run(run_id)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "first"
    assert kept.data.tags["netgraph.reason"] == "the 2 cycles are spent"
    assert {
        "data": "made up",
        "tau.kind": "common",
        "optimizer": "Adam",
        "lr": "0.01",
    }.items() <= kept.data.params.items()
    for level in (0, 1):
        told = {r["step"]: r["loss"] for r in solution.events("smooth") if r["level"] == level}
        sent = client.get_metric_history(run_id, f"loss/level_{level}")
        assert len(sent) == len(told)
        assert {m.step: m.value for m in sent} == pytest.approx(told)
    assert kept.data.metrics["valid/accuracy"] == 0.5
    assert {"gap/level_0", "tau/level_0", "length/level_0", "samples/level_1", "flops"} <= kept.data.metrics.keys()
    assert "system/cpu_utilization_percentage" in kept.data.metrics
    assert {a.path for a in client.list_artifacts(run_id)} == {"notes.txt", "page.html", "model"}
    mlflow.set_tracking_uri(tracking_uri())
    try:
        found = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    finally:
        mlflow.set_tracking_uri(None)
    assert found.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, 6)
    x = torch.randn(5, 6)
    wanted = solution.model.eval()(x).detach().numpy()
    np.testing.assert_allclose(found.predict(x.numpy()), wanted, rtol=1e-5)


def test_the_stored_network_is_the_running_mean_if_there_is_one_without_noise_in_the_log(capfd, recwarn):
    tracker = MLflow("means", example=torch.randn(2, 6))
    solver, run = begun([tracker], ema=0.9)
    solution = solver.finish(run)
    assert "INFO" not in capfd.readouterr().err
    assert not [w for w in recwarn if "No complete tensor" in str(w.message)]
    mlflow.set_tracking_uri(tracking_uri())
    try:
        found = mlflow.pytorch.load_model(f"runs:/{tracker.run_id}/model")
    finally:
        mlflow.set_tracking_uri(None)
    own = found.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in solution.mean.state_dict().items())
    assert not all(torch.equal(own[name], tensor) for name, tensor in solution.model.state_dict().items())


def test_the_store_is_a_local_file_unless_one_is_named(tmp_path, monkeypatch):
    assert tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_uri() == "http://127.0.0.1:1"


def test_a_missing_artefact_is_refused_before_work_begins():
    solver, run = begun([MLflow(artefacts=["nowhere.html"])])
    with pytest.raises(NetgraphError, match=r"the artefacts nowhere\.html do not exist"):
        solver.finish(run)
    assert run.steps == 0


@pytest.fixture(params=["down", "silent"])
def server(request):
    """An address where nobody listens, or where somebody accepts and never answers."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        if request.param == "silent":
            place.listen(64)
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        else:
            address = f"http://127.0.0.1:{place.getsockname()[1]}"
            place.close()
            yield address


def test_a_server_that_is_down_or_silent_is_one_warning_and_changes_nothing(server, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    solver, run = begun([], cycles=10)
    bare = solver.finish(run)
    solver, run = begun([MLflow(timeout=0.2)], cycles=10)
    with caplog.at_level(logging.INFO):
        tracked = solver.finish(run)
    assert [tracked.events("smooth")[i]["loss"] for i in (0, -1)] == [bare.events("smooth")[i]["loss"] for i in (0, -1)]
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"the tracking store {server} does not answer (")
    assert any("records were dropped" in record.message for record in caplog.records)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_putting_an_item_never_waits_and_dropped_items_are_counted():
    released = []

    def slow(items):
        while not released:
            time.sleep(0.005)
        items.clear()

    sender = BackgroundSender(slow, "a store", timeout=60.0, size=3)
    for i in range(50):
        sender.put(i)
    assert sender.dropped >= 46
    released.append(True)
    sender.close(5.0)
    assert sender.answered


def test_items_that_were_sent_are_not_sent_again_after_an_error():
    got, failures = [], [True]

    def send(items):
        while items:
            if items[0] == 2 and failures:
                failures.clear()
                raise OSError("a hiccup")
            got.append(items.pop(0))

    sender = BackgroundSender(send, "a store", timeout=5.0, interval=0.05)
    for i in range(5):
        sender.put(i)
    sender.close(5.0)
    assert got == [0, 1, 2, 3, 4]
    assert sender.dropped == 0


def test_ui_opens_mlflows_own_page_on_the_same_store(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from netgraph.cli.main import app

    asked = []

    def call(arguments, *, cwd, env):
        asked.append(arguments)
        assert os.listdir(cwd) == []  # MLflow and its servers take modules from there
        assert env["PYTHONSAFEPATH"] == "1"
        return 0

    monkeypatch.setattr("subprocess.call", call)
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri"]
    rest = ["--artifacts-destination", str(tmp_path / "mlartifacts"), "--port", "5055"]
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for uri in ("", "sqlite:///mlflow.db", store):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert CliRunner().invoke(app, ["ui", "--port", "5055"]).exit_code == 0
        assert asked.pop() == [*words, store, *rest]
    for uri in ("mlruns", "./mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert CliRunner().invoke(app, ["ui", "--port", "5055"]).exit_code == 0
        assert asked.pop() == [*words, str(tmp_path / "mlruns"), *rest]
    opened = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert "http://127.0.0.1:5000" in CliRunner().invoke(app, ["ui"]).output
    assert opened == ["http://127.0.0.1:5000"]
