"""Target size: the number of units that an axis should have on the next level."""

from __future__ import annotations

from collections.abc import Iterable

from netgraph.tracing.unit_spec import Axis

NAMED = 5  # axes in one sentence


def target_count(size: int, ratio: float, round_to: int = 1) -> int:
    """Return ``size * ratio``, at least 1, rounded to a multiple of ``round_to`` if the size exceeds it."""
    target = max(1, round(size * ratio))
    if round_to > 1 and size > round_to:
        target = min(max(round_to, round(target / round_to) * round_to), size)
    return target


def choose_n_coarse(axis: Axis, ratio: float, round_to: int = 1) -> int:
    """Return the number of aggregates to aim for.

    If the aggregates must have one size, this is the divisor of the number of units that is nearest to the target. An
    axis with a prime number of such units keeps its size. Of units that are chosen by rank, so many merge at most as are chosen.

    Parameters
    ----------
    axis : Axis
    ratio : float
        Share of units that stay.
    round_to : int, default 1
        The number should be a multiple of this. The wish is dropped if the axis is smaller, or if no divisor is such a
        multiple.

    Returns
    -------
    int
    """
    target = target_count(axis.size, ratio, round_to)
    if axis.equal is None:
        return target
    divisors = [d for d in range(1, axis.size + 1) if axis.size % d == 0 and axis.divided % (axis.size // d) == 0]
    if ratio < 1:
        divisors = [d for d in divisors if 0.5 * ratio * axis.size <= d < axis.size] or [axis.size]
    fitting = [d for d in divisors if d % round_to == 0] or divisors
    return min(fitting, key=lambda d: (abs(d - target), d))


def describe_uneven(sizes: Iterable[tuple[str, int]], round_to: int) -> str | None:
    """Return a sentence on the axes whose numbers of units are not the multiple that was asked for, or None.

    Parameters
    ----------
    sizes : iterable of (str, int)
        Names of axes that merged, and their numbers of units.
    round_to : int

    Examples
    --------
    >>> from netgraph.coarsen.partition.target_size import describe_uneven
    >>> describe_uneven([("0", 64), ("2", 20)], 64)
    'could not round 2 to a multiple of 64. An axis has no more units than that, its aggregates must have one size, or a target needs finer numbers.'
    """
    uneven = list(dict.fromkeys(name for name, size in sizes if size % round_to))
    if not uneven:
        return None
    more = f" and {len(uneven) - NAMED} more" * (len(uneven) > NAMED)
    return (
        f"could not round {', '.join(uneven[:NAMED])}{more} to a multiple of {round_to}. An axis has no more units than that, its "
        "aggregates must have one size, or a target needs finer numbers."
    )
