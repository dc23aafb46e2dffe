"""The coarse network, and the oracles that judge it."""
