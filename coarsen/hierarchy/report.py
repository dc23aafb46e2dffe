"""Reports of a coarsening: data for ``--json`` and sentences for the footer of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.partition.target_size import target_count
from netgraph.recording.forward.named_outputs import name_outputs
from netgraph.tracing.unit_spec import UnitSpec, term_axes, term_size

COSTS = ("balance", "modularity", "weight_error", "function_error", "eigenvalue_error", "subspace_error")
LEFT_ALONE = "left alone: on request, by its ratio or the budget, or its size has no divisor near the ratio"
NAMED = 8  # weights in one line
MANY_KEPT = 0.05  # share of parameters that are kept for outputs, from which on a choice of outputs is suggested


def measure_coverage(hierarchy: Hierarchy) -> tuple[float, list[tuple[str, float]]]:
    """Return the share of parameters with a merged dimension, and the reasons of the others with their shares."""
    spec = hierarchy.levels[0].spec
    merged_axes = {axis for level in hierarchy.levels[1:] for axis in level.transfers}
    total = merged = 0
    reasons: Counter[str] = Counter()
    for name, parameter in hierarchy.levels[0].model.named_parameters():
        total += parameter.numel()
        axes = [a for term in spec.parameters.get(name, ()) for a in term_axes(term)]
        if any(a in merged_axes for a in axes):
            merged += parameter.numel()
        else:
            reasons[_find_reason(spec, name, axes)] += parameter.numel()
    return merged / max(total, 1), [(reason, n / max(total, 1)) for reason, n in reasons.most_common()]


def _find_reason(spec: UnitSpec, name: str, axes: list[str]) -> str:
    """Return the reason why no dimension of a parameter has merged."""
    if name in spec.untraced:
        return "never read in the run on the example"
    if any(spec.axes[axis].kept is None and spec.axes[axis].size > 1 for axis in axes):
        return LEFT_ALONE
    reasons = [spec.axes[axis].kept or "" for axis in axes]
    for reason in sorted(reasons, key=lambda text: "output" not in text):  # an output is the most informative reason
        if reason:
            return reason
    return LEFT_ALONE


def suggest_outputs(hierarchy: Hierarchy, reasons: list[tuple[str, float]]) -> Iterator[str]:
    """Yield a line on outputs to choose from, where many parameters are kept because a network has several outputs."""
    spec = hierarchy.levels[0].spec
    names = list(name_outputs(spec.plans["eval"].outputs))
    share = sum(part for reason, part in reasons if reason.startswith("a dimension of output"))
    if len(names) > 1 and not spec.outputs and share >= MANY_KEPT:
        listed = ", ".join(names[:6]) + ", ..." * (len(names) > 6)
        yield f"the outputs are {listed}. If only some of them matter, name these with --outputs, and the units of the others merge"


def measure_experts(level: Level) -> dict[str, Any] | None:
    """Count the experts of a level, the parameters that one token reads, and the FLOPs that it takes.

    Returns
    -------
    dict or None
        ``layers`` has for each mixture the number of experts and how many a token chooses. None for a network without experts.
    """
    sizes, layers = level.spec.sizes, level.spec.experts
    if not layers:
        return None
    counts = [(term_size(layer.units, sizes), term_size(layer.ranks, sizes)) for layer in layers]
    numbers = {name: p.numel() for name, p in level.model.named_parameters()}
    idle = sum(
        numbers.get(name, 0) * (n - chosen) // n
        for layer, (n, chosen) in zip(layers, counts, strict=True)
        for name in layer.parameters
    )
    return {
        "layers": [{"experts": n, "chosen": chosen} for n, chosen in counts],
        "active_parameters": level.n_parameters - idle,
        "flops_per_token": round(_count_flops(level, counts) / max(layer.n_tokens for layer in layers)),
    }


def _count_flops(level: Level, counts: list[tuple[int, int]]) -> float:
    """Return the FLOPs of a level on the example, with equally many tokens for all experts that take their tokens by themselves."""
    even = {
        axis: layer.n_tokens * chosen / n
        for layer, (n, chosen) in zip(level.spec.experts, counts, strict=True)
        for axis in layer.rows
    }
    sizes: dict[str, Any] = {**level.spec.sizes, **even}
    return float(sum(2 * term_size(term, sizes) for term in level.spec.plans["eval"].products))


def describe_experts(level: Level) -> Iterator[str]:
    """Yield a line on the experts of a level, if it has any."""
    measured = measure_experts(level)
    if measured is not None:
        kinds = Counter((layer["experts"], layer["chosen"]) for layer in measured["layers"])
        layers = ", ".join(f"{k} of {n} in {times} layer{'s' * (times > 1)}" for (n, k), times in kinds.items())
        yield (
            f"experts chosen for a token: {layers}. It reads {measured['active_parameters']:,} of {level.n_parameters:,} "
            f"parameters and takes {measured['flops_per_token']:,} FLOPs"
        )


def describe_level(level: Level) -> Iterator[str]:
    """Yield a line for each choice, repair and measurement on a level."""
    yield from describe_experts(level)
    chosen = level.reasons.get("coarseners")
    if chosen:
        counts = Counter(min(errors, key=errors.__getitem__) for errors in chosen.values()).most_common()
        yield "chosen by the smallest error: " + ", ".join(f"{name} on {n} axes" for name, n in counts)
    yield from describe_unable_directions(level)
    for step in level.chains:
        merged = [b for b in step.kept if len(step.members(b)) > 1]
        if merged:
            yield "blocks merged: " + ", ".join(" and ".join(step.members(block)) for block in merged)
        else:
            yield f"blocks left out: {', '.join(step.dropped)}"
    ratios = level.reasons.get("ratios")
    if ratios:
        ratio_counts = sorted(Counter(ratios.values()).items())
        yield f"the {'bound on the gap' if 'gaps' in level.reasons else 'budget'} left " + ", ".join(
            f"{ratio:g} of {n} axes" for ratio, n in ratio_counts
        )
    repair = level.reasons.get("repair")
    if repair:
        yield f"repair {repair['rung']}: {len(repair['fitted'])} weights fitted, {repair['norms']} batch norms estimated again"
        yield from _describe_left(repair["left"])
    measured = level.reasons.get("quality")
    if measured:
        yield f"medians over {len(measured)} axes: {_format_medians(list(measured.values()))}"
    if overflowed := level.reasons.get("overflowed"):
        yield describe_overflow(level, overflowed)
    if "error" in level.reasons:
        yield f"relative function error on the calibration data {level.reasons['error']:.3g}"


def _describe_left(left: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each reason why a repair left weights as merged."""
    names: dict[str, list[str]] = {}
    for name, reason in left.items():
        names.setdefault(reason, []).append(name)
    for reason, weights in names.items():
        more = f" and {len(weights) - NAMED} more" * (len(weights) > NAMED)
        yield f"repair left {', '.join(weights[:NAMED])}{more} as merged: {reason}"


def describe_overflow(level: Level, names: Sequence[str]) -> str:
    """Return the sentence for parameters that merging has made infinite."""
    dtype = str(level.model.state_dict()[names[0]].dtype).removeprefix("torch.")
    more = f" and {len(names) - 1} more" * (len(names) > 1)
    return f"not finite: sums of merged weights overflow {dtype} in {names[0]}{more}. Coarsen the network in float32"


def describe_unable_directions(level: Level) -> Iterator[str]:
    """Yield the directions that could do nothing on a level, or below it, and the reasons."""
    for direction, reason in level.reasons.get("unable", {}).items():
        yield f"{direction} was left out: {reason}"


def describe_missing_levels(hierarchy: Hierarchy) -> str | None:
    """Return a sentence if there are fewer levels than were asked for, else None."""
    n, options = len(hierarchy.levels), hierarchy.options
    asked = n if options is None else options.n_levels
    return f"{n} levels instead of {asked}: nothing more can be merged" if n < asked else None


def find_missed_ratios(hierarchy: Hierarchy, i: int) -> dict[str, dict[str, Any]]:
    """Find the axes of level i that miss their ratio because their aggregates must have one size.

    Returns
    -------
    dict of str to dict
        By axis: ``units``, ``asked``, ``got`` and ``why``.
    """
    above, level = hierarchy.levels[i - 1].spec, hierarchy.levels[i]
    options = hierarchy.options or CoarsenOptions(n_levels=len(hierarchy.levels))
    if not i or "channels" not in options.steps[i - 1]:
        return {}
    missed_ratios: dict[str, dict[str, Any]] = {}
    for name, axis in above.axes.items():
        ratio = _target_ratio(level, options, name)
        if axis.equal is None or axis not in above.free or name in options.keep or ratio is None:
            continue
        asked = target_count(axis.size, ratio, options.round_to)
        got = level.transfers[name].n_coarse if name in level.transfers else axis.size
        if got != asked and name in level.spec.axes:
            reason = f"aggregates must have one size ({axis.equal}), and their number must divide that of the units"
            missed_ratios[name] = {"units": axis.size, "asked": asked, "got": got, "why": reason}
    return missed_ratios


def _target_ratio(level: Level, options: CoarsenOptions, axis: str) -> float | None:
    """Return the share of the units of an axis that was to stay on a level, or None if it is unknown."""
    chosen = level.reasons.get("ratios", {})
    if axis in chosen:
        return float(chosen[axis])
    return None if isinstance(options.ratio, str) else float(options.ratios.get(axis, options.ratios["*"]))


def describe_missed_ratios(missed_ratios: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each axis that missed its ratio, for the axes with the most units."""
    largest = sorted(missed_ratios, key=lambda name: -missed_ratios[name]["units"])
    for name in largest[:3]:
        miss = missed_ratios[name]
        yield f"{name}: {miss['got']} of {miss['units']} units instead of {miss['asked']}: {miss['why']}"
    if len(largest) > 3:
        yield f"{len(largest) - 3} more axes missed their ratio. --json lists them."


def _other_directions(level: Level) -> dict[str, Any]:
    """Return the merged blocks and the resolution of a level, as far as they changed."""
    blocks = {step.chain.name: [list(step.members(block)) for block in step.kept] for step in level.chains}
    return ({"blocks": blocks} if blocks else {}) | ({"pool": level.pool} if level.pool > 1 else {})


def _format_medians(axes: list[dict[str, float]]) -> str:
    """Return the median costs of merging over the axes on which they were measured. The cut is a share of all edges."""
    shares = [a["cut"] / total for a in axes if (total := a["cut"] + a["matched_weight"])]
    parts = [f"cut {median(shares):.1%} of the affinity"] if shares else []
    for name in COSTS:
        values = [a[name] for a in axes if name in a]
        parts += [f"{name.replace('_', ' ')} {median(values):.3g}"] if values else []
    return ", ".join(parts)


def build_report(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return a hierarchy as data for JSON."""
    share, reasons = measure_coverage(hierarchy)
    return {
        "levels": [
            {
                "units": level.n_units,
                "parameters": level.n_parameters,
                "flops": level.flops,
                "seconds": level.seconds,
                "axes": {name: t.n_coarse for name, t in level.transfers.items()},
                **({"experts": experts} if (experts := measure_experts(level)) else {}),
                **({"missed": missed_ratios} if (missed_ratios := find_missed_ratios(hierarchy, i)) else {}),
                **_other_directions(level),
                **level.reasons,
            }
            for i, level in enumerate(hierarchy.levels)
        ],
        "operator_complexity": hierarchy.operator_complexity,
        "grid_complexity": hierarchy.grid_complexity,
        "merged_share": share,
        "recording": hierarchy.describe_recording(),
        "kept": [{"reason": reason, "share": part} for reason, part in reasons],
        "options": hierarchy.plain_options,
    }
