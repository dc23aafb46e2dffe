"""Directions of coarsening: channels, space and depth."""
