"""Layers with a weight for each kind of edge are recorded as one product for each kind, whatever is the fastest way for the example.

A library may look at how many edges of each kind there are, only to choose between two ways with one answer. The recording
would hold for graphs with exactly these counts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

REGISTRY, SETTING = "torch_geometric.backend", "use_segment_matmul"


@contextlib.contextmanager
def separate_products() -> Iterator[None]:
    """Turn the choice of a way by counts off in a block, where a library makes it. A setting of one's own stays."""
    registry = sys.modules.get(REGISTRY)
    if registry is None or getattr(registry, SETTING, False) is not None:
        yield
        return
    setattr(registry, SETTING, False)
    try:
        yield
    finally:
        setattr(registry, SETTING, None)
