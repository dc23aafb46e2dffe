"""Where modules are searched: the folder of the user's code for the code that the user names, and installed packages for the rest.

A folder with downloaded networks may hold anything, such as a ``torchvision.py`` or the metadata of a plug-in. So it is searched
only while code is imported that the user asked for.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_searched: list[str] = []  # folders that `search_folder_first` has put on the path


@contextlib.contextmanager
def search_folder_first(folder: Path) -> Iterator[None]:
    """Search modules in a folder first within a block, as ``python script.py`` in that folder does."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    _searched.append(place)
    try:
        yield
    finally:
        _searched.remove(place)
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


@contextlib.contextmanager
def search_installed_packages() -> Iterator[None]:
    """Search modules and plug-ins outside of the user's folder within a block.

    That folder is the one of `search_folder_first`. It is also the working directory where Python has put it first, as ``python
    -m`` and ``python -c`` do, and where a relative entry is it, as those of IPython and of ``PYTHONPATH=:/folder`` are. Another
    entry further back stays: an editable installation may have made it.
    """
    here = {_find_working_directory(), *_searched}
    taken: list[tuple[int, str]] = []
    for i, entry in enumerate(sys.path):
        leads = len(taken) == i and entry in here
        if leads or entry in _relative or not os.path.isabs(entry):
            taken.append((i, entry))
    for i, _ in reversed(taken):
        del sys.path[i]
    try:
        yield
    finally:
        for i, entry in taken:
            sys.path.insert(i, entry)


def _list_relative_entries() -> frozenset[str]:
    """Return the folders on the path that Python has made of relative ones in ``PYTHONPATH``. An empty one is the working directory."""
    entries = os.environ["PYTHONPATH"].split(os.pathsep) if os.environ.get("PYTHONPATH") else []
    here = _find_working_directory()
    return frozenset(os.path.normpath(os.path.join(here, entry)) for entry in entries if not os.path.isabs(entry))


def _find_working_directory() -> str:
    """Return the working directory, or an empty text if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


_relative = _list_relative_entries()  # of the folder in which Python has started
