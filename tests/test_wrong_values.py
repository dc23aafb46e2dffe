"""Every public function and method with wrong values of the types that it takes: a sentence of netgraph comes out, or a result.

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
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from netgraph.errors import NetgraphError
from tests.support.wrong_values import find_arguments, find_strategy, list_methods

pytestmark = pytest.mark.no_cover
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
        ("resnet", "resnet20", "resnet56", "vgg", "wide_resnet", "Encoder", "Decoder", "mlp", "ResidualNet", "UNet"),
        "PyTorch makes the layers that they ask for, and answers for their sizes",
    ),
    "load_darcy": "its usual sizes take seconds, and tests/models/test_darcy.py has its wrong numbers",
    "Outcome": "an enumeration, whose call is Python's",
    "Maps": "a protocol, which has no values of its own",
    "Objective": "a protocol, which has no values of its own",
    "Degradation": "a protocol, which has no values of its own",
    "Run": "FAS.begin makes it, from parts that are no public names",
    "Run.move_to_level": "it takes a grid, which is no public name",
    "LightningCoarseStart": "Lightning calls its methods with its own trainer",
    "choose_training": "each call trains for seconds, and its tests give it wrong budgets and minibatches",
    "TrainingChoice": "choose_training makes it, from parts that are no public names",
    **dict.fromkeys(
        (
            "from_pretrained",
            "push_to_hub",
            "Hierarchy.from_pretrained",
            "Hierarchy.push_to_hub",
            "Compressed.from_pretrained",
            "Compressed.push_to_hub",
        ),
        "they ask a hub for names that are no folders, and tests/coarsen/test_hub_folders.py gives them wrong ones",
    ),
    "TrainOptions.choose_rate": "the command line calls it with the defaults of a task",
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
