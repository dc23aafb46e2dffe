"""Directions, levels and shares of the cost for a training run, chosen by short probes within a budget of time."""
