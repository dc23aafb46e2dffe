"""Detect another package of the same import name.

The public index has a distribution ``netgraph``, a plotting library. Ours is called ``netgraph-coarsening``. Both put
their files into one folder ``netgraph``: the second to be installed overwrites files of the first, and uninstalling
either takes files of the other away.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution

_told: list[str] = []


def describe_conflict() -> str | None:
    """Return a sentence about the other package if it is installed here, else None.

    Examples
    --------
    >>> describe_conflict() is None
    True
    """
    facade = sys.modules.get("netgraph")
    overwritten = facade is not None and "build_hierarchy" not in getattr(facade, "__all__", ())
    if not overwritten and not _is_installed("netgraph"):
        return None
    state = (
        "has overwritten files of netgraph-coarsening" if overwritten else "shares the folder of netgraph-coarsening"
    )
    return (
        f"another package called netgraph is installed, and it {state}. Run `pip uninstall netgraph`, then "
        "`pip install --force-reinstall --no-deps PATH` with the folder or file that netgraph-coarsening was installed from."
    )


def warn_of_conflict(tell: Callable[[str], object] = warnings.warn) -> None:
    """Tell once in a process that another package called netgraph is installed.

    Parameters
    ----------
    tell : callable ``(sentence)``
        By default a warning.
    """
    if not _told:
        sentence = describe_conflict()
        _told.append(sentence or "")
        if sentence:
            tell(sentence)


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
