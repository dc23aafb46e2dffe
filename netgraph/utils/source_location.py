"""Whose line it is: errors name the user's own, not PyTorch's, the standard library's or this package's."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import torch

_HERE = Path(__file__).parent.parent
_ROOMS = [_HERE, *((_HERE / room).resolve() for room in ("coarsen", "fas", "viz"))]  # links, in a checkout
_OURS = tuple(f"{folder}/" for folder in (*_ROOMS, Path(torch.__file__).parent))
_STANDARD = f"{sysconfig.get_path('stdlib')}/"


@cache
def is_user_file(name: str) -> bool:
    """Tell whether a file, as a frame names it, is neither made up nor of a library that errors should look through."""
    if name.startswith(f"{_HERE / 'models'}/"):  # networks to try, as good as the user's
        return True
    standard = name.startswith(_STANDARD) and "/site-packages/" not in name
    return not standard and not name.startswith(("<", *_OURS))


def format_location(name: str, number: int | str) -> str:
    """Return `` at file:line``: what is said may be read on another machine, where only a package's or project's own path tells.

    Parameters
    ----------
    name : str
        A file, as a frame names it; from its package, or from the working directory where it lies in there.
    number : int or str
    """
    _, _, packaged = name.rpartition("/site-packages/")
    path, here = Path(packaged), Path.cwd()
    return f" at {path.relative_to(here) if path.is_relative_to(here) else path}:{number}"
