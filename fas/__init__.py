"""HIERARCHY to TRAINED NETWORK: the full approximation scheme. Nothing is here yet; see CHANGELOG.md."""
