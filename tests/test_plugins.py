"""Plug-ins of other distributions, with real metadata in a folder of its own."""

import subprocess
import sys

import pytest

from netgraph import plugins
from netgraph.coarsen.matching.heavy_edge import heavy_edge_matching
from netgraph.errors import PluginError

GROUP = "netgraph.coarseners"


@pytest.fixture(autouse=True)
def _forget():
    """Clear the cache of entry points, since these tests install and uninstall distributions."""
    yield
    plugins._find_entry_points.cache_clear()
    plugins.load_plugin.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    def _install(distribution, module, text, name, group=GROUP):
        folder = tmp_path / distribution
        metadata = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:merge\n")
        (folder / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)
        plugins._find_entry_points.cache_clear()
        plugins.load_plugin.cache_clear()

    return _install


def test_an_installed_plugin_is_listed_with_its_distribution_and_loads_once(install):
    install("good-package", "good_module", "def merge(graph, n_coarse, *, seed=0): ...", "good")
    assert "good" in plugins.list_plugins(GROUP)
    assert "good_module" not in sys.modules, "listing imports nothing"
    assert plugins.find_distribution(GROUP, "good") == "good-package"
    assert plugins.load_plugin(GROUP, "good") is sys.modules["good_module"].merge
    assert plugins.load_plugin(GROUP, "good") is plugins.load_plugin(GROUP, "good")
    assert "good" not in plugins.list_plugins("netgraph.affinities")


def test_an_unknown_name_is_refused_with_the_names_that_are_there(install):
    install("good-package", "good_module", "", "aardvark")
    installed = ", ".join(sorted(plugins.list_plugins(GROUP)))
    with pytest.raises(PluginError) as caught:
        plugins.load_plugin(GROUP, "zebra")
    assert str(caught.value) == f"no coarsener named 'zebra'. Installed: {installed}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("other = 1", "AttributeError"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_distribution_and_the_others_work(install, text, error):
    install("strangers-package", "broken_module", text, "broken")
    install("good-package", "good_module", "merge = len", "good")
    with pytest.raises(PluginError, match=f"'broken' of strangers-package does not import: {error}"):
        plugins.load_plugin(GROUP, "broken")
    assert plugins.load_plugin(GROUP, "good") is len


def test_one_name_from_two_distributions_is_refused(install):
    install("first-package", "first_module", "merge = len", "mine")
    install("second-package", "second_module", "merge = max", "mine")
    with pytest.raises(PluginError, match="first-package and second-package each bring a coarsener named 'mine'"):
        plugins.load_plugin(GROUP, "mine")


def test_only_the_four_groups_exist():
    with pytest.raises(PluginError, match=r"no group .* 'netgraph\.coarsners'. Groups: netgraph\.coarseners, "):
        plugins.list_plugins("netgraph.coarsners")
    for group in plugins.GROUPS:
        with pytest.raises(PluginError, match=r"no (coarsener|affinity|rule|exporter) named 'nothing'"):
            plugins.load_plugin(group, "nothing")


def test_plugins_of_netgraph_are_entry_points_like_all_others():
    if "hem" not in plugins.list_plugins(GROUP):
        pytest.skip("a checkout that is not installed has no entry points")
    assert plugins.load_plugin(GROUP, "hem") is heavy_edge_matching
    for group in ("netgraph.coarseners", "netgraph.affinities", "netgraph.rules"):
        for name in plugins.list_plugins(group):
            plugins.load_plugin(group, name)


def test_looking_for_plugins_imports_neither_torch_nor_numba():
    code = "import sys; from netgraph import plugins; [plugins.list_plugins(g) for g in plugins.GROUPS]; "
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
