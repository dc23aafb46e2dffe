"""Commands that make a trained network smaller and judge the result."""
