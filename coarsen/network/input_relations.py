"""Relations between the sizes of inputs, read from the terms of their dimensions.

If one input has ``n`` rows and another ``n + 2``, where 2 is no free size, the recording holds for such inputs alone.
"""

from __future__ import annotations

from netgraph.tracing.unit_spec import Term, UnitSpec, term_axes, term_size


def relate_input_sizes(spec: UnitSpec) -> list[list[list[int]]]:
    """Return for each free axis the dimensions of inputs that follow its size, where there are several.

    Parameters
    ----------
    spec : UnitSpec

    Returns
    -------
    list of list of [input, dimension, start, step]
        The size of a dimension is ``start + step n`` for n units of the axis.
    """
    relations: dict[str, list[list[int]]] = {}
    for i, terms in enumerate(spec.input_terms):
        for dim, term in enumerate(terms):
            followed = _follow_axis(term, spec)
            if followed is not None:
                axis, start, step = followed
                relations.setdefault(axis, []).append([i, dim, start, step])
    return [relation for relation in relations.values() if len(relation) > 1]


def _follow_axis(term: Term, spec: UnitSpec) -> tuple[str, int, int] | None:
    """Return the one free axis of a term with start and step, or None if its size follows no axis or several."""
    free = set(term_axes(term)) & spec.dynamic
    if len(free) != 1:
        return None
    axis = free.pop()
    sizes = [term_size(term, {**spec.sizes, axis: n}) for n in range(3)]
    start, step = sizes[0], sizes[1] - sizes[0]
    return (axis, start, step) if step > 0 and sizes[2] - sizes[1] == step else None
