"""State dicts: remove wrappers and prefixes, load into a network, and name every entry that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from netgraph.errors import LoadError, describe_error

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")


def find_state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, without the usual wrappers.

    Parameters
    ----------
    value : object
        Contents of the file.
    path : path
        Name of the file, for error messages.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    LoadError
        The checkpoint holds no state dict.

    Examples
    --------
    >>> import torch
    >>> from pathlib import Path
    >>> from netgraph.io import find_state_dict
    >>> list(find_state_dict({"epoch": 3, "model": {"weight": torch.ones(2)}}, Path("checkpoint.pt")))
    ['weight']
    """
    while isinstance(value, Mapping):
        inner = next((value[k] for k in WRAPPERS if isinstance(value.get(k), Mapping)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, Mapping) or not any(isinstance(v, Tensor) for v in value.values()):
        raise LoadError(f"{path} holds a {type(value).__name__} and no state dict. Save model.state_dict().")
    return {str(k): v for k, v in value.items() if isinstance(v, Tensor)}


def fill_network(model: nn.Module, state: Mapping[str, Tensor], path: Path, arch: str) -> nn.Module:
    """Load a state dict into a network and return the network.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    state : mapping of str to Tensor
        Prefixes of usual wrappers are removed.
    path : path
        Name of the file, for error messages.
    arch : str
        Name of the architecture, for error messages.

    Returns
    -------
    torch.nn.Module
        ``model``.

    Raises
    ------
    LoadError
        A name is missing, unexpected, or has another shape.

    Examples
    --------
    >>> import torch
    >>> from pathlib import Path
    >>> from netgraph.io import fill_network
    >>> state = {"module.weight": torch.eye(2), "module.bias": torch.zeros(2)}
    >>> fill_network(torch.nn.Linear(2, 2), state, Path("m.pt"), "linear").weight.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    expected = model.state_dict()
    state = _strip_prefixes(state, expected)
    problems = _find_misfits(state, expected)
    if problems:
        raise LoadError(f"{path} does not fit {arch}: {'; '.join(problems)}. {_suggest_fix(state, expected)}")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a module may load its state in its own way
        raise LoadError(
            f"{path} does not fit {arch} ({describe_error(error)}). Check --arch and --arch-arg."
        ) from error
    return model


def _strip_prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove prefixes that wrappers add to all names, unless the network has names with that prefix."""
    while state and not any(k in expected for k in state):
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _find_misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return descriptions of all misfits of a state dict and a network, with a few names of each kind."""
    filled = {_storage_key(expected[k]) for k in state if k in expected}  # any name of a tied tensor fills it
    missing = [
        k
        for k in expected
        if k not in state and _storage_key(expected[k]) not in filled and not k.endswith("num_batches_tracked")
    ]
    unexpected = [k for k in state if k not in expected]
    wrong = [
        f"{k} is {tuple(v.shape)}, not {tuple(expected[k].shape)}"
        for k, v in state.items()
        if k in expected and v.shape != expected[k].shape
    ]
    return (
        [f"missing {_first_names(missing)}"] * bool(missing)
        + [f"unexpected {_first_names(unexpected)}"] * bool(unexpected)
        + [_first_names(wrong)] * bool(wrong)
    )


def _suggest_fix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return advice. Weights with all names and smaller shapes are likely those of a coarse network."""
    pairs = [(state[k].shape, expected[k].shape) for k in expected if k in state]
    smaller = all(len(a) == len(b) and all(m <= n for m, n in zip(a, b, strict=True)) for a, b in pairs)
    if smaller and set(state) == set(expected):
        return (
            "Check --arch-arg. For a coarse network, open the whole module that --own-class wrote (with --trust) or the "
            ".safetensors file that --output wrote."
        )
    return "Check --arch and --arch-arg."


def _first_names(names: Sequence[str]) -> str:
    """Join the first three names and count the others."""
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _storage_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that two names of one tensor share."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)
