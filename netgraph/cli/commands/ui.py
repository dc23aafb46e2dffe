"""``netgraph ui``: open the page of MLflow on the runs that training kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from netgraph.cli.console.terminal import echo
from netgraph.cli.options.parsing import check_port
from netgraph.cli.options.validation import reject_options, typed_options


def open_mlflow(
    context: typer.Context,
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port where the page is served.")] = 5000,
) -> None:
    """Open MLflow's own page on the runs that training kept."""
    import subprocess
    import tempfile
    import webbrowser

    from netgraph.fas.monitoring.mlflow_tracking import tracking_uri

    uri = tracking_uri()
    if uri.startswith(("http:", "https:")):
        reject_options(typed_options(context), ["port"], f"the runs are kept at {uri}, which has its own")
        echo(f"netgraph: the runs are kept at {uri}", err=True)
        webbrowser.open(uri)
        return
    check_port(port)
    echo(f"netgraph: http://127.0.0.1:{port} shows the runs of {uri}. Ctrl-C ends it.", err=True)
    page = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", _make_absolute(uri)]
    page += ["--artifacts-destination", str(Path("mlartifacts").absolute()), "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:  # MLflow and its servers search modules in their working directory
        raise typer.Exit(subprocess.call(page, cwd=folder, env={**os.environ, "PYTHONSAFEPATH": "1"}))


def _make_absolute(uri: str) -> str:
    """Return the URI of a store for a process in another working directory."""
    if ":" not in uri:
        return str(Path(uri).absolute())
    for kind in ("sqlite:///", "file:"):
        path = uri.removeprefix(kind)
        if path != uri and path and not path.startswith(("/", ":memory:")):
            return f"{kind}{Path(path).absolute()}"
    return uri
