"""Networks of Hugging Face transformers: from a config alone, or from a folder with the weights that belong to it.

A config may ask for anything, so its network is made on shapes alone first, and measured while it grows.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from netgraph.errors import LoadError, UntrustedError

LOOPS = (  # numbers that a class counts up to, one by one, and how far it may
    (re.compile(r"layer|depth|(?:block|stage|head|expert)s$"), 2**10),
    (re.compile(r"labels$"), 2**17),
)
MANY = 2**15  # tensors; the largest networks in use have some thousands
TEXT = 2**24  # characters of a config; no more are read
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def build_from_config(transformers: Any, path: Path, options: Mapping[str, Any], *, weights: bool = False) -> nn.Module:
    """Make the network of a config.

    Parameters
    ----------
    transformers : module
    path : path
        A config.json, or a folder that has one.
    options : dict
        Entries of the config to change.
    weights : bool
        Fill the network with the weights of its folder; they must fit to the last name.

    Raises
    ------
    LoadError
        The config cannot be read, asks for more than fits here, or its folder's weights do not fit it.
    """
    config, cls = _find_class(transformers, path, options)
    cls = type(build_on_meta(cls, config, path))
    return _load_folder_weights(transformers, cls, config, path) if weights and has_weights(path) else cls(config)


def has_weights(path: Path) -> bool:
    """Tell whether a folder has weights for its config.

    Raises
    ------
    LoadError
        It has them as a pickle only.
    """
    if any((path / name).is_file() for name in WEIGHTS):
        return True
    pickled = next((name for name in PICKLED if (path / name).is_file()), None)
    if pickled is not None:
        raise LoadError(
            f"hf:{path} has its weights in {pickled} and no model.safetensors; save it again with save_pretrained, or open "
            f"{path / 'pytorch_model.bin'} with --arch hf:{path / 'config.json'}"
        )
    return False


def build_on_meta(make: Any, config: Any, path: Path | None = None) -> nn.Module:
    """Return the network that ``make`` makes of a copy of a config, without numbers: no memory is taken.

    Where the config was read from ``path``, errors name it.

    Raises
    ------
    LoadError
        It has more tensors than any network, or would not fit into this machine's free memory.
    """
    with _limit_size("the config" if path is None else f"hf:{path}"), torch.device("meta"):
        return make(copy.deepcopy(config))  # type: ignore[no-any-return]


@contextmanager
def _limit_size(what: str) -> Iterator[None]:
    """Stop a network that grows too large while it is being made."""
    room, taken, count = psutil.virtual_memory().available, 0, 0

    def measure(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal taken, count
        taken += 0 if tensor is None else tensor.numel() * tensor.element_size()
        count += 1
        if taken > room or count > MANY:
            asked = (
                f"{taken:,} bytes and more, and {room:,} are free" if taken > room else f"more than {MANY:,} tensors"
            )
            raise LoadError(f"{what} asks for a network of {asked}; give smaller numbers in it, or by --arch-arg")

    hooks = [register_module_parameter_registration_hook(measure), register_module_buffer_registration_hook(measure)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _find_class(transformers: Any, path: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a config and what makes its network."""
    file = path / "config.json" if path.is_dir() else path
    data = {**_read_config(path, file), **options}
    _check_entries(data, file)
    if str(data["model_type"]) not in transformers.CONFIG_MAPPING:
        raise LoadError(
            f"{file} asks for model_type {data['model_type']!r}, which transformers {transformers.__version__} does not have; "
            "mend the name, or install a version that has it"
        )
    config = transformers.AutoConfig.for_model(**data)
    if not data.get("architectures"):
        return config, transformers.AutoModel.from_config
    cls = getattr(transformers, str(data["architectures"][0]), None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise LoadError(
            f"{file} asks for {data['architectures'][0]!r}, which is no network of transformers; give its class by --arch"
        )
    return config, cls


def _read_config(path: Path, file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(TEXT + 1)
        data = json.loads(text if len(text) <= TEXT else "")
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(
            f"hf:{path} is no readable config ({str(error)[:120]}); give a config.json or a folder that has one"
        ) from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise LoadError(f"{file} has no model_type; give the config.json of a transformers network")
    return data


def _check_entries(value: Any, file: Path, key: str = "") -> None:
    """Refuse entries that would keep a class busy for ever, or bring code."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_entries(part, file, str(name))
    elif isinstance(value, list):
        for part in value:
            _check_entries(part, file, key)
    elif isinstance(value, int):
        most = min((limit for name, limit in LOOPS if name.search(key)), default=value)
        if value > most:
            raise LoadError(f"{file} asks for {key} {value:,}; at most {most:,} are made")
    elif isinstance(value, str) and key.endswith("_implementation") and "/" in value:
        raise UntrustedError(f"{file} asks for {key} {value!r}, which is code to download; take that entry out")


def _load_folder_weights(transformers: Any, cls: Any, config: Any, folder: Path) -> nn.Module:
    """Return a network with all of its folder's weights, and no others."""
    with silence_transformers(transformers.utils.logging):
        model, info = cls.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    problems = [
        f"{what} {', '.join(sorted(map(str, info[key]))[:3])}"
        for key, what in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "not in it"),
            ("mismatched_keys", "of another shape"),
        )
        if info.get(key)
    ]
    if problems:
        raise LoadError(
            f"the weights of hf:{folder} do not fit {cls.__name__}: {'; '.join(problems)}; check architectures in its "
            f"config.json, or give hf:{folder / 'config.json'} for random weights"
        )
    return model  # type: ignore[no-any-return]


@contextmanager
def silence_transformers(logging: Any) -> Iterator[None]:
    """Keep transformers, by ``transformers.utils.logging``, from reporting what is told in one sentence."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
