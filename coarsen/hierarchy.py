"""Hierarchy: a network and its coarser forms, level by level, with the transfers between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from netgraph import plugins
from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.checks import Coarsener, checked_aggregates, leaves_out
from netgraph.coarsen.network import coarse_network, traced_state
from netgraph.coarsen.targets import n_coarse_for
from netgraph.coarsen.transfer import Transfer
from netgraph.coarsen.verify import verify_level
from netgraph.coarsen.weights import inject
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.spec import Axis, UnitSpec
from netgraph.structure import described
from netgraph.tracing import trace
from netgraph.units import features


@dataclass
class Level:
    """One network of a hierarchy.

    Parameters
    ----------
    model : torch.nn.Module
        Level 0 is the network as given.
    spec : UnitSpec
        With this level's numbers of units.
    transfers : dict of str to Transfer
        From the next finer level's units to this one's; empty on level 0.
    seconds : float
        What making the level took.
    flops : int
        Operations of the products of one forward pass on the example.
    """

    model: nn.Module
    spec: UnitSpec
    transfers: dict[str, Transfer] = field(default_factory=dict)
    seconds: float = 0.0
    flops: int = 0

    @property
    def n_units(self) -> int:
        """Units of all axes that may merge."""
        return sum(axis.size for axis in self.spec.axes.values() if axis.kind != "index" and axis.kept is None)

    @property
    def n_parameters(self) -> int:
        """Parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())


@dataclass
class Hierarchy:
    """Levels, finest first. Its text is the table that ``netgraph coarsen`` prints.

    Parameters
    ----------
    levels : list of Level
    options : dict
        How it was made.
    """

    levels: list[Level]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def operator_complexity(self) -> float:
        """Parameters of all levels over those of the finest (Stüben 2001, section 3.3)."""
        return sum(level.n_parameters for level in self.levels) / max(self.levels[0].n_parameters, 1)

    @property
    def grid_complexity(self) -> float:
        """Units of all levels over those of the finest."""
        return sum(level.n_units for level in self.levels) / max(self.levels[0].n_units, 1)

    def __str__(self) -> str:
        lines = [f"{'level':>5} {'units':>10} {'parameters':>14} {'FLOPs':>10} {'seconds':>8}"]
        for i, level in enumerate(self.levels):
            lines.append(
                f"{i:>5} {level.n_units:>10,} {level.n_parameters:>14,} {level.flops:>10.3g} {level.seconds:>8.2f}"
            )
        lines.append(f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}")
        return "\n".join(lines)

    __repr__ = __str__


Progress = Callable[[str, int, int], None]


def build_hierarchy(
    model: nn.Module,
    example: Any,
    *,
    coarsener: str | Coarsener = "hem",
    affinity: str | Callable[..., Any] = "cosine",
    n_levels: int = 2,
    ratio: float | Mapping[str, float] = 0.5,
    keep: Iterable[str] = (),
    round_to: int = 1,
    seed: int = 7619,
    spec: UnitSpec | None = None,
    progress: Progress | None = None,
) -> Hierarchy:
    """Coarsen a network level by level.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them; every coarse network is run on it once.
    coarsener : str or callable
        An entry point of ``netgraph.coarseners``, or ``(graph, n_coarse, *, seed) -> aggregates``.
    affinity : str or callable
        An entry point of ``netgraph.affinities``, or ``(features, *, seed) -> csr``.
    n_levels : int
        Levels in all, the given network included.
    ratio : float or dict of str to float
        Units left of each axis from one level to the next; a dict gives it by axis, ``"*"`` for the others.
    keep : iterable of str
        Axes to leave alone.
    round_to : int
        Multiple that numbers of units should have.
    seed : int
    spec : UnitSpec, optional
        A trace at hand.
    progress : callable (axis, done, total), optional

    Returns
    -------
    Hierarchy

    Raises
    ------
    TraceError
        The network cannot be followed.
    NetgraphError
        A ratio outside (0, 1], fewer than two levels, an axis that does not exist.
    NothingToMergeError
        No axis can be made smaller.
    """
    started = time.perf_counter()
    ratios = _checked_ratios(ratio, n_levels, round_to)
    name = coarsener if isinstance(coarsener, str) else str(getattr(coarsener, "__name__", repr(coarsener)))
    merge = plugins.load("netgraph.coarseners", coarsener) if isinstance(coarsener, str) else coarsener
    weigh = plugins.load("netgraph.affinities", affinity) if isinstance(affinity, str) else affinity
    spec = spec or trace(model, example)
    kept = _checked_axes(spec, [*keep, *(axis for axis in ratios if axis != "*")], set(keep))
    way = _Way(merge, name, weigh, ratios, kept, round_to, seed, progress)
    levels = [Level(model, spec, {}, time.perf_counter() - started, spec.flops)]
    state, whole = traced_state(model), dict[str, Transfer]()
    while len(levels) < n_levels:
        started = time.perf_counter()
        transfers = way.transfers(levels[-1].spec, state, whole)
        if not transfers:
            break
        state = inject(levels[-1].spec, transfers, state)
        whole |= {axis: whole[axis].compose(t) if axis in whole else t for axis, t in transfers.items()}
        coarse = coarse_network(model, spec, whole, state=state)
        verify_level(coarse, example)
        here = spec.resized({axis: t.n_coarse for axis, t in whole.items()})
        levels.append(Level(coarse, here, transfers, time.perf_counter() - started, here.flops))
    if len(levels) == 1:
        raise NothingToMergeError(_why_nothing(spec, kept))
    options = {"coarsener": name, "n_levels": n_levels, "ratio": ratio, "round_to": round_to, "seed": seed}
    return Hierarchy(levels, {**options, "keep": sorted(kept), "example": described(example)})


@dataclass(frozen=True)
class _Way:
    """How axes are merged, the same on every level."""

    merge: Coarsener
    name: str
    weigh: Callable[..., Any]
    ratios: Mapping[str, float]
    kept: set[str]
    round_to: int
    seed: int
    progress: Progress | None

    def transfers(
        self, spec: UnitSpec, state: Mapping[str, Tensor], whole: Mapping[str, Transfer]
    ) -> dict[str, Transfer]:
        """Return the way down for every axis that shrinks; ``whole`` is the way so far."""
        axes = [axis for axis in spec.free if axis.name not in self.kept]
        out = {}
        for done, axis in enumerate(axes):
            if self.progress is not None:
                self.progress(axis.name, done, len(axes))
            n_coarse = n_coarse_for(axis, self.ratios.get(axis.name, self.ratios["*"]), self.round_to)
            if n_coarse < axis.size:
                weight = whole[axis.name].sizes if axis.name in whole else np.ones(axis.size)
                graph = _axis_graph(spec, state, axis, weight, self.weigh, self.seed)
                answer = self.merge(graph, n_coarse, seed=self.seed)
                found = Transfer(checked_aggregates(answer, graph, self.name, leaves_out=leaves_out(self.merge)))
                if found.n_coarse < axis.size:
                    out[axis.name] = found
        return out


def _axis_graph(
    spec: UnitSpec, state: Mapping[str, Tensor], axis: Axis, weight: Any, weigh: Any, seed: int
) -> AxisGraph:
    make = partial(features, spec, state, axis.name, seed=seed)
    try:
        adjacency = weigh(make(), seed=seed)
    except NetgraphError as error:
        raise NetgraphError(f"axis {axis.name!r}: {error}") from None
    return AxisGraph(axis.name, adjacency, weight, make, axis.equal is not None)


def _checked_ratios(ratio: float | Mapping[str, float], n_levels: int, round_to: int) -> dict[str, float]:
    ratios = {"*": 0.5, **ratio} if isinstance(ratio, Mapping) else {"*": ratio}
    for axis, value in ratios.items():
        if not 0 < value <= 1:
            raise NetgraphError(
                f"ratio {value} for axis {axis!r} is the share of units that stay; give one above 0 and at most 1"
            )
    if n_levels < 2:
        raise NetgraphError(
            f"{n_levels} level(s) leave nothing to coarsen; the given network counts: ask for 2 or more"
        )
    if round_to < 1:
        raise NetgraphError(f"round_to is {round_to}; give a multiple of 1 or more")
    return ratios


def _checked_axes(spec: UnitSpec, names: list[str], kept: set[str]) -> set[str]:
    for name in names:
        if name not in spec.axes:
            near = ", ".join(axis.name for axis in spec.free[:8])
            raise NetgraphError(
                f"no axis is named {name!r}; axes that may merge are {near or 'none'}: `netgraph inspect` lists all"
            )
    return kept


def _why_nothing(spec: UnitSpec, kept: set[str]) -> str:
    reasons = [f"{a.name}: {a.kept}" for a in spec.axes.values() if a.kind != "index" and a.kept][:3]
    reasons += [f"{name}: you asked to keep it" for name in sorted(kept)][:3]
    return f"nothing in this network can be merged; {'; '.join(reasons) or 'every axis has one unit or no divisor'}"
