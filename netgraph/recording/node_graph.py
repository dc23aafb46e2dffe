"""An fx.Graph that is fast to write, because no Python code is ever generated from it.

`torch.fx.Graph.create_node` searches every argument for symbolic numbers and every name for words that Python forbids. These
checks take most of the time of a recording on meta tensors, and such graphs need neither.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx


def name_constant(number: int | str, taken: Collection[str]) -> str:
    """Return a name for a constant of a recording, which no parameter or buffer has."""
    name = f"constants.{number}"
    while name in taken:  # a recorded network that is recorded again, or a network with a module of this name
        name += "_"
    return name


def is_constant(node: fx.Node) -> bool:
    """Return True if a node reads a tensor that comes from no parameter, buffer or input."""
    return bool(node.meta.get("constant", False))


class NodeGraph(fx.Graph):
    """A graph that names its nodes by target and number."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}
        self._bases: dict[Any, str] = {}
        self.counts_kinds = False  # whether the run made a plain number of a count that other numbers may change
        self.assumed: list[str] = []  # places where the run asked whether a mask of activations holds anywhere

    def create_node(
        self, op: str, target: Any, args: Any = None, kwargs: Any = None, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Insert a node at the current place of the graph."""
        node = fx.Node(self, self._make_name(name or target), op, target, args or (), kwargs or {}, type_expr)
        self._insert(node)
        self._find_nodes_lookup_table.insert(node)
        self._len += 1
        return node

    def _make_name(self, target: Any) -> str:
        """Return an unused name. Every name ends in a number that is unique among names with the same base."""
        base = self._bases.get(target)
        if base is None:
            word = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            base = self._bases[target] = word.replace(".", "_").rstrip("0123456789_") or "node"
        number = self._counts[base] = self._counts.get(base, -1) + 1
        return f"{base}_{number}"
