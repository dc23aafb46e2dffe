"""Sizes that the attributes of a network may count, before and after merging.

If 64 channels become 32, an attribute of 64 may become 32, or it may count something else and stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from netgraph.tracing.unit_spec import Term, UnitSpec, term_size

Counts = dict[int, dict[str, set[int]]]  # fine number -> kind of size -> coarse numbers
ORDER = ("whole", "part", "head")
GEOMETRY = re.compile(  # attributes with these names do not count units
    r"vocab|position|layers|_layer$|n_ctx|dropout|kernel|stride|shift|padding|dilation|image|img|patch|window|token|label|depth|in_chan"
)


RANKS = re.compile(r"top_?k|per_tok|(^|_)k$|active|selected|chosen")  # how many experts a router chooses


@dataclass(frozen=True)
class SizeChange:
    """Sizes of a fine and a coarse network.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    coarse : dict of str to int
        Number of units of every axis of the coarse network.
    """

    spec: UnitSpec
    coarse: Mapping[str, int]

    def coarse_leading_size(self, name: str, dim: int, count: int) -> int | None:
        """Return the number of the ``count`` outer units of a dimension that stay, or None if no size equals ``count``."""
        for fine, coarse, at_start, _ in self._iterate_runs(self.find_term(name, dim)):
            if at_start and fine == count:
                return coarse
        return None

    def find_term(self, name: str, dim: int) -> Term:
        """Return the axes of a dimension. Ties share those of the first name."""
        terms = self.spec.parameters.get(self.spec.ties.get(name, name), ())
        return terms[dim] if dim < len(terms) else ()

    def collect_sizes(self, prefix: str) -> Counts:
        """Return the sizes that numbers inside the module called ``prefix`` may count."""
        sizes: Counts = {}
        dotted = f"{prefix}." if prefix else ""
        names = [n for n in (*self.spec.parameters, *self.spec.ties) if n.startswith(dotted)]
        for name in names:
            for dim in range(len(self.spec.parameters.get(self.spec.ties.get(name, name), ()))):
                self._add_sizes(self.find_term(name, dim), sizes)
        return sizes

    def _add_sizes(self, term: Term, sizes: Counts) -> None:
        """Add the sizes of all runs of factors of a term."""
        ranks = [axis for axis, units in self.spec.follows.items() if units in term]
        for axis in ranks:
            sizes.setdefault(self.spec.sizes[axis], {}).setdefault("ranks", set()).add(self.coarse[axis])
        total = term_size(term, self.spec.sizes)
        for fine, coarse, at_start, head in self._iterate_runs(term):
            kind = "whole" if fine == total and at_start else "head" if head and at_start else "part"
            sizes.setdefault(fine, {}).setdefault(kind, set()).add(coarse)
        for factor in term:
            for part in () if isinstance(factor, str) else factor:
                self._add_sizes(part, sizes)

    def _iterate_runs(self, term: Term) -> Iterator[tuple[int, int, bool, bool]]:
        """Yield (fine size, coarse size, run starts the term, term starts with heads) for each run of factors."""
        fine = [term_size((f,), self.spec.sizes) for f in term]
        coarse = [term_size((f,), self.coarse) for f in term]
        head = bool(term) and isinstance(term[0], str) and self.spec.axes[term[0]].kind == "head"
        for start in range(len(term)):
            for end in range(start + 1, len(term) + 1):
                yield prod(fine[start:end]), prod(coarse[start:end]), start == 0, head


def list_coarse_sizes(name: str, value: int, counts: Counts) -> list[int]:
    """Return the coarse sizes that an attribute may have, the most likely first.

    Parameters
    ----------
    name : str
        A name with ``head`` and without ``dim`` counts heads first.
    value : int
        The number in the fine network.
    counts : dict
        From `SizeChange.collect_sizes`.

    Returns
    -------
    list of int
        The value itself if no size of the network equals it.
    """
    if GEOMETRY.search(name):
        return [value]
    by_kind = counts.get(value, {})
    heads = "head" in name and "dim" not in name and "size" not in name
    order = ("ranks",) if RANKS.search(name) and "ranks" in by_kind else ("head", *ORDER) if heads else ORDER
    return list(dict.fromkeys(n for kind in order for n in sorted(by_kind.get(kind, ())))) or [value]
