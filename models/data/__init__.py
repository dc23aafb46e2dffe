"""Data sets, minibatches and calibration inputs."""
