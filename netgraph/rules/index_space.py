"""Index spaces: the sets of indices that dimensions of tensors run over, and how operators unite, split and join them.

A *space* is a row-major product of factors, written as a tuple. The empty product has size one. A factor is an `Atom`, a
set of interchangeable units, or a `Concat`, a concatenation of spaces. Atoms are variables. Two atoms are united by
union-find (Tarjan, "Efficiency of a good but not linear set union algorithm", J. ACM 22(2), 1975). An atom that turns out
to have structure is bound to a space, as in unification (Robinson, J. ACM 12(1), 1965).

An example: ``view`` splits a dimension of 12 units, the atom a, into (3, 4). Then a is bound to the space (b, c) with atoms
b of size 3 and c of size 4, and every other dimension that runs over a runs over (b, c) from now on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Union

_ids = count()


class Atom:
    """A set of interchangeable units, until it is united with another atom or bound to a space.

    Parameters
    ----------
    size : int
        Number of units.
    pinned : str or None, default None
        The reason why no two units may merge, or None if they may.
    """

    __slots__ = ("bound", "dynamic", "equal", "id", "parent", "pinned", "size")

    def __init__(self, size: int, pinned: str | None = None) -> None:
        self.id = next(_ids)
        self.size = size
        self.pinned = pinned
        self.equal: str | None = None  # the reason why all aggregates must have the same size
        self.dynamic = False  # its size is read from the input at run time
        self.parent: Atom | None = None
        self.bound: Space | None = None

    def __repr__(self) -> str:
        return f"a{self.id}:{self.size}"


class Concat(tuple[tuple[Any, ...], ...]):
    """A concatenation of spaces. Its size is the sum of their sizes."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Number of indices."""
        return sum(size_of(part) for part in self)

    def __repr__(self) -> str:
        return "[" + " + ".join(map(repr, self)) + "]"


Factor = Union[Atom, Concat]
Space = tuple[Factor, ...]
ONE: Space = ()


class MisfitError(Exception):
    """Two spaces have no common structure. The caller pins both."""


def size_of(space: Space) -> int:
    """Return the number of indices of a space."""
    return math.prod(factor.size for factor in space)


def new_space(size: int, pinned: str | None = None) -> Space:
    """Return a new space of one atom, or the empty product if the size is one."""
    return ONE if size == 1 else (Atom(size, pinned),)


def find_root(atom: Atom) -> Atom:
    """Return the representative of all atoms that are united with this one, and shorten the path to it."""
    while atom.parent is not None:
        if atom.parent.parent is not None:
            atom.parent = atom.parent.parent
        atom = atom.parent
    return atom


def resolve(space: Space) -> Space:
    """Return a space with every atom replaced by its representative, and every bound atom by its space."""
    if len(space) == 1 and type(space[0]) is Atom and space[0].parent is None and space[0].bound is None:
        return space  # the common case: one axis without structure
    out: list[Factor] = []
    for factor in space:
        if isinstance(factor, Atom):
            top = find_root(factor)
            out.extend((top,) if top.bound is None else resolve(top.bound))
        else:
            out.extend(concat(resolve(part) for part in factor))
    return tuple(out)


def concat(parts: Iterable[Space]) -> Space:
    """Return the concatenation of spaces. Nested ones are flattened, and a single part is returned as it is."""
    flat: list[Space] = []
    for part in parts:
        if size_of(part) == 0:
            continue
        if len(part) == 1 and isinstance(part[0], Concat):
            flat.extend(part[0])
        else:
            flat.append(part)
    return flat[0] if len(flat) == 1 else (Concat(flat),)


def iter_atoms(space: Space) -> Iterator[Atom]:
    """Yield the representative atoms of a space, including repeats."""
    for factor in resolve(space):
        if isinstance(factor, Atom):
            yield factor
        else:
            for part in factor:
                yield from iter_atoms(part)


def pin(space: Space, reason: str) -> None:
    """Mark every atom of a space as pinned. An atom keeps its first reason."""
    for atom in iter_atoms(space):
        atom.pinned = atom.pinned or reason


def require_equal(space: Space, reason: str) -> None:
    """Require aggregates of the same size on every atom of a space.

    One number, fine size / coarse size, must then hold for the whole space. Different axes in a concatenation could
    shrink by different ratios, so they are pinned instead.
    """
    for factor in resolve(space):
        if isinstance(factor, Concat) and len({frozenset(iter_atoms(part)) for part in factor}) > 1:
            pin((factor,), f"{reason}, over parts of different axes")
    for atom in iter_atoms(space):
        atom.equal = atom.equal or reason


def unite(a: Space, b: Space) -> None:
    """Make two spaces of equal size the same.

    Parameters
    ----------
    a, b : Space

    Raises
    ------
    MisfitError
        The sizes differ, or the factors have no common refinement.
    """
    # Both spaces are read from the left, factor by factor. Of two factors of different size the larger is split into a
    # leading part of the smaller size and the rest, so that equal sizes meet. Splitting binds atoms, which changes all
    # spaces that hold them. The rest of both spaces is therefore resolved again after each step.
    left, right = list(resolve(a)), list(resolve(b))
    if size_of(tuple(left)) != size_of(tuple(right)):
        raise MisfitError(f"sizes {size_of(tuple(left))} and {size_of(tuple(right))}")
    while left and right:
        x, y = left.pop(0), right.pop(0)
        if x.size > y.size:
            lead, tail = _split_space((x,), y.size)
            left = [*lead, *tail, *left]
            right = [y, *right]
        elif x.size < y.size:
            lead, tail = _split_space((y,), x.size)
            right = [*lead, *tail, *right]
            left = [x, *left]
        else:
            _unite_factors(x, y)
            left, right = list(resolve(tuple(left))), list(resolve(tuple(right)))


def _unite_factors(x: Factor, y: Factor) -> None:
    """Make two factors of equal size the same."""
    if x is y or x == y:
        return
    if isinstance(x, Atom) and isinstance(y, Atom):
        _union_atoms(find_root(x), find_root(y))
    elif isinstance(x, Atom):
        _bind_atom(find_root(x), (y,))
    elif isinstance(y, Atom):
        _bind_atom(find_root(y), (x,))
    else:
        _unite_concats(x, y)


def _union_atoms(x: Atom, y: Atom) -> None:
    """Make one of two representatives that of both, with the constraints of both."""
    if x is y:
        return
    if x.bound is not None or y.bound is not None:  # an earlier step of the same unification may have bound one of them
        unite((x,), (y,))
        return
    y.parent = x
    x.pinned, x.equal = x.pinned or y.pinned, x.equal or y.equal
    x.dynamic = x.dynamic or y.dynamic


def _bind_atom(atom: Atom, space: Space) -> None:
    """Bind an atom to a space of its size. The space inherits the constraints of the atom."""
    if atom.bound is not None:
        unite(atom.bound, space)
        return
    if any(part is atom for part in iter_atoms(space)):
        raise MisfitError("an axis would contain itself")
    atom.bound = space
    if atom.pinned:
        pin(space, atom.pinned)
    if atom.equal:
        require_equal(space, atom.equal)
    if atom.dynamic:  # the leading factor has the variable size, because batches are outermost
        first = next(iter(resolve(space)))
        if isinstance(first, Atom):
            first.dynamic = True


def _unite_concats(x: Concat, y: Concat) -> None:
    """Unite two concatenations from left to right. Where part boundaries differ, the longer part is cut."""
    left, right = list(x), list(y)
    while left and right:
        a, b = left.pop(0), right.pop(0)
        n = min(size_of(a), size_of(b))
        if size_of(a) > n:
            a, rest = _cut_space(a, n)
            left.insert(0, rest)
        if size_of(b) > n:
            b, rest = _cut_space(b, n)
            right.insert(0, rest)
        unite(a, b)


def _split_space(space: Space, lead_size: int) -> tuple[Space, Space]:
    """Split a space into a leading factor of the given size and the rest."""
    lead: list[Factor] = []
    rest = list(resolve(space))
    while lead_size > 1:
        if not rest:
            raise MisfitError("nothing left to split")
        factor = rest.pop(0)
        if lead_size % factor.size == 0:
            lead.append(factor)
            lead_size //= factor.size
        elif factor.size % lead_size == 0:
            head, tail = _split_factor(factor, lead_size)
            lead.extend(head)
            rest = [*tail, *rest]
            lead_size = 1
        else:
            raise MisfitError(f"{factor.size} does not split into {lead_size} parts")
    return tuple(lead), tuple(rest)


def _split_factor(factor: Factor, lead_size: int) -> tuple[Space, Space]:
    """Split one factor into a leading part of the given size and the rest."""
    tail_size = factor.size // lead_size
    if isinstance(factor, Atom):
        head, tail = new_space(lead_size), new_space(tail_size)
        _bind_atom(find_root(factor), head + tail)
        return head, tail
    heads: list[Space] = []
    tail = new_space(tail_size)
    for part in factor:
        size = size_of(part)
        if size % tail_size:
            raise MisfitError(f"a part of {size} does not split into rows of {tail_size}")
        head, rest = _split_space(part, size // tail_size)
        unite(rest, tail)
        heads.append(head)
    return _join_heads(heads), resolve(tail)


def _join_heads(heads: list[Space]) -> Space:
    """Return the concatenation of leading factors. Factors of one index each form a counter, which must keep its order."""
    if all(size_of(head) == 1 for head in heads):
        return new_space(len(heads), "counts the parts of a concatenation")
    return concat(heads)


def _cut_space(space: Space, start: int) -> tuple[Space, Space]:
    """Cut a space into its first ``start`` indices and the others."""
    space = resolve(space)
    if not space:
        raise MisfitError("a single index cannot be cut")
    tail = space[1:]
    if start % size_of(tail):
        raise MisfitError(f"a cut at {start} is inside a row of {size_of(tail)}")
    before, after = _cut_factor(space[0], start // size_of(tail))
    return before + tail, after + tail


def _cut_factor(factor: Factor, start: int) -> tuple[Space, Space]:
    """Cut one factor into its first ``start`` indices and the others."""
    if isinstance(factor, Atom):
        before, after = new_space(start), new_space(factor.size - start)
        _bind_atom(find_root(factor), (Concat((before, after)),))
        return before, after
    left: list[Space] = []
    right = list(factor)
    while start:
        part = right.pop(0)
        if size_of(part) > start:
            part, rest = _cut_space(part, start)
            right.insert(0, rest)
        left.append(part)
        start -= size_of(part)
    return concat(left), concat(right)


def slice_space(space: Space, start: int, stop: int) -> Space:
    """Return the space of the indices start to stop - 1.

    Parameters
    ----------
    space : Space
    start, stop : int
        0 <= start < stop <= size of the space.

    Returns
    -------
    Space

    Raises
    ------
    MisfitError
        The cut falls inside a row of a product.
    """
    size = size_of(space)
    if stop < size:
        space, _ = _cut_space(space, stop)
    if start > 0:
        _, space = _cut_space(space, start)
    return space


def reshape(spaces: Sequence[Space], sizes: Sequence[int]) -> list[Space]:
    """Regroup the factors of a tensor's dimensions, in row-major order, into dimensions of the given sizes.

    Parameters
    ----------
    spaces : sequence of Space
        One space for each dimension.
    sizes : sequence of int
        Sizes of the new dimensions.

    Returns
    -------
    list of Space

    Raises
    ------
    MisfitError
        The sizes do not fit, there are no numbers, or a new dimension would split a factor that has no such structure.
    """
    rest: Space = tuple(factor for space in spaces for factor in resolve(space))
    if size_of(rest) == 0:
        raise MisfitError("there are no numbers")
    out = []
    for size in sizes:
        lead, rest = _split_space(rest, size)
        out.append(lead)
    return out
