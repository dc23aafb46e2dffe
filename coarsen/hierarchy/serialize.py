"""Hierarchies on disk: a folder of levels, each one safetensors file, and the aggregates between them. No pickle."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraph.analysis.residual_chains import Chain
from netgraph.coarsen.directions.depth import ChainCoarsening, Orders
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import LoadError, NetgraphError
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.io.example_inputs import DTYPES, LIMIT
from netgraph.io.load import load_model
from netgraph.io.state_dict import fill_network
from netgraph.tracing.tracer import trace
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.pytree import unflatten_tree

INDEX = "hierarchy.safetensors"  # how levels hang together; digested as they are


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
    check_destination(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        _write_folder(what, aside)
        if path.exists():
            shutil.rmtree(path)
        os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_destination(path: Path) -> None:
    """Raise `LoadError` where a hierarchy would take the place of something else."""
    if path.exists() and not (path / INDEX).is_file():
        raise LoadError(f"{path} exists and is no hierarchy; give another name")


def _write_folder(hierarchy: Hierarchy, folder: Path) -> None:
    first = hierarchy.levels[0]
    models = [coarse_network(first.model, first.spec, {}), *(level.model for level in hierarchy.levels[1:])]
    aggregates, transfers = {}, []
    for i, (level, model) in enumerate(zip(hierarchy.levels, models, strict=True)):
        save(model, folder / f"level{i}.safetensors")
        transfers.append(list(level.transfers))
        for number, transfer in enumerate(level.transfers.values()):
            aggregates[f"{i}.{number}"] = torch.from_numpy(transfer.aggregates)
    seconds = [level.seconds for level in hierarchy.levels]
    document = {"format": 1, "options": hierarchy.options, "transfers": transfers, "seconds": seconds}
    if hierarchy.ways:
        document["chains"] = [
            [_chain_to_data(step, f"{i}.{n}", aggregates) for n, step in enumerate(level.chains)]
            for i, level in enumerate(hierarchy.levels)
        ]
        document["pools"] = [level.pool for level in hierarchy.levels]
    write_bundle(folder / INDEX, aggregates, document)


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
        return load_model(path)
    if not (path / INDEX).is_file():
        raise LoadError(f"{path} is no hierarchy (it has no {INDEX}); give a folder that netgraph saved")
    aggregates, document = read_bundle(path / INDEX)
    try:
        return _read_hierarchy(path, document, aggregates, arch)
    except NetgraphError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise LoadError(f"{path} is no hierarchy of this version of netgraph ({error}); save it again") from error


def _read_hierarchy(
    path: Path, document: Mapping[str, Any], aggregates: Mapping[str, Tensor], arch: Callable[[], nn.Module] | None
) -> Hierarchy:
    options, levels = document["options"], []
    models = [load_model(path / f"level{i}.safetensors") for i in range(len(document["transfers"]))]
    if arch is not None:
        models[0] = fill_network(arch(), _recorded_state(models[0]), path, getattr(arch, "__name__", "arch"))
        set_training_mode(models[0], training=False)
    example = build_example(options["example"])
    inside = bool(options.get("inside_heads"))
    spec, n_levels = trace(models[0], example, inside_heads=inside), len(models)
    chains = document.get("chains") or [[]] * n_levels
    pools = document.get("pools") or [1] * n_levels
    for i, (model, names) in enumerate(zip(models, document["transfers"], strict=True)):
        transfers = {name: Transfer(aggregates[f"{i}.{n}"].numpy()) for n, name in enumerate(names)}
        short = tuple(_chain_from_data(known, f"{i}.{n}", aggregates) for n, known in enumerate(chains[i]))
        if short or (i and pools[i] != pools[i - 1]):
            spec = trace(model, example, inside_heads=inside)  # another graph, not the one above with other sizes
        spec = spec.with_sizes({name: t.n_coarse for name, t in transfers.items()})
        seconds = document["seconds"][i]
        levels.append(Level(model, spec, transfers, seconds, spec.flops, chains=short, pool=pools[i]))
    return Hierarchy(levels, options)


def _chain_to_data(step: ChainCoarsening, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a chain as data; the orders of its inner units go among the tensors."""
    chain, orders = step.chain, [(name, dim) for name, dims in step.orders.items() for dim in dims]
    tensors |= {f"{place}.order{i}": torch.from_numpy(step.orders[name][dim]) for i, (name, dim) in enumerate(orders)}
    known = {"blocks": list(chain.blocks), "names": list(chain.names), "ends": sorted(chain.ends)}
    return {**known, "aggregates": step.transfer.aggregates.tolist(), "orders": orders}


def _chain_from_data(known: Mapping[str, Any], place: str, tensors: Mapping[str, Tensor]) -> ChainCoarsening:
    chain = Chain(tuple(known["blocks"]), tuple(known["names"]), frozenset(known["ends"]))
    orders: Orders = {}
    for i, (name, dim) in enumerate(known.get("orders", ())):  # hierarchies of before have none
        orders.setdefault(name, {})[int(dim)] = tensors[f"{place}.order{i}"].numpy()
    return ChainCoarsening(chain, Transfer(np.array(known["aggregates"], dtype=np.int64)), orders)


def _recorded_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what a recorded network has of the network it was recorded from."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("constants.")}


def build_example(description: Mapping[str, Any]) -> Any:
    """Return an example of the described shapes, zeros; sizes are checked before memory is taken."""
    for shape, dtype in description["tensors"]:
        if dtype not in DTYPES or math.prod(shape) > LIMIT:
            raise LoadError(
                f"the saved example is {shape} of {dtype}; inputs have at most {LIMIT:,} numbers of a known type"
            )
    leaves = [torch.zeros(shape, dtype=DTYPES[dtype]) for shape, dtype in description["tensors"]]
    args, kwargs = unflatten_tree(description["structure"], leaves)
    return kwargs if kwargs else args
