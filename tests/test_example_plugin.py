"""The example package of docs/, installed into an empty folder as a stranger would, beside one that is broken."""

import csv
import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import netgraph as ng
from netgraph.models.perceptron import mlp

EXAMPLE = Path(__file__).parent.parent / "docs" / "example-plugin"
MODULES = ("affinity", "coarsener", "exporter", "rule")


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
    torch.manual_seed(0)
    torch.save(mlp((64, 16, 12, 10)).state_dict(), folder / "model.pt")
    return folder


@pytest.fixture
def example(monkeypatch):
    """The modules of the example, imported from its folder."""
    monkeypatch.syspath_prepend(EXAMPLE)
    return {name: importlib.import_module(f"netgraph_example.{name}") for name in MODULES}


def netgraph(site, *words):
    given = [sys.executable, "-m", "netgraph", *words]
    env = {**os.environ, "PYTHONPATH": str(site / "site")}
    return subprocess.run(given, capture_output=True, text=True, check=False, cwd=site, env=env, timeout=300)


ARCH = ("--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[64,16,12,10]")


def read_aggregates(path):
    levels = ng.load(path, arch=lambda: mlp((64, 16, 12, 10))).levels
    return {axis: transfer.aggregates for axis, transfer in levels[1].transfers.items()}


def test_the_installed_coarsener_merges_from_the_command_line_though_another_plugin_is_broken(site):
    done = netgraph(site, "coarsen", "model.pt", *ARCH, "--coarsener", "runs", "--levels", "2", "-o", "m.hierarchy")
    assert done.returncode == 0, done.stderr
    found = read_aggregates(site / "m.hierarchy")
    for axis, n in (("0", 16), ("2", 12)):
        np.testing.assert_array_equal(found[axis], np.repeat(np.arange(n // 2), 2))


def test_the_installed_affinity_weighs_the_edges_from_the_command_line(site, example):
    done = netgraph(site, "coarsen", "model.pt", *ARCH, "--affinity", "signs", "--levels", "2", "-o", "a.hierarchy")
    assert done.returncode == 0, done.stderr
    network = mlp((64, 16, 12, 10))
    network.load_state_dict(torch.load(site / "model.pt"))
    expected = ng.build_hierarchy(network, torch.zeros(2, 64), affinity=example["affinity"].signs).levels[1].transfers
    cosine = ng.build_hierarchy(network, torch.zeros(2, 64)).levels[1].transfers
    found = read_aggregates(site / "a.hierarchy")
    assert all(found[axis].tolist() == expected[axis].aggregates.tolist() for axis in ("0", "2"))
    assert any(found[axis].tolist() != cosine[axis].aggregates.tolist() for axis in ("0", "2"))


def test_the_signs_are_those_of_a_loop_over_pairs(example):
    incoming = np.random.default_rng(0).normal(size=(5, 7))
    found = example["affinity"].signs(type("Units", (), {"incoming": incoming})(), seed=0)
    for i in range(5):
        for j in range(5):
            share = sum((incoming[i, k] > 0) == (incoming[j, k] > 0) for k in range(7)) / 7
            assert found[i, j] == (0 if i == j else pytest.approx(share))


def test_the_installed_exporter_writes_by_its_suffix_from_the_command_line(site):
    done = netgraph(site, "export", "model.pt", "units.csv", *ARCH, "--coarsener", "adjacent", "--levels", "2")
    assert done.returncode == 0, done.stderr
    head, *rows = csv.reader((site / "units.csv").open(encoding="utf-8"))
    assert head == ["level", "axis", "unit", "aggregate"]
    assert rows == [["1", axis, str(i), str(i // 2)] for axis, n in (("0", 16), ("2", 12)) for i in range(n)]


@pytest.mark.parametrize("given", ["installed", "by --rules"])
def test_the_rule_lets_the_units_of_its_operator_merge_from_the_command_line(site, given, tmp_path, example):
    torch.save(example["rule"].GatedNetwork().state_dict(), tmp_path / "gated.pt")
    words = ("coarsen", tmp_path / "gated.pt", "--arch", "netgraph_example.rule:GatedNetwork", "--input", "2x5")
    rules = ("--rules", "netgraph_example.rule:RULES") if given == "by --rules" else ()
    done = netgraph(site, *map(str, words), *rules, "--levels", "2", "--json", "-o", "gated.hierarchy")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["levels"][1]["axes"] == {"units": 4}
    if given == "installed":
        done = netgraph(site, "export", "gated.hierarchy", "gated.csv")  # no word names the operator or its module
        assert done.returncode == 0, done.stderr
        assert len((site / "gated.csv").read_text().splitlines()) == 1 + 8


def test_every_plugin_of_the_example_passes_its_check_and_its_readme_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *others = re.findall(r"```python\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.S)
    exec(compile(first, "README.md", "exec"), {"__name__": "page"})
    assert len(others) == 1
    for module in example.values():
        failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert tried
        assert not failed


def test_the_example_is_listed_with_its_distribution(site):
    listed = json.loads(netgraph(site, "plugins", "--json").stdout)
    for group, points in tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"].items():
        for name in points:
            assert listed[group][name] == "netgraph-example"


def test_a_broken_plugin_is_listed_and_named_with_its_distribution_and_error_when_it_is_used(site):
    listed = json.loads(netgraph(site, "plugins", "--json").stdout)["netgraph.coarseners"]
    assert listed["broken"] == "strangers-package"
    done = netgraph(site, "coarsen", "model.pt", *ARCH, "--coarsener", "broken")
    assert done.returncode == 1
    assert "'broken' of strangers-package does not import: ModuleNotFoundError" in done.stderr
    assert "no_such_module_at_all" in done.stderr
    assert "Traceback" not in done.stderr
