"""Run the command line inside the tests."""

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
