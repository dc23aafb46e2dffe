"""Tensors made from nothing but sizes."""

from __future__ import annotations

from collections.abc import Callable

from netgraph import space as sp
from netgraph.call import Call, Spaces


def constant(call: Call) -> Spaces:
    """One number everywhere: the new axes are as free as what they meet."""
    out = [sp.fresh(n) for n in call.shape()]
    if isinstance(call.arguments.get("size"), (list, tuple)):
        call.resize("size", out)
    return out


def numbered(call: Call) -> Spaces:
    """Numbers that tell units apart (arange, eye, noise): the new axes are kept."""
    out = [call.fresh_pinned(n, "numbers that tell units apart") for n in call.shape()]
    if isinstance(call.arguments.get("size"), (list, tuple)):
        call.resize("size", out)
    elif (
        isinstance(call.arguments.get("end"), int)
        and not call.arguments.get("start")
        and call.arguments.get("step", 1) == 1
    ):
        call.resize("end", out[0] if out else sp.ONE, single=True)
    return out


def mesh(call: Call) -> list[Spaces]:
    """Coordinates of a grid."""
    tensors = list(call["tensors"])
    axes = [(call.spaces(node) or [sp.ONE])[0] for node in tensors]
    for axis in axes:
        call.pin(axis, "coordinates of a grid")
    if call.arguments.get("indexing", "ij") == "xy" and len(axes) > 1:
        axes[0], axes[1] = axes[1], axes[0]
    return [list(axes) for _ in tensors]


def _named(rule: Callable[[Call], object], *names: str) -> dict[str, object]:
    return dict.fromkeys([f"aten.{name}" for name in names], rule)


RULES = {
    **_named(constant, "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full", "scalar_tensor",
             "empty_strided", "new_empty_strided"),
    **_named(numbered, "arange", "linspace", "eye", "rand", "randn", "randint", "randperm", "tril_indices", "triu_indices",
             "hann_window", "logspace", "range", "bartlett_window"),
    **_named(mesh, "meshgrid"),
}  # fmt: skip
