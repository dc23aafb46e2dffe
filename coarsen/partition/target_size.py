"""How many units an axis should have on the next level."""

from __future__ import annotations

from netgraph.tracing.unit_spec import Axis


def target_count(size: int, ratio: float, round_to: int = 1) -> int:
    """Return the share of a number of units, as a multiple where they are enough for one."""
    aim = max(1, round(size * ratio))
    if round_to > 1 and size > round_to:
        aim = min(max(round_to, round(aim / round_to) * round_to), size)
    return aim


def choose_n_coarse(axis: Axis, ratio: float, round_to: int = 1) -> int:
    """Return the number of aggregates to aim for.

    Where aggregates must have one size it is a divisor of the number of units, the nearest to the aim; a prime
    number of such units stays.

    Parameters
    ----------
    axis : Axis
    ratio : float
        Share of units that stay.
    round_to : int
        Multiple wanted; given up where the axis is smaller, or no divisor is such a multiple.
    """
    aim = target_count(axis.size, ratio, round_to)
    if axis.equal is None:
        return aim
    divisors = [d for d in range(1, axis.size + 1) if axis.size % d == 0]
    if ratio < 1:
        divisors = [d for d in divisors if 0.5 * ratio * axis.size <= d < axis.size] or [axis.size]
    fitting = [d for d in divisors if d % round_to == 0] or divisors
    return min(fitting, key=lambda d: (abs(d - aim), d))
