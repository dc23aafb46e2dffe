"""A graph of nodes that is quick to write: no code will be made from it, so names need no care and arguments no search.

`torch.fx.Graph.create_node` looks for symbolic numbers in every argument and for names that Python allows; that is most of
what a recording on shapes costs, and plain graphs hold neither.
"""

from __future__ import annotations

from typing import Any

from torch import fx


class NodeGraph(fx.Graph):
    """A graph whose nodes are named by their targets and numbered."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}
        self._bases: dict[Any, str] = {}

    def create_node(
        self, op: str, target: Any, args: Any = None, kwargs: Any = None, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Add a node at the place where the graph is written."""
        node = fx.Node(self, self._make_name(name or target), op, target, args or (), kwargs or {}, type_expr)
        self._insert(node)
        self._find_nodes_lookup_table.insert(node)
        self._len += 1
        return node

    def _make_name(self, target: Any) -> str:
        """Return a name that no other node has: all end in a number, and only those of one base share it."""
        base = self._bases.get(target)
        if base is None:
            word = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            base = self._bases[target] = word.replace(".", "_").rstrip("0123456789_") or "node"
        number = self._counts[base] = self._counts.get(base, -1) + 1
        return f"{base}_{number}"
