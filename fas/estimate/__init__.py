"""The gradient of a step from several levels: the coarse gradient of many samples, and differences of levels on few."""
