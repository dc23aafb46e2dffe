"""All other coarseners (plug-in group ``netgraph.coarseners``)."""
