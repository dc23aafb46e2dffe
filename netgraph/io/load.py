"""Open a network from a file or a name, without running code of a stranger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import LoadError, NetgraphError, UntrustedError, describe_error
from netgraph.io import huggingface
from netgraph.io.bundle import read_bundle, read_metadata
from netgraph.io.model_zoo import build_network, search_folder_first
from netgraph.io.pickle_scan import is_archive, scan_pickle
from netgraph.io.state_dict import fill_network, find_state_dict
from netgraph.recording.graph_module import network_from_document
from netgraph.utils.choices import ZOOS
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
    """Open a network from a file or by name, in evaluation mode.

    Parameters
    ----------
    source : str or path
        A state dict (``.pt``, ``.safetensors``), a network saved by netgraph, a pickled module, a ``.pt2`` program, or
        ``hf:FOLDER``, a folder saved by transformers. The names ``torchvision:resnet50``, ``timm:NAME`` and
        ``hf:CONFIG.json`` give networks with random weights.
    arch : str, optional
        Network that a state dict belongs to: ``package.module:factory``, or a name as above.
    arch_args : dict, optional
        Keyword arguments of the factory.
    trust : bool, default=False
        Allow files that can run code when they are opened.
    code_dir : str or path, optional
        Folder in which the modules of ``arch`` and of pickled classes are searched first. By default the working
        directory.

    Returns
    -------
    torch.nn.Module
        The network, in evaluation mode.

    Raises
    ------
    LoadError
        The file is missing or damaged, or does not fit the architecture.
    UntrustedError
        Opening the file could run code, and ``trust`` is False.

    Examples
    --------
    >>> import tempfile, torch, netgraph as ng
    >>> path = f"{tempfile.mkdtemp()}/linear.pt"
    >>> torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    >>> ng.load_model(path, arch="torch.nn:Linear", arch_args={"in_features": 2, "out_features": 3})
    Linear(in_features=2, out_features=3, bias=True)
    """
    if code_dir is not None and not Path(code_dir).is_dir():
        raise LoadError(f"--code-dir {code_dir} is not a folder. Give the folder that holds the modules of --arch.")
    with search_folder_first(Path(code_dir) if code_dir else Path.cwd()):
        if is_network_name(source):
            _reject_arch(source, "is built by its name", arch, {})
            model = build_network(str(source), arch_args or {}, weights=True)
        else:
            model = _open_file(_check_file(Path(source)), arch, arch_args or {}, trust)
    set_training_mode(model, training=False)
    return model


def is_network_name(source: str | Path) -> bool:
    """Return True if a source is the name of a network, like ``torchvision:resnet50``, and not a file."""
    return str(source).partition(":")[0] in ZOOS and not Path(source).exists()


def describe_origin(source: str | Path, arch_args: Mapping[str, Any]) -> str | None:
    """Return a sentence on the origin of the weights of a named network, or None for the weights of a file."""
    package, _, name = str(source).partition(":")
    if not is_network_name(source) or arch_args.get("pretrained"):
        return None
    if package != "hf":
        return f"{source} has random weights. For trained weights give their state dict and --arch {source}."
    if huggingface.has_weights(Path(name)):
        return f"{source} has the weights of its folder"
    return f"{source} has random weights. For trained weights give hf:FOLDER with config.json and model.safetensors."


def _check_file(path: Path) -> Path:
    """Return the path of a file that may be opened, or raise an error that says how."""
    if path.is_dir():
        raise LoadError(
            f"{path} is a folder. Give hf:{path} if transformers saved it, {path}/level1.safetensors if it is a *.hierarchy, "
            "or one of its files."
        )
    if not path.is_file():
        raise LoadError(
            f"{path} does not exist. Give a .pt, .pth, .safetensors or .pt2 file, or a name like torchvision:resnet50."
        )
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty. Save the network again.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise LoadError(
            f"the file name {str(path)!a} is not UTF-8, and PyTorch cannot open it. Rename the file."
        ) from error
    return path


def _open_file(path: Path, arch: str | None, arch_args: Mapping[str, Any], trust: bool) -> nn.Module:
    """Open a file according to its suffix."""
    if path.suffix == ".safetensors":
        if "netgraph" in read_metadata(path):
            tensors, document = read_bundle(path)
            _reject_arch(path, "was written by netgraph and contains its network", arch, arch_args)
            return _build_from_document(path, document, tensors)
        return _build_and_fill(_require_arch(path, arch), arch_args, _read_safetensors(path), path)
    if path.suffix == ".pt2":
        _reject_arch(path, "is an exported program", arch, arch_args)
        return _open_program(path, trust)
    if path.suffix in PICKLES:
        return _open_pickle(path, arch, arch_args, trust)
    raise LoadError(
        f"{path} ends in {path.suffix or 'nothing'}. netgraph opens .pt, .pth, .bin, .ckpt, .safetensors and .pt2 files."
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # errors of safetensors have no common class
        raise LoadError(f"{path} cannot be read ({describe_error(error)}). Download or save it again.") from error


def _build_from_document(path: Path, document: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """Build the network that a file of netgraph describes."""
    try:
        return network_from_document(document, tensors)
    except NetgraphError:
        raise
    except Exception as error:  # the digest is right and the form is wrong
        raise LoadError(
            f"{path} is no network of this version of netgraph ({describe_error(error)}). Save it again with this version."
        ) from error


def _open_program(path: Path, trust: bool) -> nn.Module:
    """Open an exported program, which needs trust."""
    if not trust:
        raise UntrustedError(
            f"{path} is an exported program, which can run code when it is opened. Give --trust if you made the file."
        )
    try:
        with silence_logger("torch.export"):
            return torch.export.load(str(path)).module()
    except Exception as error:  # a foreign archive may fail in any way
        raise LoadError(
            f"{path} cannot be opened as an exported program ({describe_error(error)}). Export it again."
        ) from error


def _open_pickle(path: Path, arch: str | None, arch_args: Mapping[str, Any], trust: bool) -> nn.Module:
    """Open a pickle. Without trust, it is scanned before anything is unpickled."""
    prepare_torchvision()
    if not trust:
        scan_pickle(path)
    mapped = not trust and is_archive(path)  # parameters of a module must not change with the file
    try:
        value = torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except Exception as error:  # torch raises many types for broken files
        raise LoadError(f"{path} cannot be read ({describe_error(error)}). Download or save it again.") from error
    if isinstance(value, nn.Module):
        _reject_arch(path, "is a whole module", arch, arch_args)
        return value
    return _build_and_fill(_require_arch(path, arch), arch_args, find_state_dict(value, path), path)


def _reject_arch(source: str | Path, why: str, arch: str | None, arch_args: Mapping[str, Any]) -> None:
    """Refuse an architecture, or its arguments, that would have no effect."""
    unused = f"--arch {arch}" if arch is not None else "--arch-arg" if arch_args else None
    if unused is not None:
        raise LoadError(f"{source} {why}, and {unused} would have no effect. Leave it out.")


def _require_arch(path: Path, arch: str | None) -> str:
    """Return the architecture, or raise an error that asks for it."""
    if arch is None:
        raise LoadError(
            f"{path} holds weights without an architecture. Name their network with --arch package.module:factory "
            "or --arch torchvision:NAME."
        )
    return arch


def _build_and_fill(arch: str, arch_args: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Build a network and load a state dict into it."""
    return fill_network(build_network(arch, arch_args), state, path, arch)
