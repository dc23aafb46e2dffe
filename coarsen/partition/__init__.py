"""The contract of a coarsener, and machinery that coarseners share."""
