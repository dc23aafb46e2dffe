"""Blocks that a coarse network lacks: new numbers for those that stay, and the numbers of a config that count blocks.

A level of merged blocks keeps the names of the finest network: of layers 0, 1, 2, 3 there are 0 and 2. A class builds its layers by
counting, so that they become 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from netgraph.coarsen.hierarchy.level import Level
from netgraph.errors import OwnClassError

T = TypeVar("T")
COUNTS = re.compile(r"layer|depth|block|stage|types$|pattern$")  # entries of a config that count or list blocks


@dataclass(frozen=True)
class BlockChange:
    """The blocks that stay.

    Parameters
    ----------
    kept : dict of str to tuple of int
        For each list of blocks, by the path of its module, the old numbers of those that stay.
    counts : dict of str to int
        For each list the number of its blocks before.
    """

    kept: Mapping[str, tuple[int, ...]]
    counts: Mapping[str, int]

    def rename(self, name: str) -> str:
        """Return the name of a parameter or buffer with the new numbers of its blocks."""
        parts = name.split(".")
        path = ""
        for i, part in enumerate(parts):
            if path in self.kept and part.isdigit() and int(part) in self.kept[path]:
                parts[i] = str(self.kept[path].index(int(part)))
            path = f"{path}.{part}" if path else part
        return ".".join(parts)

    def rename_all(self, state: Mapping[str, T]) -> dict[str, T]:
        """Return a dict with new names."""
        return {self.rename(name): value for name, value in state.items()}

    def list_options(self, name: str, value: Any) -> list[Any]:
        """Return what an entry of a config may be for fewer blocks, without the value itself."""
        if not COUNTS.search(name):
            return []
        options = [option for path in self.kept for option in self._change_entry(path, value)]
        if type(value) in (list, tuple) and all(type(n) is int for n in value):
            options.append(type(value)(self._count_stage(i, n) for i, n in enumerate(value)))
        return [option for i, option in enumerate(options) if option != value and option not in options[:i]]

    def _change_entry(self, path: str, value: Any) -> list[Any]:
        """Return the entry for one list of blocks: its number, or what is said of each block."""
        kept, count = self.kept[path], self.counts[path]
        if type(value) is int:
            return [len(kept)] if value == count else []
        if type(value) in (list, tuple) and len(value) == count:
            return [type(value)(value[i] for i in kept)]
        return []

    def _count_stage(self, stage: int, count: int) -> int:
        """Return the number of blocks of a stage, where a config lists one for each."""
        paths = [path for path in self.kept if _find_stage(path) == stage and self.counts[path] == count]
        return len(self.kept[paths[0]]) if len(paths) == 1 else count

    def drop_blocks(self, network: nn.Module) -> None:
        """Drop the blocks of a network that do not stay, and number the others anew.

        Raises
        ------
        OwnClassError
            A list of blocks is no list of modules.
        """
        for path in sorted(self.kept, key=len, reverse=True):  # inner lists first, by their old paths
            blocks = network.get_submodule(path)
            if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
                raise OwnClassError(f"{path} is a {type(blocks).__name__}, of which single blocks cannot be taken out")
            stay = [blocks[i] for i in self.kept[path]]
            blocks._modules = {str(i): block for i, block in enumerate(stay)}


def find_block_change(network: nn.Module, levels: Sequence[Level]) -> BlockChange:
    """Return the blocks that stay from the finest network to the last of several levels.

    Raises
    ------
    OwnClassError
        Blocks that merged have no numbers.
    """
    dropped: dict[str, set[int]] = {}
    for block in (block for level in levels for step in level.chains for block in step.dropped):
        path, _, number = block.rpartition(".")
        if not number.isdigit():
            raise OwnClassError(f"its block {block} has a name and no number, so that a class cannot count one less")
        dropped.setdefault(path, set()).add(int(number))
    counts = {path: len(list(network.get_submodule(path).children())) for path in dropped}
    kept = {path: tuple(i for i in range(counts[path]) if i not in gone) for path, gone in dropped.items()}
    return BlockChange(kept, counts)


def _find_stage(path: str) -> int | None:
    """Return the number in the path of a list of blocks, such as 2 in ``layers.2.blocks``."""
    numbers = [int(part) for part in path.split(".") if part.isdigit()]
    return numbers[-1] if numbers else None
