"""Autocast regions: a network that switches mixed precision on or off for a part of its forward.

PyTorch records ``with torch.autocast(...)`` as two calls, one at each end. The steps here do the same through its public class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx

from netgraph.errors import LoadError

DEVICES = ("cpu", "cuda", "xpu", "hpu", "mps", "mtia", "maia", "xla", "privateuseone")


def enter_autocast(device: str | torch.device, dtype: torch.dtype | None, enabled: bool, cache: bool | None) -> Any:
    """Begin a region, and return what `exit_autocast` ends.

    Parameters
    ----------
    device : str or torch.device
        A region on the device of the recorded network follows the network to another device.
    dtype : torch.dtype, optional
    enabled : bool
    cache : bool, optional
        Whether cast weights are kept within the region.
    """
    kind = device.type if isinstance(device, torch.device) else device
    region = torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=cache)
    region.__enter__()
    return region


def exit_autocast(region: torch.autocast) -> None:
    """End a region."""
    region.__exit__(None, None, None)


OPERATORS: dict[str, Callable[..., Any]] = {"autocast:enter": enter_autocast, "autocast:exit": exit_autocast}
_RECORDED = {"_enter_autocast": "autocast:enter", "_exit_autocast": "autocast:exit"}


def name_operator(node: fx.Node) -> str | None:
    """Return the name of a recorded end of a region in a file, or None for another node."""
    return _RECORDED.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None


def follow_device(node: fx.Node, arguments: dict[str, Any], recorded: str, device: fx.Node | None) -> dict[str, Any]:
    """Return the arguments of a call. A region on the device type of the recording gets the device of the run."""
    if name_operator(node) != "autocast:enter" or device is None:
        return arguments
    (kind, *rest), keywords = arguments[""]
    return {"": ((device if kind == recorded else kind, *rest), keywords)}


def check_call(function: Any, values: Sequence[Any], is_reference: Callable[[Any], bool]) -> None:
    """Raise `LoadError` for arguments in a file that netgraph does not write."""
    if function is exit_autocast:
        fits = len(values) == 1 and is_reference(values[0])
    else:
        device, dtype, *flags = values if len(values) == 4 else [None] * 4
        fits = (
            (is_reference(device) or device in DEVICES)
            and (dtype is None or isinstance(dtype, torch.dtype))
            and all(flag in (True, False, None) for flag in flags)
        )
    if not fits:
        raise LoadError("an autocast region has other arguments than netgraph writes. The file is refused.")


def leave_open_regions(slots: Sequence[Any]) -> None:
    """End the regions that a run has begun and not ended, after an error within one."""
    for region in reversed(_list_open(slots)):
        exit_autocast(region)


@contextmanager
def pause_regions(slots: Sequence[Any]) -> Iterator[None]:
    """Switch autocast off in a block within the regions of a run."""
    with ExitStack() as stack:
        for region in _list_open(slots):
            stack.enter_context(torch.autocast(region.device, enabled=False))
        yield


def _list_open(slots: Sequence[Any]) -> list[torch.autocast]:
    """Return the regions in the slots of a run. The step that ends a region empties its slot."""
    return [value for value in slots if isinstance(value, torch.autocast)]
