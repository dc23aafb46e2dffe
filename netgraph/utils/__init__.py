"""Helpers that know nothing of units."""
