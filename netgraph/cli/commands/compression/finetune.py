"""``netgraph finetune``: train a small network towards labels and towards its teacher, and write it in its own form."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.commands.compression.evaluate import check_openings, holds_network
from netgraph.cli.console.network_files import check_same_form, check_spares_input, typed_command, write_same_form
from netgraph.cli.console.progress import show_progress
from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.console.tokenizer_file import write_tokenizer
from netgraph.cli.options.coarsen import Json
from netgraph.cli.options.command_options import find_typer_option, with_options
from netgraph.cli.options.completion import complete_words
from netgraph.cli.options.compress import (
    ALL_SAMPLES,
    METRIC_HELP,
    TUNE_SAMPLES,
    check_data,
    check_metric_name,
    check_rows,
    choose_metric,
    read_rows,
)
from netgraph.cli.options.open_network import OpenOptions, Tokenizer, holds_hierarchy
from netgraph.cli.options.train import place_network
from netgraph.cli.options.validation import reject_options, typed_options
from netgraph.coarsen.tuning.options import TuneOptions, parse_adapters
from netgraph.errors import NetgraphError
from netgraph.fas.solver.train_options import TrainOptions
from netgraph.io.files.locks import lock_outputs
from netgraph.utils.choices import DATA_SETS, METRICS, ZOOS
from netgraph.utils.text import format_columns

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.models.data.row_splits import RowSplits


@dataclass(frozen=True)
class Opened:
    """A small network, and what it learns from.

    Parameters
    ----------
    network : torch.nn.Module
    teacher : torch.nn.Module or None
    example : Tensor, tuple or dict
    hierarchy : Hierarchy or None
        From the teacher to the network, where the file of the network is one.
    """

    network: nn.Module
    teacher: nn.Module | None
    example: Any
    hierarchy: Hierarchy | None


@with_options
def finetune_model(
    context: typer.Context,
    small: Annotated[
        str,
        typer.Argument(
            metavar="SMALL",
            help="The network to train: a file or a folder that coarsen, compress or train wrote. Of a *.hierarchy, the coarsest.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the network in the form of SMALL, with its suffix."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete_words([f"{zoo}:" for zoo in ZOOS]),
            help="The network that SMALL came from. By default level 0 of a *.hierarchy, and else none: labels alone.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            autocompletion=complete_words(DATA_SETS),
            help="Rows to train on: digits, mnist, fashion-mnist, cifar10, imdb, a folder of pictures, a .npy, .pt or .txt, or text:FILE.",
        ),
    ] = None,
    json_: Json = False,
    *,
    options: TuneOptions,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", autocompletion=complete_words(METRICS), help=METRIC_HELP),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="Most rows to train on.")] = TUNE_SAMPLES,
    test_samples: Annotated[int, typer.Option(metavar="N", help="Most rows of the test.")] = ALL_SAMPLES,
    tokenizer: Tokenizer = None,
    device: Annotated[str, find_typer_option(TrainOptions, "device")] = "cpu",
    opening: OpenOptions,
) -> None:
    """Train a small network towards labels and towards its teacher, and print what that wins back."""
    typed = typed_options(context)
    options.check()
    _check_idle(typed, options)
    check_metric_name(metric)
    for name, count in (("--samples", samples), ("--test-samples", test_samples)):
        check_rows(name)(count, None)
    check_data(data)
    if teacher is not None:
        check_spares_input(teacher, output)
    context.with_resource(lock_outputs(output))
    check_openings(typed, [small] if teacher is None else [small, teacher], opening)
    opened = _open_all(small, teacher, opening, options.seed, data)
    check_same_form(opened.network, output, levels=opened.hierarchy is not None)
    splits = read_rows(
        data, opened.network, opened.example, model=small, tokenizer=tokenizer, seed=options.seed,
        counts=(samples, 1, test_samples),
    )  # fmt: skip
    result = tune_network(opened, options, splits, metric, device)
    result |= {"small": small, "teacher": teacher, "data": data, "output": None if output is None else str(output)}
    if result["losses"]:
        _note_tuning(opened.network, result)
    if json_:
        echo_json(result)
    else:
        echo_lines(format_result(result))
    if output is not None:
        write_same_form(
            opened.hierarchy or opened.network, output, as_state=opening.arch is not None and teacher is None
        )
        write_tokenizer(small, output, path=tokenizer, tokenizer=splits.calibration.tokenizer)


def _note_tuning(network: nn.Module, result: dict[str, Any]) -> None:
    """Remember for the card of a folder what was typed, on which rows it was trained, and what that won back."""
    from netgraph.io.hub.origin import amend_step, hide_folder

    teacher = "level 0 of the hierarchy" if result["teacher"] is None else hide_folder(result["teacher"])
    facts = {
        "command": typed_command(),
        "trained on": result["rows"]["train"],
        "judged on": result["rows"]["test"],
        "teacher": "none" if result["teacher_value"] is None else teacher,
    }
    amend_step(
        network, facts, {name: result[name] for name in ("metric", "teacher_value", "before", "after", "won_back")}
    )


def tune_network(
    opened: Opened, options: TuneOptions, splits: RowSplits, metric: str | None, device: str
) -> dict[str, Any]:
    """Tune an open network in place, with progress on the terminal, and return what that gives as data.

    Parameters
    ----------
    opened : Opened
    options : TuneOptions
    splits : RowSplits
        Those for calibration are trained on, and those of the test give the metric.
    metric : str or None
    device : str
        Where the networks run. The small one is on the CPU afterwards.
    """
    from netgraph.coarsen.compression.metrics import make_metric
    from netgraph.coarsen.compression.training.fine_tuning import fine_tune

    network, teacher = opened.network, opened.teacher
    for model in (network, teacher):
        if model is not None:
            place_network(model, device)
    inputs, targets = splits.test[:2]
    judge = make_metric(
        choose_metric(metric, splits),
        teacher or network,
        _place_inputs(inputs, device),
        targets,
        outputs=options.outputs,
    )
    goal = None if teacher is None else judge.evaluate(teacher)
    before, started = judge.evaluate(network), time.perf_counter()
    train, _, test = splits.origin
    echo(f"netgraph: {train} train, {test} give the metric", err=True)
    adapters = _describe_adapters(network, options)
    with show_progress("tuning") as progress:
        losses = fine_tune(
            network, teacher, *splits.calibration[:2], options=options, hierarchy=opened.hierarchy, progress=progress
        )
    seconds, after = time.perf_counter() - started, judge.evaluate(network)
    if not losses:
        echo("netgraph: 0 epochs change nothing, and the network is as it was", err=True)
    if judge.loss_by(before, after) > 0:
        echo("netgraph: the network is worse than before. Give a smaller --lr, more --epochs or more rows.", err=True)
    network.cpu()
    return {
        "rows": {"train": train, "test": test}, "metric": judge.name, "teacher_value": goal, "before": before, "after": after,
        "won_back": None if goal is None else judge.find_share_won_back(goal, before, after),
        "losses": losses, "epochs": options.epochs, "seconds": seconds, "adapters": adapters,
    }  # fmt: skip


def _describe_adapters(network: nn.Module, options: TuneOptions) -> dict[str, Any] | None:
    """Print how many numbers adapters train, and return it as data. None without adapters."""
    from netgraph.coarsen.tuning.adapters import plan_adapters

    rank = parse_adapters(options.adapters)
    if rank is None:
        return None
    plan = plan_adapters(network, rank)
    echo(f"netgraph: {plan.describe(options.optimizer)}", err=True)
    return {"ranks": dict(plan.ranks), "trained": plan.trained, "others": plan.others}


def format_result(result: dict[str, Any]) -> str:
    """Return the metric of the teacher, and of the network before and after, as text."""
    rows = [("teacher", result["teacher_value"]), ("before", result["before"]), ("after", result["after"])]
    lines = format_columns(["network", result["metric"]], [[name, f"{x:.4g}"] for name, x in rows if x is not None])
    losses = result["losses"]
    if losses:
        lines.append(
            f"{_describe_gain(result)}{result['epochs']} epoch{'s' * (result['epochs'] > 1)} in {result['seconds']:.1f} s, mean loss "
            f"{losses[0]:.4g} in the first and {losses[-1]:.4g} in the last."
        )
    return "\n".join(lines)


def _describe_gain(result: dict[str, Any]) -> str:
    """Return the sentence on what was won back, or lost further, nothing where the small network had lost no more than chance."""
    won, metric, change = result["won_back"], result["metric"], abs(result["after"] - result["before"])
    if won is None:
        return ""
    if won >= 0:
        return f"{won:.0%} of what the small network had lost is won back. "
    lost = f"{100 * change:.2g} points of {metric}" if metric.startswith("top") else f"{change:.3g} of {metric}"
    return f"Nothing is won back: the training lost a further {lost}. "


def _place_inputs(inputs: Any, device: str) -> Any:
    """Return nested inputs on a device."""
    import torch

    from netgraph.coarsen.tuning.loop import move_tensors
    from netgraph.utils.pytree import normalize_example

    args, kwargs = move_tensors(normalize_example(inputs), torch.device(device))
    return kwargs or args


def _check_idle(typed: dict[str, str], options: TuneOptions) -> None:
    """Refuse options of losses that are not asked for."""
    if options.losses:
        if "knowledge" not in options.losses:
            reject_options(typed, ["temperature"], "only the loss knowledge has a temperature")
        idle = sorted(set(options.weights or ()) - set(options.losses))
        if idle:
            raise NetgraphError(
                f"--weights gives {idle[0]} a weight, and --losses leaves it out. Name it in --losses too."
            )
    if "hint" not in options.losses:
        reject_options(typed, ["hint_layers"], "only the loss hint compares layers. Name it in --losses")


def _open_all(small: str, teacher: str | None, opening: OpenOptions, seed: int, data: str | None) -> Opened:
    """Open the small network and its teacher."""
    from netgraph.coarsen.hierarchy.serialize import build_example

    whole = replace(opening, arch=None, arch_arg=None, key=None)  # for what has its architecture in it
    hierarchy = _open_hierarchy(small)
    if hierarchy is not None:
        network, example = hierarchy.levels[-1].model, build_example(hierarchy.example)
    else:
        network, example = (opening if teacher is None else whole).open_network(small, seed, data)
    if teacher is not None:
        original, _ = (whole if holds_network(teacher) else opening).open_network(teacher, seed, data)
        return Opened(network, original, example, hierarchy)
    return Opened(network, None if hierarchy is None else hierarchy.levels[0].model, example, hierarchy)


def _open_hierarchy(path: str) -> Hierarchy | None:
    """Return the hierarchy of a folder, None where the path is no such folder."""
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.coarsen.hierarchy.serialize import load

    if not holds_hierarchy(path):
        return None
    hierarchy = load(path)
    assert isinstance(hierarchy, Hierarchy)  # of a folder
    return hierarchy
