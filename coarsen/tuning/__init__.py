"""Training of a small network towards labels and towards the network that it came from."""
