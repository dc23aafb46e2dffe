"""Operators that a recording or a run treats in a way of its own."""
