"""Rules: the effect of each ATen operator on axes, one small function for each operator.

A rule takes a `netgraph.rules.operator_call.Call`. It states which spaces are the same, pinned or summed over, and which
arguments hold sizes. It returns the spaces of the result: a list of spaces, or a list of such lists for several tensors.
Every module of a family has a table ``RULES`` from operator names to rules. The entry-point group ``netgraph.rules`` lists
these tables and those of plug-ins.

The public names, which load on first use, are those that a rule of your own needs.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.rules.operator_call import Call as Call
    from netgraph.rules.operator_call import Rule as Rule
    from netgraph.rules.operator_call import Spaces as Spaces
    from netgraph.rules.registry import add_rules as add_rules
    from netgraph.rules.registry import find_rule as find_rule
    from netgraph.rules.registry import load_rules as load_rules
    from netgraph.rules.registry import use_rules as use_rules

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "Call": "operator_call",
        "Rule": "operator_call",
        "Spaces": "operator_call",
        "add_rules": "registry",
        "find_rule": "registry",
        "load_rules": "registry",
        "use_rules": "registry",
    },
)
