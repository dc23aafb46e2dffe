"""A coarse network of timm: the arguments from which `timm.create_model` builds one of its sizes, and a folder in the layout of timm.

An architecture of timm is a class and its arguments. The arguments in effect are noted while the fine network is built. Those that may count
units or blocks become candidates, and networks on meta tensors show which of them fit. What is found is built, and compared with the coarse
network on pictures of noise.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.user_class.equivalence import draw_large_state
from netgraph.coarsen.user_class.shape_search import ShapeSearch, Values
from netgraph.environment.optional_packages import import_package
from netgraph.errors import OwnClassError, describe_error
from netgraph.io.hub.folder_kind import NETWORK, TIMM
from netgraph.io.hub.model_card import FolderFacts, count_parameters
from netgraph.io.huggingface import build_on_meta
from netgraph.utils.module_state import swap_state
from netgraph.utils.seeds import make_generator

GEOMETRY = re.compile(r"classes|in_chans|img|patch|window|kernel|stride|rate|eps|scale|seed|grid|tokens")
RATIO = re.compile(r"ratio|mult|expan")
TRIES = 64
SEED = 7619
TOLERANCE = 1e-4


def is_timm_model(network: nn.Module) -> bool:
    """Return True for a network that `timm.create_model` made, or a coarse one of its class."""
    config = getattr(network, "pretrained_cfg", None)
    return type(network).__module__.startswith("timm.") and isinstance(config, Mapping) and "architecture" in config


def describe_timm(network: Any) -> FolderFacts:
    """Return what the card tells of the folder of a network."""
    return FolderFacts(TIMM, NETWORK, str(network.pretrained_cfg["architecture"]), (count_parameters(network),))


def write_timm(network: nn.Module, arguments: Mapping[str, Any], folder: Path) -> None:
    """Let timm write config and weights into a folder."""
    hub = import_package("timm.models", "a network of timm")
    hub.save_for_hf(network, str(folder), model_args=dict(arguments), safe_serialization=True)


def rebuild_timm(network: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network that timm builds itself with the weights of a coarse one, and its arguments.

    Raises
    ------
    OwnClassError
        No arguments of its architecture give these sizes, or a network of them computes something else.
    """
    timm, name = import_package("timm", "a network of timm"), str(network.pretrained_cfg["architecture"])
    base = _list_known(network)
    search = _start_search(timm, name, base, network)
    problem = ""
    for values in itertools.islice(search.iterate_values(), TRIES):
        if search.measure_misfit(values):
            continue
        arguments = {**base, **values}
        built = timm.create_model(name, pretrained=False, **arguments)
        difference = _find_difference(built, network)
        if not difference:
            built.pretrained_cfg = built.default_cfg = network.pretrained_cfg
            return built.train(network.training), arguments
        problem = problem or difference
    raise OwnClassError(
        f"the arguments of timm for {name} do not express its sizes ({problem or search.first_misfit}). Give one ratio, and keep= the axes that "
        "have no argument"
    )


def _list_known(network: Any) -> dict[str, Any]:
    """Return the arguments that a network was made with, as far as they are known and JSON holds them."""
    known = dict(getattr(network, "_model_args", {}))
    known |= {
        name: getattr(network, name)
        for name in ("num_classes", "in_chans")
        if type(getattr(network, name, None)) is int
    }
    return {name: value for name, value in known.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _start_search(timm: Any, name: str, base: Mapping[str, Any], network: nn.Module) -> ShapeSearch:
    """Return the search of the arguments whose network has the shapes of a coarse one."""

    def build(values: Values) -> nn.Module:
        return build_on_meta(
            lambda arguments: timm.create_model(name, pretrained=False, **arguments), {**base, **values}
        )

    with _noted_arguments(type(network)) as noted:
        try:
            fine = build({})
        except Exception as error:  # of timm
            raise OwnClassError(
                f"timm does not build its architecture {name} again ({describe_error(error)})"
            ) from error
    return ShapeSearch(build, list(fine.state_dict()), network.state_dict(), _list_options(noted, fine, network), noted)


@contextmanager
def _noted_arguments(cls: Any) -> Iterator[Values]:
    """Note the arguments with which a class is made in a block."""
    noted: Values = {}
    make = cls.__init__
    signature = inspect.signature(make)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls and not noted:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            noted.update(dict(list(bound.arguments.items())[1:]))
        make(self, *args, **kwargs)

    cls.__init__ = init
    try:
        yield noted
    finally:
        cls.__init__ = make


def _list_options(noted: Values, fine: nn.Module, coarse: nn.Module) -> dict[str, list[Any]]:
    """Return the arguments that may be sizes, each with the values that it may have, the most likely first."""
    pairs, ratios = _pair_numbers(fine, coarse), _pair_ratios(fine.state_dict(), coarse.state_dict())
    options: dict[str, list[Any]] = {}
    for name, value in noted.items():
        if GEOMETRY.search(name):
            continue
        if type(value) is int:
            choices: list[Any] = sorted(pairs.get(value, ()))
        elif type(value) in (list, tuple) and value and all(type(n) is int for n in value):
            each = [[*sorted(pairs.get(n, ())), n] for n in value]
            choices = [type(value)(chosen) for chosen in itertools.islice(itertools.product(*each), TRIES)]
        elif type(value) is float and RATIO.search(name):
            choices = sorted(ratios.get(value, ()))
        else:
            continue
        if others := [choice for choice in choices if choice != value]:
            options[name] = [*others, value]
    return options


def _pair_numbers(fine: nn.Module, coarse: nn.Module) -> dict[int, set[int]]:
    """Return for each number of the fine network what it became: sizes of tensors, attributes of modules, numbers of blocks."""
    pairs: dict[int, set[int]] = {}
    old, new = fine.state_dict(), coarse.state_dict()
    for name in old.keys() & new.keys():
        if old[name].ndim == new[name].ndim:
            for before, after in zip(old[name].shape, new[name].shape, strict=True):
                pairs.setdefault(before, set()).add(after)
    modules = dict(coarse.named_modules())
    for path, module in fine.named_modules():
        if path not in modules:
            continue
        here = vars(modules[path])
        for name, value in vars(module).items():
            if type(value) is int and type(here.get(name)) is int:
                pairs.setdefault(value, set()).add(here[name])
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            pairs.setdefault(len(module), set()).add(len(list(modules[path].children())))
    return pairs


def _pair_ratios(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[float, set[float]]:
    """Return for each ratio of two sizes of a weight what it became."""
    ratios: dict[float, set[float]] = {}
    for name in old.keys() & new.keys():
        for a, b in ((0, 1), (1, 0)):
            if old[name].ndim == new[name].ndim >= 2 and old[name].shape[b] and new[name].shape[b]:
                ratio = new[name].shape[a] / new[name].shape[b]
                ratios.setdefault(old[name].shape[a] / old[name].shape[b], set()).add(ratio)
    return ratios


def _find_difference(built: Any, network: Any) -> str:
    """Load the weights of a coarse network into a built one, and return how their outputs differ. The text is empty if they agree."""
    built.load_state_dict(network.state_dict())
    built.to(next(network.parameters()).dtype)
    picture = (
        getattr(network, "_traits", {}).get("img_size") or network.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
    )
    rows = torch.randn(2, built.in_chans, *picture, generator=make_generator(SEED)).to(next(network.parameters()))
    state, training = draw_large_state(network, SEED), network.training
    try:
        with torch.no_grad(), swap_state(network, state), swap_state(built, state):
            difference = max_relative_error(network.eval()(rows), built.eval()(rows))
    except Exception as error:  # operators raise many kinds for sizes that do not fit
        return f"it fails ({describe_error(error)})"
    finally:
        network.train(training)
    return "" if difference <= TOLERANCE else f"its outputs differ by {difference:.2g} of their norm"
