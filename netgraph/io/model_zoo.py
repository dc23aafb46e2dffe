"""Networks by name: from torchvision, timm and transformers, and from factories in the code of the user."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from netgraph.environment.import_path import search_folder_first
from netgraph.environment.network_size import MOST_TENSORS, limit_size
from netgraph.environment.offline import describe_request, is_offline_error, stay_offline
from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.io import adapter_folder, huggingface
from netgraph.io.files.output_files import check_path
from netgraph.io.hub.folder_kind import ADAPTER, CONFIG, HIERARCHY, NETWORK, TIMM, WEIGHTS, find_kind
from netgraph.io.hub.timm_folder import build_from_timm_folder
from netgraph.io.network_document import read_network
from netgraph.io.trained_weights import build_trained_timm, build_trained_torchvision, find_repository, is_repository
from netgraph.utils.choices import ZOOS
from netgraph.utils.text import LiteralError, read_literal


def build_network(
    arch: str,
    arch_args: Mapping[str, Any],
    *,
    weights: bool = False,
    download: bool = False,
    code_dir: Path | None = None,
) -> nn.Module:
    """Build the network of a name, with random weights or with trained ones that the name asks for.

    Parameters
    ----------
    arch : str
        ``torchvision:NAME``, ``timm:NAME``, ``hf:PATH`` or ``package.module:factory``. Trained weights are those of
        ``torchvision:NAME@WEIGHTS``, ``timm:NAME@pretrained`` and ``hf:OWNER/NAME``.
    arch_args : dict
        Keyword arguments of the factory.
    weights : bool, default=False
        Load the weights of an ``hf:FOLDER`` that has some, or trained weights that the name asks for.
    download : bool, default=False
        Fetch trained weights that are not on this machine.
    code_dir : path, optional
        Folder in which the module of ``package.module:factory`` is searched first. By default the working directory.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    LoadError
        The package is missing, the name is unknown, or the factory fails.
    """
    package, _, name = arch.partition(":")
    if not name:
        raise LoadError(f"--arch {arch!r} names no factory. Write package.module:factory or torchvision:NAME.")
    prepare_torchvision()  # timm, transformers and code of the user may import it
    try:
        if package in ZOOS:
            with limit_size(arch, most=MOST_TENSORS), nullcontext() if download else stay_offline():
                model = _build_from_zoo(package, name, arch_args, weights=weights, download=download)
        else:
            with limit_size(arch), search_folder_first(code_dir or Path.cwd()):
                model = _find_factory(package, name)(**arch_args)
    except NetgraphError:
        raise
    except (Exception, SystemExit) as error:  # a factory of the user may fail in any way
        if package in ZOOS and is_offline_error(error):
            raise LoadError(
                f"building {arch} asks the network for {describe_request(error)}, which is not on this machine. Give --download "
                "(download=True) to allow that, or remove the entry that asks for it."
            ) from error
        raise LoadError(f"building {arch} fails ({describe_error(error)}). Check the name and --arch-arg.") from error
    if not isinstance(model, nn.Module):
        raise LoadError(
            f"{arch} returned {model!r:.40} of type {type(model).__name__}. It must return a torch.nn.Module."
        )
    return model


def _build_from_zoo(package: str, name: str, arch_args: Mapping[str, Any], *, weights: bool, download: bool) -> Any:
    """Build the network that a library has under a name."""
    if package in ("torchvision", "timm") and "@" in name:
        return _build_trained(package, name, arch_args, weights=weights, download=download)
    if package == "torchvision":
        return _build_torchvision(name, arch_args)
    if package == "timm":
        return _import_extra("timm").create_model(name, **{"pretrained": False, **arch_args})
    return _build_from_folder(name, arch_args, weights=weights, download=download)


def _build_trained(
    package: str, name: str, arch_args: Mapping[str, Any], *, weights: bool, download: bool
) -> nn.Module:
    """Build a network of torchvision or timm with the trained weights behind ``@``."""
    name, _, chosen = name.partition("@")
    if not weights:
        raise LoadError(
            f"--arch {package}:{name}@{chosen} asks for weights, and the file has others. Leave out @{chosen}."
        )
    build = {"timm": build_trained_timm, "torchvision": build_trained_torchvision}[package]
    return build(_import_extra(package), name, chosen, arch_args, download=download)


def _build_from_folder(name: str, arch_args: Mapping[str, Any], *, weights: bool, download: bool) -> nn.Module:
    """Build a network from a config, a folder or a repository of Hugging Face, by the library that its config names."""
    path = find_repository(name, download=download, with_weights=weights) if is_repository(name) else Path(name)
    check_path(path, LoadError)
    kind = find_kind(path) if path.is_dir() else ""
    if kind == TIMM:
        return build_from_timm_folder(_import_extra("timm"), path, arch_args, weights=weights)
    if kind in (NETWORK, HIERARCHY):
        return _open_own_folder(name, path, kind, arch_args, weights=weights)
    transformers = _import_extra("transformers")
    if (path / ADAPTER).is_file() and weights:
        build_base = partial(_build_base, download=download)
        return adapter_folder.build_adapted_network(path, arch_args, build_base)
    return huggingface.build_from_config(transformers, path, arch_args, weights=weights, download=download)


def _open_own_folder(name: str, path: Path, kind: str, arch_args: Mapping[str, Any], *, weights: bool) -> nn.Module:
    """Open the network in a folder of netgraph, which is whole."""
    if kind == HIERARCHY:
        raise LoadError(
            f"{name} holds a hierarchy, and one network is asked for. Give {path}/level1.safetensors, or another of its levels. In Python, "
            "netgraph.coarsen.from_pretrained opens it whole."
        )
    if not weights:
        raise LoadError(f"{name} holds a whole network and no architecture for other weights. Give it without --arch.")
    if arch_args:
        raise LoadError(f"{name} contains its network, and --arch-arg would have no effect. Leave it out.")
    if not (path / WEIGHTS).is_file():
        raise LoadError(
            f"{path / WEIGHTS} is missing, and {CONFIG} beside it tells of a network. Copy the whole folder again."
        )
    return read_network(path / WEIGHTS)


def _build_base(name: str, options: Mapping[str, Any], *, download: bool) -> nn.Module:
    """Build the base network of an adapter, which needs trained weights."""
    if not is_repository(name) and not huggingface.has_weights(Path(name)):
        raise LoadError(f"{name} is no folder with weights here.")
    return _build_from_folder(name, options, weights=True, download=download)


def _build_torchvision(name: str, arch_args: Mapping[str, Any]) -> nn.Module:
    """Build a network of torchvision without downloading weights."""
    torchvision = _import_extra("torchvision")

    options = dict(arch_args)
    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", True)
    if any(
        name.startswith(p) for p in ("fcn", "deeplab", "lraspp", "faster", "mask", "retina", "fcos", "ssd", "keypoint")
    ):
        options.setdefault("weights_backbone", None)
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def _import_extra(package: str) -> Any:
    """Import an optional package, or raise an error that says how to install it."""
    return import_package(package, f"a network of {package}", LoadError)


def _find_factory(module: str, name: str) -> Any:
    """Return the callable that a module holds under a dotted name."""
    _check_same_module(module.partition(".")[0])
    try:
        value: Any = importlib.import_module(module)
    except ImportError as error:
        raise LoadError(
            f"--arch {module}:{name}: {error}. Give --code-dir if the module is in another folder."
        ) from error
    for part in name.split("."):
        value = getattr(value, part, None)
    if not callable(value):
        raise LoadError(f"--arch {module}:{name}: module {module} has no callable {name}")
    return value


def _check_same_module(top: str) -> None:
    """Refuse a module that was imported from another folder: two repositories may both have a ``models``."""
    importlib.invalidate_caches()
    here, cached = importlib.machinery.PathFinder.find_spec(top), getattr(sys.modules.get(top), "__spec__", None)
    if here is None or cached is None or _module_origin(here) == _module_origin(cached):
        return
    raise LoadError(
        f"--arch {top}: found in {_module_origin(here)}, but a module of that name is already imported from "
        f"{_module_origin(cached)}. Open this network in a process of its own."
    )


def _module_origin(spec: importlib.machinery.ModuleSpec) -> str:
    """Return the file or folder of a module."""
    folders = list(spec.submodule_search_locations or ())
    return str(Path(spec.origin or (folders[0] if folders else spec.name)).resolve())


def parse_arch_args(pairs: Sequence[str], *, option: str = "--arch-arg") -> dict[str, Any]:
    """Read ``depth=3`` and ``name=foo`` as Python values, or as text if they are not Python literals.

    Parameters
    ----------
    pairs : sequence of str
        Texts of the form ``key=value``.
    option : str, default="--arch-arg"
        Name of the option, for the error message.

    Returns
    -------
    dict

    Raises
    ------
    LoadError
        A pair has no ``=``, or its value is too long or too deep.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise LoadError(f"{option} {pair!r} is not of the form key=value")
        try:
            out[key] = read_literal(text)
        except LiteralError as error:
            raise LoadError(f"{option} {pair[:40]!r}... {error}. Give a shorter value.") from error
        except (ValueError, SyntaxError):
            out[key] = text
    return out
