"""netgraph turns a network into a graph of its units, merges units by graph coarsening, and runs the smaller network.

Names load on first use, so that ``netgraph --help`` need not wait for torch.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.affinity.contract import check_affinity as check_affinity
    from netgraph.coarsen.compression.pipeline import compress as compress
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy as Hierarchy
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy as build_hierarchy
    from netgraph.coarsen.hierarchy.initial_weights import init_coarse_weights as init_coarse_weights
    from netgraph.coarsen.hierarchy.level import Level as Level
    from netgraph.coarsen.hierarchy.options import CoarsenOptions as CoarsenOptions
    from netgraph.coarsen.hierarchy.serialize import load as load
    from netgraph.coarsen.hierarchy.serialize import save as save
    from netgraph.coarsen.network.oracles import verify as verify
    from netgraph.coarsen.network.rewrite import coarse_network as coarse_network
    from netgraph.coarsen.network.rule_contract import check_rule as check_rule
    from netgraph.coarsen.partition.contract import check_coarsener as check_coarsener
    from netgraph.coarsen.partition.metrics import quality as quality
    from netgraph.coarsen.transfer.transfer import Transfer as Transfer
    from netgraph.coarsen.user_class.convert import own_class as own_class
    from netgraph.errors import NetgraphError as NetgraphError
    from netgraph.fas.solver.problem import Problem as Problem
    from netgraph.fas.solver.solution import Solution as Solution
    from netgraph.fas.solver.solver import FAS as FAS
    from netgraph.graph.graph import UnitGraph as UnitGraph
    from netgraph.graph.graph import contract as contract
    from netgraph.graph.graph import unit_graph as unit_graph
    from netgraph.io.load import load_model as load_model
    from netgraph.tracing.tracer import trace as trace
    from netgraph.tracing.unit_spec import UnitSpec as UnitSpec
    from netgraph.utils.logging import setup_logging as setup_logging
    from netgraph.viz.exporters import check_exporter as check_exporter
    from netgraph.viz.exporters import export as export

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "build_hierarchy": "coarsen.hierarchy.hierarchy",
        "check_affinity": "affinity.contract",
        "check_coarsener": "coarsen.partition.contract",
        "check_exporter": "viz.exporters",
        "check_rule": "coarsen.network.rule_contract",
        "coarse_network": "coarsen.network.rewrite",
        "compress": "coarsen.compression.pipeline",
        "CoarsenOptions": "coarsen.hierarchy.options",
        "contract": "graph.graph",
        "init_coarse_weights": "coarsen.hierarchy.initial_weights",
        "export": "viz.exporters",
        "FAS": "fas.solver.solver",
        "Hierarchy": "coarsen.hierarchy.hierarchy",
        "Level": "coarsen.hierarchy.level",
        "load": "coarsen.hierarchy.serialize",
        "load_model": "io.load",
        "NetgraphError": "errors",
        "own_class": "coarsen.user_class.convert",
        "Problem": "fas.solver.problem",
        "quality": "coarsen.partition.metrics",
        "save": "coarsen.hierarchy.serialize",
        "setup_logging": "utils.logging",
        "Solution": "fas.solver.solution",
        "trace": "tracing.tracer",
        "Transfer": "coarsen.transfer.transfer",
        "unit_graph": "graph.graph",
        "UnitGraph": "graph.graph",
        "UnitSpec": "tracing.unit_spec",
        "verify": "coarsen.network.oracles",
    },
    packages=("affinity", "coarsen", "fas", "io", "models", "viz"),
)
