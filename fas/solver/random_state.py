"""States of the random number generators of torch, numpy and Python as tensors, to resume a run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_random_state() -> dict[str, Tensor]:
    """Return the states of all generators that training may draw from."""
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda.{i}": part for i, part in enumerate(torch.cuda.get_rng_state_all())}
    _, keys, *place = np.random.get_state(legacy=True)
    state["numpy.keys"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state["numpy.place"] = torch.tensor([float(p) for p in place], dtype=torch.float64)
    version, words, gauss = random.getstate()
    state["python.words"] = torch.tensor([version, *words])
    state["python.gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore all generators. States of GPUs that this machine lacks are skipped."""
    torch.set_rng_state(state["torch"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{i}"], i)
    position, has_gauss, gauss = state["numpy.place"].tolist()
    keys = state["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    version, *words = state["python.words"].tolist()
    gauss_next = state["python.gauss"].tolist()
    random.setstate((version, tuple(words), gauss_next[0] if gauss_next else None))


def find_generators(batches: Any) -> list[torch.Generator]:
    """Return the generators that a ``DataLoader``, its sampler, or a similar iterable owns."""
    owners = (batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())
