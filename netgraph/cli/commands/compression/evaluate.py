"""``netgraph evaluate``: judge networks side by side, by metrics on rows of a test and by what they cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.options.coarsen import Json, Seed
from netgraph.cli.options.command_options import After, with_options
from netgraph.cli.options.completion import complete_words
from netgraph.cli.options.compress import (
    ALL_SAMPLES,
    METRIC_HELP,
    check_data,
    check_metric_name,
    check_rows,
    choose_metric,
    read_rows,
)
from netgraph.cli.options.open_network import OpenOptions, Tokenizer, holds_hierarchy
from netgraph.cli.options.validation import check_open_options, reject_options, typed_options
from netgraph.errors import NetgraphError, TraceError
from netgraph.utils.choices import DATA_SETS, METRICS, ZOOS

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.compression.costs import Costs
    from netgraph.coarsen.compression.metrics import Metric

OPENING = ("arch", "arch_arg", "input_", "trust", "code_dir", "rules", "key", "download")


class Candidate(NamedTuple):
    """A network that is judged.

    Parameters
    ----------
    name : str
        As it is printed.
    network : torch.nn.Module
    example : Tensor, tuple or dict
    """

    name: str
    network: nn.Module
    example: Any


@with_options
def evaluate_models(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            autocompletion=complete_words([f"{zoo}:" for zoo in ZOOS]),
            help="Networks that take the same inputs: files, folders, *.hierarchy too, or names as in torchvision:NAME.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            autocompletion=complete_words(DATA_SETS),
            help="Rows of the test: digits, mnist, fashion-mnist, cifar10, imdb, a folder of pictures, a .npy, .pt or .txt, or text:FILE.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", autocompletion=complete_words(METRICS), help=f"{METRIC_HELP} (repeatable)"),
    ] = None,
    test_samples: Annotated[int, typer.Option(metavar="N", help="Most rows of the test.")] = ALL_SAMPLES,
    tokenizer: Tokenizer = None,
    seed: Seed = 7619,
    json_: Json = False,
    *,
    opening: Annotated[OpenOptions, After("seed")],
) -> None:
    """Judge networks side by side: metrics, milliseconds, parameters, FLOPs, megabytes and the peak of memory."""
    for name in metric or ():
        check_metric_name(name)
    check_rows("--test-samples")(test_samples, None)
    check_data(data)
    check_openings(typed_options(context), models, opening)
    candidates = _open_candidates(models, opening, seed, data)
    first = candidates[0]
    splits = read_rows(
        data, first.network, first.example, model=models[0], tokenizer=tokenizer, seed=seed, counts=(1, 1, test_samples)
    )
    echo(f"netgraph: {splits.origin[2]} give the metric", err=True)
    asked: list[str | None] = [*dict.fromkeys(metric or ())]  # a metric that was typed twice has one column
    metrics = _make_metrics(asked or [choose_metric(None, splits)], first.network, splits.test)
    values = [_judge(candidate, metrics) for candidate in candidates]
    costs = _measure(candidates)
    if json_:
        echo_json(_build_document(data, splits.origin[2], candidates, costs, metrics, values))
    else:
        echo_lines("\n".join(_format_table(candidates, costs, metrics, values)))


def check_openings(typed: Mapping[str, str], models: Sequence[str], opening: OpenOptions) -> None:
    """Refuse options of opening that none of the networks uses."""
    refusals = []
    for model in models:
        try:
            if holds_hierarchy(model):
                reject_options(typed, OPENING, f"{model} is a hierarchy that is already made")
            else:
                check_open_options(typed, model, opening.arch)
        except NetgraphError as error:
            refusals.append(error)
    if len(refusals) == len(models):
        raise refusals[0]


def _open_candidates(models: Sequence[str], opening: OpenOptions, seed: int, data: str | None) -> list[Candidate]:
    """Open all networks. A hierarchy gives one for each level."""
    recorded = [holds_network(model) for model in models]
    whole = replace(opening, arch=None, arch_arg=None, key=None)  # a recorded graph has its architecture in it
    candidates = []
    for model, is_recorded in zip(models, recorded, strict=True):
        if holds_hierarchy(model):
            candidates += _open_levels(model)
        else:
            options = whole if is_recorded and not all(recorded) else opening
            network, example = options.open_network(model, seed, data)
            candidates.append(Candidate(model, network, example))
    return candidates


def holds_network(model: str) -> bool:
    """Return True for a file that netgraph wrote, which holds its network, and for a folder whose config names it."""
    from netgraph.io.bundle import read_metadata
    from netgraph.io.load import is_network_folder

    path = Path(model)
    if path.suffix == ".safetensors" and os.path.isfile(path):
        return "netgraph" in read_metadata(path)
    return is_network_folder(path)


def _open_levels(folder: str) -> list[Candidate]:
    """Open the levels of a hierarchy."""
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.coarsen.hierarchy.serialize import build_example, load

    hierarchy = load(folder)
    assert isinstance(hierarchy, Hierarchy)  # of a folder
    example = build_example(hierarchy.example)
    return [Candidate(f"{folder} level {i}", level.model, example) for i, level in enumerate(hierarchy.levels)]


def _make_metrics(names: Sequence[str | None], first: nn.Module, rows: Any) -> list[Metric]:
    """Return the metrics that were asked for. The error is that against the first network."""
    from netgraph.coarsen.compression.metrics import make_metric

    return [make_metric(name, first, rows.inputs, rows.targets) for name in names]


def _judge(candidate: Candidate, metrics: Sequence[Metric]) -> list[float]:
    """Return the metrics of a network.

    Raises
    ------
    NetgraphError
        The network takes other inputs than the first, or a metric does not fit it. The message names the network.
    """
    try:
        return [metric.evaluate(candidate.network) for metric in metrics]
    except NetgraphError as error:
        raise NetgraphError(f"{candidate.name}: {error}") from error


def _measure(candidates: Sequence[Candidate]) -> list[Costs]:
    """Return what each network costs, measured in turn on the inputs of the first."""
    from netgraph.coarsen.compression.costs import measure_costs

    example = candidates[0].example
    flops = [_count_flops(candidate, example) for candidate in candidates]
    return measure_costs([candidate.network for candidate in candidates], example, flops=flops)


def _count_flops(candidate: Candidate, example: Any) -> float:
    """Return the FLOPs of one sample, 0 where the network cannot be traced."""
    from netgraph.coarsen.compression.latency import count_rows
    from netgraph.tracing.tracer import trace

    try:
        return trace(candidate.network, example, prove=False).flops / count_rows(example)
    except TraceError as error:
        echo(f"netgraph: the FLOPs of {candidate.name} are not counted: {error}", err=True)
        return 0.0


def _format_table(
    candidates: Sequence[Candidate],
    costs: Sequence[Costs],
    metrics: Sequence[Metric],
    values: Sequence[Sequence[float]],
) -> list[str]:
    """Return the lines of the table."""
    from netgraph.coarsen.compression.costs import describe_latency
    from netgraph.utils.text import format_columns

    head = ["network", *costs[0].name_cells(), *(metric.name for metric in metrics)]
    rows = [
        [candidate.name, *cost.format_cells(), *(f"{value:.4g}" for value in row)]
        for candidate, cost, row in zip(candidates, costs, values, strict=True)
    ]
    pairs = zip(metrics, values[0], strict=True)
    precision = [sentence for metric, value in pairs for sentence in metric.describe_precision(value)]
    return [*format_columns(head, rows), describe_latency(costs[0]), *precision]


def _build_document(
    data: str | None,
    rows: str,
    candidates: Sequence[Candidate],
    costs: Sequence[Costs],
    metrics: Sequence[Metric],
    values: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """Return the result as data for JSON. Numbers that are not finite become null."""
    from netgraph.fas.monitoring.run_file import to_json_data

    names = [metric.name for metric in metrics]
    networks = [
        {"network": candidate.name, **cost.document(), "metrics": dict(zip(names, row, strict=True))}
        for candidate, cost, row in zip(candidates, costs, values, strict=True)
    ]
    document: dict[str, Any] = to_json_data(
        {"data": data, "rows": rows, "threads": costs[0].latency[0].threads, "networks": networks}
    )
    return document
