"""The command line. Results go to stdout, progress and messages to stderr.

Exit codes: 0 success, 1 an error that the message explains, 2 wrong usage, 3 nothing can be merged or a target is not met, 4 an oracle failed or
numbers are not finite.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from netgraph import __version__
from netgraph.cli.commands.attention import draw_attention
from netgraph.cli.commands.check import check_file
from netgraph.cli.commands.coarsen import coarsen_model
from netgraph.cli.commands.compression.compress import compress_model
from netgraph.cli.commands.compression.evaluate import evaluate_models
from netgraph.cli.commands.compression.finetune import finetune_model
from netgraph.cli.commands.compression.sweep import sweep_model
from netgraph.cli.commands.demo import run_demo
from netgraph.cli.commands.export import export_hierarchy
from netgraph.cli.commands.features import draw_features
from netgraph.cli.commands.inspect import inspect_model
from netgraph.cli.commands.plugins import print_plugins
from netgraph.cli.commands.report import compare_runs
from netgraph.cli.commands.train import train_network
from netgraph.cli.commands.ui import open_mlflow
from netgraph.cli.commands.verify import verify_model
from netgraph.cli.console.terminal import echo, echo_lines
from netgraph.cli.options.parsing import explain_usage_error
from netgraph.environment.import_path import search_installed_packages
from netgraph.errors import NetgraphError
from netgraph.installation import warn_of_conflict
from netgraph.io.files.system_refusals import find_mend

app = typer.Typer(
    help="Turn a network into a graph of its units, merge units, and run the smaller network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)
app.command("coarsen")(coarsen_model)
app.command("compress", short_help="Make a trained network smaller until a target is met.")(compress_model)
app.command("finetune", short_help="Train a small network towards labels and towards its teacher.")(finetune_model)
app.command("evaluate", short_help="Judge networks: metrics, milliseconds, parameters, FLOPs, memory.")(evaluate_models)
app.command("sweep", short_help="Compare coarsenings of many sizes and kinds on one network.")(sweep_model)
app.command("check")(check_file)
app.command("inspect", short_help="Print the axis of every dimension of every parameter.")(inspect_model)
app.command("verify", short_help="Run the dead-unit and duplicate-unit oracles.")(verify_model)
app.command("export", short_help="Write a page, a figure, a graph, or P and R of a hierarchy.")(export_hierarchy)
app.command("features", short_help="Draw feature maps of merged channels next to those of their aggregates.")(
    draw_features
)
app.command("attention", short_help="Draw the attention of heads over the words of a text, fine against coarse.")(
    draw_attention
)
app.command("train", short_help="Train a network on real data, by FAS or plainly.")(train_network)
app.command("report", short_help="Compare training runs on one page, one sheet of figures, or as JSON.")(compare_runs)
app.command("demo", short_help="Train, coarsen and show a small network, in seconds.")(run_demo)
app.command("ui")(open_mlflow)
app.command("plugins")(print_plugins)


def _report_conflict() -> None:
    warn_of_conflict(lambda sentence: echo(f"netgraph: {sentence}", err=True))


def _print_version(wanted: bool) -> None:
    if wanted:
        _report_conflict()
        echo(f"netgraph {__version__}")
        raise typer.Exit()


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    _report_conflict()


def main() -> None:
    """Run the command line. An error that the user can fix becomes one line on stderr and an exit code."""
    try:
        with search_installed_packages():
            code = app(prog_name="netgraph", standalone_mode=False)
    except NetgraphError as error:
        echo(f"netgraph: {error}", err=True)
        code = error.exit_code
    except typer.TyperException as error:
        echo_lines(explain_usage_error(error, sys.argv[1:]), err=True)
        code = 2
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the rest of the output cannot be written either
        echo(
            f"netgraph: the system refuses to read or write ({error}). {find_mend(error)}",
            err=True,
        )
        code = 1
    if code == 130:
        echo("netgraph: stopped", err=True)
    sys.exit(code)
