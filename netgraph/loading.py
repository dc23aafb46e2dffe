"""Open a network from a file or a name, without running a stranger's code."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph import configs
from netgraph.bundle import read_bundle, read_metadata
from netgraph.errors import LoadError, NetgraphError, UntrustedError
from netgraph.logs import silenced
from netgraph.pickles import is_archive, scan
from netgraph.program import from_document
from netgraph.swapping import set_mode
from netgraph.torchvision_ops import prepare_torchvision

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
ZOOS = ("torchvision", "timm", "hf")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")


def load_model(
    source: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    trust: bool = False,
    code_dir: str | Path | None = None,
) -> nn.Module:
    """Open a network, in evaluation mode.

    Parameters
    ----------
    source : path or name
        A state dict (``.pt``, ``.safetensors``), a network saved by netgraph, a pickled module or a ``.pt2``
        program, a folder of transformers ``hf:FOLDER``, or ``torchvision:resnet50``, ``timm:NAME``, ``hf:CONFIG.json``
        for a network with random weights.
    arch : str, optional
        What a state dict belongs to: ``package.module:factory`` or a name as above.
    arch_args : dict, optional
        Keyword arguments of the factory.
    trust : bool
        Allow opening a file that can run the code that came with it.
    code_dir : path, optional
        Where ``arch`` and pickled classes look for modules first; the working directory by default.

    Raises
    ------
    LoadError
        The file is missing, damaged or does not fit the architecture.
    UntrustedError
        Opening it would run code, and ``trust`` is not given.
    """
    if code_dir is not None and not Path(code_dir).is_dir():
        raise LoadError(f"--code-dir {code_dir} is no folder; give the one that holds the modules that --arch names")
    with _code_from(Path(code_dir) if code_dir else Path.cwd()):
        if is_name(source):
            _no_arch(source, "is built by its name", arch, {})
            model = build(str(source), arch_args or {}, weights=True)
        else:
            model = _open(_existing(Path(source)), arch, arch_args or {}, trust)
    set_mode(model, training=False)
    return model


def is_name(source: str | Path) -> bool:
    """Tell whether a source is the name of a network, ``torchvision:resnet50``, and no file."""
    return str(source).partition(":")[0] in ZOOS and not Path(source).exists()


def origin(source: str | Path, arch_args: Mapping[str, Any]) -> str | None:
    """Say in words where the weights of a named network come from; nothing where they are those of a file."""
    package, _, name = str(source).partition(":")
    if not is_name(source) or arch_args.get("pretrained"):
        return None
    if package != "hf":
        return f"{source} has random weights; for trained ones give their state dict and --arch {source}"
    if configs.has_weights(Path(name)):
        return f"{source} has the weights of its folder"
    return f"{source} has random weights; for trained ones give hf:FOLDER with config.json and model.safetensors"


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise LoadError(
            f"{path} is a folder; give hf:{path} for what transformers saved there, a file of it, or, of a *.hierarchy, "
            f"{path}/level1.safetensors"
        )
    if not path.is_file():
        raise LoadError(
            f"{path} does not exist; give a .pt, .pth, .safetensors or .pt2 file, or a name like torchvision:resnet50"
        )
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty; save the network again")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise LoadError(f"{str(path)!a} is no UTF-8, and PyTorch opens no such file name; rename it") from error
    return path


def _open(path: Path, arch: str | None, arch_args: Mapping[str, Any], trust: bool) -> nn.Module:
    if path.suffix == ".safetensors":
        if "netgraph" in read_metadata(path):
            tensors, document = read_bundle(path)
            _no_arch(path, "was written by netgraph and has its network in it", arch, arch_args)
            return _from_document(path, document, tensors)
        return _filled(_needed(path, arch), arch_args, _safetensors(path), path)
    if path.suffix == ".pt2":
        _no_arch(path, "is a whole program", arch, arch_args)
        return _program(path, trust)
    if path.suffix in PICKLES:
        return _pickled(path, arch, arch_args, trust)
    raise LoadError(
        f"{path} ends in {path.suffix or 'nothing'}; netgraph opens .pt, .pth, .bin, .ckpt, .safetensors and .pt2 files"
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # the library's errors have no common class
        raise LoadError(f"{path} cannot be read ({_reason(error)}); fetch or save it again") from error


def _reason(error: BaseException) -> str:
    """Return an error's kind and its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # some put what matters on the second line
    return f"{type(error).__name__}: {first[:200]}".removesuffix(": ")


def _from_document(path: Path, document: Any, tensors: dict[str, Tensor]) -> nn.Module:
    try:
        return from_document(document, tensors)
    except NetgraphError:
        raise
    except Exception as error:  # a document of the right digest and the wrong form
        raise LoadError(
            f"{path} is no network of this version of netgraph ({_reason(error)}); save it again with this one"
        ) from error


def _program(path: Path, trust: bool) -> nn.Module:
    if not trust:
        raise UntrustedError(
            f"{path} is an exported program, and opening one can run code that came with it; say --trust if you made it"
        )
    try:
        with silenced("torch.export"):
            return torch.export.load(str(path)).module()
    except Exception as error:  # anything: it is the stranger's archive
        raise LoadError(
            f"{path} cannot be opened as an exported program ({_reason(error)}); export it again"
        ) from error


def _pickled(path: Path, arch: str | None, arch_args: Mapping[str, Any], trust: bool) -> nn.Module:
    prepare_torchvision()
    if not trust:
        scan(path)
    mapped = not trust and is_archive(path)  # a module's own parameters must not change with the file
    try:
        value = torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except Exception as error:  # torch raises many kinds for broken files
        raise LoadError(f"{path} cannot be read ({_reason(error)}); fetch or save it again") from error
    if isinstance(value, nn.Module):
        _no_arch(path, "is a whole module", arch, arch_args)
        return value
    return _filled(_needed(path, arch), arch_args, _unwrapped(value, path), path)


def _no_arch(source: str | Path, why: str, arch: str | None, arch_args: Mapping[str, Any]) -> None:
    """Refuse an architecture, or its arguments, where nothing would be made of them."""
    idle = f"--arch {arch}" if arch is not None else "--arch-arg" if arch_args else None
    if idle is not None:
        raise LoadError(f"{source} {why}, and {idle} would have no effect; leave it out")


def _needed(path: Path, arch: str | None) -> str:
    if arch is None:
        raise LoadError(
            f"{path} holds weights and no architecture; say which network they belong to with --arch package.module:factory "
            "or --arch torchvision:NAME"
        )
    return arch


def _unwrapped(value: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint: common wrappers taken off."""
    while isinstance(value, Mapping):
        inner = next((value[k] for k in WRAPPERS if isinstance(value.get(k), Mapping)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, Mapping) or not any(isinstance(v, Tensor) for v in value.values()):
        raise LoadError(f"{path} holds a {type(value).__name__} and no state dict; save model.state_dict()")
    return {str(k): v for k, v in value.items() if isinstance(v, Tensor)}


def _filled(arch: str, arch_args: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> nn.Module:
    return filled(build(arch, arch_args), state, path, arch)


def filled(model: nn.Module, state: Mapping[str, Tensor], path: Path, arch: str) -> nn.Module:
    """Return a network with a state dict loaded into it; ``path`` and ``arch`` are named in errors.

    Raises
    ------
    LoadError
        They do not fit: a name is missing or too many, or a shape differs.
    """
    own = model.state_dict()
    state = _without_prefixes(state, own)
    problems = _misfit(state, own)
    if problems:
        raise LoadError(f"{path} does not fit {arch}: {'; '.join(problems)}; {_mend(state, own)}")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a module with a way of its own to load
        raise LoadError(f"{path} does not fit {arch} ({_reason(error)}); check --arch and --arch-arg") from error
    return model


def _without_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off what wrapping a network put before its names, unless they are the network's own names."""
    while state and not any(k in own for k in state):
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say what keeps a state dict from filling a network, a few names of each kind."""
    filled = {_place(own[k]) for k in state if k in own}  # a tied tensor is filled by any of its names
    missing = [
        k for k in own if k not in state and _place(own[k]) not in filled and not k.endswith("num_batches_tracked")
    ]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} is {tuple(v.shape)}, not {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    return (
        [f"missing {_few(missing)}"] * bool(missing)
        + [f"not in it {_few(unexpected)}"] * bool(unexpected)
        + [_few(wrong)] * bool(wrong)
    )


def _mend(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Say what to do; weights with all the names and smaller shapes look like a coarse network's in its own class."""
    pairs = [(state[k].shape, own[k].shape) for k in own if k in state]
    smaller = all(len(a) == len(b) and all(m <= n for m, n in zip(a, b, strict=True)) for a, b in pairs)
    if smaller and set(state) == set(own):
        return (
            "check --arch-arg, or, if these are a coarse network's, open the whole module that --own-class wrote (with --trust) "
            "or the .safetensors that --output wrote"
        )
    return "check --arch and --arch-arg"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two names of one tensor have in common."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def build(arch: str, arch_args: Mapping[str, Any], *, weights: bool = False) -> nn.Module:
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
            model = _torchvision(name, arch_args)
        elif package == "timm":
            model = _optional("timm").create_model(name, **{"pretrained": False, **arch_args})
        elif package == "hf":
            model = configs.make(_optional("transformers"), Path(name), arch_args, weights=weights)
        else:
            model = _resolved(package, name)(**arch_args)
    except NetgraphError:
        raise
    except (Exception, SystemExit) as error:  # the factory is the user's own
        raise LoadError(f"making {arch} fails ({_reason(error)}); check the name and --arch-arg") from error
    if not isinstance(model, nn.Module):
        raise LoadError(
            f"{arch} made {model!r:.40}, a value of type {type(model).__name__}; it has to make a torch.nn.Module"
        )
    return model


def _torchvision(name: str, arch_args: Mapping[str, Any]) -> nn.Module:
    import torchvision

    options = dict(arch_args)
    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", True)
    if any(
        name.startswith(p) for p in ("fcn", "deeplab", "lraspp", "faster", "mask", "retina", "fcos", "ssd", "keypoint")
    ):
        options.setdefault("weights_backbone", None)
    return torchvision.models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]


def _optional(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LoadError(
            f"{package} is not installed; pip install 'netgraph-coarsening[{package}]' brings it"
        ) from error


def _resolved(module: str, name: str) -> Any:
    _check_same(module.partition(".")[0])
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise LoadError(f"--arch {module}:{name}: {error}; give --code-dir if the module is elsewhere") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise LoadError(f"--arch {module}:{name}: module {module} has no callable {name}")
    return found


def _check_same(top: str) -> None:
    """Refuse a module imported before from elsewhere: ``models`` of one repository is not that of the next."""
    importlib.invalidate_caches()
    here, cached = importlib.machinery.PathFinder.find_spec(top), getattr(sys.modules.get(top), "__spec__", None)
    if here is None or cached is None or _origin(here) == _origin(cached):
        return
    raise LoadError(
        f"--arch {top}: found in {_origin(here)}, and a module of that name is already imported from {_origin(cached)}; "
        "open this network in a process of its own"
    )


def _origin(spec: importlib.machinery.ModuleSpec) -> str:
    folders = list(spec.submodule_search_locations or ())
    return str(Path(spec.origin or (folders[0] if folders else spec.name)).resolve())


@contextlib.contextmanager
def _code_from(folder: Path) -> Iterator[None]:
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
