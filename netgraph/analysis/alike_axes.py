"""Axes that correspond to one another in alike modules of a list, such as the feed-forward neurons of all layers.

A config of transformers has one number for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from netgraph.analysis.residual_chains import iterate_alike_modules
from netgraph.tracing.unit_spec import UnitSpec, term_axes
from netgraph.utils.text import is_index


def find_alike_axes(spec: UnitSpec) -> dict[str, str]:
    """Return by axis of a later module the corresponding axis of the first module of its list.

    Parameters
    ----------
    spec : UnitSpec

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.analysis.alike_axes import find_alike_axes
    >>> from netgraph.models import Encoder
    >>> spec = ng.trace(Encoder(30, depth=2, width=16), torch.zeros(2, 8, dtype=torch.int64))
    >>> find_alike_axes(spec)
    {'blocks.1.attention.query': 'blocks.0.attention.query', 'blocks.1.up': 'blocks.0.up'}
    """
    first_of: dict[str, str] = {}
    for modules, names in iterate_alike_modules(spec):
        if not all(is_index(module.rpartition(".")[2]) for module in modules):
            continue
        leader, *others = modules
        for other in others:
            for name in names:
                pairs = zip(_list_axes(spec, f"{leader}.{name}"), _list_axes(spec, f"{other}.{name}"), strict=True)
                first_of |= {axis: first for first, axis in pairs if axis != first}
    free = {axis.name for axis in spec.free}
    return {axis: _find_root(first_of, axis) for axis in first_of if axis in free}


def _list_axes(spec: UnitSpec, name: str) -> Iterator[str]:
    """Yield the axes that a parameter runs over."""
    return (axis for term in spec.parameters.get(name, ()) for axis in term_axes(term))


def _find_root(first_of: dict[str, str], axis: str) -> str:
    """Return the axis that stands for another: modules of a list may hold lists."""
    seen = {axis}
    while first_of.get(axis, axis) not in seen:
        axis = first_of[axis]
        seen.add(axis)
    return axis
