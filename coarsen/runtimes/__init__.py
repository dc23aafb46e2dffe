"""A network as a file that a runtime runs: ONNX, an exported program of PyTorch, ExecuTorch, OpenVINO."""
