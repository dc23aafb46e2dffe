"""The cost of a network as a function of the numbers of units of its axes.

Parameters, FLOPs and units are sums of products of sizes, one product for each parameter or matrix product::

    cost(n) = sum over terms of weight · n_a · n_b · ...

A change of one axis therefore changes only the terms that name it, which makes a step of a greedy search cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netgraph.tracing.unit_spec import Term, UnitSpec, term_axes, term_size

WeightedTerm = tuple[float, Term]


class SizeCosts:
    """A sum of weighted products of the sizes of axes.

    Parameters
    ----------
    spec : UnitSpec
        Of the network whose units merge.
    terms : iterable of (float, term)
        Weights and products.
    """

    def __init__(self, spec: UnitSpec, terms: Iterable[WeightedTerm]) -> None:
        self.spec, self.terms, self._full = spec, list(terms), spec.sizes
        self._readers: dict[str, list[WeightedTerm]] = {}
        for term in self.terms:
            for axis in set(term_axes(term[1])):
                self._readers.setdefault(axis, []).append(term)
        self._followers: dict[str, list[str]] = {}
        for follower, axis in spec.follows.items():
            self._followers.setdefault(axis, []).append(follower)

    def measure(self, sizes: Mapping[str, int]) -> float:
        """Return the cost of the network with other sizes of some axes."""
        full = dict(self._full)
        for axis, size in sizes.items():
            full.update(self._follow(axis, size))
        return sum(weight * term_size(term, full) for weight, term in self.terms)

    def saving(self, sizes: Mapping[str, int], axis: str, size: int) -> float:
        """Return what one axis of another size saves.

        Parameters
        ----------
        sizes : dict of str to int
            Sizes of all axes now (`with_size` keeps them).
        axis : str
        size : int
            Its number of units after the step.
        """
        changed = self._follow(axis, size)
        terms = {id(term): term for name in changed for term in self._readers.get(name, ())}.values()
        after = {**sizes, **changed}
        return sum(weight * (term_size(term, sizes) - term_size(term, after)) for weight, term in terms)

    def with_size(self, sizes: Mapping[str, int], axis: str, size: int) -> dict[str, int]:
        """Return the sizes of all axes after one of them has changed."""
        return {**self._full, **sizes, **self._follow(axis, size)}

    def _follow(self, axis: str, size: int) -> dict[str, int]:
        """Return the size of an axis and of those that count with it, such as chosen experts."""
        share = size / self._full[axis]
        followers = {name: round(self._full[name] * share) for name in self._followers.get(axis, ())}
        return {axis: size, **followers}


def count_parameters(spec: UnitSpec) -> SizeCosts:
    """Return the number of trainable parameters as a function of sizes."""
    terms = [spec.parameters[name] for name in spec.trainable if name in spec.parameters]
    return SizeCosts(spec, [(1.0, _join_terms(parameter)) for parameter in terms])


def count_flops(spec: UnitSpec) -> SizeCosts:
    """Return the FLOPs of one forward pass on the example as a function of sizes."""
    return SizeCosts(spec, [(2.0, term) for term in spec.plans["eval"].products])


def count_units(spec: UnitSpec) -> SizeCosts:
    """Return the number of units that may merge as a function of sizes."""
    return SizeCosts(spec, [(1.0, (axis.name,)) for axis in spec.free])


def _join_terms(terms: Iterable[Term]) -> Term:
    """Return the product of the terms of all dimensions of a parameter."""
    return tuple(factor for term in terms for factor in term)


COSTS = {"parameters": count_parameters, "flops": count_flops, "units": count_units, "error": count_parameters}


def list_sizes(size: int, least: int, most_steps: int, round_to: int = 1) -> list[int]:
    """Return numbers of units from many to few, at most ``most_steps``, multiples of ``round_to`` where the axis is larger.

    Examples
    --------
    >>> from netgraph.coarsen.partition.size_costs import list_sizes
    >>> list_sizes(64, 8, 4, round_to=8)
    [48, 32, 24, 8]
    """
    unit = round_to if size > round_to else 1
    places = {size - (size - least) * i / most_steps for i in range(1, most_steps + 1)}
    rounded = {max(round(place / unit), 1) * unit for place in places}
    return sorted((n for n in rounded if 1 <= n < size), reverse=True) or ([least] if least < size else [])
