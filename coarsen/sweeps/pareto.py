"""The Pareto set: the points that no other point is at least as good as in both respects, and better in one."""

from __future__ import annotations

from collections.abc import Sequence


def find_pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point (cost, loss) whether no other point dominates it. Smaller is better for both.

    Equal points are in the set together. The work is that of sorting.

    Parameters
    ----------
    points : sequence of (float, float)
        Finite numbers.

    Examples
    --------
    >>> from netgraph.coarsen.sweeps.pareto import find_pareto
    >>> find_pareto([(1, 5), (2, 3), (2, 4), (3, 3), (2, 3)])
    [True, True, False, False, True]
    """
    optimal, best, last = [False] * len(points), float("inf"), None
    for i in sorted(range(len(points)), key=points.__getitem__):
        if points[i] == last or points[i][1] < best:
            optimal[i], best, last = True, points[i][1], points[i]
    return optimal
