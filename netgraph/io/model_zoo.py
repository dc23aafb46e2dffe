"""Networks by name: of torchvision, timm and transformers, and of factories in the user's own code."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.io import huggingface as configs
from netgraph.utils.torchvision_compat import prepare_torchvision

ZOOS = ("torchvision", "timm", "hf")


def build_network(arch: str, arch_args: Mapping[str, Any], *, weights: bool = False) -> nn.Module:
    """Make the network that a name stands for: with fresh weights, or with those of an ``hf:FOLDER`` that has some.

    Raises
    ------
    LoadError
        The package is missing, the name is unknown, or the factory fails.
    """
    package, _, name = arch.partition(":")
    if not name:
        raise LoadError(f"--arch {arch!r} names no factory; write package.module:factory or torchvision:NAME")
    prepare_torchvision()  # timm, transformers and the user's own code may import it
    try:
        if package == "torchvision":
            model = _build_torchvision(name, arch_args)
        elif package == "timm":
            model = _import_extra("timm").create_model(name, **{"pretrained": False, **arch_args})
        elif package == "hf":
            model = configs.build_from_config(_import_extra("transformers"), Path(name), arch_args, weights=weights)
        else:
            model = _find_factory(package, name)(**arch_args)
    except NetgraphError:
        raise
    except (Exception, SystemExit) as error:  # the factory is the user's own
        raise LoadError(f"making {arch} fails ({describe_error(error)}); check the name and --arch-arg") from error
    if not isinstance(model, nn.Module):
        raise LoadError(
            f"{arch} made {model!r:.40}, a value of type {type(model).__name__}; it has to make a torch.nn.Module"
        )
    return model


def _build_torchvision(name: str, arch_args: Mapping[str, Any]) -> nn.Module:
    import torchvision

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
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LoadError(
            f"{package} is not installed; pip install 'netgraph-coarsening[{package}]' brings it"
        ) from error


def _find_factory(module: str, name: str) -> Any:
    _check_same_module(module.partition(".")[0])
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise LoadError(f"--arch {module}:{name}: {error}; give --code-dir if the module is elsewhere") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise LoadError(f"--arch {module}:{name}: module {module} has no callable {name}")
    return found


def _check_same_module(top: str) -> None:
    """Refuse a module imported before from elsewhere: ``models`` of one repository is not that of the next."""
    importlib.invalidate_caches()
    here, cached = importlib.machinery.PathFinder.find_spec(top), getattr(sys.modules.get(top), "__spec__", None)
    if here is None or cached is None or _module_origin(here) == _module_origin(cached):
        return
    raise LoadError(
        f"--arch {top}: found in {_module_origin(here)}, and a module of that name is already imported from {_module_origin(cached)}; "
        "open this network in a process of its own"
    )


def _module_origin(spec: importlib.machinery.ModuleSpec) -> str:
    folders = list(spec.submodule_search_locations or ())
    return str(Path(spec.origin or (folders[0] if folders else spec.name)).resolve())


@contextlib.contextmanager
def search_folder_first(folder: Path) -> Iterator[None]:
    """Look for modules in the user's folder first, as ``python script.py`` there would."""
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder.resolve()))


def parse_arch_args(pairs: Sequence[str], *, option: str = "--arch-arg") -> dict[str, Any]:
    """Read ``depth=3`` and ``name=foo`` as Python values, or as text where they are none.

    Raises
    ------
    LoadError
        A pair has no ``=``.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise LoadError(f"{option} {pair!r} is not key=value")
        try:
            out[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            out[key] = text
    return out
