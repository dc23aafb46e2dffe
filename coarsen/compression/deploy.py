"""The network of a hierarchy that goes into use: in its own class where that is proven equal, else the recorded graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from netgraph.coarsen.compression.result import Compressed
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.user_class.convert import own_class
from netgraph.errors import NetgraphError, OwnClassError
from netgraph.io.hub.origin import find_origin, set_origin
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.tracer import trace


def choose_deployed(hierarchy: Hierarchy, example: Any, *, seed: int) -> tuple[nn.Module, str | None]:
    """Return the coarsest network to deploy, in evaluation mode.

    Parameters
    ----------
    hierarchy : Hierarchy
    example : Tensor, tuple or dict
    seed : int

    Returns
    -------
    network : torch.nn.Module
    reason : str or None
        Why it is not in its own class.
    """
    try:
        return own_class(hierarchy, example, seed=seed).eval(), None
    except OwnClassError as error:
        return hierarchy.levels[-1].model.eval(), str(error)
    except NetgraphError as error:  # level 0 is itself a recorded graph, and so is this one
        return hierarchy.levels[-1].model.eval(), None if isinstance(hierarchy.levels[0].model, GraphNetwork) else str(
            error
        )


def record_levels(result: Compressed) -> Hierarchy:
    """Return the hierarchy of a compression whose last level is the deployed network, as a recorded graph.

    Tuning changes the deployed network alone, so that it is recorded again.
    """
    hierarchy = result.require_hierarchy()
    if result.stages[-1].name != "tuned" or result.model is hierarchy.levels[-1].model:
        return hierarchy
    assert hierarchy.inputs is not None
    first, *_, last = hierarchy.levels
    spec = trace(result.model, hierarchy.inputs.example, prove=False, outputs=first.spec.outputs)
    graph = coarse_network(result.model, spec, {}).eval()
    set_origin(graph, find_origin(result.model))
    return replace(hierarchy, levels=[first, replace(last, model=graph)])


def record_network(result: Compressed) -> GraphNetwork:
    """Return the deployed network of a compression as a recorded graph."""
    if isinstance(result.model, GraphNetwork):
        return result.model
    graph = record_levels(result).levels[-1].model
    assert isinstance(graph, GraphNetwork)
    set_origin(graph, find_origin(result.model))
    return graph
