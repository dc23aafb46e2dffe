"""How alike two units are (plug-in group ``netgraph.affinities``)."""
