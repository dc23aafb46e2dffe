"""Directions of coarsening: channels, space and depth.

Channels are units of every kind, space is the resolution of the input, and depth is the number of residual blocks.
``"channels+space,depth"`` has two steps. From level 0 to 1 units merge and the resolution halves. From level 1 to 2 blocks
merge. If there are more levels than steps, the last step repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

from netgraph.errors import NetgraphError
from netgraph.utils.choices import DIRECTIONS
from netgraph.utils.text import LONGEST_LITERAL

MOST_LEVELS = 1000  # each is a network of its own, with fewer units than the one before
Directions = tuple[frozenset[str], ...]


def parse_directions(asked: str | Sequence[str], n_levels: int) -> Directions:
    """Return the directions of each step from one level to the next.

    Parameters
    ----------
    asked : str, or sequence of str
        ``"channels+space,depth"``, or one string for each step.
    n_levels : int
        Number of levels, the given network included.

    Returns
    -------
    tuple of frozenset of str
        One set of directions for each of the ``n_levels - 1`` steps.

    Raises
    ------
    NetgraphError
        A direction is unknown, or there are more steps than ``n_levels`` allow, or more levels than `MOST_LEVELS`.
    """
    if n_levels > MOST_LEVELS:
        raise NetgraphError(f"n_levels (--levels) is {n_levels:,}. Give at most {MOST_LEVELS:,}.")
    texts = asked.split(",", MOST_LEVELS) if isinstance(asked, str) else list(asked)
    if len(texts) > MOST_LEVELS or len(str(asked)) > LONGEST_LITERAL:
        raise NetgraphError(
            f"{str(asked)[:60]!r}... names too many directions. Give at most one for each step between levels."
        )
    steps = [frozenset(word.strip() for word in text.split("+")) for text in texts]
    unknown = sorted(word for step in steps for word in step if word not in DIRECTIONS)
    if unknown or not steps:
        raise NetgraphError(
            f"no direction of coarsening is called {(unknown or [''])[0]!r}. Directions are {', '.join(DIRECTIONS)}. Join "
            "them by + within a step and by commas from step to step."
        )
    if len(steps) > n_levels - 1:
        raise NetgraphError(
            f"{asked!r} names {len(steps)} steps, but {n_levels} levels have only {n_levels - 1}. Ask for "
            f"{len(steps) + 1} levels, or join directions by + to take them in one step."
        )
    return (*steps, *[steps[-1]] * (n_levels - 1 - len(steps)))
