"""Output on the terminal, and the files that a run leaves."""
