"""Every public function with wrong values of the types that it takes: a sentence of netgraph comes out, or a result.

Values are drawn by annotation: numbers out of every range, names of nothing, paths that are no places, networks that do not run. A
``TypeError`` of Python for a wrong signature is no part of this: all arguments have their types.
"""

import contextlib
import importlib
import inspect
import logging
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
import typer
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import netgraph as ng
from netgraph.cli.main import app
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.models import mlp
from netgraph.tracing.unit_spec import UnitSpec
from tests.support.command_line import run

FACADES = (
    "netgraph",
    "netgraph.coarsen",
    "netgraph.fas",
    "netgraph.models",
    "netgraph.viz",
    "netgraph.affinity",
    "netgraph.io",
)
SIZED = (
    "resnet",
    "resnet20",
    "resnet56",
    "vgg",
    "wide_resnet",
    "Encoder",
    "Decoder",
    "mlp",
)  # PyTorch makes what they ask for
EXAMPLE = torch.linspace(-1, 1, 24).reshape(4, 6)
NAMES = (
    "",
    "x",
    "hem",
    "cosine",
    "all",
    "0",
    "a\nb",
    "\x1b]0;T\x07",
    "s3://bucket/x",
    "torchvision:",
    "torchvision:none",
    "-1",
    "2x0",
)
PLACES = (
    "nowhere/x.html",
    "nowhere",
    ".",
    "x.html",
    "x.mtx",
    "x.level9.A.mtx",
    "x.pt",
    "x.safetensors",
    "x",
    "\udcff.pt",
    "a\nb.svg",
)


class Raises(nn.Module):
    """A network that does not run."""

    def forward(self, x):
        raise RuntimeError("no")


class Empty(nn.Module):
    """A network that answers nothing."""

    def forward(self, x):
        return None


def make_network():
    torch.manual_seed(0)
    return mlp((6, 8, 3))


@cache
def make_hierarchy():
    return ng.build_hierarchy(make_network(), EXAMPLE, n_levels=2)


def make_nan_network():
    model = make_network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


BY_TYPE = {
    bool: st.booleans(),
    int: st.sampled_from([-1, 0, 1, 2, 7, -(2**63), 2**31, 2**64, 10**30]),
    float: st.sampled_from([float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 0.5, 1.0, 1e308, 5e-324]),
    str: st.sampled_from(NAMES),
    Path: st.sampled_from(PLACES).map(Path),
    nn.Module: st.sampled_from([make_network, make_nan_network, Raises, Empty, nn.Identity, nn.ModuleList]).map(
        lambda m: m()
    ),
    Tensor: st.sampled_from(
        [
            EXAMPLE,
            torch.zeros(0),
            torch.zeros(0, 6),
            torch.zeros(2, 5),
            torch.full((2, 6), float("nan")),
            torch.tensor(1),
        ]
    ),
    Hierarchy: st.builds(make_hierarchy),
    UnitSpec: st.builds(lambda: make_hierarchy().levels[0].spec),
    type(None): st.none(),
}
EXAMPLES = st.one_of(
    BY_TYPE[Tensor],
    st.tuples(BY_TYPE[Tensor], BY_TYPE[Tensor]),
    st.dictionaries(st.sampled_from(["x", "input"]), BY_TYPE[Tensor], max_size=1),
)


def list_functions():
    """Return the public functions and classes by name, each once."""
    functions = {}
    for facade in FACADES:
        module = importlib.import_module(facade)
        for name in sorted(set(module.__all__).difference(SIZED)):
            value = getattr(module, name)
            if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception)):
                functions.setdefault(value, f"{facade}.{name}")
    return {name: value for value, name in functions.items()}


def find_strategy(kind, name):
    """Return a strategy for the values of an annotation, or None if it has none here."""
    if name == "example" or name == "inputs":
        return EXAMPLES
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        strategies = [s for s in (find_strategy(part, "") for part in parts) if s is not None]
        return st.one_of(strategies) if strategies else None
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin in (list, Sequence) and (inner := find_strategy(parts[0], "")) is not None:
        return st.lists(inner, max_size=3)
    if origin in (dict, Mapping):
        key, value = (find_strategy(part, "") for part in parts)
        return None if key is None or value is None else st.dictionaries(key, value, max_size=2)
    return None


def find_arguments(function):
    """Return strategies for the parameters of a function: those it must have and those it may have. None if one is missing."""
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):
        return None
    needed, optional = {}, {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        strategy = find_strategy(hints.get(parameter.name), parameter.name)
        if strategy is not None and parameter.kind != parameter.POSITIONAL_ONLY:
            (needed if parameter.default is parameter.empty else optional)[parameter.name] = strategy
        elif parameter.default is parameter.empty:
            return None
    return (needed, optional) if needed or optional else None


WALKED = {name: arguments for name, function in list_functions().items() if (arguments := find_arguments(function))}
LEFT = {  # what libraries raise for numbers that no machine word holds, and for examples that are no batch
    "netgraph.build_hierarchy": (RuntimeError, ValueError),
    "netgraph.own_class": (RuntimeError, ValueError),
    "netgraph.models.attention_mask": (OverflowError,),
    "netgraph.models.train_tokenizer": (OverflowError,),
    "netgraph.viz.write_attention_figure": (ValueError,),
}


def test_most_functions_are_walked():
    assert len(WALKED) >= 50


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    """Work in an empty folder, and give the loggers back as they were."""
    logger = logging.getLogger("netgraph")
    for name in ("handlers", "propagate", "level"):
        value = getattr(logger, name)
        monkeypatch.setattr(logger, name, list(value) if name == "handlers" else value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", sorted(WALKED))
def test_wrong_values_of_right_types_give_a_sentence_or_a_result(name, in_an_empty_folder):
    function, (needed, optional) = list_functions()[name], WALKED[name]

    @seed(7619)
    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries(needed, optional=optional))
    def call(arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(NetgraphError, *LEFT.get(name, ())):
                function(**arguments)

    call()


WORDS = (
    "",
    "x",
    "0",
    "-1",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "2x0",
    "a=b",
    "=",
    "[" * 99,
    "a\nb",
    "\x1b]0;T\x07",
    "s3://b/x",
    "nowhere/x.pt",
    ".",
    "x.html",
)
COMMANDS = typer.main.get_command(app).commands
QUIET = sorted(set(COMMANDS) - {"ui", "demo"})  # these two serve and train


def list_words(parameter):
    """Return a strategy for the words of a parameter: none, or its name with a wrong value."""
    if isinstance(parameter, typer.core.TyperArgument):
        return st.sampled_from(WORDS[1:]).map(lambda word: [word])
    name = max(parameter.opts, key=len)
    if parameter.is_flag:
        return st.sampled_from([[], [name]])
    return st.one_of(st.just([]), st.sampled_from(WORDS).map(lambda word: [f"{name}={word}"]))


@pytest.mark.parametrize("name", QUIET)
def test_every_command_explains_wrong_values_of_its_options(name, in_an_empty_folder):
    parameters = [p for p in COMMANDS[name].params if p.name not in ("help", "install_completion", "show_completion")]

    @seed(7619)
    @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.tuples(*map(list_words, parameters)),
        st.lists(st.sampled_from(range(len(parameters) or 1)), min_size=1, max_size=3),
    )
    def call(words, chosen):
        typed = [
            w for i, (p, ws) in enumerate(zip(parameters, words, strict=True)) if i in chosen or p.required for w in ws
        ]
        code, _, stderr = run(
            name, *[word for word in typed if not word.startswith("-")], *[w for w in typed if w.startswith("-")]
        )
        assert code in (0, 1, 2, 3, 4)
        assert not code or stderr.strip(), "a failure says something"

    call()
