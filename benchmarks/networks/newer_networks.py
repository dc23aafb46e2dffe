"""Networks on no list before: families in turn, so that a part of the list has some of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from networks import BuiltNetwork
from newer_builders import written_networks
from newer_packages import newer_package_networks
from newer_transformers import newer_transformers_networks
from torch import Tensor
from torch.utils import _pytree as pytree

Make = Callable[[], BuiltNetwork]


def newer_networks() -> Iterator[tuple[str, Make]]:
    """Yield networks of each package in turn."""
    families: dict[str, list[tuple[str, Make]]] = {}
    for networks in (newer_transformers_networks(), written_networks(), newer_package_networks()):
        for name, make in networks:
            families.setdefault(name.partition(":")[0], []).append((name, make))
    longest = max(map(len, families.values()))
    for turn in range(longest):
        for family in families.values():
            first, last = turn * len(family) // longest, (turn + 1) * len(family) // longest
            yield from family[first:last]


def draw_other_batch(example: Any) -> Any:
    """Return an example with one row more, and a graph with one node and two edges more. None if the first sizes differ."""
    leaves = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    if not leaves or any(leaf.ndim == 0 for leaf in leaves):
        return None
    if _is_graph(leaves):
        grown = iter(_grow_graph(*leaves))
    elif len({leaf.shape[0] for leaf in leaves}) == 1:
        grown = iter([_scale(torch.cat([leaf, leaf[:1]]).flip(0)) for leaf in leaves])
    else:
        return None
    return pytree.tree_map(lambda leaf: next(grown) if isinstance(leaf, Tensor) else leaf, example)


def _scale(numbers: Tensor) -> Tensor:
    """Return other numbers, or the same ones of a mask or of integers."""
    return numbers * 0.9 if numbers.is_floating_point() and numbers.unique().numel() > 2 else numbers


def _is_graph(leaves: list[Tensor]) -> bool:
    """Return True for features of nodes and a list of edges."""
    return (
        len(leaves) > 1
        and leaves[1].ndim == 2
        and len(leaves[1]) == 2 != len(leaves[0])
        and not leaves[1].is_floating_point()
    )


def _grow_graph(nodes: Tensor, edges: Tensor, *features: Tensor) -> list[Tensor]:
    """Return a graph with one node more, that two edges join to the first and the last one."""
    n, grown = nodes.shape[0], [torch.cat([nodes, nodes[:1] / 2]).flip(0)]
    grown.append(torch.cat([edges, torch.tensor([[0, n], [n, n - 1]])], 1))
    for feature in features:
        more = {n: feature[-1:], edges.shape[1]: feature[:2]}.get(feature.shape[0])
        grown.append(feature if more is None else torch.cat([feature, more]))
    return grown
