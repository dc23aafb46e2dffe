"""Repair of the function after merging."""
