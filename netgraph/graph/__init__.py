"""The weighted graph of the units of a network, and the features that affinities compare.

Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.graph.axis_units import AxisUnits as AxisUnits
    from netgraph.graph.axis_units import unit_features as unit_features
    from netgraph.graph.graph import UnitGraph as UnitGraph
    from netgraph.graph.graph import contract as contract
    from netgraph.graph.graph import unit_graph as unit_graph

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "AxisUnits": "axis_units",
        "UnitGraph": "graph",
        "contract": "graph",
        "unit_features": "axis_units",
        "unit_graph": "graph",
    },
)
