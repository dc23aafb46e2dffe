"""Cycles as lists of visits, in the letters of the full approximation scheme::

    smooth    x <- steps of the optimizer on f(x) - <b, x>
    down      b_c = grad f_c(inject x) + restrict(b - grad f(x)),   y = inject x
    up        x <- x + s prolong(y - inject x)
    start     x <- prolong(y)

x and f belong to a level, y and f_c to the next coarser one. Level 0 is the finest.

A V-cycle is defined by recursion: smooth a level, go down, do a V-cycle on the next level, come up, smooth again. On the
coarsest level it only smooths. `multiplicative_cycle` yields these visits in order, and `build_cycle` writes them to a list
before work begins. A position in the list is a position in the cycle, which is all that a checkpoint in its middle needs.
`format_visits` draws a list on one line.

Brandt, "Multi-level adaptive solutions to boundary-value problems", Math. Comp. 31, 1977, section 5. Briggs, Henson,
McCormick, "A multigrid tutorial", 2000, chapter 6.

Examples
--------
Three levels, one step before and after each coarse step, two steps on the coarsest level. A number is a level, the steps on it
follow after the colon.

>>> from netgraph.fas.options.groups import Smoothing
>>> def smoothing(level):
...     return Smoothing(pre=1, post=1, coarse=2)
>>> print(format_visits(build_cycle("v", 0, 2, smoothing)))
0:1 ↘ 1:1 ↘ 2:2 ↗ 1:1 ↗ 0:1 |
>>> print(format_visits(build_cycle("w", 0, 2, smoothing)))
0:1 ↘ 1:1 ↘ 2:2 ↗ 1:1 1:1 ↘ 2:2 ↗ 1:1 ↗ 0:1 |
>>> print(format_visits(build_cycle("f", 0, 2, smoothing)))
0:1 ↘ 1:1 ↘ 2:2 ↗ 1:1 1:1 ↘ 2:2 ↗ 1:1 ↗ 0:1 |
>>> print(format_visits(plan_cycles("full", 3, 1, smoothing)))
2:2 | ⇑ 1:1 ↘ 2:2 ↗ 1:1 | ⇑ 0:1 ↘ 1:1 ↘ 2:2 ↗ 1:1 ↗ 0:1 |

W and F differ from four levels on: on level 2 W has four cycles, F three.

>>> [[v[:2] for v in build_cycle(kind, 0, 3, smoothing)].count(("down", 2)) for kind in "vwf"]
[1, 4, 3]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from netgraph.errors import NetgraphError
from netgraph.fas.options.groups import Smoothing
from netgraph.utils.choices import CYCLES, NESTED


class Visit(NamedTuple):
    """One thing to do on one level.

    Parameters
    ----------
    kind : str
        ``smooth``: take steps of the optimizer. ``down``: form b_c from x of this level, and go to the coarser one. ``up``:
        correct x of this level. ``start``: begin this level with the solution of the coarser one. ``end``: the cycle is over.
    level : int
    steps : int, default 0
        Optimizer steps of a ``smooth``.
    """

    kind: str
    level: int
    steps: int = 0


SmoothingOf = Callable[[int], Smoothing]  # the number of steps on each level


# One cycle


def multiplicative_cycle(level: int, coarsest: int, smoothing: SmoothingOf, gamma: int) -> Iterator[Visit]:
    """Yield a V-cycle (gamma = 1) or a W-cycle (gamma = 2) from a level down.

    The next level has gamma cycles, or its own number ``cycles`` if that is set. The coarsest level is smoothed once.
    """
    if level == coarsest:
        yield Visit("smooth", level, smoothing(level).coarse)
        return
    yield Visit("smooth", level, smoothing(level).pre)
    yield Visit("down", level)
    for _ in range((smoothing(level + 1).cycles or gamma) if level + 1 < coarsest else 1):
        yield from multiplicative_cycle(level + 1, coarsest, smoothing, gamma)
    yield Visit("up", level)
    yield Visit("smooth", level, smoothing(level).post)


def f_cycle(level: int, coarsest: int, smoothing: SmoothingOf) -> Iterator[Visit]:
    """Yield an F-cycle: on the next level an F-cycle and then a V-cycle, or ``cycles`` less one V-cycles."""
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


def additive_cycle(level: int, coarsest: int, smoothing: SmoothingOf) -> Iterator[Visit]:
    """Yield an additive cycle: smoothing and coarse correction start from the same x, and both are added."""
    if level == coarsest:
        yield Visit("smooth", level, smoothing(level).coarse)
        return
    yield Visit("down", level)
    yield from additive_cycle(level + 1, coarsest, smoothing)
    yield Visit("smooth", level, smoothing(level).pre + smoothing(level).post)
    yield Visit("up", level)


def build_cycle(kind: str, level: int, coarsest: int, smoothing: SmoothingOf) -> list[Visit]:
    """Return one cycle from a level down, with its end marked. ``kind`` is ``v``, ``w``, ``f`` or ``additive``."""
    if kind == "f":
        visits = f_cycle(level, coarsest, smoothing)
    elif kind == "additive":
        visits = additive_cycle(level, coarsest, smoothing)
    else:
        visits = multiplicative_cycle(level, coarsest, smoothing, 2 if kind == "w" else 1)
    return [*visits, Visit("end", level)]


# All visits of a run, for a number of cycles or a number of steps


def plan_cycles(kind: str, n_levels: int, cycles: int, smoothing: SmoothingOf) -> list[Visit]:
    """Return the visits of a number of cycles.

    Parameters
    ----------
    kind : str
        ``v``, ``w``, ``f`` or ``additive`` repeat from the finest level. ``full`` smooths the coarsest level once, and then
        starts each finer level with V-cycles on it.
    n_levels : int
    cycles : int
        Number of cycles, for ``full`` on every level but the coarsest.
    smoothing : callable level -> Smoothing

    Raises
    ------
    NetgraphError
        No cycle has that name, or it is ``kaskade``, which does not repeat.
    """
    _check_cycle_name(kind)
    if kind == "kaskade":
        raise NetgraphError("kaskade goes once from the coarsest level to the finest and has no cycles. Give epochs.")
    coarsest = n_levels - 1
    if kind != "full":
        return build_cycle(kind, 0, coarsest, smoothing) * cycles
    visits = build_cycle("v", coarsest, coarsest, smoothing)
    for level in reversed(range(coarsest)):
        visits += [Visit("start", level), *build_cycle("v", level, coarsest, smoothing) * cycles]
    return visits


def plan_steps(kind: str, n_levels: int, steps: int, smoothing: SmoothingOf, share: tuple[float, ...]) -> list[Visit]:
    """Return the visits of a number of optimizer steps.

    Parameters
    ----------
    kind : str
        ``v``, ``w``, ``f`` and ``additive`` repeat from the finest level. ``kaskade`` smooths each level in turn, from the
        coarsest to the finest (Bornemann, Deuflhard, Numer. Math. 75, 1996). ``full`` does the same with V-cycles on every
        level but the coarsest.
    n_levels : int
    steps : int
        Steps of the optimizer on all levels together.
    smoothing : callable level -> Smoothing
    share : tuple of float
        For ``full`` and ``kaskade`` the share of the steps that each level's turn has, finest first. The run begins on the coarsest
        level that has a share. Coarser ones do not start it.

    Raises
    ------
    NetgraphError
        No cycle has that name, a cycle would take no step, or the shares do not fit the levels.
    """
    _check_cycle_name(kind)
    coarsest = n_levels - 1
    if kind not in NESTED:
        return repeat_cycle(build_cycle(kind, 0, coarsest, smoothing), steps)
    visits: list[Visit] = []
    steps_of = split_steps(steps, share, n_levels)
    first = max(level for level, part in enumerate(share) if part > 0)
    for level, level_steps in reversed(list(enumerate(steps_of[: first + 1]))):
        if level < first:
            visits.append(Visit("start", level))
        if kind == "kaskade" or level == coarsest:
            visits += [Visit("smooth", level, level_steps), Visit("end", level)]
        else:
            visits += repeat_cycle(build_cycle("v", level, coarsest, smoothing), level_steps)
    return visits


def count_steps_on_finest(visits: Sequence[Visit]) -> int:
    """Return the steps from the start of the finest level on, those of its cycles' coarse levels included."""
    started = max((i for i, visit in enumerate(visits) if visit.kind == "start"), default=0)
    return sum(visit.steps for visit in visits[started:])


def leave_visit(visits: Sequence[Visit], at: int, done: int, flops: Sequence[float], spent: float = 0.0) -> list[Visit]:
    """Return the visits of nested iteration whose smoothing at one position ends after some steps.

    The operations of the steps that are left over go to the next finer level, less those that were spent otherwise.

    Parameters
    ----------
    visits : sequence of Visit
    at : int
        Position of the smoothing that ends.
    done : int
        Steps that it has taken.
    flops : sequence of float
        Operations of one step by level, in any unit.
    spent : float, default 0
        Operations to subtract, in the same unit.

    Raises
    ------
    NetgraphError
        No finer level is smoothed after that position.

    Examples
    --------
    >>> visits = [Visit("smooth", 1, 10), Visit("end", 1), Visit("start", 0), Visit("smooth", 0, 5)]
    >>> print(format_visits(leave_visit(visits, 0, 2, [4.0, 1.0])))
    1:2 | ⇑ 0:7
    """
    level, steps = visits[at].level, visits[at].steps
    following = next(
        (i for i in range(at + 1, len(visits)) if visits[i].kind == "smooth" and visits[i].level < level), None
    )
    if visits[at].kind != "smooth" or following is None:
        raise NetgraphError(f"no finer level follows level {level}, which can only be left for one.")
    more = max(round(((steps - done) * flops[level] - spent) / flops[visits[following].level]), 0)
    changed = {at: done, following: visits[following].steps + more}
    return [visit._replace(steps=changed.get(i, visit.steps)) for i, visit in enumerate(visits)]


def _check_cycle_name(kind: str) -> None:
    if kind not in CYCLES:
        raise NetgraphError(f"no cycle is called {kind!r}. There are {', '.join(CYCLES)}.")


def repeat_cycle(cycle: list[Visit], steps: int) -> list[Visit]:
    """Return a cycle repeated until ``steps`` steps are taken.

    Steps that do not fill a cycle lengthen the first smoothing of the cycles' top level, spread evenly over all cycles.
    """
    length = sum(visit.steps for visit in cycle)
    if length == 0 and steps:
        raise NetgraphError(
            "a cycle without pre-, post- and coarse smoothing takes no step. Set one of smoothing.pre, smoothing.post and "
            "smoothing.coarse above 0."
        )
    n = steps // length if length else 0
    rest, level = steps - n * length, cycle[-1].level
    if not n:
        return [Visit("smooth", level, rest), cycle[-1]] if rest else []
    first = next(i for i, visit in enumerate(cycle) if visit.kind == "smooth" and visit.level == level)
    more = [rest * (i + 1) // n - rest * i // n for i in range(n)]  # adds up to the rest
    return [
        visit._replace(steps=visit.steps + more[i]) if j == first else visit
        for i in range(n)
        for j, visit in enumerate(cycle)
    ]


def split_steps(steps: int, share: tuple[float, ...], n_levels: int) -> list[int]:
    """Return whole numbers of steps by level, finest first, which add up to ``steps``.

    Raises
    ------
    NetgraphError
        There is not one share for each level, or one is negative.
    """
    if len(share) != n_levels or min(share) < 0 or sum(share) <= 0:
        raise NetgraphError(
            f"the shares {share} do not fit {n_levels} levels. Give one share for each level, finest first, none negative."
        )
    edges = [round(steps * sum(share[: i + 1]) / sum(share)) for i in range(n_levels)]
    return [b - a for a, b in zip([0, *edges], edges, strict=False)]


def format_visits(visits: Iterable[Visit]) -> str:
    """Return visits on one line.

    ``level:steps`` is smoothing, ``↘`` goes down, ``↗`` comes up, ``⇑`` starts a finer level and ``|`` ends a cycle.
    """
    signs = {"down": "↘", "up": "↗", "start": "⇑", "end": "|"}
    return " ".join(f"{v.level}:{v.steps}" if v.kind == "smooth" else signs[v.kind] for v in visits)
