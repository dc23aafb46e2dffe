"""Locations in source code: errors name lines of the user, not of PyTorch, the standard library or this package."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path

import torch

_HERE = Path(__file__).parent.parent
_PACKAGES = [_HERE, *((_HERE / package).resolve() for package in ("coarsen", "fas", "viz"))]  # links in a checkout
_OURS = tuple(f"{folder}/" for folder in (*_PACKAGES, Path(torch.__file__).parent))
_STANDARD = f"{sysconfig.get_path('stdlib')}/"


@cache
def is_user_file(name: str) -> bool:
    """Return True if a file of a stack frame belongs to the user. False for libraries and generated code."""
    if name.startswith(f"{_HERE / 'models'}/"):  # networks to try out count as code of the user
        return True
    standard = name.startswith(_STANDARD) and "/site-packages/" not in name
    return not standard and not name.startswith(("<", *_OURS))


def format_location(name: str, number: int | str) -> str:
    """Return `` at file:line``, with a path that also makes sense on another machine.

    Parameters
    ----------
    name : str
        File of a stack frame. It is shown relative to ``site-packages`` or to the working directory.
    number : int or str
        Number of the line.
    """
    _, _, packaged = name.rpartition("/site-packages/")
    path, here = Path(packaged), Path.cwd()
    return f" at {path.relative_to(here) if path.is_relative_to(here) else path}:{number}"


def find_calling_line() -> str:
    """Return `` at file:line`` of the innermost line of the user that is running, or an empty string."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return format_location(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return ""
