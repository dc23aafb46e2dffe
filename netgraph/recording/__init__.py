"""A network as a graph of ATen operators: recorded, written as data, run."""
