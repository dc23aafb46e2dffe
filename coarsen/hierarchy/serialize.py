"""Hierarchies on disk: a folder of safetensors files, without pickle.

Each level is one file. An index holds the aggregates between the levels and the options of the coarsening.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraph import __version__
from netgraph.analysis.residual_chains import Chain
from netgraph.coarsen.directions.depth import ChainCoarsening, Orders
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.nested_transfer import count_coarse, list_aggregates, list_weights, make_transfer
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.environment.memory import check_memory
from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.io.bundle import read_bundle, read_digest, write_bundle
from netgraph.io.example_inputs import DTYPES, LIMIT, measure_example
from netgraph.io.files.atomic_writes import finish_exchange, write_folder_atomically
from netgraph.io.files.output_files import check_encoding, check_path
from netgraph.io.hub.folders import HISTORY
from netgraph.io.hub.opening import read_origin
from netgraph.io.hub.origin import set_origin
from netgraph.io.load import is_network_folder, load_model
from netgraph.io.state_dict import fill_network
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.tracer import trace
from netgraph.tracing.unit_spec import UnitSpec, term_size
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.pytree import unflatten_tree

logger = logging.getLogger("netgraph.io")
INDEX = "hierarchy.safetensors"  # aggregates between the levels, and options
FILES = re.compile(r"(hierarchy|level\d+)\.safetensors")
MAX_LEVELS = 1000  # each has fewer units than the one above
FORMAT = 3  # format 1 has the seconds of each level, and no digests of their files; format 3 has weights of units


def save(obj: Hierarchy | nn.Module, path: str | Path) -> None:
    """Write a hierarchy as a folder, or one coarse network as a ``.safetensors`` file.

    Parameters
    ----------
    obj : Hierarchy or torch.nn.Module
        A module must be a recorded graph, such as ``hierarchy.levels[1].model``.
    path : str or path
        The folder of a hierarchy, or the ``.safetensors`` file of one network. An older one is replaced in one step. Files
        that others have put into its folder are kept.

    Raises
    ------
    LoadError
        The folder exists and is not a hierarchy, or the module was not made by netgraph.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> hierarchy = ng.build_hierarchy(model, torch.zeros(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ng.save(hierarchy, f"{folder}/model.hierarchy")
    ...     len(ng.load(f"{folder}/model.hierarchy").levels)
    2
    """
    path = Path(path)
    check_path(path, LoadError)
    check_encoding(path, LoadError)
    if isinstance(obj, nn.Module):
        if not hasattr(obj, "document"):
            raise LoadError(
                f"a {type(obj).__name__} was not made by netgraph, which saves only its own networks. Use torch.save(model.state_dict(), path)."
            )
        write_bundle(path, obj.tensors(), obj.document())  # type: ignore[operator]
        return
    check_destination(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_folder_atomically(partial(write_hierarchy, obj), path, FILES, LoadError)


def check_destination(path: Path) -> None:
    """Raise `LoadError` if a hierarchy would replace something else."""
    if path.exists() and not (path / INDEX).is_file():
        raise LoadError(f"{path} exists and is not a hierarchy. Give another name.")
    if (path / HISTORY).is_file():
        raise LoadError(f"{path} has a card, which would not fit any more. Use save_pretrained, or give another name.")


def write_hierarchy(hierarchy: Hierarchy, folder: Path) -> None:
    """Write the levels into an empty folder, and an index with the aggregates between them."""
    first = hierarchy.levels[0]
    models = [coarse_network(first.model, first.spec, {}), *(level.model for level in hierarchy.levels[1:])]
    aggregates, transfers = {}, []
    for i, (level, model) in enumerate(zip(hierarchy.levels, models, strict=True)):
        save(model, level_file(folder, i))
        transfers.append(list(level.transfers))
        for number, transfer in enumerate(level.transfers.values()):
            aggregates[f"{i}.{number}"] = torch.from_numpy(list_aggregates(transfer))
            if (weights := list_weights(transfer)) is not None:
                aggregates[f"{i}.{number}.weights"] = torch.from_numpy(weights)
    options = {**hierarchy.plain_options, "example": dict(hierarchy.example)}
    digests = [read_digest(level_file(folder, i)) for i in range(len(models))]
    weighted = any(transfer.is_weighted for level in hierarchy.levels for transfer in level.transfers.values())
    document = {
        "format": FORMAT if weighted else 2, "version": __version__, "options": options, "transfers": transfers, "levels": digests,
    }  # fmt: skip
    if hierarchy.direction_labels:
        document["chains"] = [
            [_chain_to_data(step, f"{i}.{n}", aggregates) for n, step in enumerate(level.chains)]
            for i, level in enumerate(hierarchy.levels)
        ]
        document["pools"] = [level.pool for level in hierarchy.levels]
    write_bundle(folder / INDEX, aggregates, document)


def load(path: str | Path, *, arch: Callable[[], nn.Module] | None = None) -> Hierarchy | nn.Module:
    """Read a hierarchy or a network that `save` wrote.

    Parameters
    ----------
    path : str or path
        A folder with a hierarchy or a network, or a ``.safetensors`` file with one network.
    arch : callable ``() -> torch.nn.Module``, optional
        Makes the finest network in its own class. Without it level 0 is its recorded graph. The coarse levels answer in the
        classes of this network. Without it they keep named tuples, and other classes become dicts.

    Returns
    -------
    Hierarchy or torch.nn.Module

    Raises
    ------
    LoadError
        A file is missing or damaged.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> import netgraph as ng
    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ng.save(ng.build_hierarchy(make(), torch.zeros(1, 4)), f"{folder}/model.hierarchy")
    ...     hierarchy = ng.load(f"{folder}/model.hierarchy", arch=make)
    >>> type(hierarchy.levels[0].model).__name__
    'Sequential'
    """
    path = Path(path)
    check_path(path, LoadError)
    if path.is_file():
        return load_model(path)
    if not path.exists():
        finish_exchange(path)
    if not (path / INDEX).is_file() and is_network_folder(path):
        return load_model(path)
    if not (path / INDEX).is_file():
        raise LoadError(f"{path} is not a hierarchy: it has no {INDEX}. Give a folder that netgraph saved.")
    aggregates, document = read_bundle(path / INDEX, newest=FORMAT)
    try:
        hierarchy = _read_hierarchy(path, document, aggregates, arch)
        _remember_origin(hierarchy, path)
        return hierarchy
    except NetgraphError:
        raise
    except Exception as error:  # the digest is right and the form is wrong
        raise LoadError(
            f"{path} is not a hierarchy of this version of netgraph ({describe_error(error)}). Save it again."
        ) from error


def _remember_origin(hierarchy: Hierarchy, path: Path) -> None:
    """Remember where the levels came from: as the history of the folder tells, or else this folder and its options."""
    first, last = hierarchy.levels[0].model, hierarchy.levels[-1].model
    origin = read_origin(str(path), first)
    set_origin(first, replace(origin, steps=()))
    hierarchy.note_origins()
    if origin.steps:
        set_origin(last, origin)


def _read_hierarchy(
    path: Path, document: Mapping[str, Any], aggregates: Mapping[str, Tensor], arch: Callable[[], nn.Module] | None
) -> Hierarchy:
    """Build a hierarchy from its index and the files of its levels."""
    plain, levels = document["options"], []
    _check_digests(path, document)
    models = [load_model(level_file(path, i)) for i in range(len(document["transfers"]))]
    if arch is not None:
        network = arch()
        state = _read_own_state(models[0], frozenset(network.state_dict()))
        models[0] = fill_network(network, state, path, getattr(arch, "__name__", "arch"))
        set_training_mode(models[0], training=False)
    example = build_example(plain["example"])
    inside_heads, outputs = bool(plain.get("inside_heads")), tuple(plain.get("outputs", ()))
    spec, n_levels = trace(models[0], example, inside_heads=inside_heads, prove=False, outputs=outputs), len(models)
    _restore_answers(models[1:], spec if arch is not None else None, path)
    chains = document.get("chains") or [[]] * n_levels
    pools = _read_pools(path, document, n_levels)
    for i, (model, names) in enumerate(zip(models, document["transfers"], strict=True)):
        transfers = {
            name: _read_transfer(aggregates, f"{i}.{n}", spec.axes[name].within) for n, name in enumerate(names)
        }
        chain_steps = tuple(_chain_from_data(chain, f"{i}.{n}", aggregates) for n, chain in enumerate(chains[i]))
        _check_transfers(path, i, spec, transfers)
        if chain_steps or (i and pools[i] != pools[i - 1]):
            spec = trace(
                model, example, inside_heads=inside_heads, prove=False, outputs=outputs
            )  # another graph than that of the level above, with the sizes of this one
            _check_coarse_sizes(path, i, spec, transfers)
        else:
            spec = spec.with_sizes(count_coarse(spec, transfers))
        _check_shapes(path, i, spec, model)
        seconds = document["seconds"][i] if "seconds" in document else None
        levels.append(Level(model, spec, transfers, seconds, spec.flops, chains=chain_steps, pool=pools[i]))
    options = CoarsenOptions.from_plain(plain) if "coarsener" in plain else None  # else a network alone
    if options is not None:
        options.to_plain()  # a field of another type fails here, and not when the hierarchy is shown
    return Hierarchy(levels, options, plain["example"])


def level_file(folder: Path, i: int) -> Path:
    """Return the file of a level."""
    return folder / f"level{i}.safetensors"


def list_level_digests(path: Path, document: Mapping[str, Any]) -> list[str | None]:
    """Return the digest of each level that an index names, None for those of format 1.

    Raises
    ------
    LoadError
        The index has no list of levels, or more levels than digests.
    """
    transfers, digests = document.get("transfers"), document.get("levels")
    if not isinstance(transfers, list) or not 0 < len(transfers) <= MAX_LEVELS:
        raise LoadError(f"{path / INDEX} lists no levels, or more than {MAX_LEVELS}. Save the hierarchy again.")
    if digests is None and document.get("format") == 1:
        return [None] * len(transfers)
    if not isinstance(digests, list) or [type(digest) for digest in digests] != [str] * len(transfers):
        raise LoadError(
            f"{path / INDEX} does not have one digest for each of {len(transfers)} levels. Save the hierarchy again."
        )
    return digests


def _read_pools(path: Path, document: Mapping[str, Any], n_levels: int) -> list[int]:
    """Return the divisor of the resolution of each level: 1 on the finest, and from level to level the same or twice as much."""
    pools = document.get("pools") or [1] * n_levels
    is_list = isinstance(pools, list) and len(pools) == n_levels and all(type(pool) is int for pool in pools)
    if not is_list or pools[0] != 1 or any(b not in (a, 2 * a) for a, b in pairwise(pools)):
        raise LoadError(
            f"{path / INDEX} has the resolutions {str(pools)[:100]} for {n_levels} levels. They begin at 1 and stay or double from "
            "level to level. Save the hierarchy again."
        )
    return pools


def _check_digests(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse a level that is missing, or that belongs to another hierarchy. Format 1 has no digests."""
    for i, digest in enumerate(list_level_digests(path, document)):
        file = level_file(path, i)
        if not file.is_file():
            raise LoadError(f"{file} is missing, and {path / INDEX} names it. Copy the whole folder again.")
        if digest is not None and read_digest(file) != digest:
            raise LoadError(
                f"{file} does not belong to {path / INDEX}: it was written by another save. Copy the whole folder again."
            )


def _check_transfers(path: Path, i: int, spec: UnitSpec, transfers: Mapping[str, Transfer]) -> None:
    """Refuse aggregates that do not fit the units of the level above."""
    for name, transfer in transfers.items():
        size = spec.axes[name].size if name in spec.axes else 0
        if transfer.n_fine != size:
            raise LoadError(
                f"{path}: level {i} has aggregates of {transfer.n_fine} units of {name}, and the level above has {size}. The "
                "files are of different hierarchies. Save it again."
            )


def _check_coarse_sizes(path: Path, i: int, spec: UnitSpec, transfers: Mapping[str, Transfer]) -> None:
    """Refuse aggregates that lead to other numbers of units than the network of the level has."""
    for name, transfer in transfers.items():
        if name in spec.axes and spec.axes[name].size != transfer.n_coarse:
            raise LoadError(
                f"{path}: level {i} has {spec.axes[name].size} units of {name}, and the aggregates lead to {transfer.n_coarse}. The "
                "files are of different hierarchies. Save it again."
            )


def _check_shapes(path: Path, i: int, spec: UnitSpec, model: nn.Module) -> None:
    """Refuse a level with tensors of other sizes than the aggregates lead to."""
    state = traced_state(model)
    for name, terms in spec.parameters.items():
        expected = tuple(term_size(term, spec.sizes) for term in terms)
        shape = tuple(state[name].shape) if name in state else None
        if shape != expected:
            raise LoadError(
                f"{path}: {name} of level {i} has shape {shape}, and the aggregates lead to {expected}. The files are of "
                "different hierarchies. Save it again."
            )


def _restore_answers(models: Sequence[nn.Module], spec: UnitSpec | None, path: Path) -> None:
    """Let coarse networks answer in the classes of the finest one, if it is there. A file holds the names of classes only."""
    graphs = [model for model in models if isinstance(model, GraphNetwork)]
    for model in graphs:
        if spec is not None:
            model.adopt_classes({mode: plan.outputs for mode, plan in spec.plans.items()})
    lost = sorted({name for model in graphs for name in model.lost_classes})
    if lost:
        mend = "Give arch to get that class." if spec is None else "The network of arch answers in another class."
        logger.warning("the coarse networks of %s answer a dict in the place of %s. %s", path, ", ".join(lost), mend)


def _read_transfer(tensors: Mapping[str, Tensor], place: str, within: str | None) -> Transfer:
    """Read a transfer from the tensors of the index. Most have no weights."""
    weights = tensors.get(f"{place}.weights")
    return make_transfer(tensors[place].numpy(), within, None if weights is None else weights.numpy())


def _chain_to_data(step: ChainCoarsening, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a chain as data. The orders of its inner units go into ``tensors``."""
    chain, orders = step.chain, [(name, dim) for name, dims in step.orders.items() for dim in dims]
    tensors |= {f"{place}.order{i}": torch.from_numpy(step.orders[name][dim]) for i, (name, dim) in enumerate(orders)}
    data = {"blocks": list(chain.blocks), "names": list(chain.names), "ends": sorted(chain.ends)}
    return {**data, "aggregates": step.transfer.aggregates.tolist(), "orders": orders}


def _chain_from_data(data: Mapping[str, Any], place: str, tensors: Mapping[str, Tensor]) -> ChainCoarsening:
    """Read a chain from data and tensors."""
    chain = Chain(tuple(data["blocks"]), tuple(data["names"]), frozenset(data["ends"]))
    orders: Orders = {}
    for i, (name, dim) in enumerate(data.get("orders", ())):  # older files have none
        orders.setdefault(name, {})[int(dim)] = tensors[f"{place}.order{i}"].numpy()
    return ChainCoarsening(chain, Transfer(np.array(data["aggregates"], dtype=np.int64)), orders)


def _read_own_state(model: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    """Return the parameters and buffers that come from the original network of these names, without recorded constants."""
    return {n: tensor for n, tensor in model.state_dict().items() if n in names or not n.startswith("constants.")}


def build_example(description: Mapping[str, Any]) -> Any:
    """Return zeros of the described shapes. Sizes are checked before memory is allocated."""
    for shape, dtype in description["tensors"]:
        if dtype not in DTYPES or not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > LIMIT:
            raise LoadError(
                f"the saved example is {shape} of {dtype}. Inputs may have at most {LIMIT:,} numbers of a known type."
            )
    check_memory(sum(measure_example(shape, dtype) for shape, dtype in description["tensors"]), "the saved example")
    leaves = [torch.zeros(shape, dtype=DTYPES[dtype]) for shape, dtype in description["tensors"]]
    args, kwargs = unflatten_tree(description["structure"], leaves)
    return kwargs if kwargs else args
