"""Open a network from a file or a name, without running code of a stranger."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netgraph.environment.import_path import search_folder_first
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import LoadError, UntrustedError, describe_error
from netgraph.io import adapter_folder, huggingface
from netgraph.io.bundle import read_metadata
from netgraph.io.checkpoint.candidates import format_keys, list_candidates
from netgraph.io.files.output_files import check_encoding, check_path
from netgraph.io.hub.folder_kind import TIMM, TRANSFORMERS, find_kind
from netgraph.io.hub.opening import remember_source
from netgraph.io.model_zoo import build_network
from netgraph.io.network_document import read_network
from netgraph.io.state_dict import fill_network, find_module
from netgraph.io.trained_weights import names_trained_weights
from netgraph.io.weight_files import INDEX, read_pickle, read_weights
from netgraph.utils.choices import ZOOS
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import set_training_mode, tie_shared_tensors

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def load_model(
    source: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    trust: bool = False,
    code_dir: str | Path | None = None,
    key: str | None = None,
    download: bool = False,
) -> nn.Module:
    """Open a network from a file or by name, in evaluation mode.

    Parameters
    ----------
    source : str or path
        A state dict or checkpoint (``.pt``, ``.ckpt``, ``.safetensors``, or the index of several), a network saved by
        netgraph, a pickled module, a ``.pt2`` program, or a folder saved by netgraph, transformers, timm or peft. The names
        ``torchvision:resnet50``, ``timm:NAME`` and ``hf:CONFIG.json`` give networks with random weights, and
        ``torchvision:NAME@WEIGHTS``, ``timm:NAME@pretrained`` and ``hf:OWNER/NAME`` trained ones.
    arch : str, optional
        Network that a state dict belongs to: ``package.module:factory``, or a name as above.
    arch_args : dict, optional
        Keyword arguments of the factory.
    trust : bool, default=False
        Allow files that can run code when they are opened.
    code_dir : str or path, optional
        Folder in which the modules of ``arch`` and, with ``trust``, of pickled classes are searched first. By default the
        working directory. It is searched for nothing else: libraries and plug-ins are found where they are installed.
    key : str, optional
        Key of the weights in a checkpoint that holds several, such as ``ema``. A ``LoadWarning`` names the others.
    download : bool, default=False
        Allow to fetch the trained weights of a name. Without it, they are taken from the caches of earlier downloads.

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
    if code_dir is not None and not os.path.isdir(code_dir):
        raise LoadError(f"--code-dir {code_dir} is not a folder. Give the folder that holds the modules of --arch.")
    folder = Path(code_dir) if code_dir else Path.cwd()
    if is_network_name(source) or is_network_folder(source):
        how = "is built by its name" if is_network_name(source) else "is a folder that names its network"
        _reject_unused(source, how, arch, {}, key)
        name = str(source) if is_network_name(source) else f"hf:{source}"
        model = build_network(name, arch_args or {}, weights=True, download=download)
    else:
        model = _FileOpener(_check_file(Path(source)), arch, arch_args or {}, trust, key, folder).open()
    set_training_mode(model, training=False)
    remember_source(model, str(source))
    return model


def is_network_folder(source: str | Path) -> bool:
    """Return True if a source is a folder with a network and its weights: its config.json names the library."""
    path = Path(source)
    check_path(path, LoadError)
    kind = find_kind(path) if path.is_dir() else ""
    if kind in (TRANSFORMERS, TIMM):
        return huggingface.has_weights(path) or (path / adapter_folder.CONFIG).is_file()
    return kind != ""


def is_network_name(source: str | Path) -> bool:
    """Return True if a source is the name of a network, like ``torchvision:resnet50``, and not a file."""
    return str(source).partition(":")[0] in ZOOS and not os.path.exists(source)


def describe_origin(source: str | Path, arch_args: Mapping[str, Any]) -> str | None:
    """Return a sentence on the origin of the weights of a named network, or None for the weights of a file."""
    package, _, name = str(source).partition(":")
    if not is_network_name(source) or arch_args.get("pretrained"):
        return None
    if names_trained_weights(source):
        return f"{source} has its trained weights"
    if package != "hf":
        chosen = "DEFAULT" if package == "torchvision" else "pretrained"
        return (
            f"{source} has random weights. For trained weights give {source}@{chosen}, with --download if they are not on this "
            f"machine, or their state dict and --arch {source}."
        )
    if huggingface.has_weights(Path(name)) or (Path(name) / adapter_folder.CONFIG).is_file():
        return f"{source} has the weights of its folder"
    return f"{source} has random weights. For trained weights give hf:FOLDER with config.json and model.safetensors."


def _check_file(path: Path) -> Path:
    """Return the path of a file that may be opened, or raise an error that says how."""
    check_path(path, LoadError)
    if path.is_dir() and (path / ".metadata").is_file():
        raise LoadError(
            f"{path} is a distributed checkpoint of PyTorch. Join it into one file: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} {path.name}.pt"
        )
    if path.is_dir() and (path / "zero_to_fp32.py").is_file():
        raise LoadError(
            f"{path} is a checkpoint of DeepSpeed. Run its script zero_to_fp32.py, and give the file that it writes."
        )
    if path.is_dir() and find_kind(path):
        raise LoadError(
            f"{path} has a config.json and no weights. Give hf:{path} for random ones, or copy the whole folder again."
        )
    if path.is_dir():
        raise LoadError(
            f"{path} is a folder without a config.json of netgraph, transformers or timm. Give {path}/level1.safetensors if it is a "
            "*.hierarchy, or one of its files."
        )
    if not path.is_file():
        raise LoadError(
            f"{path} does not exist. Give a .pt, .pth, .safetensors or .pt2 file, or a name like torchvision:resnet50."
        )
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty. Save the network again.")
    check_encoding(path, LoadError)
    return path


@dataclass(frozen=True)
class _FileOpener:
    """Opens a file as its suffix says."""

    path: Path
    arch: str | None
    arch_args: Mapping[str, Any]
    trust: bool
    key: str | None
    code_dir: Path

    def open(self) -> nn.Module:
        """Return the network of the file."""
        path = self.path
        if path.suffix == ".safetensors" and "netgraph" in read_metadata(path):
            network = read_network(path)
            self.reject_options("was written by netgraph and contains its network")
            return network
        if path.suffix == ".safetensors" or path.name.endswith(INDEX):
            self.require_arch()
            return self.fill_arch(read_weights(path))
        if path.suffix == ".pt2":
            self.reject_options("is an exported program")
            with self.search_user_code():
                return _open_program(path, self.trust)
        if path.suffix in PICKLES:
            return self.open_pickle()
        raise LoadError(
            f"{path} ends in {path.suffix or 'nothing'}. netgraph opens .pt, .pth, .bin, .ckpt, .safetensors and .pt2 files, "
            f"and {INDEX} of weights in several files."
        )

    def open_pickle(self) -> nn.Module:
        """Return the module in a pickle, or the architecture with its weights."""
        prepare_torchvision()
        with self.search_user_code():
            value = read_pickle(self.path, trust=self.trust)
        if isinstance(value, nn.Module):
            self.reject_options("is a whole module")
            return value
        if self.arch is None:
            module = find_module(value, self.path, self.key)
            if module is not None:
                return module
        return self.fill_arch(value)

    def fill_arch(self, value: Any) -> nn.Module:
        """Build the architecture and load the contents of the file into it."""
        arch = self.require_arch(value)
        network = build_network(arch, self.arch_args, code_dir=self.code_dir)
        return fill_network(network, value, self.path, arch, key=self.key)

    def search_user_code(self) -> AbstractContextManager[None]:
        """Return a context in which classes of a trusted file are searched in the user's folder."""
        return search_folder_first(self.code_dir) if self.trust else nullcontext()

    def require_arch(self, value: Any = None) -> str:
        """Return the architecture, or raise an error that asks for it."""
        if self.arch is None:
            keys = [candidate.key for candidate in list_candidates(value) if candidate.key]
            where = f" (under {format_keys(keys)})" if keys else ""
            raise LoadError(
                f"{self.path} holds weights{where} without an architecture. Name their network with --arch "
                "package.module:factory or --arch torchvision:NAME."
            )
        return self.arch

    def reject_options(self, why: str) -> None:
        """Refuse options that would have no effect on this file."""
        _reject_unused(self.path, why, self.arch, self.arch_args, self.key)


def _open_program(path: Path, trust: bool) -> nn.Module:
    """Open an exported program, which needs trust."""
    if not trust:
        raise UntrustedError(
            f"{path} is an exported program, which can run code when it is opened. Give --trust if you made the file."
        )
    try:
        with silence_logger("torch.export"):
            program: nn.Module = torch.export.load(str(path)).module()
            tie_shared_tensors(program)
            return program
    except Exception as error:  # a foreign archive may fail in any way
        raise LoadError(
            f"{path} cannot be opened as an exported program ({describe_error(error)}). Export it again."
        ) from error


def _reject_unused(
    source: str | Path, why: str, arch: str | None, arch_args: Mapping[str, Any], key: str | None
) -> None:
    """Refuse an architecture, its arguments or a key that would have no effect."""
    typed = {"--arch-arg": bool(arch_args), f"--key {key}": key is not None}
    unused = f"--arch {arch}" if arch is not None else next((name for name, given in typed.items() if given), None)
    if unused is not None:
        raise LoadError(f"{source} {why}, and {unused} would have no effect. Leave it out.")
