"""A coarse network of Hugging Face transformers: the same class, from a config with smaller numbers.

The class builds its network from its config, and a copy with smaller parameters would not survive saving. The numbers in the
config that may be sizes of the network become candidates. A network on meta tensors shows which of them fit.
"""

from __future__ import annotations

import copy
import itertools
import re
import shutil
from collections.abc import Iterator, Mapping
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
    misfits, fits = [], 0
    for config in itertools.islice(_iterate_configs(model.config, sizes), TRIES):
        misfit = _find_misfit(type(model), config, model, state)
        if misfit is None:
            fits += 1
            yield _load_coarse_state(type(model)(copy.deepcopy(config)), model, state)
        else:
            misfits.append(misfit)
    if not fits:
        raise OwnClassError(
            f"no config makes a network of its shapes ({misfits[0]}). A config needs layers of equal sizes. Give one ratio, "
            "and keep= the axes that have no number in the config"
        )


def _iterate_configs(config: Any, sizes: SizeChange) -> Iterator[Any]:
    """Yield configs with every choice of changed numbers, those with most changes first."""
    counts = sizes.collect_sizes("")
    options: dict[str, list[Any]] = {}
    for name, value in vars(config).items():
        if name.startswith("_") or not WIDTHS.search(name):
            continue
        others = list_coarse_sizes(name, value, counts) if type(value) is int else [recount_value(name, value, counts)]
        if any(v != value for v in others):
            options[name] = [*(v for v in others if v != value), value]
    for values in itertools.product(*options.values()):
        changed = copy.deepcopy(config)
        for name, value in zip(options, values, strict=True):
            setattr(changed, name, value)
        yield changed


def _find_misfit(cls: Any, config: Any, model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Return the first shape of a config's network that does not fit, or None. The network is built on meta tensors."""
    try:
        shapes = {name: t.shape for name, t in build_on_meta(cls, config).state_dict().items()}
    except Exception as error:  # configs check themselves
        return f"{type(error).__name__}: {str(error)[:120]}"
    for name in model.state_dict():
        shape = state[name].shape if name in state else None
        if shape is not None and shapes.get(name) != shape:
            return f"{name} is {tuple(shapes.get(name, ()))} there and {tuple(shape)} here"
    return None


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
    """Copy what belongs to a network beside its weights to the folder of a coarse one: tokenizer, processor, templates.

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
