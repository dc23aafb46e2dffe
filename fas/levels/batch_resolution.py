"""Minibatches at the resolution of a level: inputs and targets of a network that answers an image for an image.

A coarse level in space has a resolution of its own, and a problem of its own at that resolution. Its targets are restricted,
and its inputs may be. The coarse network takes inputs of the fine shape and averages squares of pixels. Restricted inputs are
therefore enlarged by copying pixels, which that averaging undoes.

Which inputs are right is a question of the task. The average of a noisy image has half of its noise. A network that shall
remove noise of one size at every level needs an averaged clean image with noise of that size, and not an averaged noisy one.
Ahamed, Zakariaei, Haber, Eliasof, "Multiscale training of convolutional neural networks", TMLR 2026 (arXiv:2501.12739).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork

RestrictFunction = Callable[[Any, Any, int], tuple[Any, Any]]
Restrict = str | Mapping[str, str] | RestrictFunction
PARTS = ("inputs", "targets")


def find_divisor(model: nn.Module) -> int:
    """Return the ratio of the finest resolution to that of a level's network: 1, or a power of two."""
    network = model.module if isinstance(model, DistributedDataParallel) else model
    return network.resolution_divisor if isinstance(network, GraphNetwork) else 1


def restrict_batch(batch: tuple[Any, Any], restrict: Restrict, divisor: int) -> tuple[Any, Any]:
    """Return a minibatch for a level whose resolution is ``divisor`` times lower.

    Parameters
    ----------
    batch : pair of inputs and targets
        Tensors of the fine resolution, or tuples or dicts of them.
    restrict : str, dict of str to str, or callable
        A way for the targets, ways by name, or ``(inputs, targets, divisor) -> (inputs, targets)`` at the lower resolution.
        Ways are ``average`` (of squares of pixels), ``strided`` (the first pixel of each square), ``majority`` (the most
        frequent label of each square, the smallest of several), and ``keep``. Names are ``inputs`` and ``targets``, and for
        tensors within them ``inputs.image`` or ``targets.0``. What has no name is kept, and the network averages its inputs.
    divisor : int
        Ratio of the two resolutions.

    Returns
    -------
    inputs
        Of the fine shape. Every square of pixels has one value where the inputs were restricted.
    targets
        Of the lower resolution.

    Raises
    ------
    NetgraphError
        A tensor has no resolution, a side is not divisible, a way has no such name or does not fit the type, a name fits no
        tensor, or a function changes more than the resolution.

    Examples
    --------
    >>> import torch
    >>> from netgraph.fas import restrict_batch
    >>> image, labels = torch.rand(2, 3, 8, 8), torch.randint(5, (2, 8, 8))
    >>> inputs, targets = restrict_batch((image, labels), {"inputs": "strided", "targets": "majority"}, 2)
    >>> inputs.shape, targets.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 4, 4]))
    """
    if divisor < 1:
        raise NetgraphError(f"the divisor of the resolution is {divisor}. Give 1 or more.")
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise NetgraphError(f"a minibatch is a {type(batch).__name__}, not a pair of inputs and targets.")
    for part, value in zip(PARTS, batch, strict=True):
        _check_tensors(part, value)
    if callable(restrict):
        return _call_restriction(batch, restrict, divisor)
    ways = {"targets": restrict} if isinstance(restrict, str) else dict(restrict)
    unused = set(ways)
    inputs, targets = (
        _restrict_value(value, part, ways, divisor, unused) for part, value in zip(PARTS, batch, strict=True)
    )
    if unused:
        raise NetgraphError(
            f"restrict names {sorted(unused)[0]!r}, and no tensor of the minibatch is called so. Give inputs, targets, or "
            "parts of them, such as inputs.image or targets.0."
        )
    return enlarge_restricted(batch[0], inputs), targets


def _check_tensors(name: str, value: Any) -> None:
    """Refuse what is no tensor, and no tuple, list or dict of tensors."""
    if isinstance(value, Tensor):
        return
    if not isinstance(value, (tuple, list, Mapping)) or hasattr(value, "_fields"):
        raise NetgraphError(f"{name} are a {type(value).__name__}. Give a tensor, or a tuple, list or dict of tensors.")
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, part in items:
        _check_tensors(f"{name}.{key}", part)


def _restrict_value(value: Any, name: str, ways: Mapping[str, str], divisor: int, unused: set[str]) -> Any:
    """Return a tensor, or a tuple, list or dict of tensors, at the lower resolution. ``unused`` loses the names that fit."""
    way = ways.get(name)
    unused.discard(name)
    if isinstance(value, Tensor):
        return value if way is None else _restrict_tensor(value, way, divisor, name)
    items = dict(value.items()) if isinstance(value, Mapping) else dict(enumerate(value))
    inherited = {} if way is None else {f"{name}.{key}": way for key in items}
    parts = {
        key: _restrict_value(part, f"{name}.{key}", {**inherited, **ways}, divisor, unused)
        for key, part in items.items()
    }
    return parts if isinstance(value, Mapping) else type(value)(parts.values())


def _restrict_tensor(value: Tensor, way: str, divisor: int, name: str) -> Tensor:
    """Return one tensor at the lower resolution."""
    if way not in WAYS:
        raise NetgraphError(f"no way to restrict {name} is called {way!r}. There are {', '.join(WAYS)}.")
    if way == "keep":
        return value
    if value.ndim < 3:
        raise NetgraphError(
            f"{name} of shape {tuple(value.shape)} have no resolution to restrict. Leave {name} out of restrict, or give a "
            "function that makes coarse ones."
        )
    if any(side % divisor for side in value.shape[-2:]):
        raise NetgraphError(
            f"{name} of {value.shape[-2]} x {value.shape[-1]} pixels cannot be restricted by {divisor}. Give sides that "
            f"{divisor} divides, or fewer steps of space."
        )
    return WAYS[way](value, divisor, name)


def _average(value: Tensor, divisor: int, name: str) -> Tensor:
    """Return the mean of each square of pixels."""
    if not value.is_floating_point():
        raise NetgraphError(f"{name} are {value.dtype}, which have no average. Give majority for labels, or strided.")
    return _cut_squares(value, divisor).mean(-1)


def _take_first(value: Tensor, divisor: int, name: str) -> Tensor:
    """Return the first pixel of each square."""
    return value[..., ::divisor, ::divisor]


def _find_majority(value: Tensor, divisor: int, name: str) -> Tensor:
    """Return the most frequent label of each square, the smallest of several."""
    if value.is_floating_point():
        raise NetgraphError(f"{name} are {value.dtype}, and a majority is one of labels. Give average.")
    return _cut_squares(value, divisor).mode(-1).values


def _cut_squares(value: Tensor, divisor: int) -> Tensor:
    """Return (..., height / divisor, width / divisor, divisor²): the pixels of each square in the last dimension."""
    squares: Tensor = value.unflatten(-2, (-1, divisor)).unflatten(-1, (-1, divisor)).transpose(-3, -2).flatten(-2)
    return squares


WAYS: dict[str, Callable[[Tensor, int, str], Tensor]] = {
    "average": _average, "strided": _take_first, "majority": _find_majority, "keep": lambda value, divisor, name: value,
}  # fmt: skip


def enlarge_restricted(fine: Any, restricted: Any) -> Any:
    """Return inputs of a lower resolution in the shapes of the fine ones, by copying each pixel into a square."""
    if isinstance(fine, Tensor):
        return _enlarge_pixels(fine, restricted)
    if isinstance(fine, Mapping):
        return {key: enlarge_restricted(part, restricted[key]) for key, part in fine.items()}
    return type(fine)(enlarge_restricted(part, r) for part, r in zip(fine, restricted, strict=True))


def _enlarge_pixels(fine: Tensor, restricted: Tensor) -> Tensor:
    if fine.shape == restricted.shape:
        return restricted
    rows, columns = (n // m for n, m in zip(fine.shape[-2:], restricted.shape[-2:], strict=True))
    return restricted.repeat_interleave(rows, -2).repeat_interleave(columns, -1)


def _call_restriction(batch: tuple[Any, Any], restrict: RestrictFunction, divisor: int) -> tuple[Any, Any]:
    """Return what a user's function makes of a minibatch, checked against the fine one."""
    answer = restrict(*batch, divisor)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise NetgraphError(
            f"restrict answered a {type(answer).__name__}. It has to return a pair of inputs and targets."
        )
    for part, fine, coarse in zip(PARTS, batch, answer, strict=True):
        _check_restricted(part, fine, coarse, divisor)
    return enlarge_restricted(batch[0], answer[0]), answer[1]


def _check_labels(name: str, fine: Tensor, coarse: Tensor) -> None:
    """Refuse labels above all fine ones: a restriction keeps the classes. Lower ones may mark pixels to ignore."""
    if fine.is_floating_point() or fine.is_complex() or not name.startswith("targets") or not coarse.numel():
        return
    largest, allowed = int(coarse.max()), int(fine.max())
    if largest > allowed:
        raise NetgraphError(
            f"restrict made the label {largest} of {name}, which go up to {allowed}. It has to keep the classes."
        )


def _check_restricted(name: str, fine: Any, coarse: Any, divisor: int) -> None:
    """Refuse a restriction that changes anything but the resolution."""
    if isinstance(fine, Tensor):
        shapes = {tuple(fine.shape)}
        if fine.ndim > 2:
            shapes.add((*fine.shape[:-2], fine.shape[-2] // divisor, fine.shape[-1] // divisor))
        if not isinstance(coarse, Tensor) or tuple(coarse.shape) not in shapes or coarse.dtype != fine.dtype:
            found = (
                f"{coarse.dtype} of shape {tuple(coarse.shape)}"
                if isinstance(coarse, Tensor)
                else type(coarse).__name__
            )
            raise NetgraphError(
                f"restrict made {found} of {name}, which are {fine.dtype} of shape {tuple(fine.shape)}. It may divide height and "
                f"width by {divisor}, and nothing else may change."
            )
        _check_labels(name, fine, coarse)
        return
    keys = list(fine) if isinstance(fine, Mapping) else range(len(fine))
    if type(coarse) is not type(fine) or len(coarse) != len(fine):
        raise NetgraphError(
            f"restrict made a {type(coarse).__name__} of {name}, which nest as a {type(fine).__name__}."
        )
    for key in keys:
        _check_restricted(f"{name}.{key}", fine[key], coarse[key], divisor)
