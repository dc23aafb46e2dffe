"""Open a network from a file or a name, without running a stranger's code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import LoadError, NetgraphError, UntrustedError, describe_error
from netgraph.io import huggingface as configs
from netgraph.io.bundle import read_bundle, read_metadata
from netgraph.io.model_zoo import ZOOS, build_network, search_folder_first
from netgraph.io.pickle_scan import is_archive, scan_pickle
from netgraph.io.state_dict import fill_network, find_state_dict
from netgraph.recording.graph_module import network_from_document
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.torchvision_compat import prepare_torchvision

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


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
    with search_folder_first(Path(code_dir) if code_dir else Path.cwd()):
        if is_network_name(source):
            _reject_arch(source, "is built by its name", arch, {})
            model = build_network(str(source), arch_args or {}, weights=True)
        else:
            model = _open_file(_check_file(Path(source)), arch, arch_args or {}, trust)
    set_training_mode(model, training=False)
    return model


def is_network_name(source: str | Path) -> bool:
    """Tell whether a source is the name of a network, ``torchvision:resnet50``, and no file."""
    return str(source).partition(":")[0] in ZOOS and not Path(source).exists()


def describe_origin(source: str | Path, arch_args: Mapping[str, Any]) -> str | None:
    """Say in words where the weights of a named network come from; nothing where they are those of a file."""
    package, _, name = str(source).partition(":")
    if not is_network_name(source) or arch_args.get("pretrained"):
        return None
    if package != "hf":
        return f"{source} has random weights; for trained ones give their state dict and --arch {source}"
    if configs.has_weights(Path(name)):
        return f"{source} has the weights of its folder"
    return f"{source} has random weights; for trained ones give hf:FOLDER with config.json and model.safetensors"


def _check_file(path: Path) -> Path:
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


def _open_file(path: Path, arch: str | None, arch_args: Mapping[str, Any], trust: bool) -> nn.Module:
    if path.suffix == ".safetensors":
        if "netgraph" in read_metadata(path):
            tensors, document = read_bundle(path)
            _reject_arch(path, "was written by netgraph and has its network in it", arch, arch_args)
            return _build_from_document(path, document, tensors)
        return _build_and_fill(_require_arch(path, arch), arch_args, _read_safetensors(path), path)
    if path.suffix == ".pt2":
        _reject_arch(path, "is a whole program", arch, arch_args)
        return _open_program(path, trust)
    if path.suffix in PICKLES:
        return _open_pickle(path, arch, arch_args, trust)
    raise LoadError(
        f"{path} ends in {path.suffix or 'nothing'}; netgraph opens .pt, .pth, .bin, .ckpt, .safetensors and .pt2 files"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # the library's errors have no common class
        raise LoadError(f"{path} cannot be read ({describe_error(error)}); fetch or save it again") from error


def _build_from_document(path: Path, document: Any, tensors: dict[str, Tensor]) -> nn.Module:
    try:
        return network_from_document(document, tensors)
    except NetgraphError:
        raise
    except Exception as error:  # a document of the right digest and the wrong form
        raise LoadError(
            f"{path} is no network of this version of netgraph ({describe_error(error)}); save it again with this one"
        ) from error


def _open_program(path: Path, trust: bool) -> nn.Module:
    if not trust:
        raise UntrustedError(
            f"{path} is an exported program, and opening one can run code that came with it; say --trust if you made it"
        )
    try:
        with silence_logger("torch.export"):
            return torch.export.load(str(path)).module()
    except Exception as error:  # anything: it is the stranger's archive
        raise LoadError(
            f"{path} cannot be opened as an exported program ({describe_error(error)}); export it again"
        ) from error


def _open_pickle(path: Path, arch: str | None, arch_args: Mapping[str, Any], trust: bool) -> nn.Module:
    prepare_torchvision()
    if not trust:
        scan_pickle(path)
    mapped = not trust and is_archive(path)  # a module's own parameters must not change with the file
    try:
        value = torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except Exception as error:  # torch raises many kinds for broken files
        raise LoadError(f"{path} cannot be read ({describe_error(error)}); fetch or save it again") from error
    if isinstance(value, nn.Module):
        _reject_arch(path, "is a whole module", arch, arch_args)
        return value
    return _build_and_fill(_require_arch(path, arch), arch_args, find_state_dict(value, path), path)


def _reject_arch(source: str | Path, why: str, arch: str | None, arch_args: Mapping[str, Any]) -> None:
    """Refuse an architecture, or its arguments, where nothing would be made of them."""
    idle = f"--arch {arch}" if arch is not None else "--arch-arg" if arch_args else None
    if idle is not None:
        raise LoadError(f"{source} {why}, and {idle} would have no effect; leave it out")


def _require_arch(path: Path, arch: str | None) -> str:
    if arch is None:
        raise LoadError(
            f"{path} holds weights and no architecture; say which network they belong to with --arch package.module:factory "
            "or --arch torchvision:NAME"
        )
    return arch


def _build_and_fill(arch: str, arch_args: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> nn.Module:
    return fill_network(build_network(arch, arch_args), state, path, arch)
