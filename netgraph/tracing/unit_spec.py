"""UnitSpec: for every dimension of every parameter, the axis it runs over.

A *term* is what a dimension runs over, in axis names: a tuple of factors, row-major, where a factor is the name
of an axis or a `Join` of terms laid end to end. ``("head", "head_dim")`` prints as ``(head · head_dim)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Union

from torch import fx

from netgraph.utils.html_table import render_table


class Join(tuple[tuple[Any, ...], ...]):
    """Terms laid end to end."""

    __slots__ = ()


Term = tuple[Union[str, Join], ...]


@dataclass(frozen=True)
class Axis:
    """A named set of interchangeable units.

    Parameters
    ----------
    name : str
        After the parameter that makes the units.
    size : int
        Number of units.
    kind : str
        ``neuron``, ``channel``, ``head``, or ``index`` for what no parameter makes.
    kept : str or None
        Why no two units may merge; None where they may.
    equal : str or None
        Why all aggregates must have one size; None where sizes are free.
    """

    name: str
    size: int
    kind: str = "neuron"
    kept: str | None = None
    equal: str | None = None


@dataclass(frozen=True)
class Rewrite:
    """An argument of a node that depends on sizes; see `netgraph.rules.operator_call.SizeEdit`."""

    argument: str
    terms: tuple[Term | None, ...]
    compute: Any = None
    single: bool = False


@dataclass(frozen=True)
class Factor:
    """A node's operand, or its result, that is multiplied by (fine / coarse) ** power."""

    operand: str | None
    term: Term
    power: float


@dataclass
class Plan:
    """One recorded graph and all that has to be written anew in it for other sizes."""

    graph: fx.Graph
    rewrites: dict[str, list[Rewrite]] = field(default_factory=dict)
    factors: dict[str, list[Factor]] = field(default_factory=dict)
    retarget: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    sources: dict[str, tuple[str, int, Term]] = field(default_factory=dict)
    outputs: Any = None
    products: list[Term] = field(default_factory=list)


def term_size(term: Term, sizes: Mapping[str, int]) -> int:
    """Return the number of indices of a term, given the sizes of axes."""
    return math.prod(sizes[f] if isinstance(f, str) else sum(term_size(part, sizes) for part in f) for f in term)


def term_axes(term: Term) -> Iterator[str]:
    """Yield the axes of a term, repeats included."""
    for factor in term:
        if isinstance(factor, str):
            yield factor
        else:
            for part in factor:
                yield from term_axes(part)


def format_term(term: Term) -> str:
    """Write a term as text: ``head · head_dim``, ``a + b``, ``1``."""
    words = [f if isinstance(f, str) else "(" + " + ".join(format_term(part) for part in f) + ")" for f in term]
    return " · ".join(words) or "1"


@dataclass(frozen=True)
class UnitSpec:
    """A network as its axes.

    Parameters
    ----------
    axes : dict of str to Axis
    parameters : dict of str to tuple of Term
        For every traced parameter and buffer, by qualified name, the term of each dimension.
    sums : dict of (str, int) to frozenset of str
        Axes along which a parameter's dimension is summed over by all who read it (it is *incoming* there), so
        that merged units add up; along all others they are averaged.
    plans : dict of str to Plan
        The recorded computation for ``"train"`` and ``"eval"``.
    ties : dict of str to str
        Other names of tied parameters.
    untraced : tuple of str
        Parameters and buffers that the run on the example never read.
    traced : dict of str to int, optional
        Numbers of units of the network that was recorded, where this spec has others.
    inside_heads : frozenset of str
        Axes of the numbers inside heads that may merge; none where heads were asked to merge whole.
    """

    axes: dict[str, Axis]
    parameters: dict[str, tuple[Term, ...]]
    sums: dict[tuple[str, int], frozenset[str]]
    plans: dict[str, Plan]
    inputs: Any
    input_terms: tuple[tuple[Term, ...], ...]
    ties: dict[str, str]
    trainable: frozenset[str]
    untraced: tuple[str, ...] = ()
    dynamic: frozenset[str] = frozenset()
    traced: Mapping[str, int] | None = None
    inside_heads: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units of every axis."""
        return {name: axis.size for name, axis in self.axes.items()}

    @property
    def free(self) -> list[Axis]:
        """The axes whose units may merge."""
        return [axis for axis in self.axes.values() if axis.kept is None]

    @property
    def used(self) -> dict[str, Axis]:
        """The axes that parameters run over: those of the unit graph, in its order."""
        named = {a for terms in self.parameters.values() for t in terms for a in term_axes(t)}
        return {name: axis for name, axis in self.axes.items() if name in named}

    @property
    def flops(self) -> int:
        """Operations of the products of one forward pass on the example, two for each multiply-add."""
        sizes = self.sizes
        return sum(2 * term_size(term, sizes) for term in self.plans["eval"].products)

    def readers(self, axis: str) -> list[tuple[str, int]]:
        """Return the (parameter, dimension) pairs that run over an axis."""
        return list(self._readers_by_axis.get(axis, ()))

    @cached_property
    def _readers_by_axis(self) -> dict[str, list[tuple[str, int]]]:
        found: dict[str, list[tuple[str, int]]] = {}
        for name, terms in self.parameters.items():
            for dim, term in enumerate(terms):
                for axis in dict.fromkeys(term_axes(term)):
                    found.setdefault(axis, []).append((name, dim))
        return found

    def with_sizes(self, sizes: Mapping[str, int]) -> UnitSpec:
        """Return the spec of the same network with other numbers of units."""
        axes = {name: replace(axis, size=sizes.get(name, axis.size)) for name, axis in self.axes.items()}
        return replace(self, axes=axes, traced=self.traced or self.sizes)

    def _summed_axes(self, name: str) -> set[str]:
        """Return the axes that a parameter is summed over."""
        return {a for (n, _), axes in self.sums.items() if n == name for a in axes}

    def __str__(self) -> str:
        lines = []
        for name, terms in self.parameters.items():
            text = ", ".join(format_term(term) for term in terms)
            summed = sorted(self._summed_axes(name))
            lines.append(f"{name} ({text})" + (f"  sums over {', '.join(summed)}" if summed else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Parameters and axes as tables for notebooks."""
        parameters = [
            (name, ", ".join(format_term(term) for term in terms), ", ".join(sorted(self._summed_axes(name))))
            for name, terms in self.parameters.items()
        ]
        axes = [
            (
                x.name,
                x.size,
                x.kind,
                f"kept: {x.kept}" if x.kept else f"equal aggregates: {x.equal}" if x.equal else "free",
            )
            for x in self.axes.values()
            if x.kind != "index"
        ]
        made = render_table("Parameters", ["parameter", "runs over", "sums over"], parameters)
        return made + render_table("Axes", ["axis", "units", "kind", "state"], axes)
