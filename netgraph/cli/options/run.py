"""What a run that lasts wants: checkpoints, MLflow, alerts and logs, as options of a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.console.artifacts import make_feature_writers, make_page_writers
from netgraph.errors import NetgraphError


@dataclass(frozen=True)
class RunOptions:
    """How a run is kept and watched; each field is an option."""

    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of checkpoints, written every cycle, five minutes, and on signals."
        ),
    ] = None
    every: Annotated[int, typer.Option(metavar="N", help="Cycles between two checkpoints.")] = 1
    keep_last: Annotated[int, typer.Option(metavar="N", help="Checkpoints that stay.")] = 3
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Keep the run in MLflow: MLFLOW_TRACKING_URI, or mlflow.db.")
    ] = False
    alert: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE:ACTION", help="Such as plateau(patience=20):warn; may be given again."),
    ] = None
    report: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Leave the run's history, page and figures there (`netgraph report`)."),
    ] = None
    log_json: Annotated[bool, typer.Option("--log-json", help="Log every event to stderr as a line of JSON.")] = False

    def check(self) -> None:
        """Refuse what cannot be done before work begins."""
        from netgraph.fas.monitoring.alerts import parse_alerts

        if self.resume and self.checkpoints is None:
            raise NetgraphError(
                "--resume goes on from checkpoints, and no folder is named; give --checkpoints FOLDER too"
            )
        parse_alerts(self.alert or [])
        if self.report is not None:
            from netgraph.cli.console.artifacts import check_report

            check_report(self.report)

    @contextmanager
    def watching(self) -> Iterator[Any]:
        """Give the callback that shows a run: its log as JSON, or a bar or lines (`netgraph.cli.console.progress`)."""
        from netgraph.cli.console.progress import show_run
        from netgraph.fas.monitoring.event_log import log_event
        from netgraph.utils.logging import setup_logging

        setup_logging(json=self.log_json)
        if self.log_json:
            yield log_event
            return
        with show_run() as watch:
            yield watch

    def callbacks(self, task: Any, hierarchy: Any, settings: Any) -> list[Any]:
        """Return the callbacks of the solver that were asked for."""
        from netgraph.fas.checkpoint.checkpoint import Checkpoints
        from netgraph.fas.monitoring.alerts import parse_alerts

        found: list[Any] = list(parse_alerts(self.alert or []))
        if self.mlflow:
            from netgraph.cli.console.artifacts import make_report_writer
            from netgraph.cli.console.output import describe_run
            from netgraph.fas.monitoring.mlflow_tracking import MLflow

            params = {k: v for k, v in asdict(settings).items() if v not in (None, "") and k != "options"}
            notice, report = make_report_writer(describe_run(task, hierarchy, settings))
            found.append(notice)
            pages = [lambda folder: (folder / "hierarchy.txt").write_text(f"{hierarchy}\n"), report]
            pages += [*make_page_writers(task, hierarchy), *make_feature_writers(task, hierarchy)]
            found.append(MLflow(params={"network": task.name, **params}, artefacts=pages, example=task.example))
        if self.checkpoints is not None:
            found.append(Checkpoints(self.checkpoints, self.every, self.keep_last))
        return found

    def resumed(self, run: Any) -> None:
        """Put a run where the newest checkpoint was, and say so."""
        from netgraph.fas.checkpoint.checkpoint import resume

        if self.resume and resume(run, self.checkpoints or "") is None:
            typer.echo(f"netgraph: {self.checkpoints} has no checkpoint; the run begins anew", err=True)

    def reported(self, document: Any) -> None:
        """Write the report that was asked for, and say where."""
        from netgraph.cli.console.artifacts import write_report

        if self.report is not None:
            write_report(document, self.report, self.report.resolve().name)
            typer.echo(f"netgraph: wrote {self.report}/run.json, report.html and report.svg", err=True)


def ended_by_signal(reason: str) -> bool:
    """Tell whether a signal ended a run."""
    return reason.startswith((signal.SIGINT.name, signal.SIGTERM.name))
