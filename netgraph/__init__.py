"""netgraph turns a network into a graph of its units and merges units by graph coarsening."""

__version__ = "0.1.0"
