"""Heavy-edge matching, its kernels, and the graph of one axis."""
