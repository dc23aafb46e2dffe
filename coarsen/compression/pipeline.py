"""compress: a trained network, a target and data give a smaller network and the table of what it costs and keeps.

    1. measure   the error of merging each axis, at several ratios
    2. choose    the number of units of every axis that meets the target
    3. merge     along these numbers, and repair
    4. deploy    in the network's own class where that is proven equal
    5. tune      if epochs are asked for, towards labels or towards the original's outputs

Every stage is judged by the same metric on the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from netgraph.analysis.alike_axes import find_alike_axes
from netgraph.coarsen.compression.costs import BATCHES, Costs, measure_costs
from netgraph.coarsen.compression.deploy import choose_deployed
from netgraph.coarsen.compression.depth import DepthTrial, build_bases, measure_depths
from netgraph.coarsen.compression.latency import compare_latencies, count_rows, has_rows, resize_rows
from netgraph.coarsen.compression.metrics import Metric, make_error_measure, make_metric, split_rows
from netgraph.coarsen.compression.options import DEFAULTS, LATENCY_BATCH, TARGET
from netgraph.coarsen.compression.result import Compressed, Stage
from netgraph.coarsen.compression.selection import RATIOS, Chooser, Selection, Shape, refuse_whole
from netgraph.coarsen.compression.target import Target
from netgraph.coarsen.compression.training.fine_tuning import fine_tune
from netgraph.coarsen.hierarchy.hierarchy import BuildInputs, Hierarchy, prepare_builder
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.hierarchy.merge_plan import GraphStore
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.network.finite_values import list_nonfinite
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.partition.target_size import describe_uneven
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.coarsen.tuning.options import TuneOptions
from netgraph.coarsen.user_class.huggingface import is_transformers_model
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.io.hub.origin import add_step
from netgraph.utils.choices import DATA_RUNGS
from netgraph.utils.pytree import build_structure, describe_example, normalize_example, unflatten_tree

Tune = Callable[[nn.Module, nn.Module], Any]
HELD_OUT = 4  # one row in four, where candidates are judged and no other rows are given


class Rows(NamedTuple):
    """Rows of data.

    Parameters
    ----------
    inputs : Tensor, tuple or dict
        Inputs, nested like the example.
    targets : Tensor, optional
        Class or value of each row.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import Rows
    >>> Rows(torch.zeros(4, 2)).targets is None
    True
    """

    inputs: Any
    targets: Tensor | None = None


def compress(
    model: nn.Module,
    data: Any,
    *,
    target: str | Target = TARGET,
    targets: Tensor | None = None,
    validation: Rows | tuple[Any, Tensor | None] | None = None,
    test: Rows | tuple[Any, Tensor | None] | None = None,
    metric: str | Metric | Callable[[nn.Module], float] | None = None,
    example: Any = None,
    options: CoarsenOptions = DEFAULTS,
    tune: Tune | int | None = None,
    latency_batch: int = LATENCY_BATCH,
    repaired_errors: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Make a network smaller until a target is met, and measure what it costs and keeps.

    Parameters
    ----------
    model : torch.nn.Module
        A trained network. It is left as it is.
    data : Tensor, tuple or dict
        Inputs for calibration, nested like the example. 512 rows are usual.
    target : str or Target, default "flops=0.5"
        ``parameters=0.5``, ``flops=0.5`` or ``latency=0.5``, a share of the original's, met within 2 %; ``accuracy=-1.0``, the points of
        accuracy that may go; or ``error=0.1``, the relative error that the outputs may have.
    targets : Tensor, optional
        Class or value of each row of ``data``.
    validation : (inputs, targets), optional
        Rows on which candidates are judged for ``accuracy`` and ``error``. By default one row in four of ``data``, which is then
        left out of the calibration. The target is judged on these rows.
    test : (inputs, targets), optional
        Rows of the metric in the table. By default those of ``validation``, or else of ``data``.
    metric : str, Metric or callable, optional
        ``top1``, ``top5``, ``loss``, ``perplexity``, ``mse``, ``mae``, ``error``, or a function of a network. By default ``top1`` for classes,
        ``mse`` for other targets, and ``error`` without targets.
    example : Tensor, tuple or dict, optional
        Inputs as `netgraph.trace` takes them. By default the first two rows of ``data``.
    options : CoarsenOptions, optional
        How units merge and how the result is repaired. By default ``ward`` with ``ridge``. Ratios and budgets follow from the target.
        ``directions="channels+depth"`` may leave out residual blocks or merge them too, and ``"depth"`` does this alone.
    tune : int or callable ``(network, original) -> None``, optional
        Epochs of `netgraph.coarsen.fine_tune` on ``data`` and ``targets`` without the rows that judge candidates, or a function that
        trains the compressed network in place.
    latency_batch : int, default 32
        Rows of the input for the target ``latency``.
    repaired_errors : bool, default False
        Measure the error of each axis after a repair of the layers that it runs over. This takes several times as long, and often
        chooses better. It needs a repair that reads data.
    progress : callable ``(axis, done, total)``, optional
        Is called before the error of each axis is measured.

    Returns
    -------
    Compressed
        ``model``, ``table``, ``hierarchy``. `Compressed.is_met` is False if the target was out of reach; the nearest network is returned.

    Raises
    ------
    TraceError
        The network cannot be traced.
    NetgraphError
        The target, the metric or an option has a value that it cannot have, a target of accuracy meets a metric that is none, or
        the data do not fit the network.
    NothingToMergeError
        No axis can become smaller.

    References
    ----------
    He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, has merging and repair without labels.
    Men et al., "ShortGPT: Layers in large language models are more redundant than you expect", 2024. Gromov et al., "The unreasonable
    ineffectiveness of the deeper layers", 2024.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    >>> result = ng.compress(network, torch.randn(256, 8), target="parameters=0.5")
    >>> result.is_met, [stage.name for stage in result.stages]
    (True, ['original', 'merged', 'repaired'])
    >>> result.model
    Sequential(
      (0): Linear(in_features=8, out_features=31, bias=True)
      (1): ReLU()
      (2): Linear(in_features=31, out_features=2, bias=True)
    )
    """
    target = Target.parse(target)
    _check_options(options, target, latency_batch)
    tuning = _choose_tuning(tune, options.seed)
    rows, judged = _split_rows(Rows(data, targets), validation, target)
    tested = read_pair(test, "test") if test is not None else judged or rows
    example = take_example(rows.inputs) if example is None else example
    builder = prepare_builder(model, example, options=_without_ratios(options), data=rows.inputs, progress=progress)
    number = make_metric(metric, builder.root, *tested, outputs=builder.spec.outputs)
    before = number.evaluate_original(builder.root)  # shows before work begins that metric and rows fit
    judge = None if target.is_share else _make_judge(target, metric, builder, judged or rows)
    run = _Run(builder, rows, example, options, target, number, latency_batch, judge)
    return run.finish(run.choose(repaired_errors), before, tuning)


Judge = Callable[[nn.Module], float]


def _make_judge(target: Target, metric: Any, builder: LevelBuilder, judged: Rows) -> Judge:
    """Return a function that gives the points of accuracy that a network gains over the original, or its error."""
    if target.kind == "error":
        return make_error_measure(
            builder.root, split_rows(builder.root, judged.inputs, builder.spec.outputs), builder.spec.outputs
        )
    number = make_metric(metric, builder.root, *judged, outputs=builder.spec.outputs)
    if not number.larger_is_better:
        raise NetgraphError(
            f"the target {target} needs an accuracy, and the metric is {number.name}. Give targets that are classes, or a target such as "
            "error=0.1."
        )
    before = number.evaluate_original(builder.root)
    return lambda network: 0.0 - 100 * number.loss_by(before, number.evaluate(network))


class _Run:
    """One compression: what is the same for all of its steps."""

    def __init__(
        self,
        builder: LevelBuilder,
        rows: Rows,
        example: Any,
        options: CoarsenOptions,
        target: Target,
        metric: Metric,
        latency_batch: int,
        judge: Judge | None,
    ) -> None:
        self.builder, self.rows, self.example = builder, rows, example
        self.options, self.target, self.metric = options, target, metric
        self.latency_batch, self.judge = latency_batch, judge
        self.model, self.spec = builder.root, builder.spec
        self.errors: dict[str, dict[float, float]] = {}
        self.notes: list[str] = []
        self.latency_notes: list[str] = []  # of the last search
        self.depth: list[DepthTrial] = []
        builder.graphs = GraphStore()
        self._merged: tuple[Shape, dict[str, Transfer]] | None = None

    def build(self, shape: Shape, repair: str) -> Hierarchy:
        """Return the hierarchy to this shape. The trace, the graphs and the outputs on the data serve all of them."""
        base = shape.base.builder
        sizes, spec = shape.base.expand(shape.sizes), self.spec
        ratios = {name: n / base.spec.axes[name].size for name, n in sizes.items()}
        plan = replace(base.plan, ratios={**ratios, "*": 1.0}, round_to=1)
        builder = base.fork(plan, rung=repair, graphs=base.graphs)
        reasons: dict[str, Any] = {}
        started = time.perf_counter()
        level = builder.build_level(dict(self._merge(builder, shape, reasons)), reasons, shape.base.steps)
        level.seconds = time.perf_counter() - started
        options = replace(
            _without_ratios(self.options), ratio={**ratios, "*": 1.0}, repair=repair, round_to=1,
            inside_heads=bool(spec.inside_heads), outputs=spec.outputs,
        )  # fmt: skip
        whole = Level(self.model, spec, {}, 0.0, spec.flops)
        inputs = BuildInputs(self.example, self.rows.inputs, None, spec)
        hierarchy = Hierarchy([whole, level], options, describe_example(self.example), inputs)
        hierarchy.note_origins()
        return hierarchy

    def _merge(self, builder: LevelBuilder, shape: Shape, reasons: dict[str, Any]) -> dict[str, Transfer]:
        """Return the units that merge, those of the call before if the shape is the same and one coarsener merges alone."""
        is_last = (
            self._merged is not None and self._merged[0].base is shape.base and self._merged[0].sizes == shape.sizes
        )
        if self._merged is None or not is_last or len(builder.plan.coarseners) > 1:
            step, judge, repaired = builder.begin_channels()
            sizes = shape.base.expand(shape.sizes)
            step = replace(step, axes=[axis for axis in step.axes if axis.name in sizes])
            transfers, chosen = step.choose_transfers(repaired or judge, {}, keep_graphs=True)
            if not transfers and not shape.base.steps:
                raise NothingToMergeError(builder.plan.explain_nothing(self.spec, None))
            if chosen:
                reasons["coarseners"] = chosen
            self._merged = shape, transfers
        return self._merged[1]

    def choose(self, repaired: bool) -> Shape:
        """Return the shape that meets the target, or comes nearest."""
        if repaired and self.options.repair not in DATA_RUNGS:
            self.notes.append(
                f"repaired_errors had no effect, because the repair {self.options.repair} fits nothing to data."
            )
            repaired = False
        only = None if "channels" in self.options.steps[0] else ()
        whole = Chooser(self.builder, self.example, self.round_to, repaired, only, must_merge=only is None)
        self.errors = {name: dict(zip(RATIOS, errors, strict=True)) for name, errors in whole.errors.items()}
        shape = self._choose_for_config(whole)
        if shape is None:
            shape, _ = self._select(self._add_depths(whole))
        refuse_whole(shape)
        self.notes += [*self.latency_notes, *(step.describe() for step in shape.base.steps)]
        return shape

    @property
    def round_to(self) -> int:
        """Multiple that numbers of units have, if possible."""
        return self.options.round_to if self.options.round_to > 1 else ROUND_TO[self.target.kind]

    def _select(self, bases: Sequence[Chooser]) -> tuple[Shape, bool]:
        """Return the shape of one of the networks that meets the target, and whether there is one."""
        selection = Selection(bases, self.measure_error)
        if self.judge is not None:
            return selection.choose_for_quality(self.target, self.judge_shape)
        if self.target.kind == "latency":
            found = selection.choose_for_latency(self.target, self.latency_batch, self.build_deployed)
            self.latency_notes = selection.notes
            return found
        return selection.choose_for_share(self.target)

    def _add_depths(self, whole: Chooser) -> list[Chooser]:
        """Return the network, and those with fewer blocks where depth may go."""
        if "depth" not in self.options.steps[0]:
            return [whole]
        self.depth = measure_depths(self.builder, repaired=whole.repaired)
        return build_bases(whole, self.depth, self.target.kind if self.target.kind == "parameters" else "flops")

    def _choose_for_config(self, whole: Chooser) -> Shape | None:
        """Return a shape that meets the target and that a config of transformers holds, which has one number for all layers. Or None."""
        alike = find_alike_axes(self.spec)
        if not is_transformers_model(self.model) or not alike or self.options.steps[0] != {"channels"}:
            return None
        inside = [*alike, *set(alike.values())]
        neurons = [name for name in inside if self.spec.axes[name].kind != "head"]
        for only in (None, inside, neurons):
            base = replace(whole, alike=alike, only=only, known=whole.errors, must_merge=False)
            if not base.axes:
                continue
            try:
                shape, is_met = self._select([base])
            except NothingToMergeError:  # with more freedom there may be something
                continue
            if is_met and not shape.is_whole and self._fits_class(shape):
                self.notes.append("Alike layers have equal sizes, because the config has one number for all of them.")
                return shape
        return None

    def _fits_class(self, shape: Shape) -> bool:
        """Return True if a network of this shape is proven equal in its own class."""
        _, reason = choose_deployed(self.build(shape, "none"), self.example, seed=self.options.seed)
        return reason is None

    def measure_error(self, shape: Shape) -> float:
        """Build and repair a network of this shape, and return its error on the calibration data."""
        return float(self.build(shape, self.options.repair).levels[-1].reasons["error"])

    def judge_shape(self, shape: Shape) -> float:
        """Build and repair a network of this shape, and return what the target bounds."""
        assert self.judge is not None
        return self.judge(self.build(shape, self.options.repair).levels[-1].model)

    def build_deployed(self, shape: Shape) -> nn.Module:
        """Return a network of this shape as it would be deployed, with weights that do not matter."""
        return choose_deployed(self.build(shape, "none"), self.example, seed=self.options.seed)[0]

    def finish(self, shape: Shape, before: float, tune: Tune | TuneOptions | None) -> Compressed:
        """Merge, repair, deploy and tune, and judge each stage."""
        started = time.perf_counter()
        merged = self.build(shape, "none")
        stages = [("merged", self.metric.evaluate(merged.levels[-1].model), time.perf_counter() - started)]
        hierarchy = merged
        if self.options.repair != "none":
            started = time.perf_counter()
            hierarchy = self.build(shape, self.options.repair)
            stages.append(("repaired", self.metric.evaluate(hierarchy.levels[-1].model), time.perf_counter() - started))
        network, reason = choose_deployed(hierarchy, self.example, seed=self.options.seed)
        if reason is not None:
            self.notes.append(reason)
        if tune is not None:
            started = time.perf_counter()
            if isinstance(tune, TuneOptions):
                fine_tune(network, self.model, *self.rows, options=replace(tune, outputs=self.spec.outputs))
            else:
                tune(network, self.model)
            _check_tuned(network)
            stages.append(("tuned", self.metric.evaluate(network), time.perf_counter() - started))
        fine, coarse = self.measure(network, hierarchy)
        self._note_unrepaired(hierarchy)
        self._note_uneven(hierarchy)
        self.notes += self.metric.describe_precision(before)
        table = [Stage("original", fine, before)]
        for name, value, seconds in stages:
            won = None if name == "merged" else self.metric.find_share_won_back(before, stages[0][1], value)
            table.append(Stage(name, coarse, value, won, seconds))
        reached = self.compute_reached(network, fine, coarse)
        result = Compressed(
            network,
            hierarchy,
            tuple(table),
            self.target,
            reached,
            self.metric.name,
            tuple(self.notes),
            self.errors,
            tuple(trial.document() for trial in self.depth),
        )
        add_step(network, result.to_step())
        return result

    def measure(self, network: nn.Module, hierarchy: Hierarchy) -> tuple[Costs, Costs]:
        """Return the costs of the original and of the deployed network."""
        n = count_rows(self.example)
        flops = [level.flops / n for level in (hierarchy.levels[0], hierarchy.levels[-1])]
        batches = sorted({*BATCHES, self.latency_batch} if self.target.kind == "latency" else BATCHES)
        fine, coarse = measure_costs([self.model, network], self.example, flops=flops, batches=batches)
        return fine, coarse

    def compute_reached(self, network: nn.Module, fine: Costs, coarse: Costs) -> float:
        """Return what the target bounds, as it came out: a measured share, or what the rows say that chose the sizes."""
        if self.judge is not None:
            return self.judge(network)
        if self.target.kind == "latency":
            pairs = zip(coarse.latency, fine.latency, strict=True)
            shares = {before.batch: compare_latencies(before, after) for after, before in pairs}
            return shares.get(self.latency_batch, next(iter(shares.values())))  # of a graph only its own size is there
        kind = self.target.kind
        return float(getattr(coarse, kind) / max(getattr(fine, kind), 1))

    def _note_unrepaired(self, hierarchy: Hierarchy) -> None:
        """Say which layers the repair left alone."""
        left = hierarchy.levels[-1].reasons.get("repair", {}).get("left", {})
        if left:
            first = ", ".join(f"{name} ({reason})" for name, reason in list(left.items())[:3])
            more = f", and {len(left) - 3} more" if len(left) > 3 else ""
            self.notes.append(f"The repair left {len(left)} weights as merging made them: {first}{more}.")

    def _note_uneven(self, hierarchy: Hierarchy) -> None:
        """Say of which axes the numbers of units are not the multiple that was asked for."""
        sizes = [(name, transfer.n_coarse) for name, transfer in hierarchy.levels[-1].transfers.items()]
        if uneven := describe_uneven(sizes, self.options.round_to):
            self.notes.append(f"{uneven[0].upper()}{uneven[1:]}")


def read_pair(rows: Any, name: str) -> Rows:
    """Return rows that were given as inputs and targets.

    Raises
    ------
    NetgraphError
        They are inputs alone, or something else.
    """
    if not (isinstance(rows, (tuple, list)) and len(rows) == 2 and (rows[1] is None or isinstance(rows[1], Tensor))):
        raise NetgraphError(
            f"{name} is a {type(rows).__name__}, and a pair of inputs and targets is asked for. Give ({name}, None) where there are no targets."
        )
    return Rows(*rows)


def _check_tuned(network: nn.Module) -> None:
    """Refuse a network that the training has left without finite weights."""
    bad = list_nonfinite(dict(network.named_parameters()))
    if bad:
        raise NetgraphError(
            f"the training has left {bad[0]} with numbers that are not finite. Give a smaller rate, or less training."
        )


ROUND_TO = {"parameters": 4, "flops": 4, "latency": 8, "accuracy": 4, "error": 4}  # units, where more of them are there


def _check_options(options: CoarsenOptions, target: Target, latency_batch: int) -> None:
    """Refuse options that the target sets."""
    options.check()
    if options.budget is not None or options.ratio != CoarsenOptions().ratio or options.n_levels != 2:
        raise NetgraphError(
            "a ratio, a budget or levels were given, and compress chooses them. Leave them out, and give a target."
        )
    if not options.steps[0] <= {"channels", "depth"}:
        raise NetgraphError(
            f"compress makes channels and depth smaller, and the directions are {options.directions!r}. Give channels, depth or channels+depth."
        )
    if latency_batch < 1:
        raise NetgraphError(f"latency_batch is {latency_batch}. Give 1 row or more.")


def _choose_tuning(tune: Tune | int | None, seed: int) -> Tune | TuneOptions | None:
    """Return how the compressed network is tuned: numbers of epochs as options, after their check."""
    if not isinstance(tune, int):
        return tune
    tuning = TuneOptions(epochs=tune, seed=seed)
    tuning.check()
    return tuning if tune else None


def _without_ratios(options: CoarsenOptions) -> CoarsenOptions:
    return replace(options, ratio=1.0)


def take_example(inputs: Any) -> Any:
    """Return the first two rows of the data, or all of it where there are no common rows."""
    return resize_rows(inputs, 2) if has_rows(inputs) else inputs


def _split_rows(rows: Rows, validation: Any, target: Target) -> tuple[Rows, Rows | None]:
    """Return the rows for calibration, and those on which candidates are judged, where the target needs them."""
    if validation is not None:
        return rows, read_pair(validation, "validation")
    if target.is_share or not has_rows(rows.inputs) or count_rows(rows.inputs) < 2 * HELD_OUT:
        return rows, None
    n = count_rows(rows.inputs)
    held = range(0, n, HELD_OUT)
    kept = [i for i in range(n) if i % HELD_OUT]
    return select_rows(rows, kept), select_rows(rows, list(held))


def select_rows(rows: Rows, numbers: list[int]) -> Rows:
    """Return some of the rows."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(rows.inputs), leaves)
    args, kwargs = unflatten_tree(structure, [leaf[numbers] for leaf in leaves])
    inputs = kwargs or (args[0] if isinstance(rows.inputs, Tensor) else args)
    return Rows(inputs, None if rows.targets is None else rows.targets[numbers])
