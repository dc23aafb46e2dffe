"""Fill a network from a checkpoint: choose among its weights, fit their names, and name every entry that does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import LoadError, LoadWarning, describe_error
from netgraph.io.checkpoint.candidates import Candidate, format_keys, list_candidates, rank_key, select_keys
from netgraph.io.checkpoint.low_rank import check_no_adapters
from netgraph.io.checkpoint.names import NameMatch, find_misfits, find_nearest, format_names, list_matches
from netgraph.io.checkpoint.stored_parts import iterate_whole_states


@dataclass(frozen=True)
class _Fit:
    """Weights of a checkpoint that fill the network, under a key that ``--key`` takes."""

    key: str
    match: NameMatch


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
        Of several, the one with the most usual key.

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
    return _require_candidates(value, path)[0].read_state()


def fill_network(model: nn.Module, value: Any, path: Path, arch: str, *, key: str | None = None) -> nn.Module:
    """Load the weights of a checkpoint into a network and return the network.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    value : object
        Contents of the file: a state dict, or nested dicts with one or several. Prefixes of usual wrappers are removed.
    path : path
        Name of the file, for error messages.
    arch : str
        Name of the architecture, for error messages.
    key : str, optional
        Key of the weights, where several fit.

    Returns
    -------
    torch.nn.Module
        ``model``.

    Raises
    ------
    LoadError
        A name is missing, unexpected, or has another shape, or several sets of weights fit.

    Warns
    -----
    LoadWarning
        The file holds further weights. The message says which were taken.

    Examples
    --------
    >>> import torch
    >>> from pathlib import Path
    >>> from netgraph.io import fill_network
    >>> state = {"module.weight": torch.eye(2), "module.bias": torch.zeros(2)}
    >>> fill_network(torch.nn.Linear(2, 2), state, Path("m.pt"), "linear").weight.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    expected, candidates = model.state_dict(), _require_candidates(value, path)
    fits = [fit for candidate in candidates for fit in _list_fits(candidate, expected)]
    if not fits:
        raise _explain_misfit(candidates, expected, path, arch, key)
    chosen = _choose_fit(fits, candidates, key, path, arch)
    try:
        _load_state(model, chosen.match.state)
    except RuntimeError as error:  # a module may load its state in its own way
        raise LoadError(
            f"{path} does not fit {arch} ({describe_error(error)}). Check --arch and --arch-arg."
        ) from error
    return model


def find_module(value: Any, path: Path, key: str | None) -> nn.Module | None:
    """Return the whole module that a checkpoint holds, or None if it holds none.

    Raises
    ------
    LoadError
        It holds several under equally usual keys, or none under the given one.
    """
    modules = {c.key: c.weights for c in list_candidates(value) if isinstance(c.weights, nn.Module)}
    selected = select_keys([*modules], key or "")
    named = {k: m for k, m in modules.items() if key is None or k in selected}
    if not modules:
        return None
    if not named:
        raise LoadError(f"{path} has no module under --key {key}. It has {format_keys([*modules])}.")
    first = next(iter(named))
    if len({id(m) for k, m in named.items() if rank_key(k) == rank_key(first)}) > 1:
        raise LoadError(f"{path} has several modules: {format_keys([*named])}. Choose one by --key.")
    if len(modules) > 1 and key is None:
        others = format_keys([k for k in modules if k != first])
        warnings.warn(
            f"{path}: the module under {first} was taken. --key chooses another: {others}.", LoadWarning, stacklevel=4
        )
    return modules[first]


def _require_candidates(value: Any, path: Path) -> list[Candidate]:
    """Return the sets of weights in a checkpoint, or raise an error that names its contents."""
    candidates = list_candidates(value)
    if not candidates:
        keys = f" with the keys {format_keys([str(k) for k in value])}" if isinstance(value, Mapping) else ""
        raise LoadError(f"{path} holds a {type(value).__name__}{keys} and no state dict. Save model.state_dict().")
    return candidates


def _list_fits(candidate: Candidate, expected: Mapping[str, Any]) -> list[_Fit]:
    """Return the parts of a set of weights that fill the network exactly."""
    for state in iterate_whole_states(candidate.read_state()):
        matches = list_matches(state, expected)
        if matches:
            return [_Fit(_join_key(candidate.key, match.prefix), match) for match in matches]
    return []


def _join_key(key: str, prefix: str) -> str:
    """Return the key of a part of a state dict: its own key and the prefix of the names."""
    return ".".join(part for part in (key, prefix.removesuffix(".")) if part)


def _choose_fit(fits: Sequence[_Fit], candidates: Sequence[Candidate], key: str | None, path: Path, arch: str) -> _Fit:
    """Return the weights with the given or the most usual key, and say which they are if there are others."""
    if key is not None:
        selected = select_keys([fit.key for fit in fits], key)
        named = [fit for fit in fits if fit.key in selected]
        fits = named or fits
        if not named:
            raise LoadError(
                f"{path} has no weights for {arch} under --key {key}. It has {format_keys([f.key for f in fits])}."
            )
    best = min(rank_key(fit.key) for fit in fits)
    usual = [fit for fit in fits if rank_key(fit.key) == best]
    if any(not _are_equal(usual[0].match.state, fit.match.state) for fit in usual[1:]):
        raise LoadError(
            f"{path} has several sets of weights for {arch}: {format_keys([fit.key for fit in usual])}. Choose one by --key."
        )
    _report_choice(usual[0], fits, candidates, key, path)
    return usual[0]


def _are_equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return True if two state dicts hold the same numbers."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items() if isinstance(value, Tensor)
    )


def _report_choice(
    chosen: _Fit, fits: Sequence[_Fit], candidates: Sequence[Candidate], key: str | None, path: Path
) -> None:
    """Warn if the file holds weights that stay unread."""
    others = [
        c.key for c in candidates if chosen.key != c.key and not chosen.key.startswith(f"{c.key}." if c.key else "")
    ]
    others = list(dict.fromkeys([*(fit.key for fit in fits if fit.key != chosen.key), *others]))
    if others and key is None:
        warnings.warn(
            f"{path}: the weights under {chosen.key or 'no key'} were taken. It also has {format_keys(others)}, "
            "which --key chooses.",
            LoadWarning,
            stacklevel=5,
        )
    if chosen.match.left_out:
        warnings.warn(
            f"{path}: the names under {chosen.match.prefix.removesuffix('.')} were taken. Left out: "
            f"{format_names(chosen.match.left_out)}.",
            LoadWarning,
            stacklevel=5,
        )


def _explain_misfit(
    candidates: Sequence[Candidate], expected: Mapping[str, Any], path: Path, arch: str, key: str | None
) -> LoadError:
    """Return an error with the misfits of the weights that come nearest."""
    selected = select_keys([c.key for c in candidates], key or "")
    named = [c for c in candidates if key is None or c.key in selected]
    if not named:
        return LoadError(f"{path} has no weights under --key {key}. It has {format_keys([c.key for c in candidates])}.")
    states = {c.key: c.read_state() for c in named}
    for state in states.values():
        check_no_adapters(state, path)
    nearest = {k: find_nearest(list(iterate_whole_states(state))[-1], expected) for k, state in states.items()}
    best = max(nearest, key=lambda k: len(nearest[k].keys() & expected.keys()))
    where = f" (its weights under {best})" if best else ""
    others = [c.key for c in candidates if c.key != best]
    more = f" It also has {format_keys(others)}." if others else ""
    problems = "; ".join(find_misfits(nearest[best], expected))
    return LoadError(f"{path}{where} does not fit {arch}: {problems}. {_suggest_fix(nearest[best], expected)}{more}")


def _load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state dict with fitting names and shapes."""
    model.load_state_dict(state, strict=False)


def _suggest_fix(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return advice. Weights with all names and smaller shapes are likely those of a coarse network."""
    tensors = [k for k in expected if isinstance(state.get(k), Tensor)]
    pairs = [(state[k].shape, expected[k].shape) for k in tensors]
    smaller = all(len(a) == len(b) and all(m <= n for m, n in zip(a, b, strict=True)) for a, b in pairs)
    if smaller and set(state) == set(expected):
        return (
            "Check --arch-arg. For a coarse network, open the whole module that --own-class wrote (with --trust) or the "
            ".safetensors file that --output wrote."
        )
    if any("_flat_param" in name for name in state):
        return "These are flat parameters of FSDP. Save a full state dict (StateDictType.FULL_STATE_DICT)."
    if any("parametrizations." in name for name in state):
        return "Call torch.nn.utils.parametrize.remove_parametrizations before saving, or give an --arch that has them."
    if any(name.endswith(("scale", "scale_inv", "SCB", "qweight", "qzeros", "absmax")) for name in state):
        return "These are quantised weights. Save them in float32, float16 or bfloat16."
    return "Check --arch and --arch-arg."
