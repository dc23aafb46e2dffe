"""A run as a file, ``run.json`` in its folder: what ``netgraph train --json`` prints. Checkpoints tell the same of a run that was killed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from netgraph.errors import LoadError
from netgraph.fas.checkpoint.checkpoint import list_checkpoints
from netgraph.fas.monitoring.history import History
from netgraph.io.bundle import read_bundle

NAME = "run.json"
NEEDED = {"event", "level", "step", "seconds", "flops"}  # of every record


def to_json_data(value: Any) -> Any:
    """Return data that JSON can hold; what is no finite number is null."""
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
    """Write a run's document into a folder, which is made, whole or not at all.

    Raises
    ------
    LoadError
        The folder or the file cannot be written.
    """
    path = Path(folder) / NAME
    aside = path.with_name(f".{NAME}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(to_json_data(dict(document)), indent=1), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise LoadError(f"{path} cannot be written ({error}); give a folder that has room") from error
    return path


def read_run(path: str | Path) -> History:
    """Read a run's folder, its ``run.json``, or what ``netgraph train --json`` printed into a file.

    A folder with checkpoints and no ``run.json`` is read from its newest whole checkpoint.

    Raises
    ------
    LoadError
        There is nothing of a run, or it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_json(path, path.stem)
    name = path.resolve().name
    if (path / NAME).exists():
        return _read_json(path / NAME, name)
    points = list_checkpoints(path)
    if not points:
        raise LoadError(
            f"{path} holds no {NAME} and no checkpoint; train with --report {path}, or give the folder of a run"
        )
    return _read_checkpoints(points, name)


def _read_json(path: Path, name: str) -> History:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror or error}); give the folder of a run") from error
    except ValueError as error:
        raise LoadError(f"{path} is no whole JSON ({error}); it is truncated or damaged: write it again") from error
    if not isinstance(document, dict) or not isinstance(document.get("history"), list):
        raise LoadError(f"{path} has no history of a run; give what `netgraph train --report` or --json wrote")
    return _check_history(history_from_run(document, name), path)


def history_from_run(document: Mapping[str, Any], name: str) -> History:
    """Return what a run's document holds."""
    ledger = document.get("ledger") or {}
    facts = {key: value for key, value in document.items() if key not in ("history", "ledger")}
    return History(name, document["history"], ledger.get("rows", ()), facts)


def _read_checkpoints(points: list[Path], name: str) -> History:
    errors = []
    for path in points:
        try:
            tensors, document = read_bundle(path)
        except LoadError as error:
            errors.append(str(error))
            continue
        if "history" not in tensors or "run" not in document:
            raise LoadError(f"{path} is no checkpoint of this version of netgraph; read it with the one that wrote it")
        records = json.loads(bytes(tensors["history"].tolist()))
        ledger = document["run"]["ledger"]["rows"]
        return _check_history(History(name, records, ledger, {"reason": f"as {path.name} has it"}), path)
    raise LoadError(f"all checkpoints of {points[0].parent} are damaged: {errors[0]}")


def _check_history(history: History, path: Path) -> History:
    if not history.records:
        raise LoadError(f"{path} has an empty history; the run was left before its first step, so train it again")
    wrong = next((r for r in history.records if not isinstance(r, dict) or not r.keys() >= NEEDED), None)
    if wrong is not None:
        raise LoadError(
            f"{path} has a record that is none of a run ({str(wrong)[:80]}); give what `netgraph train --report` wrote"
        )
    return history
