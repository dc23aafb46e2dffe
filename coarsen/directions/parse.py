"""Directions of coarsening: channels (units of every kind), space (the input's resolution) and depth (residual blocks).

``"channels+space,depth"`` has two steps: from level 0 to 1 units merge and the resolution halves, from level 1 to 2 blocks merge.
The last step repeats where there are more levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from netgraph.errors import NetgraphError

DIRECTIONS = ("channels", "space", "depth")
Directions = tuple[frozenset[str], ...]


def parse_directions(asked: str | Sequence[str], n_levels: int) -> Directions:
    """Return the directions of each step from one level to the next.

    Parameters
    ----------
    asked : str, or sequence of str
        ``"channels+space,depth"``, or one string for each step.
    n_levels : int
        Levels in all.

    Raises
    ------
    NetgraphError
        A direction that there is not, or more steps than the levels have between them.
    """
    texts = asked.split(",") if isinstance(asked, str) else list(asked)
    steps = [frozenset(word.strip() for word in text.split("+")) for text in texts]
    unknown = sorted(word for step in steps for word in step if word not in DIRECTIONS)
    if unknown or not steps:
        raise NetgraphError(
            f"no direction of coarsening is called {(unknown or [''])[0]!r}; there are {', '.join(DIRECTIONS)}, joined by + "
            "within a level and by commas from level to level"
        )
    if len(steps) > n_levels - 1:
        raise NetgraphError(
            f"{asked!r} names {len(steps)} steps, and {n_levels} levels have {n_levels - 1} between them; ask for "
            f"{len(steps) + 1} levels, or join directions by + to take them in one step"
        )
    return (*steps, *[steps[-1]] * (n_levels - 1 - len(steps)))
