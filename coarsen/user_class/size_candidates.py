"""What a network's own attributes count, before and after merging: 64 channels become 32, four heads two."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from netgraph.tracing.unit_spec import Term, UnitSpec, term_size

Counts = dict[int, dict[str, set[int]]]  # fine number -> what counts it -> coarse numbers
ORDER = ("whole", "part", "head")
GEOMETRY = re.compile(  # names of numbers that count no units
    r"vocab|position|layers|_layer$|n_ctx|dropout|kernel|stride|shift|padding|dilation|image|img|patch|window|token|label|depth|in_chan"
)


@dataclass(frozen=True)
class SizeChange:
    """Sizes of a fine and a coarse network.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    coarse : dict of str to int
        Units of every axis of the coarse one.
    """

    spec: UnitSpec
    coarse: Mapping[str, int]

    def leading(self, name: str, dim: int, count: int) -> int | None:
        """Return how many of ``count`` outer units of a parameter's dimension stay; None where nothing counts them."""
        for fine, coarse, at_start, _ in self._runs(self.term(name, dim)):
            if at_start and fine == count:
                return coarse
        return None

    def term(self, name: str, dim: int) -> Term:
        """Return what a dimension runs over; ties share the first name's."""
        terms = self.spec.parameters.get(self.spec.ties.get(name, name), ())
        return terms[dim] if dim < len(terms) else ()

    def counts(self, prefix: str) -> Counts:
        """Return what numbers inside the module called ``prefix`` may count."""
        found: Counts = {}
        inside = f"{prefix}." if prefix else ""
        names = [n for n in (*self.spec.parameters, *self.spec.ties) if n.startswith(inside)]
        for name in names:
            for dim in range(len(self.spec.parameters.get(self.spec.ties.get(name, name), ()))):
                self._count(self.term(name, dim), found)
        return found

    def _count(self, term: Term, found: Counts) -> None:
        whole = term_size(term, self.spec.sizes)
        for fine, coarse, at_start, head in self._runs(term):
            kind = "whole" if fine == whole and at_start else "head" if head and at_start else "part"
            found.setdefault(fine, {}).setdefault(kind, set()).add(coarse)
        for factor in term:
            for part in () if isinstance(factor, str) else factor:
                self._count(part, found)

    def _runs(self, term: Term) -> Iterator[tuple[int, int, bool, bool]]:
        """Yield fine and coarse sizes of runs of factors, whether they start the term, and whether with heads."""
        fine = [term_size((f,), self.spec.sizes) for f in term]
        coarse = [term_size((f,), self.coarse) for f in term]
        head = bool(term) and isinstance(term[0], str) and self.spec.axes[term[0]].kind == "head"
        for start in range(len(term)):
            for end in range(start + 1, len(term) + 1):
                yield prod(fine[start:end]), prod(coarse[start:end]), start == 0, head


def list_coarse_sizes(name: str, value: int, counts: Counts) -> list[int]:
    """Return what an attribute may count in the coarse network, the likeliest first; itself where nothing says so.

    Parameters
    ----------
    name : str
        One with ``head`` and no ``dim`` in it counts heads first.
    value : int
    counts : dict
        Of `Sizes.counts`.
    """
    if GEOMETRY.search(name):
        return [value]
    by_kind = counts.get(value, {})
    heads = "head" in name and "dim" not in name and "size" not in name
    order = ("head", *ORDER) if heads else ORDER
    return list(dict.fromkeys(n for kind in order for n in sorted(by_kind.get(kind, ())))) or [value]
