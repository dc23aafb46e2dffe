"""Heavy-edge matching and its kernels."""
