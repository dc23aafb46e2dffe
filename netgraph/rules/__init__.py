"""What each ATen operator does to axes: one small rule an operator, in families.

A rule takes a `netgraph.rules.operator_call.Call`, says which spaces are the same, kept or summed, and which arguments hold
sizes, and returns the spaces of the result: a list of spaces, or a list of such lists for several tensors.
Each family module has a table ``RULES`` from operator name to rule; the entry-point group ``netgraph.rules``
lists the tables, ours and everyone's.
"""
