"""Whose line it is: errors name the user's own, not PyTorch's, the standard library's or this package's."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_ROOMS = [_HERE, *((_HERE / room).resolve() for room in ("coarsen", "fas", "viz"))]  # links, in a checkout
_OURS = tuple(f"{folder}/" for folder in (*_ROOMS, Path(torch.__file__).parent))
_STANDARD = f"{sysconfig.get_path('stdlib')}/"


@cache
def is_users(name: str) -> bool:
    """Tell whether a file, as a frame names it, is neither made up nor of a library that errors should look through."""
    if name.startswith(f"{_HERE / 'models'}/"):  # networks to try, as good as the user's
        return True
    standard = name.startswith(_STANDARD) and "/site-packages/" not in name
    return not standard and not name.startswith(("<", *_OURS))
