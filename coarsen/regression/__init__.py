"""Ridge regression in bounded memory."""
