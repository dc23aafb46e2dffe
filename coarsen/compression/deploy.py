"""The network of a hierarchy that goes into use: in its own class where that is proven equal, else the recorded graph."""

from __future__ import annotations

from typing import Any

from torch import nn

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.user_class.convert import own_class
from netgraph.errors import NetgraphError, OwnClassError


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
        return hierarchy.levels[-1].model.eval(), None if hasattr(hierarchy.levels[0].model, "document") else str(error)
