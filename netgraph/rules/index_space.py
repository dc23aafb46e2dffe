"""Index spaces: what a dimension of a tensor runs over, and how operators unite, split and join them.

A *space* is an ordered (row-major) product of factors, written as a tuple; the empty product has size one.
A factor is an `Atom`, a set of interchangeable units, or a `Concat` of spaces laid end to end. Atoms are
variables: uniting two of them is union-find (Tarjan, "Efficiency of a good but not linear set union
algorithm", J. ACM 22(2), 1975), and an atom that turns out to have structure is bound to the space it
stands for, as in unification (Robinson, J. ACM 12(1), 1965).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Union

_ids = count()


class Atom:
    """A set of ``size`` interchangeable units, until it is united with another or bound to a space."""

    __slots__ = ("bound", "dynamic", "equal", "id", "parent", "pinned", "size")

    def __init__(self, size: int, pinned: str | None = None) -> None:
        self.id = next(_ids)
        self.size = size
        self.pinned = pinned
        self.equal: str | None = None  # why aggregates of this axis must all have one size
        self.dynamic = False  # its size is read from the input at run time
        self.parent: Atom | None = None
        self.bound: Space | None = None

    def __repr__(self) -> str:
        return f"a{self.id}:{self.size}"


class Concat(tuple[tuple[Any, ...], ...]):
    """Spaces laid end to end; its size is the sum of theirs."""

    __slots__ = ()

    @property
    def size(self) -> int:
        return sum(size_of(part) for part in self)

    def __repr__(self) -> str:
        return "[" + " + ".join(map(repr, self)) + "]"


Factor = Union[Atom, Concat]
Space = tuple[Factor, ...]
ONE: Space = ()


class MisfitError(Exception):
    """Two spaces of equal size that no common structure explains; the caller pins both."""


def size_of(space: Space) -> int:
    """Return the number of indices of a space."""
    return math.prod(factor.size for factor in space)


def new_space(size: int, pinned: str | None = None) -> Space:
    """Return a new space of one atom; of none where the size is one."""
    return ONE if size == 1 else (Atom(size, pinned),)


def find_root(atom: Atom) -> Atom:
    """Return the atom that stands for all atoms united with this one."""
    while atom.parent is not None:
        if atom.parent.parent is not None:
            atom.parent = atom.parent.parent
        atom = atom.parent
    return atom


def resolve(space: Space) -> Space:
    """Rewrite a space in terms of free root atoms only."""
    if len(space) == 1 and type(space[0]) is Atom and space[0].parent is None and space[0].bound is None:
        return space  # most of them: one axis as it is
    out: list[Factor] = []
    for factor in space:
        if isinstance(factor, Atom):
            top = find_root(factor)
            out.extend((top,) if top.bound is None else resolve(top.bound))
        else:
            out.extend(concat(resolve(part) for part in factor))
    return tuple(out)


def concat(parts: Iterable[Space]) -> Space:
    """Lay spaces end to end; nested concatenations are flattened and a single part is itself."""
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
    """Yield the root atoms of a space, repeats included."""
    for factor in resolve(space):
        if isinstance(factor, Atom):
            yield factor
        else:
            for part in factor:
                yield from iter_atoms(part)


def pin(space: Space, reason: str) -> None:
    """Keep every atom of a space as it is, and remember why; the first reason stays."""
    for atom in iter_atoms(space):
        atom.pinned = atom.pinned or reason


def require_equal(space: Space, reason: str) -> None:
    """Ask for aggregates of one size on every atom of a space.

    One number, fine size over coarse size, must describe the whole space; parts of a concatenation that are
    different axes could shrink by different ratios, so they are pinned instead.
    """
    for factor in resolve(space):
        if isinstance(factor, Concat) and len({frozenset(iter_atoms(part)) for part in factor}) > 1:
            pin((factor,), f"{reason}, over parts of different axes")
    for atom in iter_atoms(space):
        atom.equal = atom.equal or reason


def unite(a: Space, b: Space) -> None:
    """Make two spaces of equal size one and the same.

    Raises
    ------
    MisfitError
        No common refinement is known.
    """
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
    if x is y:
        return
    if x.bound is not None or y.bound is not None:  # an earlier step of the same unification bound one
        unite((x,), (y,))
        return
    y.parent = x
    x.pinned, x.equal = x.pinned or y.pinned, x.equal or y.equal
    x.dynamic = x.dynamic or y.dynamic


def _bind_atom(atom: Atom, space: Space) -> None:
    if atom.bound is not None:
        unite(atom.bound, space)
        return
    if any(part is atom for part in iter_atoms(space)):
        raise MisfitError("an axis that would contain itself")
    atom.bound = space
    if atom.pinned:
        pin(space, atom.pinned)
    if atom.equal:
        require_equal(space, atom.equal)
    if atom.dynamic:  # the leading factor carries what varies: batches are outermost
        first = next(iter(resolve(space)))
        if isinstance(first, Atom):
            first.dynamic = True


def _unite_concats(x: Concat, y: Concat) -> None:
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
    """Join leading factors; one index each makes a plain counter, which nothing may reorder."""
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
    """Return the space of the indices ``start .. stop - 1``.

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
    """Regroup the factors of a tensor's dimensions, row-major, into dimensions of the given sizes.

    Raises
    ------
    MisfitError
        A new dimension takes a fraction of a factor that cannot be split there.
    """
    rest: Space = tuple(factor for space in spaces for factor in resolve(space))
    out = []
    for size in sizes:
        lead, rest = _split_space(rest, size)
        out.append(lead)
    return out
