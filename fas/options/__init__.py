"""Options of the solver: their declarations, the groups, all groups together, and options as text."""
