"""Hierarchy: a network and its coarser forms, level by level, with the transfers between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from netgraph import plugins
from netgraph.coarsen.directions.depth import check_depth_by
from netgraph.coarsen.directions.parse import DIRECTIONS, parse_directions
from netgraph.coarsen.hierarchy.budget import Budget
from netgraph.coarsen.hierarchy.compile_time import measure_compilation
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.level_builder import Calibration, LevelBuilder
from netgraph.coarsen.hierarchy.loss_gap import Loss, LossGap
from netgraph.coarsen.hierarchy.merge_plan import MergePlan, load_coarseners
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.partition.contract import Coarsener
from netgraph.coarsen.repair.pipeline import check_rung
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.tracing.tracer import trace
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.html_table import render_table
from netgraph.utils.pytree import describe_example


@dataclass
class Hierarchy:
    """Levels, finest first. Its text is the table that ``netgraph coarsen`` prints.

    Parameters
    ----------
    levels : list of Level
    options : dict
        How it was made.
    again : callable, optional
        Makes it again from the network's parameters of that time; None for one that was read from a file.
    """

    levels: list[Level]
    options: dict[str, Any] = field(default_factory=dict)
    again: Callable[[], Hierarchy] | None = field(default=None, compare=False)

    @property
    def operator_complexity(self) -> float:
        """Parameters of all levels over those of the finest (Stüben 2001, section 3.3)."""
        return sum(level.n_parameters for level in self.levels) / max(self.levels[0].n_parameters, 1)

    @property
    def grid_complexity(self) -> float:
        """Units of all levels over those of the finest."""
        return sum(level.n_units for level in self.levels) / max(self.levels[0].n_units, 1)

    @property
    def ways(self) -> list[str]:
        """For every level the directions that led to it, in words; empty where units alone have merged everywhere."""
        ways = ["", *(level.way(above) for above, level in pairwise(self.levels))]
        return ways if set(ways) - {"", "channels"} else []

    def __str__(self) -> str:
        ways = self.ways
        lines = [
            f"{'level':>5} {'units':>10} {'parameters':>14} {'FLOPs':>10} {'seconds':>8}" + "  coarsened" * bool(ways)
        ]
        for i, level in enumerate(self.levels):
            line = f"{i:>5} {level.n_units:>10,} {level.n_parameters:>14,} {level.flops:>10.3g} {level.seconds:>8.2f}"
            lines.append(f"{line}  {ways[i]}".rstrip() if ways else line)
        lines.append(f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same table for notebooks, and the axes."""
        ways = self.ways
        head = ["level", "units", "parameters", "FLOPs", "seconds"] + ["coarsened"] * bool(ways)
        rows = [
            (i, x.n_units, x.n_parameters, float(x.flops), x.seconds, *ways[i : i + 1])
            for i, x in enumerate(self.levels)
        ]
        foot = f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}"
        merged = dict.fromkeys(name for level in self.levels for name in level.transfers)
        sizes = [(name, *(_find_axis_size(level, name) for level in self.levels)) for name in merged]
        axes = render_table("Merged axes", ["axis", *(f"level {i}" for i in range(len(self.levels)))], sizes)
        return render_table("Hierarchy", head, rows, foot=foot) + axes


def _find_axis_size(level: Level, axis: str) -> int | str:
    """Return an axis' size on a level; its block may have merged into another."""
    return level.spec.axes[axis].size if axis in level.spec.axes else "-"


def build_hierarchy(
    model: nn.Module,
    example: Any,
    *,
    coarsener: str | Coarsener = "hem",
    affinity: str | Callable[..., Any] = "cosine",
    directions: str | Sequence[str] = "channels",
    depth_by: str = "split",
    n_levels: int = 2,
    ratio: float | str | Mapping[str, float] = 0.5,
    loss: Loss | None = None,
    keep: Iterable[str] = (),
    fixed: Mapping[str, Sequence[int]] | None = None,
    round_to: int = 1,
    repair: str = "none",
    data: Any = None,
    budget: str | None = None,
    quality: int | None = None,
    inside_heads: bool = False,
    seed: int = 7619,
    spec: UnitSpec | None = None,
    progress: Progress | None = None,
) -> Hierarchy:
    """Coarsen a network level by level.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them; every coarse network is run on it, or on its first row, once.
    coarsener : str or callable
        An entry point of ``netgraph.coarseners``, or ``(graph, n_coarse, *, seed) -> aggregates``; ``"auto"`` tries several
        on each axis and takes the one with the smallest error (`netgraph.coarsen.hierarchy.merge_plan.AUTO`).
    affinity : str or callable
        An entry point of ``netgraph.affinities``, or ``(units, *, seed) -> csr`` (`netgraph.graph.axis_units.AxisUnits`). Nothing to a
        coarsener whose attribute ``ignores_edges`` is True.
    directions : str, or sequence of str
        What becomes smaller from level to level: ``channels`` (units of every kind), ``space`` (resolution), ``depth`` (alike
        residual blocks), joined by + within a step; ``"channels+space,depth"`` has two (`netgraph.coarsen.directions.parse`).
    depth_by : str
        How a coarse block becomes several again: ``split``, in steps that add up to its own, or ``copy``, each as it is
        (`netgraph.coarsen.directions.depth`).
    n_levels : int
        Levels in all, the given network included.
    ratio : float, dict of str to float, or str
        Units left of each axis, and blocks of each chain, from one level to the next; a dict gives it by axis, ``"*"`` for the others. ``"gap:0.05"``:
        as few as raise ``loss`` by at most that share from each level to the next (`netgraph.coarsen.hierarchy.loss_gap`).
    loss : callable ``(network) -> float``, optional
    keep : iterable of str
        Axes to leave alone.
    fixed : dict of str to sequence of int, optional
        By axis, units that stay alone on every level while others merge.
    round_to : int
        Multiple that numbers of units should have.
    repair : str
        ``none``, ``rescale``, ``norms``, ``ridge`` or ``tune`` (`netgraph.coarsen.repair.pipeline`).
    data : Tensor, tuple or dict, optional
        Calibration inputs, nested as ``example``: for repair, for ``"auto"`` and budgets, which else judge by weights.
    budget : str, optional
        ``parameters=0.5``, ``flops=0.5``, ``units=0.5`` or ``error=0.05``: spread over the axes by their error curves in place of
        ``ratio``, from each level to the next.
    quality : int, optional
        Measure what merging costs each axis, and compare so many eigenvalues (`netgraph.coarsen.partition.metrics`): ``level.reasons``.
    inside_heads : bool
        Merge the numbers inside attention's heads too, those of queries with those of keys; else heads merge whole.
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
        A ratio outside (0, 1], fewer than two levels, an axis that does not exist, a repair or an affinity without its
        data, data that do not fit the network, a budget that cannot be met, a direction that there is not, a network that does
        not run at a lower resolution.
    NothingToMergeError
        Nothing can be made smaller in the directions of the first step.
    """
    started = time.perf_counter()
    steps = parse_directions(directions, max(n_levels, 2))
    check_depth_by(depth_by)
    if (isinstance(ratio, str) or budget is not None) and not any("channels" in step for step in steps):
        raise NetgraphError(
            f"a gap or a budget chooses how many units merge, and {directions!r} merges none; leave it out"
        )
    gap = LossGap.parsed(ratio, loss) if isinstance(ratio, str) else None
    ratios = check_ratios(0.5 if isinstance(ratio, str) else ratio, n_levels, round_to)
    check_rung(repair, data)
    limit = None if budget is None else Budget.parsed(budget)
    coarseners = load_coarseners(coarsener)
    weigh = plugins.load_plugin("netgraph.affinities", affinity) if isinstance(affinity, str) else affinity
    spec = spec or trace(model, example, inside_heads=inside_heads)
    _check_inside_heads(spec, inside_heads)
    keep = tuple(keep)
    kept = _check_axes(spec, [*keep, *(axis for axis in ratios if axis != "*")], set(keep))
    alone = _check_fixed_units(spec, fixed or {}, kept)
    way = MergePlan(coarseners, weigh, ratios, kept, alone, round_to, seed, progress, quality)
    making = LevelBuilder(model, spec, example, way, limit, repair, Calibration.of(model, data), gap, depth_by)
    making.trace_resolutions(sum("space" in step for step in steps))
    levels = [Level(model, spec, {}, time.perf_counter() - started, spec.flops)]
    for step in steps:
        with measure_compilation() as kernels:
            level = making.build_next(levels[-1], step)
        if level is None:
            break
        level.seconds, level.compiling = level.seconds - kernels.seconds, kernels.seconds
        levels.append(level)
    if len(levels) == 1:
        raise NothingToMergeError(_explain_nothing(spec, way, budget, gap, steps[0], levels[0]))
    name = coarsener if isinstance(coarsener, str) else next(iter(coarseners))
    options = {
        "coarsener": name,
        "affinity": _name_option(affinity),
        "n_levels": n_levels,
        "ratio": ratio,
        "round_to": round_to,
        "seed": seed,
    }
    options |= {"repair": repair, "budget": budget, "keep": sorted(kept), "example": describe_example(example)}
    options |= {"inside_heads": True} if spec.inside_heads else {}
    options |= {"fixed": {axis: units.tolist() for axis, units in alone.items()}} if alone else {}
    if any(step != {"channels"} for step in steps):
        options["directions"] = ["+".join(d for d in DIRECTIONS if d in step) for step in steps]
    options |= {"depth_by": depth_by} if any("depth" in step for step in steps) else {}
    again = partial(
        build_hierarchy, model, example, coarsener=coarsener, affinity=affinity, directions=directions, depth_by=depth_by,
        n_levels=n_levels, ratio=ratio, loss=loss, keep=keep, fixed=fixed, round_to=round_to, repair=repair, data=data,
        budget=budget, quality=quality,
        inside_heads=inside_heads, seed=seed, spec=spec,
    )  # fmt: skip
    return Hierarchy(levels, options, again)


def _name_option(option: str | Callable[..., Any]) -> str:
    return option if isinstance(option, str) else str(getattr(option, "__name__", repr(option)))


def _check_inside_heads(spec: UnitSpec, asked: bool) -> None:
    """Refuse to merge inside heads where there is nothing to."""
    if not asked or spec.inside_heads:
        return
    reasons = [f"{axis.name}: {axis.kept}" for axis in spec.axes.values() if axis.kind == "head" and axis.kept][:3]
    raise NetgraphError(
        f"no numbers inside heads may merge: {'; '.join(reasons) or 'the network has no attention of several heads'}; leave "
        "inside_heads out, or give a spec of netgraph.trace(..., inside_heads=True)"
    )


def build_single_level(model: nn.Module, example: Any) -> Hierarchy:
    """Return the hierarchy of a network alone, for whoever trains it as it is.

    Raises
    ------
    TraceError
        The network cannot be followed.
    """
    started = time.perf_counter()
    spec = trace(model, example)
    level = Level(model, spec, {}, time.perf_counter() - started, spec.flops)
    return Hierarchy([level], {"n_levels": 1, "example": describe_example(example)})


def check_ratios(ratio: float | Mapping[str, float], n_levels: int, round_to: int) -> dict[str, float]:
    """Return ratios by axis, ``"*"`` for the others; raise `NetgraphError` for what cannot be asked of any network."""
    ratios = {"*": 0.5, **ratio} if isinstance(ratio, Mapping) else {"*": ratio}
    for axis, value in ratios.items():
        if not 0 < value <= 1:
            of = "" if axis == "*" else f" of axis {axis!r}"
            raise NetgraphError(
                f"the ratio{of}, the share of units that stay, is {value}; give one above 0 and at most 1"
            )
    if n_levels < 2:
        raise NetgraphError(
            f"levels, the given network included, are {n_levels}, so that nothing would be coarsened; ask for 2 or more"
        )
    if round_to < 1:
        raise NetgraphError(f"round_to is {round_to}; give a multiple of 1 or more")
    return ratios


def _check_axes(spec: UnitSpec, names: list[str], kept: set[str]) -> set[str]:
    for name in names:
        if name not in spec.axes:
            near = ", ".join(axis.name for axis in spec.free[:8])
            raise NetgraphError(
                f"no axis is named {name!r}; axes that may merge are {near or 'none'}: `netgraph inspect` lists all"
            )
        if name not in kept and spec.axes[name] not in spec.free:
            reason = spec.axes[name].kept or "it counts nothing that could merge"
            raise NetgraphError(f"axis {name!r} was given a ratio and is kept ({reason}); leave its ratio out")
    return kept


def _check_fixed_units(
    spec: UnitSpec, fixed: Mapping[str, Sequence[int]], kept: set[str]
) -> dict[str, NDArray[np.int64]]:
    """Return the units of each axis that stay alone."""
    _check_axes(spec, list(fixed), set(fixed))
    for axis, units in fixed.items():
        if axis in kept or spec.axes[axis] not in spec.free:
            reason = (
                "you asked to keep it" if axis in kept else spec.axes[axis].kept or "it counts nothing that could merge"
            )
            raise NetgraphError(
                f"axis {axis!r} has units that were to stay alone, and all do ({reason}); leave it out of fixed"
            )
        beyond = [unit for unit in units if not 0 <= unit < spec.axes[axis].size]
        if beyond:
            last = spec.axes[axis].size - 1
            raise NetgraphError(f"unit {beyond[0]} of axis {axis!r} was to stay alone; its units are 0 to {last}")
    return {axis: np.unique(np.asarray(units, dtype=np.int64)) for axis, units in fixed.items() if len(units)}


def _explain_nothing(
    spec: UnitSpec, way: MergePlan, budget: str | None, gap: LossGap | None, step: frozenset[str], level: Level
) -> str:
    said = list(level.reasons.get("unable", {}).values())
    if "channels" not in step:
        return "; ".join(said)
    if gap is not None and spec.free:
        return f"no ratio keeps the loss within a gap of {gap.limit}; allow a larger one, or train the network first"
    return "; ".join([way.explain_nothing(spec, budget), *said])
