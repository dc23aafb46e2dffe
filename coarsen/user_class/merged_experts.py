"""Why a network whose experts merged does not come back in its own class.

A merged expert stands for several. Where the weights of the chosen experts add up to one, fewer experts that are chosen less often give
the same sum. Where they do not, the recorded graph multiplies by the number that each expert stands for, and a class does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from torch import nn

from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.user_class.equivalence import ROUTERS, find_difference
from netgraph.tracing.unit_spec import Plan, UnitSpec, term_axes, term_size


def explain_experts(
    fine: Level,
    above: Sequence[Level],
    candidate: nn.Module,
    examples: list[Any],
    factors: Mapping[str, float],
    seed: int,
) -> str:
    """Return the words for merged experts that part a class from the recorded graph, or nothing where none merged.

    Parameters
    ----------
    fine : Level
        Level 0.
    above : list of Level
        The coarse levels up to that of the recorded graph.
    candidate : torch.nn.Module
        A network of the class, whose outputs differ.
    examples, factors, seed
        As `netgraph.coarsen.user_class.equivalence.find_difference` takes them.
    """
    coarse = above[-1].spec.sizes
    merged = [(ranks, units) for ranks, units in fine.spec.follows.items() if coarse[units] < fine.spec.sizes[units]]
    if not merged:
        return ""
    ranks, units = merged[0]
    n, k = (f"{fine.spec.sizes[axis]} to {coarse[axis]}" for axis in (units, ranks))
    axes = sorted({units for _, units in merged})
    keep = f"Keep the experts, so that units merge inside them only: keep={axes} (--keep on the command line)"
    if _agrees_without_factors(fine, above, candidate, examples, factors, seed):
        times = fine.spec.sizes[units] // coarse[units]
        return (
            f". Its experts went from {n}. The weights of those that a token chooses do not add up to one, so the recorded graph "
            f"multiplies by {times}, and no parameter of the class takes up this factor. {keep}"
        )
    return (
        f". Its experts went from {n}, and those that a token chooses from {k}. A class with one of these numbers in its code "
        f"chooses otherwise. Make it an attribute. {keep}"
    )


def _agrees_without_factors(
    fine: Level,
    above: Sequence[Level],
    candidate: nn.Module,
    examples: list[Any],
    factors: Mapping[str, float],
    seed: int,
) -> bool:
    """Return True if the class computes as the recorded graph does without the factors of merged experts."""
    experts = {*fine.spec.follows, *fine.spec.follows.values()}
    plans = {mode: _drop_factors(plan, experts, fine.spec, above[-1].spec) for mode, plan in fine.spec.plans.items()}
    if plans == fine.spec.plans:
        return False
    transfers = reduce(compose_transfers, [level.transfers for level in above])
    spec = replace(fine.spec, plans=plans)
    graph = coarse_network(fine.model, spec, transfers, state=traced_state(above[-1].model))
    differences = (find_difference(candidate, graph, examples, factors, seed + i) for i in range(ROUTERS))
    return all(difference is None for difference in differences)


def _drop_factors(plan: Plan, experts: set[str], fine: UnitSpec, coarse: UnitSpec) -> Plan:
    """Return a plan without the factors of experts that merged, and of the ranks by which they are chosen."""
    kept = {
        name: [
            factor
            for factor in factors
            if not experts.issuperset(term_axes(factor.term))
            or term_size(factor.term, fine.sizes) == term_size(factor.term, coarse.sizes)
        ]
        for name, factors in plan.factors.items()
    }
    return replace(plan, factors=kept) if kept != plan.factors else plan
