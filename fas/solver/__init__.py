"""One run of the solver."""
