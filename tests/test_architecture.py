"""The architecture: imports between the packages go one way, and the folders stay small enough to read.

`FLOORS` is the one table of the order. A place imports only from floors below its own. The test parses every import, those
inside functions and under ``TYPE_CHECKING`` too.
"""

import ast
import importlib
import tomllib
import warnings
from pathlib import Path

import networkx as nx
import pytest

import netgraph as ng

ROOT = Path(__file__).parent.parent
PACKAGES = ("netgraph", "coarsen", "fas", "models", "viz")
FLOORS = (  # from the ground to the roof; a place is a folder or a file, and a file stands before its folder
    ("netgraph/utils/text.py",),
    (
        "netgraph/errors.py",
        "netgraph/hub_methods.py",
        "netgraph/installation.py",
        "netgraph/utils/choices.py",
        "netgraph/utils/public_names.py",
        "fas/outcome.py",
        "models/perceptron.py",
    ),
    ("netgraph/environment",),
    ("netgraph/plugins.py", "netgraph/utils", "fas/options", "fas/saved_state.py", "models/transformer.py"),
    ("netgraph/optim", "fas/ledger.py"),
    ("netgraph/rules", "models/cnn.py", "models/fourier.py", "models/restoration.py"),
    ("netgraph/recording",),
    ("netgraph/io", "netgraph/tracing"),
    ("coarsen/transfer", "models/data/readers", "netgraph/analysis", "netgraph/graph"),
    ("models/data", "netgraph/affinity"),
    ("coarsen/matching", "models/training"),
    ("coarsen/directions", "coarsen/partition"),
    ("coarsen/coarseners", "coarsen/network", "coarsen/regression", "coarsen/tuning"),
    ("coarsen/repair", "coarsen/runtimes"),
    ("coarsen/hierarchy",),
    ("coarsen/user_class", "fas/levels", "viz/figures", "viz/formats"),
    ("coarsen/compression", "fas/estimate", "viz/exporters.py", "viz/page"),
    ("fas/parallel",),
    ("coarsen/hub", "coarsen/sweeps", "fas/solver"),
    ("fas/auto", "fas/checkpoint", "fas/integrations"),
    ("fas/monitoring",),
    ("viz/reports",),
    ("netgraph/cli/console",),
    ("netgraph/cli/options",),
    ("netgraph/cli/commands",),
    ("netgraph/cli",),
    ("netgraph/__main__.py",),
)
FLOOR_OF = {place: number for number, floor in enumerate(FLOORS) for place in floor}
MAY_USE = {  # a package: the packages that its files may import; the command line may import all
    "netgraph": {"netgraph"},
    "models": {"models", "netgraph"},
    "coarsen": {"coarsen", "netgraph"},
    "fas": {"fas", "coarsen", "netgraph"},
    "viz": {"viz", "fas", "coarsen", "netgraph"},
}
MODELS_MAY_USE = ("netgraph/errors.py", "netgraph/environment", "netgraph/io", "netgraph/optim", "netgraph/utils")
FACADES = tuple(f"{package}/__init__.py" for package in PACKAGES)


def list_sources():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                yield path


SOURCES = {path.relative_to(ROOT).as_posix(): path for path in list_sources()}


def module_of(source):
    parts = source.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts if parts[0] == "netgraph" else ["netgraph", *parts])


SOURCE_OF = {module_of(source): source for source in SOURCES}


def find_place(source):
    """Return the entry of `FLOORS` that a source file belongs to: itself, or the nearest folder above it."""
    for place in (source, *(parent.as_posix() for parent in Path(source).parents)):
        if place in FLOOR_OF:
            return place
    raise AssertionError(f"{source} stands on no floor: add its folder to FLOORS in tests/test_architecture.py")


def find_imports(source):
    """Yield the source files that a file imports; ``from package import module`` counts as the module."""
    for node in ast.walk(ast.parse(SOURCES[source].read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] not in PACKAGES[1:], f"{source}: {alias.name} would be a second copy"
                yield SOURCE_OF.get(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno} imports by a relative name"
            assert node.module.split(".")[0] not in PACKAGES[1:], f"{source}: {node.module} would be a second copy"
            for alias in node.names:
                yield SOURCE_OF.get(f"{node.module}.{alias.name}", SOURCE_OF.get(node.module))


def find_arrows():
    return [
        (source, target)
        for source in SOURCES
        if source not in FACADES
        for target in find_imports(source)
        if target is not None and target != source
    ]


def test_imports_go_down_the_floors():
    wrong = [
        f"{source} (floor {FLOOR_OF[above]}) imports {target} (floor {FLOOR_OF[below]})"
        for source, target in find_arrows()
        if not target.endswith("__init__.py")
        and (above := find_place(source)) != (below := find_place(target))
        and FLOOR_OF[below] >= FLOOR_OF[above]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_source_imports_through_a_facade():
    wrong = [f"{source} imports {target}" for source, target in find_arrows() if target in FACADES]
    wrong = [w for w in wrong if not w.endswith("netgraph/__init__.py")]  # ``from netgraph import __version__``
    assert not wrong, "\n".join(wrong)


def test_files_import_each_other_without_a_circle():
    graph = nx.DiGraph(find_arrows())
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles, circles


def test_packages_import_only_the_packages_below_them():
    wrong = [
        f"{source} imports {target}"
        for source, target in find_arrows()
        if not source.startswith(("netgraph/cli", "netgraph/__main__"))
        and (
            target.split("/")[0] not in MAY_USE[source.split("/")[0]]
            or target.startswith("netgraph/cli")
            or (
                source.startswith("models/")
                and target.startswith("netgraph/")
                and not target.startswith(MODELS_MAY_USE)
            )
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_the_parser_of_imports_sees_types_functions_and_modules(tmp_path, monkeypatch):
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from netgraph.fas.solver.run import Run\n"
        "def f():\n    from netgraph import plugins\n    import netgraph.errors\n"
    )
    monkeypatch.setitem(SOURCES, "coarsen/sample.py", path)
    assert {*find_imports("coarsen/sample.py")} == {
        None,
        "fas/solver/run.py",
        "netgraph/plugins.py",
        "netgraph/errors.py",
    }


def test_every_floor_has_its_places():
    assert not [place for place in FLOOR_OF if not (ROOT / place).exists()]


def test_no_folder_has_more_than_14_source_files():
    counts = {}
    for source in SOURCES:
        counts.setdefault(Path(source).parent, []).append(source)
    assert not {str(folder): len(files) for folder, files in counts.items() if len(files) > 14}


def test_long_files_are_told():
    for source, path in SOURCES.items():
        lines = len(path.read_text(encoding="utf8").splitlines())
        if lines > 600:
            warnings.warn(f"{source} has {lines} lines: does it still hold one idea?", stacklevel=1)


def test_the_page_on_design_lists_every_file_and_floor():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf8")
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for source in SOURCES:
        folder, stem = f"{Path(source).parent.as_posix()}/", Path(source).stem
        assert stem == "__init__" or f"`{stem}`" in rows[folder], f"docs/design.md lacks {source}"
    for folder, row in rows.items():
        if folder.endswith("/") and f"{folder}__init__.py" in SOURCES:
            listed = row.rsplit("| ", 1)[1].replace("`", "").strip(" |").split(", ")
            assert all(not stem or f"{folder}{stem}.py" in SOURCES for stem in listed), (
                f"{folder} does not hold {listed}"
            )
    for number, floor in enumerate(FLOORS):
        assert f"| {number} | {', '.join(f'`{place}`' for place in floor)} |" in page


def test_the_distribution_lists_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    folders = {module_of(source) for source in SOURCES if source.endswith("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == folders


def test_the_top_level_holds_what_the_owner_named():
    allowed = {
        *PACKAGES,
        "tests",
        "docs",
        "benchmarks",
        "findings",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
    }
    allowed |= {"CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "constraints.txt", "MANIFEST.in"}
    made = {"netgraph_coarsening.egg-info", "build", "netgraph-demo", "mlruns"}
    made |= {"PKG-INFO", "setup.cfg"}  # in a source distribution
    assert {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - made <= allowed


@pytest.mark.parametrize("name", ng.__all__)
def test_public_names_load_and_are_documented(name):
    assert getattr(ng, name).__doc__


def test_a_name_that_is_not_public_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ng.nothing


def test_the_benchmark_of_stages_times_functions_where_they_are_called():
    stages = importlib.import_module("stages")
    for place in stages.PLACES.values():
        module, _, name = place.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        assert callable(function)
        assert name.startswith("_") or function.__module__ != module, (
            f"{place} is the definition; name the module that calls it"
        )
