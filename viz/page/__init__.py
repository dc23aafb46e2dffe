"""The HTML page of a hierarchy."""
