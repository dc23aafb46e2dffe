"""Training of a compressed network: its losses against the original, and rounds of merging and training."""
