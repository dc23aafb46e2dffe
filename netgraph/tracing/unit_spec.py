"""UnitSpec: the axis that each dimension of each parameter runs over.

A *term* describes one dimension by axis names. It is a tuple of factors in row-major order, and a factor is the name of an
axis or a `Join`, a concatenation of terms. The term ``("head", "head_dim")`` prints as ``(head · head_dim)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Union

from torch import fx

from netgraph.recording.forward.followed_dtype import DtypeLinks
from netgraph.utils.html_table import render_table
from netgraph.utils.text import escape_controls


class Join(tuple[tuple[Any, ...], ...]):
    """A concatenation of terms."""

    __slots__ = ()


Term = tuple[Union[str, Join], ...]


@dataclass(frozen=True)
class Axis:
    """A named set of interchangeable units.

    Parameters
    ----------
    name : str
        The name of the parameter that makes the units.
    size : int
        Number of units.
    kind : str, default "neuron"
        ``neuron``, ``channel``, ``head``, or ``index`` for positions that no parameter makes.
    kept : str or None, default None
        The reason why no two units may merge, or None if they may.
    equal : str or None, default None
        The reason why all aggregates must have the same size, or None if sizes are free.
    divided : int, default 0
        A number that the size of the aggregates must divide: how many of the units are chosen by rank. 0 if none are.
    inner : str or None, default None
        The axis inside these units whose units merge in their place by default, or None. The units are then the groups of a
        group norm, and the inner axis has the channels of a group. Groups merge as a whole if a ratio names their axis.
    within : str or None, default None
        The axis in each of whose units this axis merges in a way of its own, such as neurons inside experts. None if there
        is no such axis, or if the units must merge alike in all of them.
    fewest : int, default 0
        So many units must stay where units are left out, because as many are chosen by rank. 0 for units that are not chosen.
        Such units may go one by one, even if they cannot merge.
    """

    name: str
    size: int
    kind: str = "neuron"
    kept: str | None = None
    equal: str | None = None
    divided: int = 0
    inner: str | None = None
    within: str | None = None
    fewest: int = 0


@dataclass(frozen=True)
class Rewrite:
    """An argument of a node that depends on sizes, like `netgraph.rules.operator_call.SizeEdit` but with terms."""

    argument: str
    terms: tuple[Term | None, ...]
    compute: Any = None
    single: bool = False


@dataclass(frozen=True)
class Factor:
    """A factor (fine size / coarse size) ** power on a node's operand, or on its result if ``operand`` is None."""

    operand: str | None
    term: Term
    power: float


@dataclass(frozen=True)
class ExpertLayer:
    """Experts of which a router chooses some for every token.

    Parameters
    ----------
    units, ranks : Term
        The experts, and the ranks of those that are chosen.
    n_tokens : int
        Number of tokens of the example that are routed.
    parameters : tuple of str
        Parameters of which each token reads the entries of its experts only.
    rows : tuple of str, default ()
        Axes that count the tokens of one expert, where each expert takes its tokens by itself.
    """

    units: Term
    ranks: Term
    n_tokens: int
    parameters: tuple[str, ...]
    rows: tuple[str, ...] = ()


@dataclass
class Plan:
    """One recorded graph and the changes that other sizes of axes require.

    Parameters
    ----------
    graph : torch.fx.Graph
    rewrites : dict of str to list of Rewrite
        By node, the arguments that depend on sizes.
    factors : dict of str to list of Factor
        By node, the factors on operands and results.
    retarget : dict of str to (operator, dict)
        By node, the operator and arguments that replace the recorded call.
    sources : dict of str to (str, int, Term)
        By axis of variable size, the node, its dimension, and the rest of that dimension's term.
    outputs : nested structure
        The structure of the network's result.
    products : list of Term
        The multiply-adds of a forward pass. One product has as many as its term has indices.
    product_nodes : list of str
        The node of each product.
    dtypes : DtypeLinks or None
        What follows the precision of the network. None where that is not known.
    constants : dict of str to tuple of Term
        For each constant whose units may merge, such as a fixed table that a module holds, the term of each dimension.
    """

    graph: fx.Graph
    rewrites: dict[str, list[Rewrite]] = field(default_factory=dict)
    factors: dict[str, list[Factor]] = field(default_factory=dict)
    retarget: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    sources: dict[str, tuple[str, int, Term]] = field(default_factory=dict)
    outputs: Any = None
    products: list[Term] = field(default_factory=list)
    product_nodes: list[str] = field(default_factory=list)
    dtypes: DtypeLinks | None = None
    constants: dict[str, tuple[Term, ...]] = field(default_factory=dict)


def term_size(term: Term, sizes: Mapping[str, int]) -> int:
    """Return the number of indices of a term for given sizes of axes."""
    return math.prod(sizes[f] if isinstance(f, str) else sum(term_size(part, sizes) for part in f) for f in term)


def term_axes(term: Term) -> Iterator[str]:
    """Yield the axes of a term, including repeats."""
    for factor in term:
        if isinstance(factor, str):
            yield factor
        else:
            for part in factor:
                yield from term_axes(part)


def format_term(term: Term) -> str:
    """Return a term as text, such as ``head · head_dim``, ``(a + b)`` or ``1``."""
    words = [f if isinstance(f, str) else "(" + " + ".join(format_term(part) for part in f) + ")" for f in term]
    return " · ".join(words) or "1"


@dataclass(frozen=True)
class ForeignRule:
    """A rule of a user or of another distribution that a trace rests on.

    Parameters
    ----------
    described : str
        The rule in words, with its distribution.
    operator : str
        Name of the operator.
    line : str
        `` at file:line`` of its first call, or nothing.
    axes : frozenset of str
        The axes of its operands and results whose units may merge.
    modes : frozenset of str
        The modes that call it, of ``"train"`` and ``"eval"``.
    """

    described: str
    operator: str
    line: str
    axes: frozenset[str]
    modes: frozenset[str]


@dataclass(frozen=True)
class UnitSpec:
    """The axes of a network, and the axes that each parameter runs over. `netgraph.trace` makes one.

    Parameters
    ----------
    axes : dict of str to Axis
        All axes by name.
    parameters : dict of str to tuple of Term
        For every parameter and buffer by qualified name, the term of each dimension.
    sums : dict of (str, int) to frozenset of str
        For a dimension of a parameter, the axes that all its readers sum over. The dimension is *incoming* along these
        axes, and entries of merged units are added. Along all other axes they are averaged.
    plans : dict of str to Plan
        The recorded computation for ``"train"`` and ``"eval"``.
    inputs : nested structure
        The structure of the network's arguments.
    input_terms : tuple of tuple of Term
        For every input tensor, the term of each dimension.
    ties : dict of str to str
        Other names of tied parameters.
    trainable : frozenset of str
        Names of the parameters that require gradients.
    untraced : tuple of str, default ()
        Parameters and buffers that the run on the example never read.
    dynamic : frozenset of str, default frozenset()
        Axes whose size is read from the input at run time.
    traced : dict of str to int, optional
        Sizes of the axes when the network was recorded, if this spec has other sizes.
    inside_heads : frozenset of str, default frozenset()
        Axes inside attention heads that may merge. Empty if heads merge as a whole.
    follows : dict of str to str, default {}
        For an axis of ranks, the axis whose units are ranked. Both shrink by one factor.
    experts : tuple of ExpertLayer, default ()
        The mixtures of experts, in the order in which they run.
    unrecorded : dict of str to str, default {}
        By mode, the reason why it could not be recorded. The coarse network refuses to run in this mode.
    one_size : str or None, default None
        Why the recording holds for the sizes of the example alone, if that is so.
    functions : dict of str to str, default {}
        Functions with a backward of their own that the network calls, and the source lines of their first calls.
    gradients : str or None, default None
        The source line where the network takes a gradient itself.
    outputs : tuple of str, default ()
        Names of the outputs that matter. Without a name all of them do.
    other_outputs : dict of str to tuple of Term, default {}
        For each of the other outputs, the term of each dimension. Where its units merge, the output gets smaller.
    foreign_rules : tuple of ForeignRule, default ()
        Rules of users and of other distributions that the trace rests on.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> spec = ng.trace(model, torch.zeros(2, 5))
    >>> spec.sizes["0"], [axis.name for axis in spec.free]
    (8, ['0'])
    >>> spec.readers("0")
    [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)]
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
    follows: Mapping[str, str] = field(default_factory=dict)
    experts: tuple[ExpertLayer, ...] = ()
    unrecorded: Mapping[str, str] = field(default_factory=dict)
    one_size: str | None = None
    functions: Mapping[str, str] = field(default_factory=dict)
    gradients: str | None = None
    outputs: tuple[str, ...] = ()
    other_outputs: Mapping[str, tuple[Term, ...]] = field(default_factory=dict)
    foreign_rules: tuple[ForeignRule, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units of every axis."""
        return {name: axis.size for name, axis in self.axes.items()}

    @property
    def free(self) -> list[Axis]:
        """The axes with units that may merge."""
        return [axis for axis in self.axes.values() if axis.kept is None]

    @property
    def removable(self) -> list[Axis]:
        """The axes with units that may be left out: those that may merge, and units that are chosen by rank."""
        return [axis for axis in self.axes.values() if axis.kept is None or axis.fewest]

    @property
    def used(self) -> dict[str, Axis]:
        """The axes that parameters run over, in the order of the unit graph."""
        named = {a for terms in self.parameters.values() for t in terms for a in term_axes(t)}
        return {name: axis for name, axis in self.axes.items() if name in named}

    @property
    def flops(self) -> int:
        """Operations in the matrix products of one forward pass on the example, two for each multiply-add."""
        sizes = self.sizes
        return sum(2 * term_size(term, sizes) for term in self.plans["eval"].products)

    def readers(self, axis: str) -> list[tuple[str, int]]:
        """Return the (parameter, dimension) pairs that run over an axis.

        Parameters
        ----------
        axis : str

        Returns
        -------
        list of (str, int)
        """
        return list(self._readers_by_axis.get(axis, ()))

    @cached_property
    def _readers_by_axis(self) -> dict[str, list[tuple[str, int]]]:
        """Readers of every axis, computed once."""
        readers: dict[str, list[tuple[str, int]]] = {}
        for name, terms in self.parameters.items():
            for dim, term in enumerate(terms):
                for axis in dict.fromkeys(term_axes(term)):
                    readers.setdefault(axis, []).append((name, dim))
        return readers

    def with_sizes(self, sizes: Mapping[str, int]) -> UnitSpec:
        """Return the spec of the same network with other numbers of units.

        Parameters
        ----------
        sizes : dict of str to int
            By axis, its number of units. Other axes keep their sizes.

        Returns
        -------
        UnitSpec
        """
        shares = {name: sizes[name] / axis.size for name, axis in self.axes.items() if name in sizes}
        axes = {}
        for name, axis in self.axes.items():
            share = shares.get(self.follows.get(name, name), 1)
            size = sizes[name] if name in sizes else round(axis.size * share)
            axes[name] = replace(axis, size=size)
        for name, axis in axes.items():
            ranks = [axes[follower].size for follower, units in self.follows.items() if units == name]
            if ranks:
                axes[name] = replace(axis, divided=math.gcd(axis.size, *ranks), fewest=max(ranks))
        return replace(self, axes=axes, traced=self.traced or self.sizes)

    def with_limits_of(self, other: UnitSpec) -> UnitSpec:
        """Return this spec, which was made from the recordings of another, with the limits of those recordings."""
        limited = replace(
            self,
            unrecorded={**self.unrecorded, **other.unrecorded},
            functions=other.functions,
            gradients=other.gradients,
        )
        return replace(limited, dynamic=frozenset(), one_size=other.one_size) if other.one_size else limited

    def _summed_axes(self, name: str) -> set[str]:
        """Return the axes that a parameter is summed over."""
        return {a for (n, _), axes in self.sums.items() if n == name for a in axes}

    def __str__(self) -> str:
        lines = []
        for name, terms in self.parameters.items():
            text = ", ".join(format_term(term) for term in terms)
            summed = sorted(self._summed_axes(name))
            line = f"{name} ({text})" + (f"  sums over {', '.join(summed)}" if summed else "")
            lines.append(escape_controls(line))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the parameters and axes as HTML tables for notebooks."""
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
