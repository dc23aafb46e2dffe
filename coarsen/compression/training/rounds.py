"""compress_in_rounds: merge a little, tune, and again, towards one target.

A network that was tuned after a small step merges better than one that lost everything at once. The share s of the cost that stays after round
i of n, for a target share t::

    linear         s_i = 1 - (1 - t) i / n        equal parts of the original go
    exponential    s_i = t^(i / n)                each round takes the same share of what is left

Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", ICLR 2017. Renda, Frankle, Carbin, "Comparing rewinding
and fine-tuning in neural network pruning", ICLR 2020.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from netgraph.coarsen.compression.costs import BATCHES, Costs, measure_costs
from netgraph.coarsen.compression.latency import compare_latencies, count_rows
from netgraph.coarsen.compression.metrics import Metric, make_metric
from netgraph.coarsen.compression.options import DEFAULTS, LATENCY_BATCH, TARGET
from netgraph.coarsen.compression.pipeline import Rows, Tune, compress, read_pair
from netgraph.coarsen.compression.result import TITLE, Compressed, Stage
from netgraph.coarsen.compression.target import Target
from netgraph.coarsen.compression.training.fine_tuning import fine_tune
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.coarsen.tuning.options import TuneOptions
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.io.hub.origin import find_origin, set_origin
from netgraph.utils.choices import ROUND_SCHEDULES

MOST_ROUNDS = 100


def plan_rounds(share: float, rounds: int, schedule: str) -> list[float]:
    """Return the share of the cost that stays after each round.

    Raises
    ------
    NetgraphError
        There is no such schedule, or no such number of rounds.

    Examples
    --------
    >>> from netgraph.coarsen.compression.training.rounds import plan_rounds
    >>> plan_rounds(0.25, 2, "exponential"), plan_rounds(0.25, 3, "linear")
    ([0.5, 0.25], [0.75, 0.5, 0.25])
    """
    if schedule not in ROUND_SCHEDULES:
        raise NetgraphError(f"no schedule of rounds is called {schedule!r}. Choose among {', '.join(ROUND_SCHEDULES)}.")
    if not 1 <= rounds <= MOST_ROUNDS:
        raise NetgraphError(f"rounds is {rounds}. Give a number from 1 to {MOST_ROUNDS}.")
    parts = [i / rounds for i in range(1, rounds)]
    shares = [1 - (1 - share) * part if schedule == "linear" else share**part for part in parts]
    return [*shares, share]


def check_channels_alone(options: CoarsenOptions) -> None:
    """Refuse rounds that leave out blocks, because their transfers are joined to those of one step.

    Raises
    ------
    NetgraphError
    """
    if options.steps[0] != {"channels"}:
        raise NetgraphError(
            f"rounds merge channels alone, and the directions are {options.directions!r}. Leave out depth in one round before, or leave out rounds."
        )


def compress_in_rounds(
    model: nn.Module,
    data: Any,
    *,
    rounds: int = 3,
    schedule: str = "exponential",
    tune: Tune | int = 1,
    target: str | Target = TARGET,
    targets: Tensor | None = None,
    test: Rows | tuple[Any, Tensor | None] | None = None,
    metric: str | Metric | Callable[[nn.Module], float] | None = None,
    example: Any = None,
    options: CoarsenOptions = DEFAULTS,
    latency_batch: int = LATENCY_BATCH,
    repaired_errors: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Make a network smaller in several rounds of merging and tuning.

    Parameters
    ----------
    model : torch.nn.Module
        A trained network. It is left as it is.
    data : Tensor, tuple or dict
        Inputs for calibration and tuning, nested like the example.
    rounds : int, default 3
        Rounds of merging, repairing and tuning.
    schedule : {"exponential", "linear"}, default "exponential"
        Each round takes the same share of what is left, or of the original.
    tune : int or callable ``(network, original) -> None``, default 1
        Epochs of `netgraph.coarsen.fine_tune` in each round, or a function that trains the network in place. The original is ``model`` in
        every round.
    target : str or Target, default "flops=0.5"
        ``parameters``, ``flops`` or ``latency``, a share of the original's.
    targets : Tensor, optional
        Class or value of each row of ``data``.
    test : (inputs, targets), optional
        Rows of the metric in the table. By default those of ``data``.
    metric : str, Metric or callable, optional
        As in `netgraph.compress`.
    example : Tensor, tuple or dict, optional
        Inputs as `netgraph.trace` takes them. By default the first two rows of ``data``.
    options : CoarsenOptions, optional
        How units merge and how the result is repaired. By default ``ward`` with ``ridge``.
    latency_batch : int, default 32
        Rows of the input for the target ``latency``.
    repaired_errors : bool, default False
        Measure the error of each axis after a repair of the layers that it runs over, in each round.
    progress : callable ``(axis, done, total)``, optional
        Is called before each axis that merges.

    Returns
    -------
    Compressed
        Its stages are the original, the rounds, and the steps of the last round. Its hierarchy leads from the original to the last network.

    Raises
    ------
    NetgraphError
        The target is no share, the number of rounds, the schedule or the tuning is none, or what `netgraph.compress` refuses.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import compress_in_rounds
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    >>> result = compress_in_rounds(network, torch.randn(256, 8), rounds=2, target="parameters=0.3")
    >>> [stage.name for stage in result.stages], result.is_met
    (['original', 'round 1', 'merged', 'repaired', 'tuned'], True)
    """
    target = Target.parse(target)
    if not target.is_share:
        raise NetgraphError(
            f"rounds lead to a share of a cost, and the target is {target}. Give one such as flops=0.5."
        )
    check_channels_alone(options)
    shares = plan_rounds(target.value, rounds, schedule)
    tuner = _make_tuner(tune, model, Rows(data, targets), options)
    tested = Rows(data, targets) if test is None else read_pair(test, "test")
    judge = make_metric(metric, model, *tested, outputs=tuple(options.outputs))
    results: list[Compressed] = []
    seconds, left, notes = list[float](), 1.0, list[str]()
    for share in shares:
        if share >= left:  # an earlier round went as far
            continue
        started = time.perf_counter()
        try:
            result = compress(
                results[-1].model if results else model, data, target=replace(target, value=share / left), targets=targets,
                test=test, metric=judge, example=example, options=options, tune=tuner, latency_batch=latency_batch,
                repaired_errors=repaired_errors, progress=progress,
            )  # fmt: skip
        except NothingToMergeError as error:
            if not results:
                raise
            notes.append(f"Round {len(results) + 1} merged nothing: {error}")
            break
        results.append(result)
        seconds.append(time.perf_counter() - started)
        left *= result.reached
    return _join(results, seconds, judge, target, latency_batch, notes)


def _make_tuner(tune: Tune | int, model: nn.Module, rows: Rows, options: CoarsenOptions) -> Tune:
    """Return a function that tunes a network towards the original of the first round."""
    if not isinstance(tune, int):
        return lambda network, _: tune(network, model)
    if tune < 1:
        raise NetgraphError(f"rounds are tuned, and tune is {tune}. Give 1 epoch or more, or call compress.")
    tuning = TuneOptions(epochs=tune, seed=options.seed, outputs=tuple(options.outputs))
    tuning.check()
    return lambda network, _: fine_tune(network, model, *rows, options=tuning)


def _join(
    results: Sequence[Compressed],
    seconds: Sequence[float],
    judge: Metric,
    target: Target,
    latency_batch: int,
    notes: Sequence[str],
) -> Compressed:
    """Return several rounds as one compression of the original."""
    first, last = results[0], results[-1]
    hierarchies = [result.require_hierarchy() for result in results]
    hierarchy = _join_hierarchies(hierarchies)
    assert hierarchy.inputs is not None
    example = hierarchy.inputs.example
    networks = [hierarchies[0].levels[0].model, *(result.model for result in results)]
    levels = [hierarchies[0].levels[0], *(one.levels[-1] for one in hierarchies)]
    costs = measure_costs(
        networks, example, flops=[level.flops / count_rows(example) for level in levels],
        batches=sorted({*BATCHES, latency_batch} if target.kind == "latency" else BATCHES),
    )  # fmt: skip
    before, (_, *steps) = first.stages[0].metric, last.stages
    stages = [Stage("original", costs[0], before)]
    for i, result in enumerate(results[:-1]):
        stages.append(Stage(f"round {i + 1}", costs[i + 1], result.stages[-1].metric, None, seconds[i]))
    for step in steps:
        won = None if step.name == "merged" else judge.find_share_won_back(before, steps[0].metric, step.metric)
        stages.append(replace(step, costs=costs[-1], won_back=won))
    reached = _compute_reached(costs, target, latency_batch)
    precise = judge.describe_precision(before)  # of the original, once: rounds have begun with other networks
    later = {note for result in results[1:] for note in judge.describe_precision(result.stages[0].metric)} - {*precise}
    said = [note for result in results for note in result.notes if note not in later]
    every = tuple(dict.fromkeys([*said, *notes]))
    result = Compressed(last.model, hierarchy, tuple(stages), target, reached, judge.name, every, first.errors)
    origin = find_origin(last.model)
    others = tuple(
        step for step in origin.steps if step.title != TITLE
    )  # the tables of single rounds, which this one has too
    set_origin(last.model, replace(origin, steps=(*others, result.to_step())))
    return result


def _compute_reached(costs: Sequence[Costs], target: Target, latency_batch: int) -> float:
    """Return the share of the original's cost that is left."""
    fine, coarse = costs[0], costs[-1]
    if target.kind != "latency":
        return float(getattr(coarse, target.kind) / max(getattr(fine, target.kind), 1))
    pairs = {x.batch: compare_latencies(y, x) for x, y in zip(fine.latency, coarse.latency, strict=True)}
    return pairs.get(latency_batch, next(iter(pairs.values())))


def _join_hierarchies(hierarchies: Sequence[Hierarchy]) -> Hierarchy:
    """Return the hierarchy from the original to the last network, with the transfers of all rounds in one."""
    composed: dict[str, Transfer] = {}
    for hierarchy in hierarchies:
        composed = compose_transfers(composed, hierarchy.levels[-1].transfers)
    first, last = hierarchies[0], hierarchies[-1]
    return replace(first, levels=[first.levels[0], replace(last.levels[-1], transfers=composed)])
