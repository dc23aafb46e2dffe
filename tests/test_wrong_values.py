"""Every public function, method and command with wrong values of the types that it takes: a sentence of netgraph comes out, or a result.

Values are drawn by annotation (`tests.support.wrong_values`). A ``TypeError`` of Python for a wrong signature is no part of this: all
arguments have their types. Seeds are fixed, so every run draws the same values.
"""

import contextlib
import importlib
import inspect
import logging
import warnings
from functools import cached_property

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from netgraph.cli.main import app
from netgraph.errors import NetgraphError
from tests.support.command_line import run
from tests.support.wrong_values import find_arguments, find_strategy, list_methods

SEED = 7619
FACADES = (
    "netgraph",
    "netgraph.coarsen",
    "netgraph.fas",
    "netgraph.models",
    "netgraph.viz",
    "netgraph.affinity",
    "netgraph.io",
)
LEFT = {  # not walked, each with the reason
    **dict.fromkeys(
        ("resnet", "resnet20", "resnet56", "vgg", "wide_resnet", "Encoder", "Decoder", "mlp"),
        "PyTorch makes the layers that they ask for, and answers for their sizes",
    ),
    "Outcome": "an enumeration, whose call is Python's",
    "Maps": "a protocol, which has no values of its own",
    "Objective": "a protocol, which has no values of its own",
    "Run": "FAS.begin makes it, from parts that are no public names",
    "Run.move_to_level": "it takes a grid, which is no public name",
    "LightningCoarseStart": "Lightning calls its methods with its own trainer",
    "TrainOptions.make_solver": "the command line calls it with the plan of a whole run",
}


def list_public():
    """Return the public functions and classes by name, each once."""
    functions = {}
    for facade in FACADES:
        module = importlib.import_module(facade)
        for name in sorted(set(module.__all__) - LEFT.keys()):
            value = getattr(module, name)
            if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception)):
                functions.setdefault(value, f"{facade}.{name}")
    return {name: value for value, name in functions.items()}


def list_targets():
    """Return what is called, by name: (function of an object and arguments, strategy of the object, strategies of arguments)."""
    targets = {}
    for name, value in list_public().items():
        targets[name] = (lambda _, *args, f=value, **kwargs: f(*args, **kwargs), st.none(), find_arguments(value))
        for member, kind in list_methods(value) if inspect.isclass(value) else ():
            path = f"{name}.{member}"
            if path.split(".", path.count(".") - 1)[-1] in LEFT:
                continue
            if isinstance(kind, (property, cached_property)):
                targets[path] = (lambda one, n=member: getattr(one, n), find_strategy(value), ({}, {}))
            elif isinstance(kind, classmethod):
                method = getattr(value, member)
                targets[path] = (
                    lambda _, *args, f=method, **kwargs: f(*args, **kwargs),
                    st.none(),
                    find_arguments(method),
                )
            elif inspect.isfunction(kind):
                targets[path] = (kind, find_strategy(value), find_arguments(kind, skip_self=True))
    return targets


TARGETS = list_targets()


def test_every_public_name_is_walked_or_left_for_a_reason():
    missing = [name for name, (_, one, arguments) in TARGETS.items() if one is None or arguments is None]
    assert not missing
    names = {name for facade in FACADES for name in importlib.import_module(facade).__all__}
    assert {name.partition(".")[0] for name in LEFT} <= names, "what is left has its name still"


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    """Work in an empty folder, and give the loggers back as they were."""
    logger = logging.getLogger("netgraph")
    for name in ("handlers", "propagate", "level"):
        value = getattr(logger, name)
        monkeypatch.setattr(logger, name, list(value) if name == "handlers" else value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_wrong_values_of_right_types_give_a_sentence_or_a_result(name, in_an_empty_folder):
    function, one, (needed, optional) = TARGETS[name]

    @seed(SEED)
    @settings(
        max_examples=5 if needed or optional else 2,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(one, st.fixed_dictionaries(needed, optional=optional))
    def call(one, arguments):
        further = [value for key in arguments if key.startswith("*") for value in arguments[key]]
        named = {key: value for key, value in arguments.items() if not key.startswith("*")}
        with warnings.catch_warnings(), contextlib.suppress(NetgraphError):
            warnings.simplefilter("ignore")
            if further:  # behind arguments by position
                function(one, *named.values(), *further)
            else:
                function(one, **named)

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
