"""The defaults of a compression, each written once: `netgraph.compress` and the command line read them here.

Nothing here imports PyTorch, because ``netgraph --help`` reads these values.
"""

from __future__ import annotations

from netgraph.coarsen.hierarchy.options import CoarsenOptions

DEFAULTS = CoarsenOptions(coarsener="ward", repair="ridge")
TARGET = "flops=0.5"
LATENCY_BATCH = 32  # rows of the input, for the target latency
