"""Open networks and files without running code that comes with them.

Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.io.bundle import read_bundle as read_bundle
    from netgraph.io.bundle import write_bundle as write_bundle
    from netgraph.io.example_inputs import guess_input as guess_input
    from netgraph.io.example_inputs import parse_inputs as parse_inputs
    from netgraph.io.load import load_model as load_model
    from netgraph.io.pickle_scan import scan_pickle as scan_pickle
    from netgraph.io.state_dict import fill_network as fill_network
    from netgraph.io.state_dict import find_state_dict as find_state_dict

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "fill_network": "state_dict",
        "find_state_dict": "state_dict",
        "guess_input": "example_inputs",
        "load_model": "load",
        "parse_inputs": "example_inputs",
        "read_bundle": "bundle",
        "scan_pickle": "pickle_scan",
        "write_bundle": "bundle",
    },
)
