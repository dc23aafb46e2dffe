"""Recording and rules give the axes of a network: its UnitSpec."""
