"""MLflow tracking of a run: its parameters, metrics, pages and network, at almost no cost to training.

Training only puts records into a bounded queue, and a thread sends them. If the store does not answer within the timeout, there is
one warning, and records wait in the queue in case it answers again. Those that do not fit are dropped and counted.
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
from functools import partial
from pathlib import Path
from typing import Any

import torch

from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import NetgraphError, describe_error
from netgraph.fas.checkpoint.fingerprint import fingerprint_run
from netgraph.fas.monitoring.background_sender import BackgroundSender
from netgraph.fas.monitoring.mlflow_names import LONGEST_NAME, LONGEST_TAG, clean_key, clean_params, clean_value
from netgraph.fas.monitoring.run_lock import RunLock, open_store_alone
from netgraph.fas.solver.run import Run
from netgraph.io.files.output_files import check_output_file
from netgraph.utils.logging import silence_logger

BATCH = 500  # metrics of one request; MLflow takes 1000
LOCAL = 300.0  # seconds that a store on this machine may take, because it creates its tables first
REMOTE = 60.0  # seconds that one call to a server may take, such as a large file. Its single answers have the timeout
FIRST = 1.0  # seconds for which training waits for the store's first answer
IGNORED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
Artefact = str | Path | Callable[[Path], object]
Record = Mapping[str, Any]
logger = logging.getLogger("netgraph.tracking")


def tracking_uri() -> str:
    """Return the URI of the tracking store.

    Returns
    -------
    str
        The URI from ``mlflow.set_tracking_uri`` or MLFLOW_TRACKING_URI, or else ``mlflow.db`` in the working directory.

    Examples
    --------
    >>> import os
    >>> from unittest.mock import patch
    >>> from netgraph.fas import tracking_uri
    >>> with patch.dict(os.environ, MLFLOW_TRACKING_URI="http://127.0.0.1:5000"):
    ...     tracking_uri()
    'http://127.0.0.1:5000'
    """
    mlflow = import_package("mlflow", "tracking")
    named = mlflow.is_tracking_uri_set() or os.environ.get("MLFLOW_TRACKING_URI")
    return str(mlflow.get_tracking_uri()) if named else f"sqlite:///{Path('mlflow.db').absolute()}"


class MLflow:
    """A callback that stores a run in MLflow. A resumed run continues the same MLflow run.

    Parameters
    ----------
    experiment : str, default "netgraph"
        Name of the experiment.
    params : mapping, optional
        Parameters beside the options of the run.
    artefacts : sequence of path or callable, default ()
        Files and folders to store when the run ends. A callable gets an empty folder and writes into it.
    name : str, optional
        Name of the run.
    example : Tensor, optional
        An input of a few rows. With it, the trained network is stored together with its signature. If the run has a running
        mean of the weights, the mean is stored.
    timeout : float, default 10
        Seconds without an answer after which there is a warning. The server is tried again every half minute.

    Raises
    ------
    NetgraphError
        When the run begins: an artefact does not exist, MLflow knows no store of the kind of its URI, or the folder of a local
        store does not exist.

    Examples
    --------
    >>> from netgraph.fas import MLflow
    >>> tracker = MLflow("digits", params={"data": "digits"})  # a callback for FAS.solve(callbacks=[...])
    >>> tracker.experiment
    'digits'
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
        self._mlflow = import_package("mlflow", "tracking")  # here, because it takes seconds and training has not begun
        self.experiment, self.params, self.artefacts = experiment, dict(params or {}), list(artefacts)
        self.name, self.example, self.timeout = name, example, timeout
        self.run_id = self._new_id = ""  # until the store has given it an id
        self._over = self._refused = False  # a record that the store does not take was told
        self._sender: BackgroundSender | None = None
        self._lock = RunLock()

    def __call__(self, run: Run, record: Record) -> None:
        """Put the metrics of an event into the queue.

        Parameters
        ----------
        run : Run
            The run.
        record : mapping
            Record of the event.
        """
        event = record["event"]
        if event == "begin":
            self._start_tracking(run)
        if self._sender is None:
            return
        if self.run_id:
            run.notes["mlflow"] = self.run_id
        for item in event_metrics(run, record):
            self._sender.put((*item, self._timestamp(), record["step"]))
        if event == "alert":
            self._sender.put(lambda: self._set_tag(f"alert.{record['rule']}", record["message"]))
        if event in ("finish", "failed"):
            self._finish_tracking(run, record)

    def _start_tracking(self, run: Run) -> None:
        """Check the artefacts, start the sender and queue the opening of the run."""
        missing = [str(a) for a in self.artefacts if not callable(a) and not Path(a).exists()]
        if missing:
            raise NetgraphError(f"the artefacts {', '.join(missing)} do not exist. Give files, folders or callables.")
        self._uri, self._begun, self._wall = tracking_uri(), time.monotonic(), time.time()
        self._remote = not self._uri.startswith(("sqlite:", "file:", "/", "."))
        self._file = Path(self._uri.removeprefix("sqlite:///")) if self._uri.startswith("sqlite:///") else None
        if self._file is not None:
            check_output_file(self._file)  # MLflow tries again for two minutes
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(limit_mlflow_retries(self.timeout))
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            self._quiet.enter_context(
                silence_logger("mlflow", below=logging.WARNING)
            )  # netgraph reports progress itself
        self.run_id, self._new_id, self._over = run.notes.get("mlflow", ""), "", False
        self._machine = _make_system_monitor()
        self._sender = BackgroundSender(
            self._send_items,
            f"the tracking store {hide_password(self._uri)}",
            timeout=self.timeout,
            longest=max(REMOTE, self.timeout) if self._remote else LOCAL,
        )
        params = {**_run_params(run), **self.params}
        self._sender.put(lambda: self._open_run(params))
        if ignored := [name for name in IGNORED if name in os.environ]:
            logger.warning("netgraph makes a run of its own in MLflow, and does not use %s", " and ".join(ignored))
        if self._sender.wait_for_answer(min(FIRST, self.timeout)):
            self._check_uri(self._sender)

    def _check_uri(self, sender: BackgroundSender) -> None:
        """Raise an error if MLflow knows no store of this kind. Waiting does not help then."""
        from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

        if isinstance(sender.refusal, UnsupportedModelRegistryStoreURIException):
            sender.close(0.0)
            self._quiet.close()
            self._sender = None
            raise NetgraphError(
                f"MLflow knows no tracking store {hide_password(self._uri)}. Give an address that begins with http:, https: or "
                "sqlite:, or unset MLFLOW_TRACKING_URI."
            )

    def _timestamp(self) -> int:
        """Return the time in milliseconds. A clock that is set during the run changes nothing."""
        return max(int(1000 * (self._wall + time.monotonic() - self._begun)), 0)

    def _finish_tracking(self, run: Run, record: Record) -> None:
        """Queue artefacts, network and final status, and wait until they are sent."""
        assert self._sender is not None
        for artefact in self.artefacts:
            self._sender.put(lambda artefact=artefact: self._store_artefact(artefact))
        if (example := self.example) is not None and record["event"] == "finish":
            self._sender.put(
                lambda: self._store_artefact(lambda folder: save_mlflow_model(run.trained_model, example, folder))
            )
        status = "FINISHED" if record["event"] == "finish" else "FAILED"
        reason = record.get("reason") or record.get("error") or ""
        self._sender.put(lambda: self._close_run(status, reason))
        # A server that has never answered costs at most one percent of the run's time. A new local store makes its tables.
        patience = min(self.timeout, 0.01 * (time.monotonic() - self._begun)) if self._remote else LOCAL
        self._sender.close(patience)
        self._over = True
        self._lock.release()
        self._quiet.close()
        self._sender = None

    # The methods below run in the thread of the sender.

    def _send_items(self, items: list[Any]) -> None:
        """Run jobs in order, and send the metrics between them in batches. Finished items are removed from the list."""
        while items:
            if callable(items[0]):
                self._store(items[0])
                del items[0]
                continue
            n = next((i for i, item in enumerate(items[:BATCH]) if callable(item)), min(len(items), BATCH))
            self._store(partial(self._log_metrics, items[:n]))
            del items[:n]
        seconds = int(time.monotonic() - self._begun)
        self._log_metrics([(f"system/{key}", value, self._timestamp(), seconds) for key, value in self._machine()])

    def _store(self, job: Callable[[], object]) -> None:
        """Do one job. What the store will never take is dropped with a warning, and must not hold up the rest."""
        if self._over:
            raise NetgraphError("the run is over.")  # and limits of MLflow's retries with it
        try:
            job()
        except self._mlflow.exceptions.MlflowException as error:
            if not self.run_id or error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            level, self._refused = logging.INFO if self._refused else logging.WARNING, True
            logger.log(level, "%s does not take a record (%s)", hide_password(self._uri), describe_error(error))

    def _log_metrics(self, rows: Sequence[tuple[str, float, int, int]]) -> None:
        """Send metrics, rows of name, value, time in milliseconds and step."""
        if rows and self.run_id:
            self._client.log_batch(self.run_id, metrics=[self._mlflow.entities.Metric(*row) for row in rows])

    def _open_run(self, params: Mapping[str, Any]) -> None:
        """Create or continue the run. Creating the tables of a new store may take a minute on a slow disk."""
        alone = contextlib.nullcontext() if self._file is None else open_store_alone(self._file, longest=LOCAL / 2)
        with alone:
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        if self.run_id and self._continue_run():
            return
        self._new_id = self._new_id or self._create_run()
        rows = [self._mlflow.entities.Param(*item) for item in clean_params(params).items()]
        for i in range(0, len(rows), 100):
            self._client.log_batch(self._new_id, params=rows[i : i + 100])
        self.run_id = self._new_id

    def _create_run(self) -> str:
        """Create a run, and return its id. Until its parameters are stored the next attempt goes on with it."""
        name = clean_value(self.experiment, LONGEST_NAME)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run_name = None if self.name is None else clean_value(self.name, LONGEST_NAME)
        run_id = self._client.create_run(experiment_id, run_name=run_name, tags=self._lock.tags).info.run_id
        self._lock.acquire(run_id)
        return str(run_id)

    def _continue_run(self) -> bool:
        """Continue the run of a checkpoint. Return False if it is gone, or another process writes into it."""
        problem = self._lock.acquire(self.run_id)
        if not problem:
            try:
                run = self._client.get_run(self.run_id)
                self._lock.warn_of_others(run.data.tags, self.run_id, running=run.info.status == "RUNNING")
                self._client.update_run(self.run_id, status="RUNNING")
                for item in self._lock.tags.items():
                    self._client.set_tag(self.run_id, *item)
                return True
            except self._mlflow.exceptions.MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                problem = f"the store does not continue the MLflow run {self.run_id} ({describe_error(error)})."
                self._lock.release()
        logger.warning("%s This run is tracked as a new one", problem)
        self.run_id = ""
        return False

    def _set_tag(self, key: str, value: object) -> None:
        """Set a tag of the run."""
        self._client.set_tag(self.run_id, clean_key(key), clean_value(value, LONGEST_TAG))

    def _store_artefact(self, artefact: Artefact) -> None:
        """Upload a file or a folder, or the files that a callable writes."""
        if not callable(artefact):
            upload = self._client.log_artifacts if Path(artefact).is_dir() else self._client.log_artifact
            upload(self.run_id, str(artefact))
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                artefact(Path(folder))
            except Exception as error:  # a failed picture must not end the run
                logger.warning("an artefact was not written: %s: %s", type(error).__name__, error)
            self._client.log_artifacts(self.run_id, folder)

    def _close_run(self, status: str, reason: str) -> None:
        """Store the reason for the end and the final status."""
        self._set_tag("netgraph.reason", reason)
        self._client.set_terminated(self.run_id, status)


def event_metrics(run: Run, record: Record) -> Iterator[tuple[str, float]]:
    """Yield names and values of the metrics of an event."""
    event, level = record["event"], record["level"]
    names: tuple[str, ...] = ()
    if event == "evaluate":
        yield from ((clean_key(f"valid/{name}"), float(value)) for name, value in record["figures"].items())
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
    """Return seconds and FLOPs of a record by name."""
    return ("seconds", record["seconds"]), ("flops", record["flops"])


def save_mlflow_model(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Write a network in MLflow's format, with its signature and an example input."""
    prepare_torchvision()
    import mlflow.pytorch
    from mlflow.models import infer_signature

    training, inputs = model.training, example.detach().cpu().numpy()
    model.eval()  # the signature describes predictions
    try:
        with torch.no_grad():
            outputs = model(example).detach().cpu().numpy()
        with warnings.catch_warnings():
            # MLflow takes the first tensor of a group, and the tensors of a group have the same shape.
            warnings.filterwarnings("ignore", "No complete tensor found in the group")
            mlflow.pytorch.save_model(
                model,
                str(folder / "model"),
                signature=infer_signature(inputs, outputs),
                input_example=inputs,
                # netgraph itself is on no index, and a requirement of that name could bring a stranger's package
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            )
    finally:
        model.train(training)


def _run_params(run: Run) -> dict[str, Any]:
    """Return options, data and optimizer of a run as a flat dict."""
    fingerprint = fingerprint_run(run)
    out = dict(fingerprint["options"]) | {f"data.{key}": value for key, value in fingerprint["data"].items()}
    out |= {"steps": run.total_steps, "levels": len(run.grids), "seed": run.seed}
    finest = fingerprint["optimizer"]["level 0"]
    return out | {"optimizer": finest["class"], "lr": finest["lr"], "schedule": fingerprint["schedule"]["of 0"]}


def _make_system_monitor() -> Callable[[], list[tuple[str, float]]]:
    """Return a function that measures processor, disk, network and GPUs through MLflow's monitors."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())

    def measure() -> list[tuple[str, float]]:
        metrics: list[tuple[str, float]] = []
        for monitor in monitors:
            monitor.collect_metrics()
            metrics += monitor.aggregate_metrics().items()
            monitor.clear_metrics()
        return metrics

    return measure


@contextlib.contextmanager
def limit_mlflow_retries(timeout: float) -> Iterator[None]:
    """Limit MLflow to one request per call, unless the environment sets its own limit.

    `BackgroundSender` repeats requests itself, without a warning for each.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(math.ceil(timeout), 1)),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout may be the JSON of a run
    }
    changed = [key for key in settings if key not in os.environ]
    os.environ.update({key: settings[key] for key in changed})
    try:
        yield
    finally:
        for key in changed:
            os.environ.pop(key, None)


def hide_password(uri: str) -> str:
    """Return a URI without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)
