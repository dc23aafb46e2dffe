"""What a coarsening did to a network, as data: for the table's footer and for ``--json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.partition.target_size import target_count
from netgraph.tracing.unit_spec import UnitSpec, term_axes

COSTS = ("balance", "modularity", "weight_error", "function_error", "eigenvalue_error", "subspace_error")
LEFT = "left alone: on request, by its ratio or the budget, or its size has no divisor near the ratio"


def measure_coverage(hierarchy: Hierarchy) -> tuple[float, list[tuple[str, float]]]:
    """Return the share of parameters with a merged dimension, and for the others the reasons with their shares."""
    spec = hierarchy.levels[0].spec
    merged_axes = {axis for level in hierarchy.levels[1:] for axis in level.transfers}
    total = merged = 0
    why: Counter[str] = Counter()
    for name, parameter in hierarchy.levels[0].model.named_parameters():
        total += parameter.numel()
        axes = [a for term in spec.parameters.get(name, ()) for a in term_axes(term)]
        if any(a in merged_axes for a in axes):
            merged += parameter.numel()
        else:
            why[_find_reason(spec, name, axes)] += parameter.numel()
    return merged / max(total, 1), [(reason, n / max(total, 1)) for reason, n in why.most_common()]


def _find_reason(spec: UnitSpec, name: str, axes: list[str]) -> str:
    if name in spec.untraced:
        return "never read in the run on the example"
    if any(spec.axes[axis].kept is None and spec.axes[axis].size > 1 for axis in axes):
        return LEFT
    for axis in sorted(axes, key=lambda a: "output" not in (spec.axes[a].kept or "")):  # the most telling first
        if spec.axes[axis].kept:
            return str(spec.axes[axis].kept)
    return LEFT


def describe_level(level: Level) -> Iterator[str]:
    """Yield what was chosen, repaired and measured on a level, a line each."""
    chosen = level.reasons.get("coarseners")
    if chosen:
        best = Counter(min(errors, key=errors.__getitem__) for errors in chosen.values())
        yield "chosen by the smallest error: " + ", ".join(f"{name} on {n} axes" for name, n in best.most_common())
    yield from describe_unable_directions(level)
    for step in level.chains:
        merged = [b for b in step.kept if len(step.members(b)) > 1]
        yield "blocks merged: " + ", ".join(" and ".join(step.members(block)) for block in merged)
    ratios = level.reasons.get("ratios")
    if ratios:
        counts = sorted(Counter(ratios.values()).items())
        yield f"the {'bound on the gap' if 'gaps' in level.reasons else 'budget'} left " + ", ".join(
            f"{ratio:g} of {n} axes" for ratio, n in counts
        )
    done = level.reasons.get("repair")
    if done:
        left = "".join(f"; {name} as it was: {why}" for name, why in list(done["left"].items())[:3])
        yield f"repair {done['rung']}: {len(done['fitted'])} layers fitted, {done['norms']} batch norms estimated anew{left}"
    measured = level.reasons.get("quality")
    if measured:
        yield f"medians over {len(measured)} axes: {_format_medians(list(measured.values()))}"
    if "error" in level.reasons:
        yield f"relative function error on the calibration data {level.reasons['error']:.3g}"


def describe_unable_directions(level: Level) -> Iterator[str]:
    """Yield the directions that could do nothing on a level, or below it, and why."""
    for direction, why in level.reasons.get("unable", {}).items():
        yield f"{direction} was left out: {why}"


def describe_missing_levels(hierarchy: Hierarchy) -> str | None:
    """Say that there are fewer levels than were asked for; None where there are as many."""
    n, asked = len(hierarchy.levels), hierarchy.options["n_levels"]
    return f"{n} levels, not {asked}: below, nothing can be merged" if n < asked else None


def find_missed_ratios(hierarchy: Hierarchy, i: int) -> dict[str, dict[str, Any]]:
    """Return for axes of level i whose aggregates must have one size, and that so miss their ratio: units, asked, got and why."""
    above, level, options = hierarchy.levels[i - 1].spec, hierarchy.levels[i], hierarchy.options
    steps = options.get("directions", ())
    if not i or (steps and "channels" not in steps[i - 1]):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, axis in above.axes.items():
        ratio = _target_ratio(level, options, name)
        if axis.equal is None or axis not in above.free or name in options.get("keep", ()) or ratio is None:
            continue
        asked = target_count(axis.size, ratio, options.get("round_to", 1))
        got = level.transfers[name].n_coarse if name in level.transfers else axis.size
        if got != asked and name in level.spec.axes:
            why = f"aggregates must have one size ({axis.equal}), so that their number divides that of the units"
            found[name] = {"units": axis.size, "asked": asked, "got": got, "why": why}
    return found


def _target_ratio(level: Level, options: Mapping[str, Any], axis: str) -> float | None:
    """Return the share of an axis' units that was to stay on a level, None where that is not known."""
    chosen, asked = level.reasons.get("ratios", {}), options.get("ratio", 0.5)
    if axis in chosen:
        return float(chosen[axis])
    if isinstance(asked, Mapping):
        return float(asked.get(axis, asked.get("*", 0.5)))
    return None if isinstance(asked, str) else float(asked)


def describe_missed_ratios(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what `find_missed_ratios` found, a line each for the axes of the most units."""
    most = sorted(found, key=lambda name: -found[name]["units"])
    for name in most[:3]:
        x = found[name]
        yield f"{name}: {x['got']} of {x['units']} units, and {x['asked']} were asked for: {x['why']}"
    if len(most) > 3:
        yield f"{len(most) - 3} more axes missed their ratio: --json names them"


def _other_directions(level: Level) -> dict[str, Any]:
    """Return what depth and space did on a level; nothing where neither did."""
    blocks = {step.chain.name: [list(step.members(block)) for block in step.kept] for step in level.chains}
    return ({"blocks": blocks} if blocks else {}) | ({"pool": level.pool} if level.pool > 1 else {})


def _format_medians(axes: list[dict[str, float]]) -> str:
    """Return what merging costs in the median of the axes where it was measured; the cut as a share of all edges."""
    shares = [a["cut"] / total for a in axes if (total := a["cut"] + a["matched_weight"])]
    said = [f"cut {median(shares):.1%} of the affinity"] if shares else []
    for name in COSTS:
        values = [a[name] for a in axes if name in a]
        said += [f"{name.replace('_', ' ')} {median(values):.3g}"] if values else []
    return ", ".join(said)


def build_report(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return a hierarchy as data for JSON."""
    share, why = measure_coverage(hierarchy)
    return {
        "levels": [
            {
                "units": level.n_units,
                "parameters": level.n_parameters,
                "flops": level.flops,
                "seconds": level.seconds,
                "axes": {name: t.n_coarse for name, t in level.transfers.items()},
                **({"missed": found} if (found := find_missed_ratios(hierarchy, i)) else {}),
                **_other_directions(level),
                **level.reasons,
            }
            for i, level in enumerate(hierarchy.levels)
        ],
        "operator_complexity": hierarchy.operator_complexity,
        "grid_complexity": hierarchy.grid_complexity,
        "merged_share": share,
        "kept": [{"reason": reason, "share": part} for reason, part in why],
        "options": {k: v for k, v in hierarchy.options.items() if k != "example"},
    }
