"""Every public name is documented: each parameter, the result, the errors; examples run and print what they show."""

import doctest
import enum
import importlib
import importlib.resources
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from numpydoc.validate import validate

import netgraph as ng

FACADES = (
    "netgraph",
    "netgraph.affinity",
    "netgraph.coarsen",
    "netgraph.fas",
    "netgraph.io",
    "netgraph.models",
    "netgraph.viz",
)
RULES = {  # numpydoc's checks that hold here
    "GL08": "it has no docstring",
    "PR01": "a parameter is not documented",
    "PR02": "a documented parameter does not exist",
    "PR04": "a parameter has no type",
    "PR07": "a parameter has no description",
    "RT01": "it has no Returns section",
    "SS01": "it has no summary",
    "SS02": "its summary does not begin with a capital",
    "SS03": "its summary does not end with a period",
    "SS06": "its summary has more than one line",
}
FIRST_THIRTY = (
    *(f"netgraph.{name}" for name in ng.__all__ if name != "NetgraphError"),
    "netgraph.coarsen.AxisGraph",
    "netgraph.coarsen.heavy_edge_matching",
    "netgraph.coarsen.kmeans",
    "netgraph.coarsen.ward",
    "netgraph.fas.Options",
    "netgraph.models.load_dataset",
    "netgraph.models.mlp",
    "netgraph.viz.plot_hierarchy",
)


def list_public_names():
    return [f"{facade}.{name}" for facade in FACADES for name in importlib.import_module(facade).__all__]


def find_unlisted_names(facade):
    """Return the names whose optional library is not installed."""
    libraries = {"LightningCoarseStart": "lightning", "TransformersCoarseStart": "transformers"}
    return {name for name, library in libraries.items() if facade == "netgraph.fas" and not find_spec(library)}


def load(name):
    facade, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(facade), attribute)
    except ng.NetgraphError as error:  # the callbacks of Lightning and transformers
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("facade", FACADES)
def test_a_facade_lists_its_names_sorted_and_once(facade):
    names = importlib.import_module(facade).__all__
    assert list(names) == sorted(set(names))
    assert set(names) <= set(dir(importlib.import_module(facade)))


@pytest.mark.parametrize("facade", FACADES)
def test_a_type_checker_sees_the_names_that_python_loads(facade):
    source = inspect.getsource(importlib.import_module(facade))
    typed = set(re.findall(r"^    from \S+ import \w+ as (\w+)$", source, re.M))
    assert typed == set(importlib.import_module(facade).__all__) | find_unlisted_names(facade)


@pytest.mark.parametrize("facade", FACADES)
def test_no_module_has_the_name_of_a_function_that_its_package_exports(facade):
    package = importlib.import_module(facade)
    modules = {path.stem for folder in package.__path__ for path in importlib.resources.files(facade).iterdir()}
    assert not modules & set(package.__all__)


def takes_nothing(value):
    """Return True for a protocol and for an enumeration, whose signatures are not their own."""
    return getattr(value, "_is_protocol", False) or (inspect.isclass(value) and issubclass(value, enum.Enum))


@pytest.mark.parametrize("name", list_public_names())
def test_the_docstring_of_a_public_name_is_complete(name):
    value = load(name)
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return  # a constant or an alias of a type
    canonical = f"{value.__module__}.{value.__qualname__}"
    rules = [rule for rule in RULES if rule != "PR01" or not takes_nothing(value)]
    errors = [(code, text) for code, text in validate(canonical)["errors"] if code in rules]
    assert not errors, f"{canonical}: {errors}"


@pytest.mark.parametrize("name", list_public_names())
def test_a_public_function_that_raises_says_so(name):
    value = load(name)
    if not inspect.isfunction(value):
        return
    raised = set(re.findall(r"^\s+raise (\w+Error)\b", inspect.getsource(value), re.M))
    section = re.search(r"Raises\n-+\n(.*?)(\n\n[A-Z]\w+\n-+\n|\Z)", inspect.getdoc(value) or "", re.S)
    assert all(section and error in section[1] for error in raised), f"{name} raises {raised}"


@pytest.mark.parametrize("name", FIRST_THIRTY)
def test_the_first_names_that_people_type_have_an_example(name):
    assert ">>> " in (inspect.getdoc(load(name)) or ""), name


@pytest.mark.parametrize("name", list_public_names())
def test_examples_print_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = load(name)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    module = inspect.getmodule(value)
    for test in finder.find(value, name, module=module, globs=dict(vars(module)) if module else {}):
        runner.run(test)
    assert runner.failures == 0


def test_packages_are_imported_when_a_program_asks_for_them():
    """As the lines on a card do: ``import netgraph as ng``, then ``ng.coarsen.from_pretrained``."""
    names = [facade.removeprefix("netgraph.") for facade in FACADES[1:]]
    code = (
        f"import netgraph as ng; print(*(getattr(ng, name).__name__ for name in {names}), set({names}) <= set(dir(ng)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [*FACADES[1:], "True"]


@pytest.mark.parametrize("facade", FACADES)
def test_help_and_a_star_import_work_with_or_without_the_extras(facade):
    code = f"import io, pydoc; from {facade} import *; import {facade} as p; pydoc.Helper(output=io.StringIO()).help(p)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
