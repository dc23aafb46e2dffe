"""Networks of Hugging Face transformers, from a config alone or from a folder with config and weights.

A config of unknown origin may ask for a network of any size. It is therefore built on meta tensors first, and its size
is measured while it grows.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.environment.network_size import MOST_TENSORS, limit_size
from netgraph.errors import LoadError, LoadWarning, UntrustedError
from netgraph.io.weight_files import read_weights

LOOPS = (  # entries that a class loops over, and their largest allowed values
    (re.compile(r"layer|depth|(?:block|stage|head|expert)s$"), 2**10),
    (re.compile(r"labels$"), 2**17),
)
PARTS = re.compile(r"backbone$|^architecture$|_name_or_path$|_model_name$|_repo(_id)?$")  # entries that name a part
CODE = re.compile(r"_implementation(_internal)?$")  # entries that name a kernel of a hub as owner/name
FILES = re.compile(
    r"^(checkpoint_path|file)$"
)  # entries of timm. Versions before 1.0.17 open such a file as any pickle.
REPOSITORY = re.compile(r"[\w.-]+/[\w./@-]+$|hf[-_]hub:|https?:")
OWN_NAMES = ("_name_or_path", "name_or_path")  # where the network itself has come from
TEXT = 2**24  # largest number of characters of a config
NOT_FINITE = {text: float(text) for text in ("Infinity", "-Infinity", "NaN")}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def build_from_config(
    transformers: Any, path: Path, options: Mapping[str, Any], *, weights: bool = False, download: bool = False
) -> nn.Module:
    """Build the network of a config.

    Parameters
    ----------
    transformers : module
        The imported library.
    path : path
        A config.json, or a folder that has one.
    options : dict
        Entries of the config to change.
    weights : bool, default=False
        Load the weights of the folder. Their names and shapes must fit exactly.
    download : bool, default=False
        Allow entries that name a repository, from which the library fetches a part of the network.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    LoadError
        The config cannot be read, the network would not fit into memory, or the weights do not fit the network.
    """
    config, cls = _find_class(transformers, path, options, download)
    cls = type(build_on_meta(cls, config, path))
    return _load_folder_weights(transformers, cls, config, path) if weights and has_weights(path) else cls(config)


def has_weights(path: Path) -> bool:
    """Return True if a folder has weights for its config."""
    return any((path / name).is_file() for name in (*WEIGHTS, *PICKLED))


def build_on_meta(make: Any, config: Any, path: Path | None = None) -> nn.Module:
    """Build a network from a copy of a config on meta tensors, which take no memory.

    Parameters
    ----------
    make : callable ``(config) -> torch.nn.Module``
    config : transformers config
    path : path, optional
        Origin of the config, for error messages.

    Raises
    ------
    LoadError
        The network has too many tensors, or would not fit into the free memory of this machine.
    """
    with (
        limit_size("the config" if path is None else f"hf:{path}", most=MOST_TENSORS, on_meta=True),
        torch.device("meta"),
    ):
        return make(copy.deepcopy(config))  # type: ignore[no-any-return]


def _find_class(transformers: Any, path: Path, options: Mapping[str, Any], download: bool) -> tuple[Any, Any]:
    """Return a config and the callable that makes its network."""
    file = path / "config.json" if path.is_dir() else path
    data = {**_read_config(path, file), **options}
    check_entries(data, file)
    if not download:
        _check_repositories(data, file)
    _drop_own_classes(data, file)
    if str(data["model_type"]) not in transformers.CONFIG_MAPPING:
        raise LoadError(
            f"{file} asks for model_type {data['model_type']!r}, which transformers {transformers.__version__} does not have. "
            "Correct the name, or install a version that has it."
        )
    config = transformers.AutoConfig.for_model(**data)
    if not data.get("architectures"):
        return config, transformers.AutoModel.from_config
    cls = getattr(transformers, str(data["architectures"][0]), None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise LoadError(
            f"{file} asks for {data['architectures'][0]!r}, which is not a network of transformers. Give its class by --arch."
        )
    return config, cls


def _read_config(path: Path, file: Path) -> dict[str, Any]:
    """Return the entries of a config.json."""
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(TEXT + 1)
        data = json.loads(text if len(text) <= TEXT else "", object_hook=_decode_float)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(
            f"hf:{path} is not a readable config ({str(error)[:120]}). Give a config.json or a folder that has one."
        ) from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise LoadError(f"{file} has no model_type. Give the config.json of a transformers network.")
    return data


def _decode_float(entry: dict[str, Any]) -> Any:
    """Return the number of ``{"__float__": "Infinity"}``, which transformers writes since JSON has no infinity."""
    return NOT_FINITE.get(str(entry["__float__"]), entry) if entry.keys() == {"__float__"} else entry


def check_entries(value: Any, file: Path, key: str = "") -> None:
    """Refuse entries that would keep a class busy for too long, or that would download code."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            check_entries(part, file, key if CODE.search(key) else str(name))  # one kernel for each part of a network
    elif isinstance(value, list):
        for part in value:
            check_entries(part, file, key)
    elif isinstance(value, int):
        most = min((limit for name, limit in LOOPS if name.search(key)), default=value)
        if value > most:
            raise LoadError(f"{file} asks for {key} {value:,}, but at most {most:,} are allowed")
    elif isinstance(value, str) and CODE.search(key) and "/" in value:
        raise UntrustedError(f"{file} asks for {key} {value!r:.100}, which is code to download. Remove that entry.")
    elif isinstance(value, str) and (FILES.search(key) or value.startswith("local-dir:")):
        raise UntrustedError(
            f"{file} asks for {key} {value!r:.100}, weights that netgraph does not check. Remove that entry, and open the file by "
            "itself."
        )


def _check_repositories(value: Any, file: Path, key: str = "") -> None:
    """Refuse entries that name a repository, from which the library would fetch a part of the network."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name not in OWN_NAMES:
                _check_repositories(part, file, str(name))
    elif isinstance(value, list):
        for part in value:
            _check_repositories(part, file, key)
    elif isinstance(value, str) and PARTS.search(key) and REPOSITORY.match(value):
        raise LoadError(
            f"{file} asks for {key} {value!r:.100}, which is a repository on the network. Give --download (download=True) to "
            "allow that, or write the config of that part into the entry."
        )


def _drop_own_classes(data: dict[str, Any], file: Path) -> None:
    """Drop the entry that names classes in files of a repository. Those of the library are taken."""
    if data.pop("auto_map", None) is not None:
        warnings.warn(
            f"{file} names classes of its own (auto_map). They are not used: the network is that of transformers.",
            LoadWarning,
            stacklevel=2,
        )


def _load_folder_weights(transformers: Any, cls: Any, config: Any, folder: Path) -> nn.Module:
    """Return a network with exactly the weights of its folder."""
    pickled = next((folder / name for name in PICKLED if (folder / name).is_file()), None)
    if any((folder / name).is_file() for name in WEIGHTS):
        pickled = None
    source = {"use_safetensors": True} if pickled is None else {"state_dict": _read_pickled(pickled)}
    try:
        with silence_transformers(transformers.utils.logging):
            model, info = cls.from_pretrained(
                folder if pickled is None else None,
                config=config,
                local_files_only=True,
                output_loading_info=True,
                **source,
            )
    except ImportError as error:  # of a package for quantised weights
        raise LoadError(f"hf:{folder} needs a package that is not installed: {str(error).splitlines()[0]}") from error
    problems = [
        f"{problem} {', '.join(sorted(map(str, info[key]))[:3])}"
        for key, problem in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "of another shape"),
        )
        if info.get(key)
    ]
    if problems:
        raise LoadError(
            f"the weights of hf:{folder} do not fit {cls.__name__}: {'; '.join(problems)}. Check architectures in its "
            f"config.json, or give hf:{folder / 'config.json'} for random weights."
        )
    _check_quantisation(model, config, folder)
    if pickled is not None:  # from_pretrained has not seen the folder
        model.config.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model  # type: ignore[no-any-return]


def _check_quantisation(model: nn.Module, config: Any, folder: Path) -> None:
    """Say that weights were quantised, and refuse those that are still."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, Mapping) else getattr(stored, "quant_method", None)
    kinds = {
        p.dtype for p in (*model.parameters(), *model.buffers()) if p.dtype.itemsize == 1 and p.dtype != torch.bool
    }
    if kinds:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise LoadError(
            f"hf:{folder} is quantised ({method}) and keeps numbers of {names}, which cannot be averaged. Load it with transformers, call "
            "dequantize() on it, and save it again."
        )
    kind = str(next(model.parameters()).dtype).removeprefix("torch.")
    warnings.warn(
        f"hf:{folder} is quantised ({method}), and transformers has made numbers of {kind} of it. These are merged, and what is written is not quantised.",
        LoadWarning,
        stacklevel=2,
    )


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the weights of pickles, which are scanned and never opened by transformers."""
    state = read_weights(path)
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise LoadError(f"{path} holds more than the weights of a network. Save it again with save_pretrained.")
    return dict(state)


@contextmanager
def silence_transformers(logging: Any) -> Iterator[None]:
    """Silence the logger and the progress bars of transformers (``transformers.utils.logging``) in a block."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
