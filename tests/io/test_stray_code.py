"""Code that lies beside a network runs only where the user named it or trusts the file."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph import plugins
from netgraph.environment import optional_packages
from netgraph.environment.import_path import search_folder_first, search_installed_packages
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError

RAN = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def stray(tmp_path, monkeypatch):
    """A folder with a module, the metadata of a plug-in, and a network. It is the working directory."""
    info = tmp_path / "stray_code-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stray-code\nVersion: 1.0\n")
    groups = {"rules": "RULES", "coarseners": "coarsen", "affinities": "measure", "exporters": "export"}
    (info / "entry_points.txt").write_text(
        "\n".join(f"[netgraph.{group}]\nstray = stray_code:{name}" for group, name in groups.items())
    )
    (tmp_path / "stray_code.py").write_text(f"{RAN}RULES = {{}}\nfrom torch.nn import Linear as factory\n")
    hierarchy = ng.build_hierarchy(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 6))
    ng.save(hierarchy.levels[1].model, tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    for cached in (plugins._find_entry_points, plugins.load_plugin):
        cached.cache_clear()
    yield tmp_path
    sys.modules.pop("stray_code", None)
    for cached in (plugins._find_entry_points, plugins.load_plugin):
        cached.cache_clear()


def have_run(folder):
    return (folder / "ran").exists()


@pytest.mark.parametrize("leading", [[], [""], ["HERE"], ["", "HERE"], [sys.prefix, ""], [sys.prefix, "."]])
@pytest.mark.parametrize("group", plugins.GROUPS)
def test_metadata_beside_a_network_is_no_plugin(stray, monkeypatch, group, leading):
    monkeypatch.setattr(sys, "path", [str(stray) if p == "HERE" else p for p in leading] + sys.path)
    ng.load_model("own.safetensors")
    with search_folder_first(stray):
        assert "stray" not in plugins.list_plugins(group)
    with pytest.raises(NetgraphError, match=r"named 'stray'"):
        plugins.load_plugin(group, "stray")
    assert not have_run(stray)


def test_a_package_is_not_taken_from_the_folder_of_the_user(stray, monkeypatch):
    monkeypatch.setitem(optional_packages.EXTRAS, "stray_code", ("stray-code", "none"))
    with search_folder_first(stray), pytest.raises(NetgraphError, match=r"stray-code, which is not installed"):
        import_package("stray_code", "this test")
    assert not have_run(stray)


def test_code_that_the_user_names_is_found_there(stray):
    torch.save(nn.Linear(3, 2).state_dict(), "weights.pt")
    arch_args = {"in_features": 3, "out_features": 2}
    assert ng.load_model("weights.pt", arch="stray_code:factory", arch_args=arch_args).out_features == 2
    assert have_run(stray)
    assert str(stray) not in sys.path


def test_a_trusted_pickle_finds_its_class_there_and_another_does_not(stray):
    (stray / "stray_class.py").write_text(f"{RAN}from torch import nn\nclass Net(nn.Linear): ...\n")
    try:
        with search_folder_first(stray):
            from stray_class import Net
        torch.save(Net(2, 2), "module.pt")
        (stray / "ran").unlink()
        del sys.modules["stray_class"]
        with pytest.raises(NetgraphError, match=r"--trust"):
            ng.load_model("module.pt")
        assert not have_run(stray)
        assert type(ng.load_model("module.pt", trust=True)).__name__ == "Net"
    finally:
        sys.modules.pop("stray_class", None)


def test_an_editable_installation_further_back_stays_on_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ["", str(tmp_path), "/elsewhere", str(tmp_path)]
    monkeypatch.setattr(sys, "path", list(path))
    with search_installed_packages():
        assert sys.path == ["/elsewhere", str(tmp_path)]
    assert sys.path == path


@pytest.mark.parametrize("entries", [":", ".:/elsewhere"])
def test_a_relative_entry_of_pythonpath_is_not_searched(stray, entries):
    code = (
        "import sys\nfrom netgraph.cli.main import main\nsys.argv = ['netgraph', 'inspect', 'own.safetensors']\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": entries.replace(":", os.pathsep)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=stray, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2  2 neurons" in done.stdout
    assert not have_run(stray)


def test_an_absolute_entry_of_pythonpath_is_searched(stray):
    code = "from netgraph import plugins\nprint('stray' in plugins.list_plugins('netgraph.rules'))"
    environment = {**os.environ, "PYTHONPATH": str(stray)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=stray.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


def test_the_module_of_the_command_line_leaves_the_working_directory(stray):
    for name in ("typer", "safetensors", "psutil"):
        (stray / f"{name}.py").write_text(RAN)
    done = subprocess.run(
        [sys.executable, "-m", "netgraph", "check", "own.safetensors"],
        cwd=stray,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not have_run(stray)


@pytest.mark.parametrize("options", [["-P"], []])
def test_a_named_network_comes_from_the_installed_library(tmp_path, options):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    code = "import netgraph as ng\n"
    for name, source in {"torchvision": "torchvision:resnet18", "transformers": "hf:config.json"}.items():
        (tmp_path / f"{name}.py").write_text(RAN)
        code += f"try: ng.load_model({source!r})\nexcept ng.NetgraphError as e: print(e)\n"
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not have_run(tmp_path)
