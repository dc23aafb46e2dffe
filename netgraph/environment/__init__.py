"""Differences between installations: the version of PyTorch, optional packages, and where compiled kernels may be kept."""
