"""Fit the names of a state dict to those of a network.

``DataParallel``, DDP, FSDP, ``torch.compile``, activation checkpointing and ``AveragedModel`` put a word into the names of what
they wrap. A training class, such as one of Lightning, puts its own attribute in front.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from netgraph.io.checkpoint.candidates import is_extra_state

WRAPPERS = frozenset({
    "module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module", "_dp_module",
})  # fmt: skip
MOST_PREFIXES = 64


@dataclass(frozen=True)
class NameMatch:
    """Part of a state dict that fills a network exactly.

    Parameters
    ----------
    prefix : str
        What stands in front of its names in the state dict, with the last dot.
    state : dict
        By the names of the network.
    left_out : tuple of str
        Names in the state dict without the prefix.
    """

    prefix: str
    state: dict[str, Any]
    left_out: tuple[str, ...]


def list_matches(state: Mapping[str, Any], expected: Mapping[str, Any]) -> list[NameMatch]:
    """Return every part of a state dict that fills a network exactly, or only the whole if that does."""
    for renamed, targets in _iterate_namings(state, expected):
        matches = []
        for prefix in _list_prefixes(renamed, targets):
            part = take_prefix(renamed, prefix, targets)
            if not find_misfits(part, expected):
                rest = tuple(name for name in renamed if not name.startswith(prefix))
                matches.append(NameMatch(prefix, part, rest))
                if not rest:
                    return matches
        if matches:
            return matches
    return []


def find_nearest(state: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict under the prefix with which most names are those of the network."""
    for renamed, targets in reversed(_iterate_namings(state, expected)):
        prefix = max(_list_prefixes(renamed, targets), key=lambda p: _count_hits(renamed, p, targets))
        if _count_hits(renamed, prefix, targets):
            return take_prefix(renamed, prefix, targets)
    return dict(state)


def _count_hits(state: Mapping[str, Any], prefix: str, targets: Mapping[str, str]) -> int:
    """Return how many names have a prefix and are names of the network behind it."""
    return sum(name.startswith(prefix) and name.removeprefix(prefix) in targets for name in state)


def take_prefix(state: Mapping[str, Any], prefix: str, targets: Mapping[str, str]) -> dict[str, Any]:
    """Return the entries under a prefix, by the names of the network."""
    short = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    return {targets.get(name, name): v for name, v in short.items()}


def _iterate_namings(
    state: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Return the names as they are, and without words of wrappers where no two names become one."""
    namings = [(dict(state), {name: name for name in expected})]
    bare = {_drop_wrappers(name): v for name, v in state.items()}
    targets = {_drop_wrappers(name): name for name in expected}
    if len(bare) == len(state) and len(targets) == len(expected):
        namings.append((bare, targets))
    return namings


def _drop_wrappers(name: str) -> str:
    """Return a name without the words of wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _list_prefixes(state: Mapping[str, Any], targets: Mapping[str, str]) -> list[str]:
    """Return the prefixes behind which names of the network stand: none first, then the most frequent."""
    counts = Counter[str]()
    for name in state:
        parts = name.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in targets:
                counts[".".join(parts[:i]) + "."] += 1
    return ["", *(prefix for prefix, _ in counts.most_common(MOST_PREFIXES))]


def find_misfits(state: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return descriptions of all misfits of a state dict and a network, with a few names of each kind."""
    filled = {_storage_key(expected[k]) for k in state if k in expected}  # any name of a tied tensor fills it
    missing = [
        k
        for k in expected
        if k not in state and _storage_key(expected[k]) not in filled and not k.endswith("num_batches_tracked")
    ]
    unexpected = [k for k in state if k not in expected]
    wrong = [text for k, v in state.items() if k in expected and (text := _compare_tensors(k, v, expected[k]))]
    return (
        [f"missing {format_names(missing)}"] * bool(missing)
        + [f"unexpected {format_names(unexpected)}"] * bool(unexpected)
        + [format_names(wrong)] * bool(wrong)
    )


def _compare_tensors(name: str, value: Any, expected: Any) -> str | None:
    """Return in which way a value does not fit the tensor of its name, or None."""
    if is_extra_state(name):
        return None  # read by the module itself
    if value.shape != expected.shape:
        return f"{name} is {tuple(value.shape)}, not {tuple(expected.shape)}"
    if value.is_complex() and not expected.is_complex():
        return f"{name} holds complex numbers, not {_format_dtype(expected)}"
    if expected.is_floating_point() and not (value.is_floating_point() or value.is_complex()):
        return f"{name} holds {_format_dtype(value)} numbers, not {_format_dtype(expected)}"
    return None


def _format_dtype(tensor: Tensor) -> str:
    """Return the name of a dtype, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def format_names(names: Sequence[str]) -> str:
    """Join the first three names and count the others."""
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _storage_key(tensor: Any) -> tuple[Any, ...]:
    """Return a key that two names of one tensor share."""
    if not isinstance(tensor, Tensor) or not tensor.numel() or tensor.device.type == "meta":
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.shape, tensor.stride())
