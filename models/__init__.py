"""NETWORKS AND DATA TO TRY; imports torch only."""
