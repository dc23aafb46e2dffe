"""Checkpoints of a run, written and resumed."""
