"""HIERARCHY -> TRAINED NETWORK: the full approximation scheme, a nonlinear multigrid method, on levels of a network."""
