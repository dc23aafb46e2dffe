"""The combinations of a sweep: affinities, coarseners, budgets, ratios and repairs, read and checked before work begins.

Nothing here imports PyTorch, because ``netgraph --help`` reads these values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

from netgraph import plugins
from netgraph.errors import NetgraphError
from netgraph.utils.choices import DATA_RUNGS, RUNGS, SWEEP_BUDGETS

RATIOS = "0.9:0.3:0.1"
COARSENERS = ("ward", "hem")
REPAIRS = ("none", "ridge")
AFFINITIES = ("cosine",)
BUDGETS = ("none",)
STEP = 0.1
MOST = 10_000  # combinations
Named = str | Callable[..., Any]  # a plug-in by its name, or a function


class Combination(NamedTuple):
    """The settings of one row of a sweep.

    Parameters
    ----------
    affinity : str or None
        None for a coarsener that reads no affinities.
    coarsener : str
    budget : str or None
        What the ratio is a share of, spread over the axes by measured errors. None: of the units of each axis.
    ratio : float
        Share that stays.
    repair : str
    """

    affinity: str | None
    coarsener: str
    budget: str | None
    ratio: float
    repair: str

    def __str__(self) -> str:
        named = [self.coarsener, self.affinity, self.budget and f"budget {self.budget}", f"repair {self.repair}"]
        return f"{', '.join(word for word in named if word)} at {self.ratio:g}"


def parse_ratios(ratios: str | Iterable[float]) -> list[float]:
    """Read shares that stay: numbers with commas between them, or ``FIRST:LAST:STEP``.

    Parameters
    ----------
    ratios : str or sequence of float
        ``0.9:0.3:0.2`` is 0.9, 0.7, 0.5, 0.3. Without a step it is 0.1.

    Raises
    ------
    NetgraphError
        One of them is no share above 0 and at most 1, or there are none.

    Examples
    --------
    >>> from netgraph.coarsen.sweeps.combinations import parse_ratios
    >>> parse_ratios("0.9:0.3:0.2,0.25")
    [0.9, 0.7, 0.5, 0.3, 0.25]
    """
    if isinstance(ratios, str):
        values = [value for part in ratios.split(",") for value in _read_part(part, ratios)]
    else:
        values = [float(value) for value in ratios]
    wrong = [value for value in values if not 0 < value <= 1]
    if wrong or not values:
        raise NetgraphError(
            f"the ratios {_shorten(ratios)} hold {wrong[0] if wrong else 'no number'}. Give shares above 0 and at most 1, such as 0.9:0.3:0.1 or "
            "0.5,0.25."
        )
    return list(dict.fromkeys(values))


def _read_part(part: str, whole: str) -> list[float]:
    """Return the numbers of one part: a number, or first, last and step."""
    try:
        numbers = [float(number) for number in part.split(":")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3:
        raise NetgraphError(
            f"the ratios {_shorten(whole)} have the part {_shorten(part)}, which is neither a number nor FIRST:LAST:STEP. Give such as "
            "0.9:0.3:0.1 or 0.5,0.25."
        )
    if len(numbers) == 1:
        return numbers
    first, last, step = (*numbers, STEP)[:3]
    count = abs(first - last) / step if step else math.nan
    if not 0 <= count < MOST:
        raise NetgraphError(
            f"the ratios {_shorten(whole)} have the step {step:g}. Give a positive step with fewer than {MOST:,} ratios."
        )
    sign = 1 if last > first else -1
    return [round(first + sign * i * step, 10) for i in range(math.floor(count + 1e-9) + 1)]


def _shorten(value: object) -> str:
    return repr(value if isinstance(value, str) else list(value) if isinstance(value, Iterable) else value)[:60]


def list_combinations(
    ratios: str | Iterable[float],
    coarseners: Sequence[Named],
    repairs: Sequence[str],
    affinities: Sequence[Named],
    budgets: Sequence[str],
) -> tuple[list[Combination], dict[str, Named], dict[str, Named]]:
    """Return all combinations, the coarseners by name and the affinities by name.

    Raises
    ------
    NetgraphError
        A name does not exist, two functions have one name, or a list is empty.
    """
    shares = parse_ratios(ratios)
    merge, weigh = (
        _name_all("netgraph.coarseners", coarseners, ("auto",)),
        _name_all("netgraph.affinities", affinities),
    )
    for kind, names, known in (("repair", repairs, RUNGS), ("budget", budgets, SWEEP_BUDGETS)):
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            raise NetgraphError(
                f"a {kind} is {wrong[0]!r}. Choose among {', '.join(known)}."
                if wrong
                else f"there is no {kind}. Give one of {', '.join(known)}."
            )
    n = len(weigh) * len(merge) * len(budgets) * len(shares) * len(repairs)
    if n > MOST:
        raise NetgraphError(f"there are {n:,} combinations. Give lists with at most {MOST:,}.")
    rows = [
        Combination(None if _reads_no_edges(merge[coarsener]) else affinity, coarsener, None if budget == "none" else budget, ratio, repair)
        for affinity, coarsener, budget, ratio, repair in product(weigh, merge, dict.fromkeys(budgets), shares, dict.fromkeys(repairs))
    ]  # fmt: skip
    return list(dict.fromkeys(rows)), merge, weigh


def check_repaired_errors(repairs: Sequence[str], budgets: Sequence[str]) -> None:
    """Refuse errors after repair where no budget is spread by errors, or no repair reads data.

    Raises
    ------
    NetgraphError
    """
    if not set(budgets) - {"none"}:
        raise NetgraphError(
            "errors after repair (--repaired-errors) spread a budget over the axes, and there is none. Give budgets, such as flops."
        )
    if not set(repairs) & set(DATA_RUNGS):
        raise NetgraphError(
            f"errors after repair (--repaired-errors) need a repair that reads data, and the repairs are {', '.join(repairs)}. Give one of "
            f"{', '.join(DATA_RUNGS)}."
        )


def _name_all(group: str, values: Sequence[Named], words: Sequence[str] = ()) -> dict[str, Named]:
    """Return plug-ins and functions by their names, after a check that they exist."""
    kind = plugins.KINDS[group]
    if isinstance(values, str) or not values:
        raise NetgraphError(f"the list of names of the kind {kind} is {values!r}. Give a list with one or more.")
    named: dict[str, Named] = {}
    for value in values:
        if not isinstance(value, str):
            plugins.check_callable(group, value)
        elif value not in words and value not in plugins.list_plugins(group):
            plugins.load_plugin(group, value)  # raises the error that lists the names
        name = value if isinstance(value, str) else plugins.name_function(value)
        if named.setdefault(name, value) is not value and named[name] != value:
            raise NetgraphError(
                f"two functions of the kind {kind} have the name {name!r}. Give them names of their own, by which rows are told apart."
            )
    return named


def _reads_no_edges(coarsener: Named) -> bool:
    """Return True for a coarsener that declares that it reads no affinities. One that does not import is not asked."""
    if coarsener == "auto":
        return False
    try:
        loaded = plugins.load_plugin("netgraph.coarseners", coarsener) if isinstance(coarsener, str) else coarsener
    except NetgraphError:
        return False  # its rows say why
    return bool(getattr(loaded, "ignores_edges", False))
