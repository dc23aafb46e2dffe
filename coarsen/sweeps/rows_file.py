"""The file of a sweep that is resumed: one line of JSON for each row, written completely or not at all.

A row is known by its settings. Each line has the digests of the network and of the data, and the options that all rows share, so that
rows of another sweep are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netgraph.coarsen.sweeps.combinations import Combination
from netgraph.coarsen.sweeps.result import SETTINGS, Row
from netgraph.environment.memory import check_json, check_memory
from netgraph.errors import LoadError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.utils.text import format_json, shorten

FORMAT = 1


class RowsFile:
    """The rows of a sweep that are done, in a file.

    Parameters
    ----------
    path : path, optional
        File to read and to write. Without one rows are only kept.
    identity : dict
        Digests of the ``network`` and of the ``data``, and the ``options`` that all rows share.

    Raises
    ------
    LoadError
        The file is no such file, or belongs to another network, other data or other options.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, dict(identity)
        self.rows: dict[Combination, Row] = {}
        if path is not None:
            check_output_file(path)
            if path.exists():
                self.rows = {Combination(*(row[name] for name in SETTINGS)): row for row in self._read(path)}

    def find(self, combination: Combination) -> Row | None:
        """Return the row of a combination, None if it is not done or could not be had."""
        row = self.rows.get(combination)
        return row if row is not None and row["reason"] is None else None

    def add(self, row: Row) -> None:
        """Keep a row, and write the file."""
        self.rows[Combination(*(row[name] for name in SETTINGS))] = row
        if self.path is not None:
            lines = [format_json({"format": FORMAT, **self.identity, "row": one}) for one in self.rows.values()]
            text = "".join(f"{line}\n" for line in lines)
            write_atomically(lambda place: place.write_text(text, encoding="utf-8"), self.path)

    def _read(self, path: Path) -> list[Row]:
        """Return the rows of a file."""
        try:
            check_memory(path.stat().st_size, str(path))
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LoadError(f"{path} cannot be read as rows of a sweep ({error}). Give another file.") from error
        return [self._read_line(path, number, line) for number, line in enumerate(lines, 1)]

    def _read_line(self, path: Path, number: int, line: str) -> Row:
        """Return the row of a line. Refuse one of another sweep."""
        check_json(line, str(path))
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        row = entry.get("row") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or entry.get("format") != FORMAT or not _is_row(row):
            raise LoadError(f"line {number} of {path} is no row of a sweep of this version. Give another file.")
        for part, name in (("network", "another network"), ("data", "other data"), ("options", "other options")):
            if entry.get(part) != self.identity[part]:
                raise LoadError(
                    f"{path} holds rows of {name}{self._name_difference(part, entry.get(part))}. Give another file."
                )
        assert isinstance(row, dict)
        return row

    def _name_difference(self, part: str, there: Any) -> str:
        """Return the first option that differs, in words."""
        if part != "options" or not isinstance(there, dict):
            return ""
        here = self.identity[part]
        name = next((name for name in [*here, *there] if here.get(name) != there.get(name)), "")
        return f" ({name} is {shorten(json.dumps(there.get(name)), 60)} there and {shorten(json.dumps(here.get(name)), 60)} here)"


def _is_row(row: Any) -> bool:
    """Return True for the data of a row, with values of the right types."""
    if not isinstance(row, dict) or not {*SETTINGS, "reason", "axes", "class"} <= row.keys():
        return False
    texts = (row["affinity"], row["budget"], row["reason"], row["class"])
    if not all(text is None or isinstance(text, str) for text in texts):
        return False
    if not isinstance(row["coarsener"], str) or not isinstance(row["repair"], str) or not isinstance(row["axes"], dict):
        return False
    numbers = [value for name, value in row.items() if name not in (*SETTINGS, "reason", "axes", "class")]
    numbers += [row["ratio"], *row["axes"].values()]
    return all(value is None or _is_number(value) for value in numbers) and _is_number(row["ratio"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
