"""Hierarchies on disk: a folder of levels, each one safetensors file, and the aggregates between them. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netgraph.bundle import read_bundle, write_bundle
from netgraph.coarsen.hierarchy import Hierarchy, Level
from netgraph.coarsen.network import coarse_network
from netgraph.coarsen.transfer import Transfer
from netgraph.errors import LoadError
from netgraph.program import from_document
from netgraph.structure import unflatten
from netgraph.tracing import trace


def save(what: Hierarchy | nn.Module, path: str | Path) -> None:
    """Write a hierarchy as a folder, or one coarse network as a ``.safetensors`` file.

    Raises
    ------
    LoadError
        The folder exists and is no hierarchy, or the module is not one that netgraph made.
    """
    path = Path(path)
    if isinstance(what, nn.Module):
        if not hasattr(what, "document"):
            raise LoadError(
                f"a {type(what).__name__} is saved by torch.save(model.state_dict()); netgraph saves what it made"
            )
        write_bundle(path, what.tensors(), what.document())  # type: ignore[operator]
        return
    if path.exists() and not (path / "hierarchy.json").is_file():
        raise LoadError(f"{path} exists and is no hierarchy; give another name")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        _write(what, aside)
        if path.exists():
            shutil.rmtree(path)
        os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(hierarchy: Hierarchy, folder: Path) -> None:
    first = hierarchy.levels[0]
    models = [coarse_network(first.model, first.spec, {}), *(level.model for level in hierarchy.levels[1:])]
    for i, (level, model) in enumerate(zip(hierarchy.levels, models, strict=True)):
        write_bundle(folder / f"level{i}.safetensors", model.tensors(), model.document())  # type: ignore[operator]
        arrays: dict[str, Any] = {n: t.aggregates for n, t in level.transfers.items()}
        with (folder / f"transfers{i}.npz").open("wb") as file:
            np.savez(file, **arrays)
    document = {
        "format": 1,
        "levels": len(hierarchy.levels),
        "options": {k: v for k, v in hierarchy.options.items() if _plain(v)},
        "example": hierarchy.options.get("example"),
        "seconds": [level.seconds for level in hierarchy.levels],
        "flops": [level.flops for level in hierarchy.levels],
    }
    (folder / "hierarchy.json").write_text(json.dumps(document, indent=1))


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, str, list, dict, type(None)))


def load(path: str | Path, *, arch: Callable[[], nn.Module] | None = None) -> Hierarchy | nn.Module:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path
    arch : callable, optional
        Makes the finest network's own class; without it level 0 is its recorded graph.

    Raises
    ------
    LoadError
        Something is missing or damaged.
    """
    path = Path(path)
    if path.is_file():
        tensors, document = read_bundle(path)
        return from_document(document, tensors)
    try:
        document = json.loads((path / "hierarchy.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise LoadError(f"{path} is no hierarchy ({error}); give a folder that netgraph saved") from error
    return _hierarchy(path, document, arch)


def _hierarchy(path: Path, document: Mapping[str, Any], arch: Callable[[], nn.Module] | None) -> Hierarchy:
    models = [_level_model(path, i) for i in range(document["levels"])]
    if arch is not None:
        own = arch()
        own.load_state_dict(
            {k: v for k, v in models[0].state_dict().items() if not k.startswith("constants.")}, strict=False
        )
        models[0] = own.eval()
    spec = trace(models[0], example_of(document["example"]))
    levels = []
    for i, model in enumerate(models):
        transfers = _transfers(path / f"transfers{i}.npz")
        spec = spec.resized({name: t.n_coarse for name, t in transfers.items()})
        levels.append(Level(model, spec, transfers, document["seconds"][i], document["flops"][i]))
    return Hierarchy(levels, {**document["options"], "example": document["example"]})


def _level_model(path: Path, i: int) -> nn.Module:
    tensors, document = read_bundle(path / f"level{i}.safetensors")
    return from_document(document, tensors)


def _transfers(path: Path) -> dict[str, Transfer]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: Transfer(arrays[name]) for name in arrays.files}
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} is missing or damaged ({error}); save the hierarchy again") from error


def example_of(description: Mapping[str, Any]) -> Any:
    """Return an example of the described shapes: zeros."""
    leaves = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in description["tensors"]]
    args, kwargs = unflatten(description["structure"], leaves)
    return kwargs if kwargs else args
