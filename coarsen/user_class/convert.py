"""The coarse network in the user's own class: proven equal to the recorded graph, or refused by name.

Smaller parameters in the network's own class are often silently wrong: ``view(..., -1, head_dim)`` regroups heads in
place of failing, and looks right while logits are near zero. So a copy of the network gets the coarse parameters, what
it remembers of its sizes is mended, and it is then run beside the graph: on random large weights, in both modes, on
two batch sizes. It is handed out where all agree.
"""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.user_class.equivalence import build_examples, find_difference
from netgraph.coarsen.user_class.factor_folding import apply_factors, find_parameter_factors
from netgraph.coarsen.user_class.huggingface import is_transformers_model, iterate_config_networks
from netgraph.coarsen.user_class.module_attributes import iterate_ranks, replace_parameters, set_sizes
from netgraph.coarsen.user_class.size_candidates import SizeChange
from netgraph.errors import LoadError, NetgraphError, OwnClassError
from netgraph.io.huggingface import silence_transformers
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.output_files import check_output_file, check_parent_folder

TRIES = 24  # choices of what attributes count
MEND = "use levels[i].model, the recorded graph, which runs and trains"


def own_class(hierarchy: Hierarchy, example: Any, *, level: int = -1, seed: int = 7619) -> nn.Module:
    """Return a coarse network in the class of the network that was given.

    Parameters
    ----------
    hierarchy : Hierarchy
        Its level 0 is the network in its own class.
    example : Tensor, tuple or dict
        Inputs as `netgraph.build_hierarchy` took them: what to prove it on.
    level : int
        Which level; the coarsest by default.
    seed : int
        Of the random weights of the proof.

    Returns
    -------
    torch.nn.Module
        With the coarse level's parameters, in the mode of level 0, its state dict named as before. It shares nothing
        with the hierarchy.

    Raises
    ------
    OwnClassError
        The class cannot hold the sizes, fails, or gives other outputs than the recorded graph; the message says which.
    NetgraphError
        There is no such level, or level 0 is a recorded graph itself.
    """
    fine, coarse = hierarchy.levels[0], _select_level(hierarchy, level)
    graph = coarse.model
    assert isinstance(graph, GraphNetwork)
    sizes = SizeChange(fine.spec, coarse.spec.sizes)
    try:
        factors = find_parameter_factors(fine.spec, coarse.spec.sizes)
        state = apply_factors(traced_state(graph), factors)
        examples, problems = build_examples(fine.model, graph, example), []
        for own in _iterate_candidates(fine.model, state, sizes):
            problem = find_difference(own, graph, examples, factors, seed)
            if problem is None:
                return own.train(fine.model.training)
            problems.append(problem)
        raise OwnClassError(problems[0])
    except OwnClassError as error:
        name = type(fine.model).__name__
        raise OwnClassError(
            f"level {level % len(hierarchy.levels)} cannot be given back as a {name}: {error}; {MEND}"
        ) from error


def _select_level(hierarchy: Hierarchy, level: int) -> Any:
    n = len(hierarchy.levels)
    if not -n <= level < n or level % n == 0:
        raise NetgraphError(f"level {level} is no coarse level of {n}; give one from 1 to {n - 1}")
    if isinstance(hierarchy.levels[0].model, GraphNetwork):
        raise NetgraphError(
            "level 0 is a recorded graph and its own class is not known; open it with arch=, as in "
            "netgraph.load(path, arch=MyNet)"
        )
    above = hierarchy.levels[1 : level % n + 1]
    if any(x.chains or x.pool > 1 for x in above):
        raise OwnClassError(f"level {level % n} has fewer blocks, or another resolution, than the class builds; {MEND}")
    return hierarchy.levels[level]


def _iterate_candidates(model: nn.Module, state: Mapping[str, Tensor], sizes: SizeChange) -> Iterator[nn.Module]:
    """Yield networks of the user's class with coarse parameters, the likeliest first."""
    if is_transformers_model(model):
        yield from iterate_config_networks(model, state, sizes)
        return
    for ranks in itertools.islice(iterate_ranks(model, sizes), TRIES):
        own = _copy_network(model)
        replace_parameters(own, state)
        set_sizes(own, sizes, ranks)
        yield own


def _copy_network(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # the class's own way of being copied
        raise OwnClassError(f"the network cannot be copied ({type(error).__name__}: {str(error)[:200]})") from error


def check_own_class_path(model: nn.Module, path: Path) -> None:
    """Say before work begins whether `save_own_class` can write a network of this class there.

    Raises
    ------
    NetgraphError
        The suffix does not fit the class, nothing can be written there, or something else is there.
    """
    if is_transformers_model(model):
        if path.suffix or (path.exists() and not (path / "config.json").is_file()):
            raise LoadError(
                f"{path}: a {type(model).__name__} is saved as a folder; give a name of a new one, without suffix"
            )
    elif path.suffix not in (".pt", ".pth"):
        raise LoadError(f"{path}: a {type(model).__name__} is saved whole as NAME.pt; give such a name")
    else:
        check_output_file(path)
    check_parent_folder(path)


def save_own_class(own: nn.Module, path: Path) -> None:
    """Write a network whole, with ``torch.save``, or as a folder with config.json and safetensors if it is of transformers.

    Raises
    ------
    LoadError
        It cannot be pickled, because its class is made inside a function; ``own.state_dict()`` can be saved.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if is_transformers_model(own):
            import transformers

            kept: Any = own  # what else a network has, torch's types do not know
            with silence_transformers(transformers.utils.logging):
                kept.save_pretrained(aside)
            shutil.rmtree(path, ignore_errors=True)
        else:
            torch.save(own, aside)
        os.replace(aside, path)
    except (OSError, RuntimeError, pickle.PicklingError, AttributeError, TypeError) as error:
        raise LoadError(
            f"{path}: a {type(own).__name__} cannot be saved whole ({error}); from Python, own_class() returns it and "
            "torch.save(own.state_dict(), path) saves its parameters"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink(missing_ok=True)
