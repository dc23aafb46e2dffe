"""Tracing: a recording and the rules of its operators give the axes of a network, its `UnitSpec`.

Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.tracing.layers import Layer as Layer
    from netgraph.tracing.layers import find_layers as find_layers
    from netgraph.tracing.tracer import trace as trace
    from netgraph.tracing.unit_spec import Axis as Axis
    from netgraph.tracing.unit_spec import UnitSpec as UnitSpec

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "Axis": "unit_spec",
        "Layer": "layers",
        "UnitSpec": "unit_spec",
        "find_layers": "layers",
        "trace": "tracer",
    },
)
