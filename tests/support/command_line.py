"""Run the command line inside the tests."""

import contextlib
import io
import sys
from unittest import mock

from typer.testing import CliRunner

from netgraph.cli import main as cli
from netgraph.errors import NetgraphError


def run(*words):
    """Return (exit code, stdout, stderr) as `main` would give them."""
    result = CliRunner().invoke(cli.app, [str(w) for w in words])
    if isinstance(result.exception, NetgraphError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def run_main(*words):
    """Return (exit code, stdout, stderr) of the command line as the installed command runs it. Any exception is a fault of it."""
    out, err = io.StringIO(), io.StringIO()
    typed = mock.patch.object(sys, "argv", ["netgraph", *map(str, words)])
    with typed, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, out.getvalue(), err.getvalue()
    raise AssertionError("main ended without an exit code")
