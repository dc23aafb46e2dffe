"""Relations between the sizes of inputs: a recording on 3 and 5 rows may hold for 4 and 6 rows, and not for 5 and 5.

A network may work out a number from the sizes of two inputs, such as `len(y) - len(x)`. It is a constant in the recording, which then
holds for inputs whose sizes differ as much as those of the example. A relation lists dimensions of inputs whose sizes follow one number
n: the size of each is ``start + step n``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

Dimension = Sequence[int]  # number of the input, dimension, start, step
Relation = Sequence[Dimension]


def explain_broken_relation(
    relations: Sequence[Relation], shapes: Sequence[Sequence[int]], name_of: Callable[[int], str]
) -> str | None:
    """Return a sentence on two inputs whose sizes do not fit together, or None if all do.

    Parameters
    ----------
    relations : sequence of Relation
    shapes : sequence of tuple of int
        Shapes of the inputs.
    name_of : callable
        Returns the name of an input, by its number.

    Examples
    --------
    >>> from netgraph.recording.forward.size_relations import explain_broken_relation
    >>> relations = [[[0, 0, 0, 1], [1, 0, 2, 1]]]  # the second input has two rows more than the first
    >>> explain_broken_relation(relations, [(4, 8), (6, 8)], "xy".__getitem__)
    >>> print(explain_broken_relation(relations, [(5, 8), (5, 8)], "xy".__getitem__))
    inputs x of shape (5, 8) and y of shape (5, 8) do not fit together: the network was traced for inputs where dimension 0 of y has 2 more than dimension 0 of x
    """
    for relation in relations:
        for one, other in pairwise(relation):
            if not _fit(one, other, shapes):
                first, second = one[0], other[0]
                names, sizes = (name_of(first), name_of(second)), (tuple(shapes[first]), tuple(shapes[second]))
                whole = (
                    f"input {names[0]} of shape {sizes[0]} does not fit"
                    if first == second
                    else f"inputs {names[0]} of shape {sizes[0]} and {names[1]} of shape {sizes[1]} do not fit together"
                )
                return f"{whole}: the network was traced for inputs where {_describe(one, other, names)}"
    return None


def fill_free_sizes(shapes: Sequence[Sequence[int | None]], relations: Sequence[Relation], n: int) -> list[list[int]]:
    """Return shapes with a number in the place of free sizes, or with sizes that follow it where relations say so.

    Examples
    --------
    >>> from netgraph.recording.forward.size_relations import fill_free_sizes
    >>> fill_free_sizes([[None, 8], [None, 8]], [[[0, 0, 0, 1], [1, 0, 2, 1]]], 3)
    [[3, 8], [5, 8]]
    """
    filled = [[n if size is None else size for size in shape] for shape in shapes]
    for i, dim, start, step in (dimension for relation in relations for dimension in relation):
        filled[i][dim] = start + step * n
    return filled


def _fit(one: Dimension, other: Dimension, shapes: Sequence[Sequence[int]]) -> bool:
    """Return True if the sizes of two dimensions follow the same number."""
    (i, dim, start, step), (j, other_dim, other_start, other_step) = one, other
    n, rest = divmod(shapes[i][dim] - start, step)
    return rest == 0 and shapes[j][other_dim] == other_start + other_step * n


def _describe(one: Dimension, other: Dimension, names: tuple[str, str]) -> str:
    """Return the relation of two dimensions in words."""
    (_, dim, start, step), (_, other_dim, other_start, other_step) = one, other
    left, right = f"dimension {other_dim} of {names[1]}", f"dimension {dim} of {names[0]}"
    more = other_start - start
    if step == other_step and more == 0:
        return f"{left} is as large as {right}"
    if step == other_step:
        return f"{left} has {abs(more)} {'more' if more > 0 else 'less'} than {right}"
    if start == other_start == 0:
        return f"{left} is {other_step}/{step} of {right}" if step > 1 else f"{left} is {other_step} times {right}"
    return f"{left} has {other_start} + {other_step} n entries and {right} {start} + {step} n"
