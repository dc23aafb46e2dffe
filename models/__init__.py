"""NETWORKS, DATA AND TRAINING TO TRY; knows nothing of units, only how netgraph says an error and opens a file safely."""
