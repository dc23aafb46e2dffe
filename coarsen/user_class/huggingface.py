"""A coarse network of Hugging Face transformers: the same class, from a config with smaller numbers.

The class builds its network from its config, and a copy with smaller parameters would not survive saving. The numbers in the
config that may be sizes of the network become candidates. A network on meta tensors shows which of them fit.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from netgraph.coarsen.user_class.module_attributes import recount_value
from netgraph.coarsen.user_class.size_candidates import SizeChange, list_coarse_sizes
from netgraph.errors import LoadError, OwnClassError
from netgraph.io.huggingface import build_on_meta
from netgraph.io.trained_weights import find_repository, is_repository

WIDTHS = re.compile(
    r"hidden|embed|embd|inter|inner|dim|d_|ff|head|channel|width|proj|state|group|rank|conv|expert|top_?k|moe_k"
)
TRIES = 256
BESIDE = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab.*\.(json|txt)|merges\.txt|.*\.(model|tiktoken|jinja)"
    r"|chat_template\.json|(.*_)?preprocessor_config\.json|processor_config\.json|generation_config\.json"
)
FILES = re.compile(rf"config\.json|(model|pytorch_model)[\w.-]*\.(safetensors|bin)(\.index\.json)?|{BESIDE.pattern}")


def is_transformers_model(model: nn.Module) -> bool:
    """Return True if a network is built from a config and saves itself with it."""
    return hasattr(model, "config") and hasattr(model, "save_pretrained") and hasattr(type(model), "config_class")


def iterate_config_networks(model: Any, state: Mapping[str, Tensor], sizes: SizeChange) -> Iterator[nn.Module]:
    """Yield networks of smaller configs that hold a coarse state, the most likely first.

    Raises
    ------
    OwnClassError
        No config makes a network of these shapes.
    """
    search = _ConfigSearch(model, state, _list_options(model.config, sizes))
    fits = 0
    for config in itertools.islice(search.iterate_configs(), TRIES):
        if not search.measure_misfit(config):
            fits += 1
            yield _load_coarse_state(type(model)(copy.deepcopy(config)), model, state)
    if not fits:
        raise OwnClassError(
            f"no config makes a network of its shapes ({search.first_misfit}). A config needs layers of equal sizes. Give one ratio, "
            "and keep= the axes that have no number in the config"
        )


def _list_options(config: Any, sizes: SizeChange) -> dict[str, list[Any]]:
    """Return the numbers of a config that may be sizes, each with the values that it may have, the most likely first."""
    counts = sizes.collect_sizes("")
    options: dict[str, list[Any]] = {}
    for name, value in vars(config).items():
        if name.startswith("_") or not WIDTHS.search(name):
            continue
        others = list_coarse_sizes(name, value, counts) if type(value) is int else [recount_value(name, value, counts)]
        if any(v != value for v in others):
            options[name] = [*(v for v in others if v != value), value]
    return options


@dataclass
class _ConfigSearch:
    """Searches the configs whose network has the shapes of a coarse one. Networks are built on meta tensors.

    Parameters
    ----------
    model : torch.nn.Module
        The fine network.
    state : dict of str to Tensor
        Coarse parameters and buffers.
    options : dict of str to list
        For each number of the config that may change its values, the most likely first.
    """

    model: Any
    state: Mapping[str, Tensor]
    options: Mapping[str, list[Any]]
    first_misfit: str = ""
    known: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def iterate_configs(self) -> Iterator[Any]:
        """Yield configs, the most likely first. If that does not fit, its numbers are first changed one by one until it does."""
        fitting = None
        for place in (0, -1):  # the most likely numbers, and those of the fine network
            values = {name: choices[place] for name, choices in self.options.items()}
            fitting = fitting or self._change_one_by_one(values)
        choices = dict(self.options)
        if fitting is not None:  # numbers that no shape shows may still have other values
            choices = {
                name: [v for v in listed if v == fitting[name] or self._fits_too(fitting, name, v)]
                for name, listed in self.options.items()
            }
        for chosen in itertools.product(*choices.values()):
            yield self._make_config(dict(zip(choices, chosen, strict=True)))

    def measure_misfit(self, config: Any) -> float:
        """Return how far the shapes of a config's network are from those of the coarse one: 0 if they fit."""
        key = tuple(repr(getattr(config, name, None)) for name in self.options)
        if key not in self.known:
            self.known[key] = self._build_and_compare(config)
        return self.known[key]

    def _build_and_compare(self, config: Any) -> float:
        try:
            network = build_on_meta(type(self.model), config)
        except Exception as error:  # configs check themselves
            self.first_misfit = self.first_misfit or f"{type(error).__name__}: {str(error)[:120]}"
            return math.inf
        shapes = {name: t.shape for name, t in (*network.named_buffers(), *network.state_dict().items())}
        names = dict.fromkeys((*self.model.state_dict(), *(name for name, _ in self.model.named_buffers())))
        distance = 0.0
        for name in names:
            if name in self.state and shapes.get(name) != self.state[name].shape:
                here, there = self.state[name].shape, shapes.get(name, ())
                self.first_misfit = self.first_misfit or f"{name} is {tuple(there)} there and {tuple(here)} here"
                distance += _measure_distance(here, there)
        return distance

    def _make_config(self, values: Mapping[str, Any]) -> Any:
        """Return the config with these numbers."""
        changed = copy.deepcopy(self.model.config)
        for name, value in values.items():
            setattr(changed, name, value)
        return changed

    def _measure(self, values: Mapping[str, Any]) -> float:
        return self.measure_misfit(self._make_config(values))

    def _fits_too(self, fitting: Mapping[str, Any], name: str, value: Any) -> bool:
        """Return True if a fitting config fits with another value of one number."""
        return not self._measure({**fitting, name: value})

    def _change_one_by_one(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """Return numbers that fit, found by changes that each bring the shapes nearer, or None."""
        nearest, last = self._measure(values), math.inf
        while 0 < nearest < last:
            last = nearest
            for name, listed in self.options.items():
                for value in listed:
                    distance = self._measure({**values, name: value})
                    if distance < nearest:
                        values, nearest = {**values, name: value}, distance
        return None if nearest else values


def _measure_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the sum of |log(m / n)| over the sizes of two shapes, and more for shapes of different length."""
    if len(a) != len(b):
        return 100.0
    return sum(abs(math.log(max(m, 1) / max(n, 1))) for m, n in zip(a, b, strict=True))


def _load_coarse_state(network: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a coarse state, and take device, precision and frozen parameters from the fine network."""
    fine = dict(model.named_parameters())
    first = next(iter(fine.values()))
    network = network.to(device=first.device, dtype=first.dtype)
    missing, unexpected = network.load_state_dict(
        {n: state[n] for n in network.state_dict() if n in state}, strict=False
    )
    ties = {id(network.get_parameter(n)) for n in state if n in fine}
    absent = [n for n in missing if n in fine or id(network.state_dict(keep_vars=True)[n]) not in ties]
    if absent or unexpected:
        raise OwnClassError(f"its class has {', '.join([*absent, *unexpected][:3])}, which the coarse network lacks")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in fine or fine[name].requires_grad)
    if getattr(model, "generation_config", None) is not None:  # a second end token, lengths, sampling
        network.generation_config = copy.deepcopy(model.generation_config)
    return network


def copy_text_files(model: Any, folder: Path) -> None:
    """Copy the text files of a network to the folder of a coarse one: tokenizer, processor, templates.

    Parameters
    ----------
    model : transformers network
        Its config names the folder or the repository that it came from. Nothing is copied where that is not here.
    folder : path
        Files that are there stay.
    """
    source = _find_source(str(getattr(model.config, "_name_or_path", "") or ""))
    for path in sorted(source.iterdir()) if source is not None else ():
        if BESIDE.fullmatch(path.name) and path.is_file() and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def _find_source(name: str) -> Path | None:
    """Return the folder that a network came from, in the cache of Hugging Face for a repository, or None."""
    if name and Path(name).is_dir():
        return Path(name)
    if not is_repository(name):
        return None
    try:
        return find_repository(name, download=False, with_weights=False)
    except LoadError:  # not in the cache
        return None
