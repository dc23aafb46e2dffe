"""RunOptions: how a training run is kept and watched. Checkpoints, MLflow, alerts, reports and logs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgraph.cli.console.artifacts import (
    check_report,
    make_feature_writers,
    make_page_writers,
    make_report_writer,
    write_report,
)
from netgraph.cli.console.output import describe_run
from netgraph.cli.console.progress import show_run
from netgraph.cli.console.terminal import echo
from netgraph.errors import NetgraphError
from netgraph.io.files.locks import lock_folders
from netgraph.io.files.output_files import check_path
from netgraph.io.files.refused_writes import write_or_keep
from netgraph.utils.options import check_options, declare_option
from netgraph.utils.text import escape_controls

if TYPE_CHECKING:
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.fas.solver.run import Run
    from netgraph.fas.solver.train_options import TrainOptions
    from netgraph.models.training.tasks import Task

Callback = Callable[..., None]


def _check_resume(value: bool, options: RunOptions) -> None:
    if value and options.checkpoints is None:
        raise NetgraphError("--resume needs a folder of checkpoints. Give --checkpoints FOLDER too.")


def _check_alert(value: list[str] | None, options: RunOptions) -> None:
    from netgraph.fas.monitoring.alerts import parse_alerts

    parse_alerts(value or [])


def _check_checkpoints(value: Path | None, options: RunOptions) -> None:
    if value is not None:
        check_path(value)


def _check_report(value: Path | None, options: RunOptions) -> None:
    if value is not None:
        check_report(value)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a training run is kept and watched."""

    checkpoints: Path | None = declare_option(
        None,
        help="Folder of checkpoints, written every cycle, every five minutes, and on signals.",
        metavar="FOLDER",
        check=_check_checkpoints,
    )
    every: int = declare_option(1, help="Cycles between two checkpoints.", metavar="N")
    keep_last: int = declare_option(3, help="Number of checkpoints that stay.", metavar="N")
    resume: bool = declare_option(False, help="Resume the run from the newest whole checkpoint.", check=_check_resume)
    mlflow: bool = declare_option(
        False, help="Log the run to MLflow: to MLFLOW_TRACKING_URI, or to the file mlflow.db."
    )
    alert: list[str] | None = declare_option(
        None, help="Alert, such as plateau(patience=20):warn (repeatable).", metavar="RULE:ACTION", check=_check_alert
    )
    report: Path | None = declare_option(
        None, help="Folder for the run's history, page and figures (`netgraph report`).", metavar="FOLDER",
        check=_check_report,
    )  # fmt: skip
    log_json: bool = declare_option(False, help="Log every event to stderr as a line of JSON.")

    def check(self) -> None:
        """Check before work begins that the run can be kept as asked.

        Raises
        ------
        NetgraphError
        """
        check_options(self)

    def keep_silent(self) -> RunOptions:
        """Return how a process takes part that is not the first of several: by its state in checkpoints alone."""
        return replace(self, mlflow=False, alert=None, report=None)

    def lock_folders(self) -> AbstractContextManager[None]:
        """Let no other process write checkpoints or a report into the folders of this run within a block."""
        return lock_folders(self.checkpoints, self.report)

    @contextmanager
    def show_run(self) -> Iterator[Callback]:
        """Give the callback that shows the run: its log as JSON, or a bar or lines on stderr."""
        from netgraph.fas.monitoring.event_log import log_event
        from netgraph.utils.logging import setup_logging

        setup_logging(json=self.log_json)
        if self.log_json:
            yield log_event
            return
        with show_run() as display:
            yield display

    def make_callbacks(self, task: Task, hierarchy: Hierarchy, options: TrainOptions) -> list[Callback]:
        """Return the callbacks of the solver for alerts, MLflow and checkpoints."""
        from netgraph.fas.checkpoint.checkpoint import Checkpoints
        from netgraph.fas.monitoring.alerts import parse_alerts

        callbacks: list[Callback] = list(parse_alerts(self.alert or []))
        if self.mlflow:
            callbacks += self._make_mlflow_callbacks(task, hierarchy, options)
        if self.checkpoints is not None:
            callbacks.append(Checkpoints(self.checkpoints, self.every, self.keep_last))
        return callbacks

    def _make_mlflow_callbacks(self, task: Task, hierarchy: Hierarchy, options: TrainOptions) -> list[Callback]:
        from netgraph.fas.monitoring.mlflow_tracking import MLflow

        params = {name: value for name, value in options.to_plain().items() if value not in (None, "")}
        note_run, write_run_report = make_report_writer(describe_run(task, hierarchy, options))
        table = escape_controls(f"{hierarchy}\n", keep="\n\t")
        artefacts: list[Any] = [
            lambda folder: (folder / "hierarchy.txt").write_text(table),
            write_run_report,
            *make_page_writers(task, hierarchy),
            *make_feature_writers(task, hierarchy),
        ]
        mlflow = MLflow(params={"network": task.name, **params}, artefacts=artefacts, example=task.example)
        return [note_run, mlflow]

    def resume_run(self, run: Run) -> None:
        """Restore the newest checkpoint into a run. Print a line where there is none."""
        from netgraph.fas.checkpoint.checkpoint import resume

        if self.resume and resume(run, self.checkpoints or "") is None:
            echo(f"netgraph: {self.checkpoints} has no checkpoint. The run begins from the start.", err=True)

    def write_report(self, document: dict[str, Any]) -> None:
        """Write the report of a run into its folder."""
        if self.report is not None:
            name = self.report.resolve().name
            write_or_keep(lambda folder: write_report(document, folder, name), self.report, "the report")
            echo(f"netgraph: wrote {self.report}/run.json, report.html and report.svg", err=True)


def ended_by_signal(reason: str) -> bool:
    """Return True if a signal ended the run."""
    return reason.startswith((signal.SIGINT.name, signal.SIGTERM.name))
