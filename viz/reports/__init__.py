"""Reports of training runs and of compressions."""
