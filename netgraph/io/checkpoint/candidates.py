"""The sets of weights that a checkpoint holds, each under its key.

A training script saves weights beside its optimizer, its schedule and its settings, and often twice: as trained and averaged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

DEPTH = 4  # keys of keys of keys that are searched
USUAL = re.compile(r"(|state_?dict|(model|net|network|module)(_?(state|weights))?(_?dict)?|params|weights)")
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|avg|shadow)([._]|$)|_ema|ema_")
NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|rng|random|callbacks|loops|grads?$"
)  # of training, with tensors of their own


@dataclass(frozen=True)
class Candidate:
    """Weights in a checkpoint.

    Parameters
    ----------
    key : str
        Keys that lead to the weights, joined by dots. Empty if the file holds nothing else.
    weights : mapping or torch.nn.Module
        A state dict, or a whole module.
    """

    key: str
    weights: Mapping[str, Any] | nn.Module

    def read_state(self) -> dict[str, Any]:
        """Return the tensors and the extra state of modules, by name."""
        state = self.weights.state_dict() if isinstance(self.weights, nn.Module) else self.weights
        return {str(k): v for k, v in state.items() if isinstance(v, Tensor) or is_extra_state(str(k))}


def is_extra_state(name: str) -> bool:
    """Return True for the name under which PyTorch stores the extra state of a module."""
    return name.rpartition(".")[2] == "_extra_state"


def list_candidates(value: Any) -> list[Candidate]:
    """Return the sets of weights in the contents of a file, those with the most usual keys first."""
    return sorted(_walk(value, "", DEPTH), key=lambda candidate: rank_key(candidate.key))


def _walk(value: Any, key: str, depth: int) -> Iterator[Candidate]:
    """Yield the state dicts and modules in nested mappings and sequences."""
    if isinstance(value, nn.Module):
        yield Candidate(key, value)
    if isinstance(value, (list, tuple)):  # of parts; tensors without names are no state dict
        value = {str(index): part for index, part in enumerate(value) if not isinstance(part, Tensor)}
    if not isinstance(value, Mapping) or depth == 0:
        return
    if any(isinstance(v, Tensor) and isinstance(k, str) for k, v in value.items()):
        yield Candidate(key, value)
    for name, part in value.items():
        if isinstance(part, (Mapping, list, tuple, nn.Module)) and not NO_WEIGHTS.search(str(name).lower()):
            yield from _walk(part, f"{key}.{name}" if key else str(name), depth - 1)


def rank_key(key: str) -> int:
    """Return 0 for a usual key of weights, 1 for any other, and 2 for the key of averaged weights."""
    if AVERAGED.search(key.lower()):
        return 2
    return 0 if all(USUAL.fullmatch(part) for part in key.lower().split(".")) else 1


def select_keys(keys: list[str], key: str) -> list[str]:
    """Return the keys that a typed key names: itself, those that end in it, or those that begin with it."""
    endings = [k for k in keys if k.endswith(f".{key}")]
    return [k for k in keys if k == key] or endings or [k for k in keys if k.startswith(f"{key}.")]


def format_keys(keys: list[str]) -> str:
    """Return keys as a list for a message."""
    shown = [key or "the file itself" for key in keys]
    return ", ".join(shown[:8]) + f" and {len(shown) - 8} more" * (len(shown) > 8)
