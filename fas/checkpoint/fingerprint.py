"""What a run is of, so that a checkpoint of another network, other levels, options, settings or data is refused by name.

Levels are those that the run began with. Of a loss, which is a function, only the settings that its problem names are known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.fas.levels.maps import live_state
from netgraph.fas.solver.run import Run

ROWS = 64  # of each tensor of a data set that are looked at
DEPTH = 4


def fingerprint_run(run: Run) -> dict[str, Any]:
    """Return what must be alike for a run to go on where another was, as data for JSON."""
    shapes = {name: [str(t.dtype), *t.shape] for name, t in live_state(run.maps.models[0]).items()}
    found = {
        "network": {"shapes": _hash_json(shapes), "parameters and buffers": len(shapes), "levels": len(run.grids)},
        "setting": dict(getattr(run.problem, "settings", {})),
        "hierarchy": {f"level {i}": said for i, said in enumerate(run.begun_on, start=1)},
        "options": _flatten_options(asdict(run.options)),
        "optimizer": {f"level {i}": _describe_optimizer(run, i) for i in range(len(run.grids))},
        "plan": {
            "visits": _hash_json(run.visits),
            "steps": run.total_steps,
            "schedules": [s.steps for s in run.schedules],
        },
        "schedule": {f"of {i}": type(s.scheduler).__name__ for i, s in enumerate(run.schedules)},
        "seed": {"seed": run.seed},
        "data": fingerprint_data(run.problem.batches),
    }
    said: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return said


def describe_difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    """Return in words the first thing in which a checkpoint differs from a run; None where they fit as far as it tells."""
    for part in (part for part in here if part in there):
        mine, theirs = here[part], there[part]
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            if mine.get(key) != theirs.get(key):
                return f"another {part}: {key} is {_shorten_json(theirs.get(key))} there and {_shorten_json(mine.get(key))} here"
    return None


def describe_missing(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return in words what an older version did not write down of a run; empty where it is all there."""
    return " and ".join(part for part in here if part not in there)


def fingerprint_data(batches: Any) -> dict[str, Any]:
    """Return the numbers of minibatches and samples, and a digest of rows wherever the data lie in tensors or arrays.

    Of a list they are its minibatches, of a ``DataLoader`` those of its data set, where that keeps ``tensors``, ``data``,
    ``inputs`` or ``targets``. Of data that are made as they are drawn, the numbers alone are known.
    """
    data = getattr(batches, "dataset", batches)
    found = {
        "minibatches": _length_or_none(batches),
        "samples": _length_or_none(data),
        "size": getattr(batches, "batch_size", None),
    }
    digest = hashlib.sha256()
    for leaf in _find_tensors(data, DEPTH):
        rows = np.linspace(0, max(len(leaf) - 1, 0), min(ROWS, len(leaf))).astype(int)
        digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        digest.update(torch.as_tensor(leaf[rows]).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {**found, "contents": digest.hexdigest()[:16]}


def _find_tensors(data: Any, depth: int) -> Iterator[Any]:
    if isinstance(data, (Tensor, np.ndarray)):
        if data.ndim and str(data.dtype) != "object":
            yield data
    elif depth and isinstance(data, (list, tuple)):
        for part in data if len(data) <= ROWS else data[:: max(len(data) // ROWS, 1)]:
            yield from _find_tensors(part, depth - 1)
    elif depth and isinstance(data, Mapping):
        for key in sorted(data, key=str):
            yield from _find_tensors(data[key], depth - 1)
    elif depth and not callable(data):
        for name in ("tensors", "data", "inputs", "targets", "dataset", "train"):
            yield from _find_tensors(getattr(data, name, None), depth - 1)


def _length_or_none(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _describe_optimizer(run: Run, level: int) -> dict[str, Any]:
    smoother = run.grids[level].smoother
    groups = [[g["scale"], g.get("weight_decay", 0.0), len(g["params"])] for g in smoother.optimizer.param_groups]
    defaults = {k: v for k, v in smoother.optimizer.defaults.items() if isinstance(v, (int, float, tuple, str))}
    return {"class": type(smoother.optimizer).__name__, "lr": smoother.lr, "groups": groups, **defaults}


def _flatten_options(options: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested options by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        out |= _flatten_options(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return out


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _shorten_json(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + " ..."
