"""Candidates: ways to train a network by nested iteration, each with its levels and its shares of the cost.

A candidate is judged by its cost and not by its steps. Its shares are parts of the seconds, and the steps follow from the seconds of
a step on each level.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_hierarchy, build_single_level
from netgraph.coarsen.hierarchy.initial_weights import init_coarse_weights
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.errors import NetgraphError
from netgraph.utils.choices import DIRECTIONS

FINEST = (0.4, 0.7)  # shares of the cost that the finest level has: the usual one, and a larger one
State = dict[str, Tensor]


@dataclass(eq=False)
class Candidate:
    """One way to train.

    Parameters
    ----------
    directions : str
        What the levels make smaller, such as ``space``. Empty for plain training.
    hierarchy : Hierarchy
    share : tuple of float
        Shares of the cost by level, finest first. They add up to 1.

    Attributes
    ----------
    states : list of dict
        First weights of each level, from which every probe begins.
    step_seconds : list of float
        Seconds of a step by level.
    """

    directions: str
    hierarchy: Hierarchy
    share: tuple[float, ...]
    states: list[State] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return len(self.hierarchy.levels)

    @property
    def name(self) -> str:
        """What the report calls the candidate."""
        if not self.directions:
            return "plain"
        return f"{self.directions}, {self.n_levels} levels, {self.share[0]:.0%} of the cost on the finest"

    def count_steps(self, seconds: float) -> tuple[int, ...]:
        """Return the steps of each level, finest first, that fit into a number of seconds. Each level has one at least."""
        return tuple(
            max(int(seconds * share / each), 1) for share, each in zip(self.share, self.step_seconds, strict=True)
        )

    def calibrate(self, slower: float) -> None:
        """Multiply the seconds of a step by a factor: how much longer a run took than it was planned to."""
        self.step_seconds = [seconds * slower for seconds in self.step_seconds]

    def reset(self) -> None:
        """Give all levels their first weights again."""
        for level, state in zip(self.hierarchy.levels, self.states, strict=True):
            level.model.load_state_dict(state)


def share_cost(n_levels: int, finest: float) -> tuple[float, ...]:
    """Return shares of the cost, finest first: a part for the finest level, and the rest so that each level has twice the next one.

    Examples
    --------
    >>> from netgraph.fas.auto.candidates import share_cost
    >>> share_cost(3, 0.4)
    (0.4, 0.4, 0.2)
    """
    if n_levels == 1:
        return (1.0,)
    weights = [2.0**-i for i in range(n_levels - 1)]
    return (finest, *((1 - finest) * weight / sum(weights) for weight in weights))


def build_candidates(
    network: nn.Module, example: Any, coarsening: CoarsenOptions, seconds: float
) -> tuple[list[Candidate], list[str]]:
    """Return plain training, and for each direction that the network has the hierarchies of two and of three levels.

    Parameters
    ----------
    network : torch.nn.Module
        It is the finest level of all candidates.
    example : Tensor, tuple or dict
    coarsening : CoarsenOptions
        Options of the hierarchies. Directions and levels are those of the candidate.
    seconds : float
        Time for building. Directions that come later are left out, and the report says so.

    Returns
    -------
    candidates : list of Candidate
        Plain training is the first.
    left_out : list of str
        Directions that are no candidates, with the reason.
    """
    candidates, left_out = [Candidate("", build_single_level(network, example), (1.0,))], list[str]()
    begun = time.perf_counter()
    for direction in reversed(DIRECTIONS):  # depth and space first, which keep the weights
        for n_levels in (2, 3):
            if len(candidates) > 1 and time.perf_counter() - begun > seconds:
                left_out.append(f"{direction}, {n_levels} levels: there was no time left to build them")
                continue
            try:
                hierarchy = build_hierarchy(
                    network, example, options=replace(coarsening, directions=direction, n_levels=n_levels)
                )
            except NetgraphError as error:  # the network has nothing to make smaller in this direction
                left_out.append(f"{direction}, {n_levels} levels: {error}")
                break
            if len(hierarchy.levels) < n_levels:
                left_out.append(f"{direction}, {n_levels} levels: nothing is left to make smaller")
                break
            init_coarse_weights(hierarchy)
            candidates.append(Candidate(direction, hierarchy, share_cost(n_levels, FINEST[0])))
    for candidate in candidates:
        candidate.states = [copy.deepcopy(level.model.state_dict()) for level in candidate.hierarchy.levels]
    return candidates, left_out
