"""Structure that a recorded graph shows: attention heads, residual chains."""
