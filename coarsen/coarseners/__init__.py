"""Coarseners besides heavy-edge matching (plug-in group ``netgraph.coarseners``)."""
