"""A state dict into the network that it belongs to: wrappers and prefixes taken off, and every misfit said by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from netgraph.errors import LoadError, describe_error

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")


def find_state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, common wrappers taken off; ``path`` is named in errors.

    Raises
    ------
    LoadError
        There is none in it.
    """
    while isinstance(value, Mapping):
        inner = next((value[k] for k in WRAPPERS if isinstance(value.get(k), Mapping)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, Mapping) or not any(isinstance(v, Tensor) for v in value.values()):
        raise LoadError(f"{path} holds a {type(value).__name__} and no state dict; save model.state_dict()")
    return {str(k): v for k, v in value.items() if isinstance(v, Tensor)}


def fill_network(model: nn.Module, state: Mapping[str, Tensor], path: Path, arch: str) -> nn.Module:
    """Return a network with a state dict loaded into it; ``path`` and ``arch`` are named in errors.

    Raises
    ------
    LoadError
        They do not fit: a name is missing or too many, or a shape differs.
    """
    own = model.state_dict()
    state = _strip_prefixes(state, own)
    problems = _find_misfits(state, own)
    if problems:
        raise LoadError(f"{path} does not fit {arch}: {'; '.join(problems)}; {_suggest_fix(state, own)}")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a module with a way of its own to load
        raise LoadError(f"{path} does not fit {arch} ({describe_error(error)}); check --arch and --arch-arg") from error
    return model


def _strip_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off what wrapping a network put before its names, unless they are the network's own names."""
    while state and not any(k in own for k in state):
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _find_misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say what keeps a state dict from filling a network, a few names of each kind."""
    filled = {_storage_key(own[k]) for k in state if k in own}  # a tied tensor is filled by any of its names
    missing = [
        k
        for k in own
        if k not in state and _storage_key(own[k]) not in filled and not k.endswith("num_batches_tracked")
    ]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} is {tuple(v.shape)}, not {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    return (
        [f"missing {_first_names(missing)}"] * bool(missing)
        + [f"not in it {_first_names(unexpected)}"] * bool(unexpected)
        + [_first_names(wrong)] * bool(wrong)
    )


def _suggest_fix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Say what to do; weights with all the names and smaller shapes look like a coarse network's in its own class."""
    pairs = [(state[k].shape, own[k].shape) for k in own if k in state]
    smaller = all(len(a) == len(b) and all(m <= n for m, n in zip(a, b, strict=True)) for a, b in pairs)
    if smaller and set(state) == set(own):
        return (
            "check --arch-arg, or, if these are a coarse network's, open the whole module that --own-class wrote (with --trust) "
            "or the .safetensors that --output wrote"
        )
    return "check --arch and --arch-arg"


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _storage_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two names of one tensor have in common."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)
