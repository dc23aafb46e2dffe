"""Files for other tools (plug-in group ``netgraph.exporters``)."""
