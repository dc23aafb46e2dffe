"""Cycles as lists of visits, in the letters of the full approximation scheme::

    fine      grad f(x) = b
    coarse    grad f_c(y) = b_c,   b_c = grad f_c(inject x) + restrict(b - grad f(x))
    then      x <- x + s prolong(y - inject x)

Brandt, "Multi-level adaptive solutions to boundary-value problems", Math. Comp. 31, 1977, section 5; Briggs, Henson,
McCormick, "A multigrid tutorial", 2000, chapter 6. The recursion is unrolled before work begins: a place in the
list is a place in the cycle, which is what a checkpoint in the middle of one needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from netgraph.errors import NetgraphError
from netgraph.fas.options import CYCLES, Smoothing


class Visit(NamedTuple):
    """One thing to do on one level.

    Parameters
    ----------
    kind : str
        ``smooth``: steps of the optimizer; ``down``: form b_c from this level's x, and leave it; ``up``: correct this
        level's x; ``start``: begin this level with the coarser one's solution; ``end``: a cycle is over.
    level : int
    steps : int
        Of smoothing.
    """

    kind: str
    level: int
    steps: int = 0


Smoothings = Callable[[int], Smoothing]


def multiplicative_cycle(level: int, coarsest: int, smoothing: Smoothings, gamma: int) -> Iterator[Visit]:
    """Yield a V-cycle (gamma = 1) or a W-cycle (gamma = 2) from a level down; a level may have its own gamma, ``cycles``."""
    if level == coarsest:
        yield Visit("smooth", level, smoothing(level).coarse)
        return
    yield Visit("smooth", level, smoothing(level).pre)
    yield Visit("down", level)
    for _ in range((smoothing(level + 1).cycles or gamma) if level + 1 < coarsest else 1):
        yield from multiplicative_cycle(level + 1, coarsest, smoothing, gamma)
    yield Visit("up", level)
    yield Visit("smooth", level, smoothing(level).post)


def f_cycle(level: int, coarsest: int, smoothing: Smoothings) -> Iterator[Visit]:
    """Yield an F-cycle: on the next level an F-cycle, then a V-cycle, or as many as make its ``cycles``."""
    if level == coarsest:
        yield Visit("smooth", level, smoothing(level).coarse)
        return
    yield Visit("smooth", level, smoothing(level).pre)
    yield Visit("down", level)
    yield from f_cycle(level + 1, coarsest, smoothing)
    for _ in range((smoothing(level + 1).cycles or 2) - 1 if level + 1 < coarsest else 0):
        yield from multiplicative_cycle(level + 1, coarsest, smoothing, 1)
    yield Visit("up", level)
    yield Visit("smooth", level, smoothing(level).post)


def additive_cycle(level: int, coarsest: int, smoothing: Smoothings) -> Iterator[Visit]:
    """Yield an additive cycle: smoothing and the coarse correction start from the same x, and both are added."""
    if level == coarsest:
        yield Visit("smooth", level, smoothing(level).coarse)
        return
    yield Visit("down", level)
    yield from additive_cycle(level + 1, coarsest, smoothing)
    yield Visit("smooth", level, smoothing(level).pre + smoothing(level).post)
    yield Visit("up", level)


def build_cycle(kind: str, level: int, coarsest: int, smoothing: Smoothings) -> list[Visit]:
    """Return one cycle of a kind from a level down, its end marked."""
    if kind == "f":
        visits = f_cycle(level, coarsest, smoothing)
    elif kind == "additive":
        visits = additive_cycle(level, coarsest, smoothing)
    else:
        visits = multiplicative_cycle(level, coarsest, smoothing, 2 if kind == "w" else 1)
    return [*visits, Visit("end", level)]


def plan_cycles(kind: str, n_levels: int, cycles: int, smoothing: Smoothings) -> list[Visit]:
    """Return the visits of so many cycles; for ``full`` so many V-cycles on every level, the coarsest smoothed once.

    Raises
    ------
    NetgraphError
        No cycle has that name, or it does not go round.
    """
    _check_cycle_name(kind)
    if kind == "kaskade":
        raise NetgraphError("kaskade goes once from the coarsest level up and has no cycles; give epochs")
    coarsest = n_levels - 1
    if kind != "full":
        return build_cycle(kind, 0, coarsest, smoothing) * cycles
    visits = build_cycle("v", coarsest, coarsest, smoothing)
    for level in reversed(range(coarsest)):
        visits += [Visit("start", level), *build_cycle("v", level, coarsest, smoothing) * cycles]
    return visits


def plan_steps(kind: str, n_levels: int, steps: int, smoothing: Smoothings, share: tuple[float, ...]) -> list[Visit]:
    """Return the visits of so many steps.

    Parameters
    ----------
    kind : str
        ``v``, ``w``, ``f`` and ``additive`` go round from the finest level; ``kaskade`` smooths each level in turn from the
        coarsest up (Bornemann, Deuflhard, Numer. Math. 75, 1996); ``full`` does so with V-cycles on every level but
        the coarsest.
    n_levels : int
    steps : int
        Steps of the optimizer in all, on whatever level.
    smoothing : callable level -> Smoothing
    share : tuple of float
        For ``full`` and ``kaskade`` the share of the steps that belongs to each level's turn, finest first.

    Raises
    ------
    NetgraphError
        No cycle has that name, or a cycle would take no step.
    """
    _check_cycle_name(kind)
    coarsest = n_levels - 1
    if kind not in ("full", "kaskade"):
        return repeat_cycle(build_cycle(kind, 0, coarsest, smoothing), steps)
    visits: list[Visit] = []
    for level, own in reversed(list(enumerate(split_steps(steps, share, n_levels)))):
        if level < coarsest:
            visits.append(Visit("start", level))
        alone = kind == "kaskade" or level == coarsest
        visits += (
            [Visit("smooth", level, own), Visit("end", level)]
            if alone
            else repeat_cycle(build_cycle("v", level, coarsest, smoothing), own)
        )
    return visits


def _check_cycle_name(kind: str) -> None:
    if kind not in CYCLES:
        raise NetgraphError(f"no cycle is called {kind!r}; there are {', '.join(CYCLES)}")


def repeat_cycle(cycle: list[Visit], steps: int) -> list[Visit]:
    """Return a cycle again and again until ``steps`` steps are taken; what is left lengthens the first smoothing of them all."""
    length = sum(visit.steps for visit in cycle)
    if length == 0 and steps:
        raise NetgraphError("a cycle without pre-, post- and coarse smoothing takes no step; set one of them above 0")
    n = steps // length if length else 0
    rest, level = steps - n * length, cycle[-1].level
    if not n:
        return [Visit("smooth", level, rest), cycle[-1]] if rest else []
    first = next(i for i, visit in enumerate(cycle) if visit.kind == "smooth" and visit.level == level)
    more = [rest * (i + 1) // n - rest * i // n for i in range(n)]
    return [
        visit._replace(steps=visit.steps + more[i]) if j == first else visit
        for i in range(n)
        for j, visit in enumerate(cycle)
    ]


def split_steps(steps: int, share: tuple[float, ...], n_levels: int) -> list[int]:
    """Return whole numbers of steps by level, finest first, that add up.

    Raises
    ------
    NetgraphError
        There is not one share for each level, or one is negative.
    """
    if len(share) != n_levels or min(share) < 0 or sum(share) <= 0:
        raise NetgraphError(
            f"the shares {share} are not those of {n_levels} levels; give one for each, finest first, none negative"
        )
    edges = [round(steps * sum(share[: i + 1]) / sum(share)) for i in range(n_levels)]
    return [b - a for a, b in zip([0, *edges], edges, strict=False)]
