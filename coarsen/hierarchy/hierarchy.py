"""Hierarchy: a network and its coarser forms, level by level, with the transfers between them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray
from torch import nn

from netgraph import plugins
from netgraph.coarsen.directions.named_ratios import split_ratios
from netgraph.coarsen.hierarchy.budget import Budget
from netgraph.coarsen.hierarchy.compile_time import measure_compilation
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.level_builder import Calibration, LevelBuilder
from netgraph.coarsen.hierarchy.loss_gap import Loss, LossGap
from netgraph.coarsen.hierarchy.merge_plan import MergePlan, load_coarseners
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.matching.unit_importance import check_importance
from netgraph.coarsen.network.finite_values import check_rows
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.network.recording_proof import is_cheap_to_prove, prove_recording
from netgraph.coarsen.network.rule_proof import prove_foreign_rules
from netgraph.coarsen.partition.contract import leaves_out
from netgraph.coarsen.repair.pipeline import check_rung
from netgraph.environment.gc_pause import old_objects_skipped
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.hub_methods import HubMethods
from netgraph.io.hub.origin import Step, find_origin, set_origin
from netgraph.recording.forward.named_outputs import name_outputs
from netgraph.tracing.recordable import check_input_tensors, unwrap_compiled
from netgraph.tracing.tracer import trace
from netgraph.tracing.unit_spec import UnitSpec, term_size
from netgraph.utils.html_table import render_table
from netgraph.utils.options import describe_options, replace_options
from netgraph.utils.pytree import describe_example
from netgraph.utils.text import escape_controls

P = ParamSpec("P")


@dataclass(frozen=True)
class BuildInputs:
    """The arguments of `build_hierarchy` that are no options. With them a hierarchy can be built again.

    Parameters
    ----------
    example : Tensor, tuple or dict
        Inputs of the network.
    data : Tensor, tuple or dict, optional
        Calibration inputs.
    loss : callable ``(network) -> float``, optional
        Loss that a gap bounds.
    spec : UnitSpec, optional
        Trace of the finest network.
    """

    example: Any
    data: Any = None
    loss: Loss | None = None
    spec: UnitSpec | None = None


@dataclass
class Hierarchy(HubMethods):
    """A network and its coarser forms. Its text is the table that ``netgraph coarsen`` prints.

    Parameters
    ----------
    levels : list of Level
        Finest first.
    options : CoarsenOptions, optional
        How it was coarsened. None for a hierarchy that `build_hierarchy` did not make.
    example : dict
        Nesting, shapes and dtypes of the example inputs (`netgraph.utils.pytree.describe_example`).
    inputs : BuildInputs, optional
        Arguments that it was built with. None for a hierarchy that was read from a file.

    Examples
    --------
    >>> import netgraph as ng, torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> hierarchy = ng.build_hierarchy(network, torch.zeros(1, 4))
    >>> [level.n_units for level in hierarchy.levels]
    [8, 4]
    >>> round(hierarchy.operator_complexity, 3)
    1.517
    >>> hierarchy.options.coarsener
    'hem'
    """

    levels: list[Level]
    options: CoarsenOptions | None = None
    example: Mapping[str, Any] = field(default_factory=dict)
    inputs: BuildInputs | None = field(default=None, compare=False)

    @property
    def operator_complexity(self) -> float:
        """Ratio of the parameters of all levels to those of the finest (Stüben 2001, section 3.3)."""
        return sum(level.n_parameters for level in self.levels) / max(self.levels[0].n_parameters, 1)

    @property
    def grid_complexity(self) -> float:
        """Ratio of the units of all levels to those of the finest."""
        return sum(level.n_units for level in self.levels) / max(self.levels[0].n_units, 1)

    @property
    def plain_options(self) -> dict[str, Any]:
        """The options as plain data, as files and reports hold them."""
        return {"n_levels": len(self.levels)} if self.options is None else self.options.to_plain()

    @property
    def direction_labels(self) -> list[str]:
        """The directions that led to each level, in words. Empty if only units have merged."""
        labels = ["", *(level.describe_step(above) for above, level in pairwise(self.levels))]
        return labels if set(labels) - {"", "channels"} else []

    def __str__(self) -> str:
        labels = self.direction_labels
        lines = [
            f"{'level':>5} {'units':>10} {'parameters':>14} {'FLOPs':>10} {'seconds':>8}" + "  coarsened" * bool(labels)
        ]
        for i, level in enumerate(self.levels):
            line = f"{i:>5} {level.n_units:>10,} {level.n_parameters:>14,} {level.flops:>10.3g} {level.format_seconds():>8}"
            lines.append(f"{line}  {labels[i]}".rstrip() if labels else line)
        lines.append(f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}")
        return "\n".join(map(escape_controls, [*lines, *self.describe_recording()]))

    def describe_recording(self) -> list[str]:
        """Return a line for each limit of the recording: missing proofs, sizes that it keeps, and a mode that it lacks."""
        spec = self.levels[0].spec
        proven = (
            []
            if self.options is None or self.options.prove
            else ["not proven: the recording was compared with nothing"]
        )
        sizes = [f"inputs keep the sizes of the example: {spec.one_size}"] if spec.one_size else []
        names = {"train": "training", "eval": "evaluation"}
        modes = [f"no {names[mode]} mode: {reason}" for mode, reason in spec.unrecorded.items()]
        return [*proven, *sizes, *modes, *self._describe_smaller_outputs()]

    def _describe_smaller_outputs(self) -> Iterator[str]:
        """Yield a line for each output that does not matter and gets smaller, with its shape for the example on the first and last level."""
        first, last = self.levels[0].spec, self.levels[-1].spec
        for name, terms in first.other_outputs.items():
            shapes = [tuple(term_size(term, spec.sizes) for term in terms) for spec in (first, last)]
            if name in last.other_outputs and shapes[0] != shapes[1]:
                yield f"output {name} gets smaller: {shapes[0]} becomes {shapes[1]}, because only {', '.join(first.outputs)} matters"

    __repr__ = __str__

    def note_origins(self) -> None:
        """Remember for each coarse network how it was made from the finest, for the card of its folder."""
        root = find_origin(self.levels[0].model)
        for i, level in enumerate(self.levels[1:], 1):
            set_origin(level.model, root.with_step(self._describe_making(i)))

    def _describe_making(self, i: int) -> Step:
        """Return the step from the finest network to that of a level."""
        first, level = self.levels[0], self.levels[i]
        sizes = {name: axis.size for name, axis in level.spec.axes.items()}
        shrank = {
            name: (axis.size, sizes[name])
            for name, axis in first.spec.axes.items()
            if sizes.get(name, axis.size) != axis.size
        }
        facts = {
            "parameters": f"{first.n_parameters:,} before, {level.n_parameters:,} after",
            "FLOPs": f"{first.flops:.3g} before, {level.flops:.3g} after, for the example",
            "level": f"{i} of {len(self.levels) - 1}",
            **{
                name.replace("_", " "): _format_option(value)
                for name, value in self.plain_options.items()
                if value is not None and value != []
            },
        }
        directions = [label for label in self.direction_labels[1 : i + 1] if label]
        return Step("Coarsening", facts | ({"steps": ", then ".join(directions)} if directions else {}), shrank)

    def _repr_html_(self) -> str:
        """Return the table of levels and the table of merged axes for notebooks."""
        labels = self.direction_labels
        head = ["level", "units", "parameters", "FLOPs", "seconds"] + ["coarsened"] * bool(labels)
        rows = [
            (i, x.n_units, x.n_parameters, float(x.flops), x.format_seconds(), *labels[i : i + 1])
            for i, x in enumerate(self.levels)
        ]
        foot = f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}"
        merged = dict.fromkeys(name for level in self.levels for name in level.transfers)
        sizes = [(name, *(_find_axis_size(level, name) for level in self.levels)) for name in merged]
        axes = render_table("Merged axes", ["axis", *(f"level {i}" for i in range(len(self.levels)))], sizes)
        return render_table("Hierarchy", head, rows, foot=foot) + axes


def _format_option(value: Any) -> str:
    """Return an option in words. One that differs by axis shows in the sizes."""
    if isinstance(value, Mapping):
        return "by axis" if len(value) > 1 else ", ".join(map(str, value.values()))
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _find_axis_size(level: Level, axis: str) -> int | str:
    """Return the size of an axis on a level, or a dash if its block has merged into another."""
    return level.spec.axes[axis].size if axis in level.spec.axes else "-"


def _with_keywords_of(
    kind: Callable[P, Any],
) -> Callable[[Callable[..., Hierarchy]], Callable[Concatenate[nn.Module, Any, P], Hierarchy]]:
    """Give a function ``(model, example, **keywords)`` the keywords of a class, for type checkers, editors and `help`.

    The function itself takes them as ``**keywords``. A new option of `CoarsenOptions` needs no change here.
    """

    def decorate(function: Callable[..., Hierarchy]) -> Callable[Concatenate[nn.Module, Any, P], Hierarchy]:
        positional = list(inspect.signature(function).parameters.values())[:2]
        keywords = inspect.signature(kind).parameters.values()
        function.__signature__ = inspect.Signature([*positional, *keywords], return_annotation=Hierarchy)  # type: ignore[attr-defined]
        if function.__doc__:
            function.__doc__ = function.__doc__.replace("    **keywords", describe_options(CoarsenOptions))
        return function

    return decorate


@dataclass(frozen=True, kw_only=True)
class _BuildKeywords(CoarsenOptions):
    """The keywords of `build_hierarchy`: all options, and the other arguments."""

    options: CoarsenOptions | None = None
    data: Any = None
    loss: Loss | None = None
    spec: UnitSpec | None = None
    progress: Progress | None = None


@_with_keywords_of(_BuildKeywords)
@old_objects_skipped()
def build_hierarchy(
    model: nn.Module,
    example: Any,
    *,
    options: CoarsenOptions | None = None,
    data: Any = None,
    loss: Loss | None = None,
    spec: UnitSpec | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Hierarchy:
    """Coarsen a network level by level.

    Parameters
    ----------
    model : torch.nn.Module
        The network. It becomes level 0 and is left as it is.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them. Every coarse network is run on it, or on its first row, once.
    options : CoarsenOptions, optional
        All options in one object, such as ``hierarchy.options`` of another hierarchy. Keywords replace single options.
    data : Tensor, tuple or dict, optional
        Calibration inputs that nest like ``example``. Repair, ``coarsener='auto'`` and budgets measure errors on them.
        Without data, ``'auto'`` and budgets measure errors of weights.
    loss : callable ``(network) -> float``, optional
        Loss that a ratio such as ``'gap:0.05'`` bounds.
    spec : UnitSpec, optional
        A trace of the network, where there is one already.
    progress : callable ``(axis, done, total)``, optional
        Is called before each axis of a level, with the number of axes done and of all axes.
    **keywords

    Returns
    -------
    Hierarchy
        The network and at least one coarser level, with the transfers between them.

    Raises
    ------
    TraceError
        The network cannot be traced, or its recording does not hold.
    NetgraphError
        An option has a value that it cannot have (`CoarsenOptions.check`), an axis does not exist, a repair or an
        affinity lacks its data, the data do not fit the network, a budget cannot be met, or the network does not run at
        a lower resolution.
    NothingToMergeError
        Nothing can become smaller in the directions of the first step.

    Examples
    --------
    >>> import netgraph as ng, torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> hierarchy = ng.build_hierarchy(network, torch.zeros(1, 4), n_levels=3, ratio=0.5)
    >>> [level.n_units for level in hierarchy.levels]
    [8, 4, 2]
    >>> again = ng.build_hierarchy(network, torch.zeros(1, 4), options=hierarchy.options, n_levels=2)
    >>> again.options.n_levels, again.options.ratio
    (2, 0.5)
    """
    started = time.perf_counter()
    options = replace_options(options or CoarsenOptions(), keywords, "build_hierarchy")
    builder = prepare_builder(model, example, options=options, data=data, loss=loss, spec=spec, progress=progress)
    model, spec = builder.root, builder.spec
    builder.trace_resolutions(sum("space" in step for step in options.steps))
    levels = [Level(model, spec, {}, time.perf_counter() - started, spec.flops)]
    for step in options.steps:
        with measure_compilation() as kernels:
            level = builder.build_next(levels[-1], step)
        if level is None:
            break
        level.seconds, level.compiling = (level.seconds or 0.0) - kernels.seconds, kernels.seconds
        levels.append(level)
    if len(levels) == 1:
        raise NothingToMergeError(_explain_nothing(spec, builder.plan, options, builder.gap, levels[0]))
    options = replace(options, inside_heads=bool(spec.inside_heads), outputs=spec.outputs)
    hierarchy = Hierarchy(levels, options, describe_example(example), BuildInputs(example, data, loss, spec))
    hierarchy.note_origins()
    return hierarchy


def prepare_builder(
    model: nn.Module,
    example: Any,
    *,
    options: CoarsenOptions,
    data: Any = None,
    loss: Loss | None = None,
    spec: UnitSpec | None = None,
    progress: Progress | None = None,
) -> LevelBuilder:
    """Check all options, trace the network unless there is a spec, and return the builder of its levels.

    Parameters and errors are those of `build_hierarchy`.
    """
    options.check()
    gap = LossGap.parse(options.ratio, loss) if isinstance(options.ratio, str) else None
    check_rung(options.repair, data)
    check_importance(options.importance, data)
    check_input_tensors(example)
    if data is not None:
        check_rows(data, "the calibration data")
    if spec is None:
        model = unwrap_compiled(model)
        spec = trace(
            model, example, inside_heads=options.inside_heads, prove=options.prove, outputs=tuple(options.outputs)
        )
    if options.prove and (spec.functions or is_cheap_to_prove(model, spec)):
        prove_recording(model, spec, example, seed=options.seed)
    if options.prove:
        prove_foreign_rules(model, spec, example, seed=options.seed)
    _check_inside_heads(spec, options.inside_heads)
    _check_same_outputs(spec, options.outputs)
    plan = _make_plan(spec, options, progress)
    return LevelBuilder(
        model, spec, example, plan, None if options.budget is None else Budget.parse(options.budget), options.repair,
        Calibration.of(model, data, spec.outputs), gap, options.depth_by, options.blocks,
    )  # fmt: skip


def _make_plan(spec: UnitSpec, options: CoarsenOptions, progress: Progress | None) -> MergePlan:
    """Return the plan of merging. Refuse axes and units that the network does not have."""
    affinity, keep = options.affinity, set(options.keep)
    if isinstance(affinity, str):
        affinity = plugins.load_plugin("netgraph.affinities", affinity)
    coarseners = load_coarseners(options.coarsener)
    go = all(map(leaves_out, coarseners.values()))
    named = {name: ratio for name, ratio in options.ratios.items() if name != "*"}
    directions = frozenset[str]().union(*options.steps)
    axis_ratios, block_ratios = split_ratios(spec, named, directions, blocks=options.blocks)
    _check_axes(spec, [*options.keep, *axis_ratios], keep, go=go)
    fixed = _check_fixed_units(spec, options.fixed or {}, keep)
    ratios = {**block_ratios, **axis_ratios, "*": options.ratios["*"]}
    return MergePlan(
        coarseners, affinity, ratios, keep, fixed, options.round_to, options.seed, progress, options.quality,
        alike=options.budget is not None, importance=options.importance,
    )  # fmt: skip


def build_single_level(model: nn.Module, example: Any) -> Hierarchy:
    """Return a hierarchy of one level, the network alone, for training without coarse levels.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.

    Returns
    -------
    Hierarchy

    Raises
    ------
    TraceError
        The network cannot be traced.
    """
    started = time.perf_counter()
    spec = trace(model, example)
    level = Level(model, spec, {}, time.perf_counter() - started, spec.flops)
    return Hierarchy([level], example=describe_example(example))


def _check_inside_heads(spec: UnitSpec, asked: bool) -> None:
    """Refuse to merge inside heads if the network has no heads that allow it."""
    if not asked or spec.inside_heads:
        return
    reasons = [f"{axis.name}: {axis.kept}" for axis in spec.axes.values() if axis.kind == "head" and axis.kept][:3]
    raise NetgraphError(
        f"no dimensions inside heads may merge: {', '.join(reasons) or 'the network has no attention of several heads'}. "
        "Leave inside_heads out, or give a spec of netgraph.trace(..., inside_heads=True)."
    )


def _check_same_outputs(spec: UnitSpec, asked: Iterable[str]) -> None:
    """Refuse names of outputs beside a spec that was made for others."""
    if tuple(asked) not in ((), spec.outputs):
        raise NetgraphError(
            f"outputs is {list(asked)}, but the spec was traced for {list(spec.outputs) or 'all outputs'}. Leave outputs out, or give "
            f"a spec of netgraph.trace(..., outputs={list(asked)})."
        )


def _check_axes(spec: UnitSpec, names: Sequence[str], kept: set[str], *, go: bool = False) -> None:
    """Refuse an axis that does not exist, or that has a ratio and cannot merge. With ``go`` units are only left out."""
    free = spec.removable if go else spec.free
    for name in names:
        if name not in spec.axes:
            names_of_free = ", ".join(axis.name for axis in spec.free[:8])
            raise NetgraphError(
                f"no axis is named {name!r}. Axes that may merge are {names_of_free or 'none'}. `netgraph inspect` lists all."
            )
        if name not in kept and spec.axes[name] not in free:
            reason = spec.axes[name].kept or "it counts nothing that could merge"
            mend = ", or leave single units out with coarsener 'magnitude'" if spec.axes[name].fewest else ""
            raise NetgraphError(f"axis {name!r} has a ratio, but it is kept ({reason}). Leave its ratio out{mend}.")


def _check_fixed_units(
    spec: UnitSpec, fixed: Mapping[str, Sequence[int]], kept: set[str]
) -> dict[str, NDArray[np.int64]]:
    """Return the units of each axis that stay alone. Refuse units that do not exist, and axes that do not merge."""
    _check_axes(spec, list(fixed), set(fixed))
    for axis, units in fixed.items():
        if axis in kept or spec.axes[axis] not in spec.free:
            reason = spec.axes[axis].kept or "it counts nothing that could merge"
            reason = "you asked to keep it" if axis in kept else reason
            raise NetgraphError(
                f"axis {axis!r} has fixed units, but all its units stay alone ({reason}). Leave it out of fixed."
            )
        missing = [unit for unit in units if not 0 <= unit < spec.axes[axis].size]
        if missing:
            last = spec.axes[axis].size - 1
            raise NetgraphError(f"axis {axis!r} has no unit {missing[0]} to fix. Its units are 0 to {last}.")
    return {axis: np.unique(np.asarray(units, dtype=np.int64)) for axis, units in fixed.items() if len(units)}


def _explain_nothing(
    spec: UnitSpec, plan: MergePlan, options: CoarsenOptions, gap: LossGap | None, level: Level
) -> str:
    """Return the reason why no level below the finest could be made."""
    reasons = list(level.reasons.get("unable", {}).values())
    if "channels" not in options.steps[0]:
        return ". ".join(reasons)
    if gap is not None and spec.free:
        return f"no ratio keeps the loss within a gap of {gap.limit}. Allow a larger one, or train the network first."
    names = list(name_outputs(spec.plans["eval"].outputs))
    if len(names) > 1 and not spec.outputs:
        reasons.append(f"If only some of the outputs {', '.join(names[:6])} matter, name these (outputs, --outputs)")
    return ". ".join([plan.explain_nothing(spec, options.budget).removesuffix("."), *reasons])
