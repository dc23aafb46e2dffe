"""The random numbers of torch, numpy and Python as tensors, to be found again where a run goes on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_random_state() -> dict[str, Tensor]:
    """Return the state of every generator that training may draw from."""
    found = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        found |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    _, keys, *place = np.random.get_state(legacy=True)
    found["numpy.keys"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    found["numpy.place"] = torch.tensor([float(p) for p in place], dtype=torch.float64)
    version, words, gauss = random.getstate()
    found["python.words"] = torch.tensor([version, *words])
    found["python.gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    return found


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put every generator where it was; GPUs that this machine lacks are passed over."""
    torch.set_rng_state(state["torch"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{i}"], i)
    position, has_gauss, gauss = state["numpy.place"].tolist()
    keys = state["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    version, *words = state["python.words"].tolist()
    drawn = state["python.gauss"].tolist()
    random.setstate((version, tuple(words), drawn[0] if drawn else None))


def find_generators(batches: Any) -> list[torch.Generator]:
    """Return the generators of its own that a ``DataLoader``, its sampler or an iterable like them draws from."""
    places = (batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None))
    found = [getattr(place, "generator", None) for place in places]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
