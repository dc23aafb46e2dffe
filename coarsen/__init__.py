"""GRAPH to HIERARCHY: ways to merge units, transfers between levels, and the smaller networks."""
