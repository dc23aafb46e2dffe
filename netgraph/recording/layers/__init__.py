"""The layers of a recorded network: found in its graph, built as modules of PyTorch, called by its steps."""
