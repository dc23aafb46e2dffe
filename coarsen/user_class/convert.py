"""A coarse network in the user's own class, proven equal to the recorded graph or refused with a reason.

Smaller parameters in the network's own class often give wrong outputs without an error. ``view(..., -1, head_dim)`` regroups
heads instead of failing, and the result looks right while logits are near zero. A copy of the network therefore gets the
coarse parameters, the sizes that its modules remember are corrected, and it is run next to the graph: on large random
weights, in training and evaluation mode, on two batch sizes. It is returned if all outputs agree.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.network.recorded_constants import inject_tables
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.coarsen.user_class.equivalence import ROUTERS, Rename, build_examples, find_difference
from netgraph.coarsen.user_class.expert_setting import choose_runnable_experts
from netgraph.coarsen.user_class.factor_folding import apply_factors, find_parameter_factors
from netgraph.coarsen.user_class.fewer_blocks import BlockChange, find_block_change
from netgraph.coarsen.user_class.huggingface import (
    describe_transformers,
    is_transformers_model,
    iterate_config_networks,
    write_transformers,
)
from netgraph.coarsen.user_class.merged_experts import explain_experts
from netgraph.coarsen.user_class.module_attributes import iterate_ranks, replace_parameters, set_sizes
from netgraph.coarsen.user_class.size_candidates import SizeChange
from netgraph.errors import LoadError, NetgraphError, OwnClassError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file, check_parent_folder
from netgraph.io.files.pickles import save_pickle
from netgraph.io.hub.folders import check_model_folder, write_model_folder
from netgraph.io.hub.origin import find_origin, set_origin
from netgraph.io.hub.text_files import list_sources
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.recordable import check_input_tensors
from netgraph.utils.module_state import list_held_tensors, replace_held_tensors

TRIES = 24  # assignments of sizes to attributes
SUFFIXES = (".pt", ".pth", ".safetensors", ".hierarchy")  # of files and folders of another form
ADVICE = "Use levels[i].model, the recorded graph, which runs and trains."


def own_class(hierarchy: Hierarchy, example: Any, *, level: int = -1, seed: int = 7619) -> nn.Module:
    """Return a coarse network in the class of the network that was coarsened.

    Parameters
    ----------
    hierarchy : Hierarchy
        Its level 0 is the network in its own class.
    example : Tensor, tuple or dict
        Inputs as `netgraph.build_hierarchy` took them. The outputs are compared on these.
    level : int, default -1
        The coarsest level by default.
    seed : int, default 7619
        Seed of the random weights on which both networks are compared.

    Returns
    -------
    torch.nn.Module
        With the parameters of the coarse level, in the mode of level 0. The names of its state dict stay the same. It shares no
        tensors with the hierarchy.

    Raises
    ------
    OwnClassError
        The class cannot hold the sizes, fails, or gives other outputs than the recorded graph.
    NetgraphError
        There is no such level, or level 0 is itself a recorded graph.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> example = torch.zeros(2, 4)
    >>> ng.own_class(ng.build_hierarchy(model, example), example)
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    check_input_tensors(example)
    fine, coarse = hierarchy.levels[0], _select_level(hierarchy, level)
    graph = coarse.model
    assert isinstance(graph, GraphNetwork)
    counts = {**fine.spec.sizes, **coarse.spec.sizes}  # blocks that are gone have axes of their own
    sizes, above = SizeChange(fine.spec, counts), hierarchy.levels[1 : level % len(hierarchy.levels) + 1]
    try:
        blocks = find_block_change(fine.model, above)
        factors = find_parameter_factors(fine.spec, counts)
        state = apply_factors(traced_state(graph), factors)
        examples = build_examples(fine.model, graph, example)
        problems: list[str] = []
        tables = {} if blocks.kept else inject_tables(fine.spec, _compose_all(above))
        routed = bool(fine.spec.experts)
        for candidate in _iterate_candidates(fine.model, state, sizes, tables, blocks):
            problem = _find_difference(candidate, graph, examples, factors, seed, blocks.rename, routed=routed)
            if problem is None:
                own = choose_runnable_experts(candidate.train(fine.model.training), examples)
                set_origin(own, find_origin(graph))
                return own
            if not problems and not blocks.kept:
                problem += explain_experts(fine, above, candidate, examples, factors, seed)
                problem += _explain_tables(candidate, tables)
            problems.append(problem)
        raise OwnClassError(problems[0])
    except OwnClassError as error:
        name = type(fine.model).__name__
        raise OwnClassError(
            f"level {level % len(hierarchy.levels)} cannot be built as a {name}: {error}. {ADVICE}"
        ) from error


def _find_difference(
    candidate: nn.Module,
    graph: GraphNetwork,
    examples: list[Any],
    factors: Mapping[str, float],
    seed: int,
    rename: Rename,
    *,
    routed: bool,
) -> str | None:
    """Return the first difference of two networks. Those that route tokens are compared with several routers."""
    for number in range(ROUTERS if routed else 1):
        problem = find_difference(candidate, graph, examples, factors, seed + number, rename)
        if problem is not None:
            return problem
    return None


def _select_level(hierarchy: Hierarchy, level: int) -> Level:
    """Return a coarse level of a hierarchy, or raise an error that says why it has no class of its own."""
    n = len(hierarchy.levels)
    if not -n <= level < n or level % n == 0:
        raise NetgraphError(
            f"level {level} is not a coarse level. The hierarchy has {n} levels. Give one from 1 to {n - 1}."
        )
    if isinstance(hierarchy.levels[0].model, GraphNetwork):
        raise NetgraphError(
            "level 0 is a recorded graph, and its own class is unknown. Open it with arch=, as in "
            "netgraph.load(path, arch=MyNet)."
        )
    above = hierarchy.levels[1 : level % n + 1]
    if any(x.pool > 1 for x in above):
        raise OwnClassError(f"level {level % n} works at another resolution than the class builds. {ADVICE}")
    return hierarchy.levels[level]


def _explain_tables(candidate: nn.Module, tables: Mapping[str, Tensor]) -> str:
    """Return the words for a fixed table that a class makes anew for its sizes, with other numbers than the merged ones."""
    held = list_held_tensors(candidate)
    other = [n for n, table in tables.items() if n not in held or not torch.equal(held[n][2], table.to(held[n][2]))]
    if not other:
        return ""
    return (
        f". The class makes its fixed table {other[0]} for the new sizes, and the recorded graph has the means of merged entries. Register "
        "such a table as a buffer, or keep its axes"
    )


def _compose_all(levels: Sequence[Level]) -> dict[str, Transfer]:
    """Return the transfers from the finest network to the last of several levels."""
    composed: dict[str, Transfer] = {}
    for level in levels:
        composed = compose_transfers(composed, level.transfers)
    return composed


def _iterate_candidates(
    model: nn.Module,
    state: Mapping[str, Tensor],
    sizes: SizeChange,
    tables: Mapping[str, Tensor],
    blocks: BlockChange,
) -> Iterator[nn.Module]:
    """Yield networks of the user's class with coarse parameters, the most likely first."""
    if is_transformers_model(model):
        yield from iterate_config_networks(model, blocks.rename_all(state), sizes, blocks)
        return
    for ranks in itertools.islice(iterate_ranks(model, sizes), TRIES):
        candidate = _copy_network(model)
        replace_parameters(candidate, state)
        replace_held_tensors(candidate, tables)
        set_sizes(candidate, sizes, ranks)
        blocks.drop_blocks(candidate)
        yield candidate


def _copy_network(model: nn.Module) -> nn.Module:
    """Return a deep copy, or raise `OwnClassError` if the class does not allow one."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a class may define its own __deepcopy__
        raise OwnClassError(f"the network cannot be copied ({type(error).__name__}: {str(error)[:200]})") from error


def check_own_class_path(model: nn.Module, path: Path) -> None:
    """Check before work begins that `save_own_class` can write a network of this class to a path.

    Raises
    ------
    NetgraphError
        The suffix does not fit the class, the path cannot be written, or something else is there.
    """
    if is_transformers_model(model):
        if path.suffix in SUFFIXES:
            raise LoadError(f"{path}: a {type(model).__name__} is saved as a folder. Give a new name without suffix.")
        check_model_folder(path)
    elif path.suffix not in (".pt", ".pth"):
        raise LoadError(f"{path}: a {type(model).__name__} is saved whole in a .pt file. Give NAME.pt.")
    else:
        check_output_file(path)
    check_parent_folder(path)


def save_own_class(model: nn.Module, path: str | Path) -> None:
    """Write a network whole.

    ``torch.save`` writes it to a file. A network of Hugging Face transformers becomes a folder with config.json and safetensors,
    with the files of tokenizer and processor of the folder that the network came from, and with a card (`save_pretrained`).

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    path : str or path
        A ``.pt`` or ``.pth`` file, or the folder of a network of transformers.

    Raises
    ------
    LoadError
        The network cannot be pickled, because its class is defined inside a function. Its ``state_dict()`` can be saved.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from netgraph.coarsen import save_own_class
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_own_class(torch.nn.Linear(2, 3), f"{folder}/small.pt")
    ...     torch.load(f"{folder}/small.pt", weights_only=False)
    Linear(in_features=2, out_features=3, bias=True)
    """
    path = Path(path)
    try:
        if is_transformers_model(model):
            write_model_folder(
                path, partial(write_transformers, model), describe_transformers(model), find_origin(model),
                sources=list_sources(model),
            )  # fmt: skip
        else:
            write_atomically(partial(save_pickle, model), path, LoadError)
    except (RuntimeError, pickle.PicklingError, AttributeError, TypeError) as error:
        raise LoadError(
            f"{path}: a {type(model).__name__} cannot be saved whole ({error}). In Python, own_class() returns it, "
            "and torch.save(own.state_dict(), path) saves its parameters."
        ) from error
