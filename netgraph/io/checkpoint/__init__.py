"""The weights in a checkpoint: which ones they are, and how their names fit a network."""
