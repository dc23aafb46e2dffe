"""Open networks and files without running anyone's code."""
