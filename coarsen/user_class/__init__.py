"""A level in the user's own class."""
