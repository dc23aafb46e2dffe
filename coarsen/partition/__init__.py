"""The contract of a coarsener, measures of a partition, and functions that coarseners share."""
