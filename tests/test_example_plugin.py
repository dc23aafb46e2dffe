"""The example package of docs/, installed into an empty folder as a stranger would, beside one that is broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import netgraph as ng
from netgraph.models.perceptron import mlp

EXAMPLE = Path(__file__).parent.parent / "docs" / "example-plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the example, and a second distribution whose module does not import."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(EXAMPLE, folder / "source")  # building writes beside the sources
    words = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "--target", folder / "site", folder / "source"], check=True, timeout=120
    )
    metadata = folder / "site" / "strangers_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[netgraph.coarseners]\nbroken = strangers_module:merge\n")
    (folder / "site" / "strangers_module.py").write_text("import no_such_module_at_all\n")
    torch.save(mlp((64, 16, 12, 10)).state_dict(), folder / "model.pt")
    return folder


def netgraph(site, *words):
    given = [sys.executable, "-m", "netgraph", *words]
    env = {**os.environ, "PYTHONPATH": str(site / "site")}
    return subprocess.run(given, capture_output=True, text=True, check=False, cwd=site, env=env, timeout=300)


ARCH = ("--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[64,16,12,10]")


def test_the_installed_example_merges_from_the_command_line_though_another_plugin_is_broken(site):
    done = netgraph(site, "coarsen", "model.pt", *ARCH, "--coarsener", "runs", "--levels", "2", "-o", "m.hierarchy")
    assert done.returncode == 0, done.stderr
    found = ng.load(site / "m.hierarchy", arch=lambda: mlp((64, 16, 12, 10))).levels[1].transfers
    for axis, n in (("0", 16), ("2", 12)):
        np.testing.assert_array_equal(found[axis].aggregates, np.repeat(np.arange(n // 2), 2))


def test_a_broken_plugin_is_listed_and_named_with_its_distribution_and_error_when_it_is_used(site):
    listed = json.loads(netgraph(site, "plugins", "--json").stdout)["netgraph.coarseners"]
    assert listed["runs"] == "netgraph-runs"
    assert listed["broken"] == "strangers-package"
    done = netgraph(site, "coarsen", "model.pt", *ARCH, "--coarsener", "broken")
    assert done.returncode == 1
    assert "'broken' of strangers-package does not import: ModuleNotFoundError" in done.stderr
    assert "no_such_module_at_all" in done.stderr
    assert "Traceback" not in done.stderr
