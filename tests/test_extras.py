"""Packages that only some parts need: the core runs without any of them, and what is missing is named in one sentence."""

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from netgraph.environment import optional_packages
from netgraph.environment.optional_packages import EXTRAS, import_package
from netgraph.errors import NetgraphError

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf8"))["project"]
CORE = {"torch", "numpy", "scipy", "numba", "psutil", "safetensors", "threadpoolctl", "typer", "rich"}
OWNERS = {"track", "metis", "graphs", "pyg", "vision", "train", "figures"}

# A package that is not installed is found by no finder. torch asks for specifications of modules, so that none may raise.
HIDE = textwrap.dedent(
    """
    import sys

    class Without:
        def __init__(self, finder, names):
            self.finder, self.names = finder, names

        def find_spec(self, name, path=None, target=None):
            return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path[:] = [Without(finder, {names!r}) for finder in sys.meta_path]
    """
)
CORE_PROGRAM = textwrap.dedent(
    """
    import torch
    import netgraph as ng
    from netgraph.cli.main import main
    from netgraph.models import mlp

    model, example = mlp((8, 12, 3)), torch.randn(2, 8)
    hierarchy = ng.build_hierarchy(model, example, n_levels=2)
    ng.save(hierarchy, "saved")
    ng.export(ng.load("saved"), "page.html")
    torch.save(model.state_dict(), "net.pt")
    network = ["net.pt", "--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[8,12,3]"]
    for words in (["verify", *network], ["coarsen", *network, "-o", "small.safetensors"]):
        sys.argv = ["netgraph", *words, "--input", "2x8"]
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, ended.code
    """
)
USES = {  # a package and what asks for it
    "mlflow": "ng.fas.tracking_uri()",
    "pymetis": "ng.build_hierarchy(net, x, coarsener='metis')",
    "networkx": "ng.unit_graph(net, ng.trace(net, x)).to_networkx()",
    "torch_geometric": "ng.export(hierarchy, 'graph.pt')",
    "torchvision": "ng.load_model('torchvision:resnet18')",
    "PIL": "read_images([Path('image.png')], (3, 8, 8))",
    "torchmetrics": "prepare_metrics()",
    "sklearn": "ng.models.load_dataset('digits')",
    "matplotlib": "ng.export(hierarchy, 'figure.svg')",
    "kahip": "ng.build_hierarchy(net, x, coarsener='kahip')",
    "mtkahypar": "ng.build_hierarchy(net, x, coarsener='mtkahypar')",
    "networkit": "ng.build_hierarchy(net, x, coarsener='networkit-plm')",
    "pynndescent": "ng.build_hierarchy(net, x, affinity='approximate')",
    "timm": "ng.load_model('timm:resnet18')",
    "transformers": "ng.fas.TransformersCoarseStart",
    "peft": "ng.coarsen.fine_tune(net, None, x, torch.tensor([0, 1]), adapters='lora')",
    "lightning": "ng.fas.LightningCoarseStart",
    "apprise": "ng.fas.make_notify_action('json://localhost')",
    "plotly": "ng.viz.write_run_page([None], 'report.html')",
    "pandas": "ng.coarsen.Sweep([], 'top1').to_frame()",
    "tokenizers": "ng.models.train_tokenizer(['a word'])",
    "neuralop": "ng.models.fno()",
    "onnx": "ng.export(net, 'net.onnx', example=x)",
    "executorch": "ng.export(net, 'net.pte', example=x)",
    "openvino": "ng.export(hierarchy, 'net.xml')",
    "huggingface_hub": "ng.load_model('hf:owner/name')",
    "huggingface_hub upload": "hierarchy.push_to_hub('owner/name')",
    "sklearn ward": "ng.coarsen.ward(ng.coarsen.AxisGraph('fc', csr_array((8193, 8193)), np.ones(8193), lambda: np.ones((8193, 1))), 2)",
    "sklearn kmeans": "ng.build_hierarchy(net, x, coarsener='kmeans')",
    "networkx louvain": "ng.build_hierarchy(net, x, coarsener='louvain')",
    "torchvision vgg": "ng.models.vgg()",
    "torchvision resnet": "ng.models.resnet(1)",
    "transformers folder": "ng.load_model('hf:folder')",
}
USES_PROGRAM = textwrap.dedent(
    """
    import json
    from pathlib import Path
    import numpy as np
    import torch
    from scipy.sparse import csr_array
    import netgraph as ng
    import netgraph.coarsen, netgraph.fas, netgraph.models, netgraph.viz
    from netgraph.models.data.readers.image_folder import read_images
    from netgraph.models.training.evaluation import prepare_metrics

    net, x = ng.models.mlp((8, 12, 3)), torch.randn(2, 8)
    hierarchy = ng.build_hierarchy(net, x, n_levels=2)
    said = {{}}
    for name, use in {uses!r}.items():
        try:
            eval(use)
        except ng.NetgraphError as error:
            said[name] = str(error)
        except Exception as error:
            said[name] = f"raw {{type(error).__name__}}: {{error}}"
    print(json.dumps(said))
    """
)


def run_hidden(program, folder, names=frozenset(EXTRAS)):
    """Run a program in a process that finds none of the named packages."""
    code = HIDE.format(names=set(names)) + program
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=600)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "folder").mkdir()
    (folder / "folder" / "config.json").write_text('{"model_type": "bert"}')
    done = run_hidden(USES_PROGRAM.format(uses=USES), folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def read_names(requirements):
    return {Requirement(text).name for text in requirements}


def test_the_core_coarsens_verifies_and_writes_the_page_by_itself(tmp_path):
    done = run_hidden(CORE_PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 100_000
    assert (tmp_path / "small.safetensors").exists()


@pytest.mark.parametrize("use", USES)
def test_a_missing_package_is_named_with_its_extra_in_one_sentence(use, said):
    package, extra = EXTRAS[use.partition(" ")[0]]
    assert f"pip install {package} (the extra {extra})" in said[use]
    assert "raw" not in said[use]
    assert len(said[use].splitlines()) == 1
    assert not re.search(r"pip install '?netgraph", said[use])


def test_the_extras_of_the_project_are_those_that_messages_name():
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.values():
        assert package in read_names(extras[extra])


def test_the_core_is_nine_packages_and_one_extra_brings_all_others_of_old():
    assert read_names(PROJECT["dependencies"]) == CORE
    extras = PROJECT["optional-dependencies"]
    (everything,) = (Requirement(text) for text in extras["all"])
    assert (everything.name, everything.extras) == (PROJECT["name"], OWNERS)
    assert any("all" in Requirement(text).extras for text in extras["dev"])


PLACES = [("linux", "x86_64", True), ("linux", "aarch64", False), ("win32", "AMD64", False), ("darwin", "arm64", True)]


@pytest.mark.parametrize(("system", "machine", "there"), PLACES)
def test_metis_is_asked_for_where_there_are_wheels(system, machine, there, monkeypatch):
    (metis,) = map(Requirement, PROJECT["optional-dependencies"]["metis"])
    assert metis.marker.evaluate({"sys_platform": system, "platform_machine": machine}) is there
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(optional_packages.platform, "machine", lambda: machine)
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(NetgraphError) as refused:
        import_package("pymetis", "coarsener 'metis'")
    assert ("no wheels" in str(refused.value)) is not there


def test_a_package_that_is_there_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "plotly").mkdir()
    (tmp_path / "plotly" / "__init__.py").write_text("import a_package_that_plotly_needs")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(NetgraphError, match=r"does not import \(No module named 'a_package_that_plotly_needs'\)"):
        import_package("plotly", "a report")
