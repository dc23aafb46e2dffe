"""sweep: every combination of ratios, coarseners, repairs, affinities and budgets, judged and measured on one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.compression.deploy import choose_deployed
from netgraph.coarsen.compression.latency import compare_latencies, count_rows, has_rows, measure_latencies
from netgraph.coarsen.compression.metrics import Metric, make_error_measure, make_metric, split_rows
from netgraph.coarsen.compression.pipeline import Rows, read_pair, take_example
from netgraph.coarsen.hierarchy.hierarchy import BuildInputs, Hierarchy, prepare_builder
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.hierarchy.merge_plan import GraphStore
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.sweeps.combinations import (
    AFFINITIES,
    BUDGETS,
    COARSENERS,
    RATIOS,
    REPAIRS,
    Combination,
    Named,
    check_repaired_errors,
    list_combinations,
)
from netgraph.coarsen.sweeps.networks import NetworkMaker
from netgraph.coarsen.sweeps.result import SETTINGS, Row, Sweep
from netgraph.coarsen.sweeps.rows_file import RowsFile
from netgraph.errors import NetgraphError
from netgraph.io.bundle import hash_tensors
from netgraph.utils.pytree import build_structure, describe_example, normalize_example

BATCHES = (1, 32)  # rows for which milliseconds are told
SECONDS = 0.3  # of each measurement of milliseconds
KEPT = (
    "keep",
    "outputs",
    "fixed",
    "round_to",
    "inside_heads",
    "importance",
    "prove",
    "seed",
)  # options that a sweep leaves alone
RESERVED = {
    *SETTINGS,
    "parameters",
    "flops_per_sample",
    "seconds",
    "axes",
    "class",
    "reason",
    "pareto",
}  # names of columns


def sweep(
    model: nn.Module,
    data: Any,
    *,
    targets: Tensor | None = None,
    ratios: str | Sequence[float] = RATIOS,
    coarseners: Sequence[Named] = COARSENERS,
    repairs: Sequence[str] = REPAIRS,
    affinities: Sequence[Named] = AFFINITIES,
    budgets: Sequence[str] = BUDGETS,
    metric: str | Metric | Callable[[nn.Module], float] | None = None,
    test: Rows | tuple[Any, Tensor | None] | None = None,
    example: Any = None,
    options: CoarsenOptions | None = None,
    latency: bool = True,
    repaired_errors: bool = False,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Coarsen a network by every combination of settings, and measure what each result costs and keeps.

    A combination that cannot be had, because nothing merges or a package is missing, is a row with its reason. The trace, the graphs of
    an affinity and the error curves of a coarsener are made once.

    Parameters
    ----------
    model : torch.nn.Module
        A trained network. It is left as it is.
    data : Tensor, tuple or dict
        Inputs for calibration, nested like the example. 512 rows are usual.
    targets : Tensor, optional
        Class or value of each row of ``data``.
    ratios : str or sequence of float, default "0.9:0.3:0.1"
        Shares that stay: numbers, or a text with ``FIRST:LAST:STEP`` and numbers.
    coarseners : sequence of str or callable, default ("ward", "hem")
        Coarseners as `netgraph.build_hierarchy` takes them.
    repairs : sequence of str, default ("none", "ridge")
        Rungs of the repair.
    affinities : sequence of str or callable, default ("cosine",)
        Affinities. A coarsener that reads none has one row for all of them.
    budgets : sequence of {"none", "parameters", "flops", "units"}, default ("none",)
        What ratios are shares of: ``none``, of the units of each axis; else of that cost, spread over the axes by measured errors.
    metric : str, Metric or callable, optional
        As in `netgraph.compress`. By default ``top1`` for classes, ``mse`` for other targets, and ``error`` without targets.
    test : (inputs, targets), optional
        Rows of the metric and of the error of the outputs. By default those of ``data``.
    example : Tensor, tuple or dict, optional
        Inputs as `netgraph.trace` takes them. By default the first two rows of ``data``.
    options : CoarsenOptions, optional
        Further options: ``keep``, ``outputs``, ``fixed``, ``round_to``, ``inside_heads``, ``importance``, ``prove`` and ``seed``.
    latency : bool, default True
        Measure milliseconds for a batch of 1 and of 32 rows, each in turn with the original.
    repaired_errors : bool, default False
        Spread budgets by the errors of axes after a repair of the layers that each runs over, for rows with a repair that reads data. This takes
        several times as long, and often chooses better.
    resume : path, optional
        File that gets each row as soon as it is measured. Rows that it already has are not measured again. A function counts as the
        same if it has the same name.
    progress : callable ``(combination, done, total)``, optional
        Is called before each combination.

    Returns
    -------
    Sweep
        Its text is the table. ``rows`` are dicts, `Sweep.pareto` has the best.

    Raises
    ------
    TraceError
        The network cannot be traced.
    NetgraphError
        A setting has a value that it cannot have, the data do not fit the network, or the original has no finite metric.
    LoadError
        ``resume`` is a file of another network, of other data or of other options.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import sweep
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    >>> result = sweep(network, torch.randn(256, 8), ratios=[0.5], coarseners=["hem"], latency=False)
    >>> [(row["coarsener"], row["repair"], row["parameters"]) for row in result.rows]
    [(None, None, 706), ('hem', 'none', 354), ('hem', 'ridge', 354)]
    >>> result.rows[2]["error"] < result.rows[1]["error"]
    True
    """
    combinations, merge, weigh = list_combinations(ratios, coarseners, repairs, affinities, budgets)
    if repaired_errors:
        check_repaired_errors(repairs, budgets)
    options = _check_options(options or CoarsenOptions())
    example = take_example(data) if example is None else example
    tested = Rows(data, targets) if test is None else read_pair(test, "test")
    builder = prepare_builder(model, example, options=replace(options, ratio=1.0), data=data)
    bench = Bench(builder, example, data, tested, metric, options, latency=latency)
    identity: dict[str, Any] = {
        "network": hash_tensors(traced_state(builder.root))[:16],
        "data": _hash_rows(data, *tested)[:16],
    }
    plain = options.to_plain()
    identity["options"] = {"metric": bench.metric.name, **{name: plain.get(name) for name in KEPT if name != "prove"}}
    if plain.get("importance") is None:
        del identity["options"]["importance"]  # files of older versions lack it
    if repaired_errors:
        identity["options"]["repaired_errors"] = True  # these too
    file = RowsFile(None if resume is None else Path(resume), identity)
    bench.recall(file.rows.values())
    makers = Makers(builder, example, merge, weigh, repaired_errors=repaired_errors)
    rows = [bench.original]
    for done, combination in enumerate(combinations):
        if progress is not None:
            progress(str(combination), done, len(combinations))
        row = None if combination.ratio == 1 else file.find(combination)  # the original is measured anew
        if row is None or (latency and not bench.has_latency(row)):
            row = bench.measure(combination, makers)
            file.add(row)
        rows.append({name: row.get(name) for name in bench.original})
    facts = {**identity, "threads": torch.get_num_threads(), "shared_seconds": makers.shared_seconds}
    return Sweep(rows, bench.metric.name, bench.metric.larger_is_better, facts)


class Makers:
    """The makers of networks, one for each affinity and coarsener, made on first use."""

    def __init__(
        self,
        builder: LevelBuilder,
        example: Any,
        merge: dict[str, Named],
        weigh: dict[str, Named],
        *,
        repaired_errors: bool,
    ) -> None:
        self.builder, self.example, self.merge, self.weigh = builder, example, merge, weigh
        self.repaired_errors = repaired_errors
        self.graphs: dict[str, GraphStore] = {}
        self.made: dict[tuple[str, str], NetworkMaker] = {}

    def find(self, combination: Combination) -> NetworkMaker:
        """Return the maker of a combination. What its coarsener does not read, the usual affinity fills in."""
        affinity = combination.affinity or AFFINITIES[0]
        key = affinity, combination.coarsener
        if key not in self.made:
            weigh = self.weigh.get(affinity, affinity)
            graphs = self.graphs.setdefault(affinity, GraphStore())
            self.made[key] = NetworkMaker(
                self.builder, weigh, self.merge[combination.coarsener], graphs, self.example, repaired_errors=self.repaired_errors
            )  # fmt: skip
        return self.made[key]

    @property
    def shared_seconds(self) -> float:
        """Time of building graphs and of measuring error curves, which rows share."""
        return sum(graphs.seconds for graphs in self.graphs.values()) + sum(
            maker.curve_seconds for maker in self.made.values()
        )


class Bench:
    """Judges and measures the networks of a sweep."""

    def __init__(
        self,
        builder: LevelBuilder,
        example: Any,
        data: Any,
        tested: Rows,
        metric: Any,
        options: CoarsenOptions,
        *,
        latency: bool,
    ) -> None:
        root, outputs = builder.root, builder.spec.outputs
        self.root, self.spec, self.example, self.data, self.options = root, builder.spec, example, data, options
        self.metric = make_metric(metric, root, *tested, outputs=outputs)
        if self.metric.name in RESERVED:
            raise NetgraphError(
                f"the metric has the name {self.metric.name!r}, which is a column already. Give it another name."
            )
        before = self.metric.evaluate(root)  # shows before work begins that metric and rows fit
        self.measure_error = make_error_measure(root, split_rows(root, tested.inputs, outputs), outputs)
        self.times: dict[Any, Row] = {}
        self.batches = ([*BATCHES] if has_rows(example) else [count_rows(example)]) if latency else []
        self.original = self._make_row(None, Level(root, builder.spec, flops=builder.spec.flops), before, 0.0, 0.0)
        if self.original["reason"] is not None:
            raise NetgraphError(f"the network itself cannot be judged: {self.original['reason']}")

    def measure(self, combination: Combination, makers: Makers) -> Row:
        """Return the row of a combination."""
        if combination.ratio == 1:
            return {**self.original, **combination._asdict()}
        try:
            level, seconds = makers.find(combination).build(combination)
            metric = self.metric.evaluate(level.model)
            error = metric if self.metric.name == "error" else self.measure_error(level.model)
            return self._make_row(combination, level, metric, error, seconds)
        except NetgraphError as refusal:
            return self._make_failure(combination, str(refusal))

    def has_latency(self, row: Row) -> bool:
        """Return True if a row has its milliseconds."""
        return all(row.get(f"ms_batch_{batch}") is not None for batch in self.batches)

    def recall(self, rows: Iterable[Row]) -> None:
        """Take the milliseconds of rows that were measured before."""
        for row in rows:
            if row["reason"] is None and row["axes"] and self.has_latency(row):
                self.times[_name_shape(row["axes"], row["class"])] = row

    def _make_row(
        self, combination: Combination | None, level: Level, metric: float, error: float, seconds: float
    ) -> Row:
        """Return the row of a network that could be built."""
        settings = combination or (None, None, None, 1.0, None)
        if not (math.isfinite(metric) and math.isfinite(error)):
            named = f"the metric {self.metric.name} is {metric:g} and the error {error:g}"
            return self._make_failure(settings, f"{named}. The outputs are not finite numbers.")
        axes = {name: transfer.n_coarse for name, transfer in level.transfers.items()}
        return {
            **dict(zip(SETTINGS, settings, strict=True)),
            "parameters": level.n_parameters,
            "flops_per_sample": level.flops / count_rows(self.example),
            self.metric.name: metric,
            "error": error,
            **self._time(level, axes),
            "seconds": seconds,
            "axes": axes,
            "reason": None,
        }

    def _make_failure(self, settings: Sequence[Any], reason: str) -> Row:
        """Return the row of a combination that could not be had."""
        empty = (
            dict.fromkeys(name for name in self.original if name not in SETTINGS) if hasattr(self, "original") else {}
        )
        return {**dict(zip(SETTINGS, settings, strict=True)), **empty, "axes": {}, "reason": reason}

    def _time(self, level: Level, axes: dict[str, int]) -> Row:
        """Return the milliseconds and the class of the network as it would be deployed. Networks of one shape are measured once."""
        if not self.batches:
            return {"class": None}
        network = self._deploy(level) if axes else self.root
        shape = _name_shape(axes, type(network).__name__)
        if shape not in self.times:
            networks = [self.root, network] if axes else [self.root]
            times: Row = {"class": type(network).__name__}
            for batch in self.batches:
                rows = batch if has_rows(self.example) else None
                before, *_, after = measure_latencies(networks, self.example, batch=rows, seconds=SECONDS) * 2
                times |= {
                    f"ms_batch_{batch}": after.median,
                    f"speed_batch_{batch}": 1 / compare_latencies(before, after),
                }
            self.times[shape] = times
        return {name: self.times[shape][name] for name in (*self._name_times(), "class")}

    def _name_times(self) -> list[str]:
        """Return the columns of milliseconds and speeds."""
        return [f"{kind}_batch_{batch}" for kind in ("ms", "speed") for batch in self.batches]

    def _deploy(self, level: Level) -> nn.Module:
        """Return the network of a level in its own class if that is proven equal."""
        options = replace(self.options, inside_heads=bool(self.spec.inside_heads), outputs=self.spec.outputs)
        levels = [Level(self.root, self.spec, flops=self.spec.flops), level]
        inputs = BuildInputs(self.example, self.data, None, self.spec)
        hierarchy = Hierarchy(levels, options, describe_example(self.example), inputs)
        return choose_deployed(hierarchy, self.example, seed=self.options.seed)[0]


def _name_shape(axes: Mapping[str, int], kind: str | None) -> tuple[Any, ...]:
    """Return what networks of equal milliseconds have in common: the units of each axis and the class."""
    return (*sorted(axes.items()), kind)


def _check_options(options: CoarsenOptions) -> CoarsenOptions:
    """Refuse options that a sweep sets."""
    options.check()
    usual = CoarsenOptions()
    wrong = [
        f.name for f in fields(options) if f.name not in KEPT and getattr(options, f.name) != getattr(usual, f.name)
    ]
    if wrong:
        raise NetgraphError(
            f"the options set {', '.join(wrong)}, and a sweep sets these itself. Leave them out, and give ratios, coarseners, repairs, affinities "
            "and budgets."
        )
    return options


def _hash_rows(*inputs: Any) -> str:
    """Return a digest of nested tensors."""
    leaves: dict[str, Tensor] = {}
    for i, part in enumerate(one for one in inputs if one is not None):
        found: list[Tensor] = []
        build_structure(normalize_example(part), found)
        leaves |= {f"{i}.{j}": leaf for j, leaf in enumerate(found)}
    return hash_tensors(leaves)
