"""Sparse transfers P and R, and the maps of whole networks between levels."""
