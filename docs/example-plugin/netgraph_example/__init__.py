"""A coarsener, an affinity, a rule and an exporter for netgraph, one in each module."""
