"""A run as the file ``run.json`` in its folder, with the content of ``netgraph train --json``.

A run that was killed leaves no such file. It is read from its newest checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from netgraph.environment.memory import check_json, check_memory
from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.fas.checkpoint.checkpoint import list_checkpoints
from netgraph.fas.checkpoint.run_state import read_records
from netgraph.fas.monitoring.history import History
from netgraph.io.bundle import read_bundle
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_path

NAME = "run.json"


def to_json_data(value: Any) -> Any:
    """Return a value as plain data for JSON. Numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(k): to_json_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_data(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Real):  # numpy's too
        return float(value) if math.isfinite(value) else None
    return str(value)


def write_run(document: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the document of a run as ``run.json``, as a whole or not at all.

    Parameters
    ----------
    document : mapping
        Document of the run. Its ``history`` is the list of records.
    folder : str or path
        Folder of the run. It is created if it does not exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    LoadError
        The folder or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from netgraph.fas import read_run, write_run
    >>> record = {"event": "smooth", "level": 0, "step": 1, "seconds": 0.1, "flops": 1e6, "loss": 2.0, "lr": 0.1}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_run({"history": [record]}, folder)
    ...     history = read_run(folder)
    >>> path.name, history.levels
    ('run.json', [0])
    """
    path = Path(folder) / NAME
    check_path(path, LoadError)
    text = json.dumps(to_json_data(dict(document)), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"{path} cannot be written ({error}). Give a folder with free space.") from error
    write_atomically(lambda place: place.write_text(text, encoding="utf-8"), path, LoadError)
    return path


def read_run(path: str | Path) -> History:
    """Read a run from its folder, its ``run.json``, or the output of ``netgraph train --json``.

    A folder with checkpoints and without ``run.json`` is read from its newest readable checkpoint.

    Parameters
    ----------
    path : str or path
        Folder or file.

    Returns
    -------
    History
        The run, named after its folder or file.

    Raises
    ------
    LoadError
        There is no run, or its file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from netgraph.fas import read_run, write_run
    >>> record = {"event": "smooth", "level": 0, "step": 1, "seconds": 0.1, "flops": 1e6, "loss": 2.0, "lr": 0.1}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_run({"history": [record]}, folder)
    ...     history = read_run(folder)
    >>> path.name, history.levels
    ('run.json', [0])
    """
    path = Path(path)
    check_path(path, LoadError)
    if not path.is_dir():
        return _read_json(path, path.stem)
    name = path.resolve().name
    if (path / NAME).exists():
        return _read_json(path / NAME, name)
    points = list_checkpoints(path)
    if not points:
        raise LoadError(
            f"{path} holds no {NAME} and no checkpoint. Train with --report {path}, or give the folder of a run."
        )
    return _read_checkpoints(points, name)


def _read_json(path: Path, name: str) -> History:
    """Read a run from its document."""
    try:
        size = path.stat().st_size
        if not path.is_file():  # a device gives bytes without end, and a pipe may give none
            raise LoadError(f"{path} is no regular file. Give the folder of a run, or its {NAME}.")
        check_memory(size, str(path))
        text = path.read_text(encoding="utf-8")
        check_json(text, str(path))
        document = json.loads(text)
    except RecursionError as error:
        raise LoadError(f"{path} is no run: its JSON nests too deep. Write it again.") from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror or error}). Give the folder of a run.") from error
    except LoadError:
        raise
    except ValueError as error:
        raise LoadError(f"{path} is no complete JSON ({error}). It is truncated or damaged: write it again.") from error
    if not isinstance(document, dict) or not isinstance(document.get("history"), list):
        raise LoadError(f"{path} has no history of a run. Give a file that `netgraph train --report` or --json wrote.")
    return _name_file(path, history_from_run, document, name)


def history_from_run(document: Mapping[str, Any], name: str) -> History:
    """Return the history of a run from its document."""
    ledger = document["ledger"] if isinstance(document.get("ledger"), dict) else {}
    facts = {key: value for key, value in document.items() if key not in ("history", "ledger")}
    return History(name, document["history"], ledger.get("rows", ()), facts)


def _read_checkpoints(points: list[Path], name: str) -> History:
    """Read a run from the first readable checkpoint."""
    errors = []
    for path in points:
        try:
            tensors, document = read_bundle(path)
        except LoadError as error:
            errors.append(str(error))
            continue
        try:
            records, ledger = read_records(tensors["history"]), document["run"]["ledger"]["rows"]
        except (KeyError, TypeError, ValueError) as error:
            raise LoadError(
                f"{path} is no checkpoint of this version of netgraph ({describe_error(error)}). Read it with the version that wrote it."
            ) from error
        return _name_file(path, History, name, records, ledger, {"reason": f"as {path.name} has it"})
    raise LoadError(f"all checkpoints of {points[0].parent} are damaged: {errors[0]}")


def _name_file(path: Path, make: Callable[..., History], *arguments: Any) -> History:
    """Return the history of a file. The error of a wrong record names the file."""
    try:
        history = make(*arguments)
    except NetgraphError as error:
        raise LoadError(f"{path}: {error}") from error
    if not history.records:
        raise LoadError(f"{path} has an empty history, because the run ended before its first step. Train it again.")
    return history
