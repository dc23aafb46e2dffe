"""netgraph turns a network into a graph of its units, merges units by graph coarsening, and runs the smaller network.

Names load on first use, so that ``netgraph --help`` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from netgraph.coarsen.checks import check_coarsener as check_coarsener
    from netgraph.coarsen.hierarchy import Hierarchy as Hierarchy
    from netgraph.coarsen.hierarchy import build_hierarchy as build_hierarchy
    from netgraph.coarsen.level import Level as Level
    from netgraph.coarsen.network import coarse_network as coarse_network
    from netgraph.coarsen.ownclass import own_class as own_class
    from netgraph.coarsen.quality import quality as quality
    from netgraph.coarsen.saving import load as load
    from netgraph.coarsen.saving import save as save
    from netgraph.coarsen.transfer import Transfer as Transfer
    from netgraph.coarsen.untrained import draw as draw
    from netgraph.coarsen.verify import verify as verify
    from netgraph.errors import NetgraphError as NetgraphError
    from netgraph.fas.problem import Problem as Problem
    from netgraph.fas.solution import Solution as Solution
    from netgraph.fas.solver import FAS as FAS
    from netgraph.graph import UnitGraph as UnitGraph
    from netgraph.graph import contract as contract
    from netgraph.graph import unit_graph as unit_graph
    from netgraph.loading import load_model as load_model
    from netgraph.spec import UnitSpec as UnitSpec
    from netgraph.tracing import trace as trace
    from netgraph.viz.export import export as export

_HOMES = {
    "check_coarsener": "coarsen.checks",
    "Hierarchy": "coarsen.hierarchy",
    "Level": "coarsen.level",
    "build_hierarchy": "coarsen.hierarchy",
    "coarse_network": "coarsen.network",
    "own_class": "coarsen.ownclass",
    "quality": "coarsen.quality",
    "load": "coarsen.saving",
    "save": "coarsen.saving",
    "Transfer": "coarsen.transfer",
    "draw": "coarsen.untrained",
    "verify": "coarsen.verify",
    "NetgraphError": "errors",
    "Problem": "fas.problem",
    "Solution": "fas.solution",
    "FAS": "fas.solver",
    "UnitGraph": "graph",
    "contract": "graph",
    "unit_graph": "graph",
    "load_model": "loading",
    "UnitSpec": "spec",
    "trace": "tracing",
    "export": "viz.export",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'netgraph' has no attribute {name!r}")
    value = getattr(import_module(f"netgraph.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
