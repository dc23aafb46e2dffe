"""MLflow: a run's parameters, figures, pages and network in a tracking store, at next to no cost to training.

Training only puts records into a bounded queue; a thread sends them. Where the store does not answer within one timeout there is
one warning, and what follows is dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.fingerprint import fingerprint_run
from netgraph.fas.monitoring.background_sender import BackgroundSender
from netgraph.fas.solver.run import Run
from netgraph.utils.logging import silence_logger
from netgraph.utils.torchvision_compat import prepare_torchvision

BATCH = 500  # metrics of one request; MLflow takes 1000
LOCAL = 300.0  # seconds that a store on this machine may take: it makes its tables first
Artefact = str | Path | Callable[[Path], object]
Record = Mapping[str, Any]
logger = logging.getLogger("netgraph.tracking")


def tracking_uri() -> str:
    """Return where runs are kept: what ``mlflow.set_tracking_uri`` or MLFLOW_TRACKING_URI names, else ``mlflow.db`` here."""
    import mlflow

    named = mlflow.is_tracking_uri_set() or os.environ.get("MLFLOW_TRACKING_URI")
    return str(mlflow.get_tracking_uri()) if named else f"sqlite:///{Path('mlflow.db').absolute()}"


class MLflow:
    """A callback that keeps a run in MLflow; a resumed run goes on in the one that it began.

    Parameters
    ----------
    experiment : str
    params : dict, optional
        Written beside the options of the run.
    artefacts : sequence of path or callable
        Files and folders that are kept when the run ends; a callable is given an empty folder to write into.
    name : str, optional
        Of the run.
    example : Tensor, optional
        An input of a few rows: the trained network, its running mean where one is asked for, is kept with its signature;
        without one it is not.
    timeout : float
        Seconds after which a server that says nothing is given up.

    Raises
    ------
    NetgraphError
        A file among the artefacts does not exist as the run begins.
    """

    def __init__(
        self,
        experiment: str = "netgraph",
        params: Mapping[str, Any] | None = None,
        artefacts: Sequence[Artefact] = (),
        *,
        name: str | None = None,
        example: torch.Tensor | None = None,
        timeout: float = 10.0,
    ) -> None:
        import mlflow  # here, where nobody is training yet

        self._mlflow = mlflow
        self.experiment, self.params, self.artefacts = experiment, dict(params or {}), list(artefacts)
        self.name, self.example, self.timeout = name, example, timeout
        self.run_id = ""  # until the store has named it
        self._sender: BackgroundSender | None = None

    def __call__(self, run: Run, record: Record) -> None:
        """Put what is told into the queue."""
        event = record["event"]
        if event == "begin":
            self._begin(run)
        if self._sender is None:
            return
        if self.run_id:
            run.notes["mlflow"] = self.run_id
        for item in event_metrics(run, record):
            self._sender.put((*item, int(time.time() * 1000), record["step"]))
        if event == "alert":
            self._sender.put(lambda: self._client.set_tag(self.run_id, f"alert.{record['rule']}", record["message"]))
        if event in ("finish", "failed"):
            self._end(run, record)

    def _begin(self, run: Run) -> None:
        missing = [str(a) for a in self.artefacts if not callable(a) and not Path(a).exists()]
        if missing:
            raise NetgraphError(f"the artefacts {', '.join(missing)} do not exist; give files, folders or callables")
        self._uri, self._begun = tracking_uri(), time.monotonic()
        self._remote = self._uri.startswith(("http:", "https:", "databricks"))
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(limit_mlflow_retries(self.timeout))
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            self._quiet.enter_context(silence_logger("mlflow", below=logging.WARNING))  # progress is not its to tell
        self.run_id = run.notes.get("mlflow", "")
        self._machine = _make_system_monitor()
        self._sender = BackgroundSender(
            self._send,
            f"the tracking store {hide_password(self._uri)}",
            timeout=self.timeout if self._remote else LOCAL,
        )
        params = {**_run_params(run), **self.params}
        self._sender.put(lambda: self._open(params))

    def _end(self, run: Run, record: Record) -> None:
        assert self._sender is not None
        for artefact in self.artefacts:
            self._sender.put(lambda artefact=artefact: self._keep(artefact))
        if (example := self.example) is not None and record["event"] == "finish":
            self._sender.put(lambda: self._keep(lambda folder: save_mlflow_model(run.trained_model, example, folder)))
        status = "FINISHED" if record["event"] == "finish" else "FAILED"
        said = record.get("reason") or record.get("error") or ""
        self._sender.put(lambda: self._close(status, said))
        # a server that never answered is not waited for longer than the run could spare
        spare = min(self.timeout, 0.01 * (time.monotonic() - self._begun)) if self._remote else LOCAL
        self._sender.close(spare)
        self._quiet.close()
        self._sender = None

    # in the sender's thread

    def _send(self, items: list[Any]) -> None:
        """Do jobs in their order, and send the figures between them in batches; what is done leaves the list."""
        while items:
            if callable(items[0]):
                items[0]()
                del items[0]
                continue
            n = next((i for i, item in enumerate(items[:BATCH]) if callable(item)), min(len(items), BATCH))
            self._log(items[:n])
            del items[:n]
        self._log(
            [
                (f"system/{key}", value, int(time.time() * 1000), int(time.monotonic() - self._begun))
                for key, value in self._machine()
            ]
        )

    def _log(self, rows: Sequence[tuple[str, float, int, int]]) -> None:
        if rows and self.run_id:
            self._client.log_batch(self.run_id, metrics=[self._mlflow.entities.Metric(*row) for row in rows])

    def _open(self, params: Mapping[str, Any]) -> None:
        """Begin: a client makes the tables of a new store, which is all disk and takes a minute on a slow one."""
        self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        if self.run_id:
            self._client.update_run(self.run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        run_id = self._client.create_run(number, run_name=self.name).info.run_id
        rows = [self._mlflow.entities.Param(_clean_key(key), str(value)[:6000]) for key, value in params.items()]
        for i in range(0, len(rows), 100):
            self._client.log_batch(run_id, params=rows[i : i + 100])
        self.run_id = run_id

    def _keep(self, artefact: Artefact) -> None:
        if not callable(artefact):
            upload = self._client.log_artifacts if Path(artefact).is_dir() else self._client.log_artifact
            upload(self.run_id, str(artefact))
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                artefact(Path(folder))
            except Exception as error:  # a picture that cannot be drawn is no reason to lose the run
                logger.warning("an artefact was not made: %s: %s", type(error).__name__, error)
            self._client.log_artifacts(self.run_id, folder)

    def _close(self, status: str, said: str) -> None:
        self._client.set_tag(self.run_id, "netgraph.reason", said)
        self._client.set_terminated(self.run_id, status)


def event_metrics(run: Run, record: Record) -> Iterator[tuple[str, float]]:
    """Yield the figures of an event by the names that MLflow shows them under."""
    event, level = record["event"], record["level"]
    names: tuple[str, ...] = ()
    if event == "evaluate":
        yield from ((_clean_key(f"valid/{name}"), float(value)) for name, value in record["figures"].items())
        yield from _cost_metrics(record)
    elif event == "smooth":
        names = ("loss", "lr")
        yield from _cost_metrics(record)
    elif event in ("down", "skip"):
        names = ("gap", "tau", "restricted", "gradient")
        yield f"not_begun/level_{level}", float(event == "skip")
    elif event == "up":
        names = ("length", "angle", "earned", "cost", "owed")
    elif event == "norm":
        names = ("norm",)
    elif event == "cycle":
        yield from _cost_metrics(record)
        yield from ((f"samples/level_{i}", float(n)) for i, n in run.ledger.samples.items())
    elif event == "refused":
        yield f"refused/level_{level}", float(run.refused)
    yield from ((f"{n}/level_{level}", record[n]) for n in names if math.isfinite(record.get(n, math.nan)))


def _cost_metrics(record: Record) -> tuple[tuple[str, float], ...]:
    return ("seconds", record["seconds"]), ("flops", record["flops"])


def save_mlflow_model(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Write a network in MLflow's form, with its signature and an input."""
    prepare_torchvision()
    import mlflow.pytorch
    from mlflow.models import infer_signature

    training, given = model.training, example.detach().cpu().numpy()
    model.eval()  # what is kept is what predicts
    try:
        with torch.no_grad():
            outputs = model(example).detach().cpu().numpy()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "No complete tensor found in the group"
            )  # it takes the first: they are alike
            mlflow.pytorch.save_model(
                model,
                str(folder / "model"),
                signature=infer_signature(given, outputs),
                input_example=given,
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "netgraph-coarsening"],
            )
    finally:
        model.train(training)


def _run_params(run: Run) -> dict[str, Any]:
    """Return what a run is of, flat."""
    found = fingerprint_run(run)
    out = dict(found["options"]) | {f"data.{key}": value for key, value in found["data"].items()}
    out |= {"steps": run.total_steps, "levels": len(run.grids), "seed": run.seed}
    own = found["optimizer"]["level 0"]
    return out | {"optimizer": own["class"], "lr": own["lr"], "schedule": found["schedule"]["of 0"]}


def _make_system_monitor() -> Callable[[], list[tuple[str, float]]]:
    """Return a function that measures this machine as MLflow does, GPUs where it sees them."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())

    def measure() -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for monitor in monitors:
            monitor.collect_metrics()
            found += monitor.aggregate_metrics().items()
            monitor.clear_metrics()
        return found

    return measure


@contextlib.contextmanager
def limit_mlflow_retries(timeout: float) -> Iterator[None]:
    """Have MLflow ask a server once where nobody said otherwise: it is asked again here, without a warning each time."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(math.ceil(timeout), 1)),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    own = [key for key in wanted if key not in os.environ]
    os.environ.update({key: wanted[key] for key in own})
    try:
        yield
    finally:
        for key in own:
            os.environ.pop(key, None)


def _clean_key(name: str) -> str:
    """Return a name of the letters that MLflow takes."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def hide_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
