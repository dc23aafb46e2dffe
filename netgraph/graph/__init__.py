"""The weighted graph of units."""
