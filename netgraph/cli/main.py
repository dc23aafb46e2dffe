"""The command line. Results on stdout, progress and messages on stderr.

Exit codes: 0 done, 1 a mistake that the message names, 2 wrong usage, 3 nothing can be merged, 4 an oracle failed.
"""

from __future__ import annotations

import os
import sys

import typer

from netgraph.cli.commands.attention import attention
from netgraph.cli.commands.coarsen import coarsen
from netgraph.cli.commands.demo import demo
from netgraph.cli.commands.export import export
from netgraph.cli.commands.features import features
from netgraph.cli.commands.inspect import inspect
from netgraph.cli.commands.plugins import plugins
from netgraph.cli.commands.report import report
from netgraph.cli.commands.train import train
from netgraph.cli.commands.ui import ui
from netgraph.cli.commands.verify import verify
from netgraph.cli.options.parsing import explain_usage_error
from netgraph.errors import NetgraphError

app = typer.Typer(
    help="Turn a network into a graph of its units, merge units, and run the smaller network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)
app.command()(coarsen)
app.command(short_help="Print the axis of every dimension of every parameter.")(inspect)
app.command(short_help="Run the dead-unit and duplicate-unit oracles.")(verify)
app.command(short_help="Train, coarsen and show a small network, in seconds.")(demo)
app.command()(ui)
app.command()(plugins)
app.command(short_help="Write a page, a figure, a graph, or P and R of a hierarchy.")(export)
app.command(short_help="Draw feature maps of merged channels beside those of their aggregates.")(features)
app.command(short_help="Draw what heads attend to over the words of a text, fine against coarse.")(attention)
app.command(short_help="Train a network on real data, by FAS or plainly.")(train)
app.command(short_help="Compare training runs on one page, one sheet of figures, or as JSON.")(report)


def main() -> None:
    """Run the command line; a mistake the user can mend is one sentence and an exit code."""
    try:
        code = app(prog_name="netgraph", standalone_mode=False)
    except NetgraphError as error:
        typer.echo(f"netgraph: {error}", err=True)
        code = error.exit_code
    except typer.TyperException as error:
        typer.echo(explain_usage_error(error, sys.argv[1:]), err=True)
        code = 2
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what is left in the old one cannot be written either
        typer.echo(
            f"netgraph: the system refuses to read or write ({error}); make room, or give another place", err=True
        )
        code = 1
    if code == 130:
        typer.echo("netgraph: stopped", err=True)
    sys.exit(code)
