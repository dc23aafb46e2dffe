"""Hierarchies of levels: building, reporting, saving."""
