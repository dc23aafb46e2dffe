"""The mathematics between two levels."""
