"""The fingerprint of a run: network, levels, options, settings and data, compared by name before a checkpoint is resumed.

The levels are those with which the run began. A loss is a function, which cannot be compared, so only the settings that its
problem names are part of the fingerprint.
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
from netgraph.fas.options.all_options import Options
from netgraph.fas.solver.run import Run

ROWS = 64  # rows of each tensor of a data set that the digest reads
DEPTH = 4  # levels of nesting in which tensors are looked for


def fingerprint_run(run: Run) -> dict[str, Any]:
    """Return everything that must be equal for a run to go on from a checkpoint, as data for JSON."""
    shapes = {name: [str(t.dtype), *t.shape] for name, t in live_state(run.maps.models[0]).items()}
    fingerprint = {
        "network": {"shapes": _hash_json(shapes), "parameters and buffers": len(shapes), "levels": len(run.grids)},
        "setting": dict(getattr(run.problem, "settings", {})),
        "hierarchy": {f"level {i}": signature for i, signature in enumerate(run.begun_on, start=1)},
        "options": _flatten_options(asdict(run.options)),
        "optimizer": {f"level {i}": _describe_optimizer(run, i) for i in range(len(run.grids))},
        "plan": {
            "visits": _hash_json(run.plan),
            "steps": sum(visit.steps for visit in run.plan),
            "schedules": run.lengths,
        },
        "schedule": {f"of {i}": type(s.scheduler).__name__ for i, s in enumerate(run.schedules)},
        "seed": {"seed": run.seed},
        "data": fingerprint_data(run.problem.batches),
    }
    plain: dict[str, Any] = json.loads(json.dumps(fingerprint, default=str))
    return plain


def describe_difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    """Return the first difference between a run and a checkpoint in words, or None.

    Parts that an older version did not save are not compared. An option that it did not have had its default.
    """
    defaults = {"options": json.loads(json.dumps(_flatten_options(asdict(Options()))))}
    for part in (part for part in here if part in there):
        in_run, in_checkpoint = here[part], {**defaults.get(part, {}), **there[part]}
        for key in [*in_run, *(key for key in in_checkpoint if key not in in_run)]:
            value, saved = in_run.get(key), in_checkpoint.get(key)
            if value != saved:
                return f"another {part}: {key} is {_shorten_json(saved)} there and {_shorten_json(value)} here"
    return None


def describe_missing(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return in words the parts that an older version did not save. Empty if none is missing."""
    return " and ".join(part for part in here if part not in there)


def fingerprint_data(batches: Any) -> dict[str, Any]:
    """Return the numbers of minibatches and samples, and a digest of some rows of the data.

    The digest reads tensors and arrays. In a list it finds them in the minibatches, in a ``DataLoader`` in the attributes
    ``tensors``, ``data``, ``inputs`` and ``targets`` of its data set. If data are made when they are drawn, only the numbers
    are known.
    """
    data = getattr(batches, "dataset", batches)
    sizes = {
        "minibatches": _length_or_none(batches),
        "samples": _length_or_none(data),
        "size": getattr(batches, "batch_size", None),
    }
    digest = hashlib.sha256()
    for leaf in _find_tensors(data, DEPTH):
        rows = np.linspace(0, max(len(leaf) - 1, 0), min(ROWS, len(leaf))).astype(int)
        digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        digest.update(torch.as_tensor(leaf[rows]).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {**sizes, "contents": digest.hexdigest()[:16]}


def _find_tensors(data: Any, depth: int) -> Iterator[Any]:
    """Yield the tensors and arrays in a data set, to a depth."""
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
    """Return len(), or None if the data have none."""
    try:
        return len(data)
    except TypeError:
        return None


def _describe_optimizer(run: Run, level: int) -> dict[str, Any]:
    """Return class, rates and settings of the optimizer of a level."""
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
    """Return a digest of data for JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _shorten_json(value: Any) -> str:
    """Return data as JSON of at most 200 characters."""
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + " ..."
