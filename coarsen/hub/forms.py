"""The form in which an object is written as a folder: the layout of transformers or timm for their classes, else netgraph's own.

A folder of transformers or timm opens without netgraph. A folder of netgraph holds a recorded graph or a hierarchy, and opens without code of
a stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from netgraph.coarsen.compression.deploy import record_network
from netgraph.coarsen.compression.result import Compressed
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.serialize import write_hierarchy
from netgraph.coarsen.user_class.convert import own_class
from netgraph.coarsen.user_class.huggingface import describe_transformers, is_transformers_model, write_transformers
from netgraph.coarsen.user_class.timm_arguments import describe_timm, is_timm_model, rebuild_timm, write_timm
from netgraph.errors import LoadError, OwnClassError
from netgraph.io.bundle import write_bundle
from netgraph.io.hub.folder_kind import HIERARCHY, LIBRARY, NETWORK, WEIGHTS, write_config
from netgraph.io.hub.model_card import FolderFacts, count_parameters
from netgraph.io.hub.origin import Origin, find_origin
from netgraph.io.hub.text_files import list_sources
from netgraph.recording.graph_module import GraphNetwork


@dataclass(frozen=True)
class Form:
    """How an object is written as a folder.

    Parameters
    ----------
    fill : callable ``(path) -> object``
        Writes config and weights into an empty folder.
    facts : FolderFacts
    origin : Origin
    sources : sequence of path
        Folders that may hold tokenizer, processor and templates of chats.
    """

    fill: Callable[[Path], object]
    facts: FolderFacts
    origin: Origin
    sources: Sequence[Path]

    @property
    def is_own(self) -> bool:
        """True if the folder is in netgraph's own format."""
        return self.facts.library == LIBRARY


def choose_form(obj: Any) -> Form:
    """Return the form of an object.

    Raises
    ------
    LoadError
        It is a network whose class no folder can hold, or no network.
    OwnClassError
        It is a network of timm whose sizes no arguments express.
    """
    if isinstance(obj, Hierarchy):
        return _form_hierarchy(obj)
    if isinstance(obj, Compressed):
        return form_compressed(obj)
    if isinstance(obj, GraphNetwork):
        return form_graph(obj)
    if isinstance(obj, nn.Module) and is_transformers_model(obj):
        return _form_transformers(obj)
    if isinstance(obj, nn.Module) and is_timm_model(obj):
        return _form_timm(obj)
    if isinstance(obj, nn.Module):
        raise LoadError(
            f"a {type(obj).__name__} has no config that a folder could hold. Save the recorded graph, hierarchy.levels[i].model, or its "
            "state_dict()."
        )
    raise LoadError(f"a {type(obj).__name__} is no network. Give a hierarchy, a compression, or one of their networks.")


def form_compressed(result: Compressed) -> Form:
    """Return the form of the network of a compression: that of its class, where a folder can hold it, else the recorded graph."""
    try:
        if _has_library(result.model):
            return choose_form(result.model)
    except OwnClassError as error:
        return form_graph(record_network(result), _explain(error))
    return form_graph(record_network(result))


def form_coarsest(hierarchy: Hierarchy, example: Any, *, seed: int) -> Form:
    """Return the form of the coarsest network: that of its class, where a folder can hold it and equality is proven, else the recorded graph.

    Parameters
    ----------
    hierarchy : Hierarchy
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    seed : int
        Seed of the proof.
    """
    graph = hierarchy.levels[-1].model
    assert isinstance(graph, GraphNetwork)
    if not _has_library(hierarchy.levels[0].model):
        return form_graph(graph)
    try:
        return choose_form(own_class(hierarchy, example, seed=seed))
    except OwnClassError as error:
        return form_graph(graph, _explain(error))


def _explain(error: OwnClassError) -> str:
    """Return a sentence on why a network is not in its own class."""
    return f"It is a recorded graph: {str(error).removesuffix('.')}."


def form_graph(network: GraphNetwork, reason: str = "") -> Form:
    """Return the form of a recorded graph.

    Parameters
    ----------
    network : GraphNetwork
    reason : str, default ""
        Why it is not in its own class.
    """
    facts = FolderFacts(
        LIBRARY, NETWORK, type(network).__name__, (count_parameters(network),), _describe_inputs(network), reason=reason
    )
    return Form(partial(_write_graph, network), facts, find_origin(network), list_sources(network))


def _form_hierarchy(hierarchy: Hierarchy) -> Form:
    first, last = hierarchy.levels[0].model, hierarchy.levels[-1].model
    origin = find_origin(last if len(hierarchy.levels) > 1 else first)
    numbers = tuple(level.n_parameters for level in hierarchy.levels)
    inputs = _describe_inputs(last) if isinstance(last, GraphNetwork) else ()
    facts = FolderFacts(LIBRARY, HIERARCHY, origin.class_name, numbers, inputs)
    return Form(partial(_write_hierarchy, hierarchy), facts, origin, list_sources(first))


def _form_transformers(network: nn.Module) -> Form:
    facts = describe_transformers(network)
    return Form(partial(write_transformers, network), facts, find_origin(network), list_sources(network))


def _form_timm(network: nn.Module) -> Form:
    built, arguments = rebuild_timm(network)
    return Form(partial(write_timm, built, arguments), describe_timm(network), find_origin(network), ())


def _has_library(network: nn.Module) -> bool:
    """Return True for a network of a library that has folders of its own."""
    return is_transformers_model(network) or is_timm_model(network)


def _write_graph(network: GraphNetwork, folder: Path) -> None:
    write_bundle(folder / WEIGHTS, network.tensors(), network.document())
    write_config(folder, NETWORK)


def _write_hierarchy(hierarchy: Hierarchy, folder: Path) -> None:
    write_hierarchy(hierarchy, folder)
    write_config(folder, HIERARCHY)


def _describe_inputs(network: GraphNetwork) -> tuple[str, ...]:
    """Return the sizes of each input in words, with its name."""
    names = network.input_names
    sizes = (" x ".join("any" if n is None else str(n) for n in shape) for shape in network.input_shapes)
    return tuple(f"{name} ({size or 'a number'})" for name, size in zip(names, sizes, strict=True))


def with_license(origin: Origin, license: str) -> Origin:
    """Return an origin with a license, that of before if none is given."""
    return replace(origin, license=license) if license else origin
