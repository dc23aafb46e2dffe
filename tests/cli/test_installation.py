"""The version, and another package of the same import name, which the public index has."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from command_line import run

from netgraph import installation


@pytest.fixture
def other(tmp_path):
    """Return a folder in which a distribution called netgraph is installed."""
    folder = tmp_path / "netgraph-4.13.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: netgraph\nVersion: 4.13.2\n")
    return tmp_path


def python(*words, path):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)


def test_the_version_is_printed():
    assert run("--version") == (0, "netgraph 0.1.0\n", "")


def test_the_command_line_reports_another_package_called_netgraph_and_works(other):
    done = python("-m", "netgraph", "plugins", path=other)
    assert done.returncode == 0
    assert "netgraph.coarseners" in done.stdout
    assert done.stderr.startswith("netgraph: another package called netgraph is installed")
    assert "Run `pip uninstall netgraph`, then `pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_python_is_warned_once_at_the_first_use_and_not_at_the_import(other):
    code = (
        "import warnings; warnings.simplefilter('error'); import netgraph; from netgraph import plugins\n"
        "warnings.simplefilter('always'); plugins.list_plugins('netgraph.rules'); plugins.list_plugins('netgraph.coarseners')"
    )
    done = python("-c", code, path=other)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("another package called netgraph is installed") == 1


def test_overwritten_files_are_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "netgraph", SimpleNamespace(__all__=["Graph", "InteractiveGraph"]))
    assert "has overwritten files of netgraph-coarsening" in installation.describe_conflict()


def test_a_whole_installation_has_no_conflict():
    assert installation.describe_conflict() is None
