"""Optimizers and learning-rate schedules by name, for the solver, plain training and the command line."""
