"""A trained network as ``netgraph train -o`` writes it: one that opens by itself, or a state dict; of text, the tokenizer too."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.options.coarsen import (
    with_options,
)
from netgraph.cli.options.completion import (
    NETWORKS,
    complete_words,
)
from netgraph.cli.options.run import RunOptions, ended_by_signal
from netgraph.cli.options.train import TrainOptions
from netgraph.cli.options.validation import check_data_options, check_train_options, typed_options
from netgraph.errors import NetgraphError
from netgraph.io.output_files import check_output_file, write_atomically


@with_options(RunOptions, "lasting")
@with_options(TrainOptions, "settings")
def train(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            autocompletion=complete_words(NETWORKS),
            help="mlp, cnn (also resnet20, resnet56, vgg, wide-resnet), torchvision:NAME or transformer.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write the trained network (.safetensors), or its state dict (.pt)."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    settings: TrainOptions,
    lasting: RunOptions,
) -> None:
    """Train a network on real data, by FAS on a hierarchy of its coarse forms or, with --plain, by itself."""
    check_network_output(output)
    lasting.check()
    settings.fas(_make_default_habits(), settings.levels)  # mistakes in options cost no reading of data
    check_train_options(typed_options(context), settings, lasting)
    check_data_options(typed_options(context), settings.data_of(network))
    task = settings.make_task(network)
    settings.warn()
    solution, hierarchy = _solve(task, settings, lasting)
    trained = solution.mean if solution.mean is not None else solution.model
    lasting.reported(_print_result(task, hierarchy, solution, trained, settings, json_))
    if ended_by_signal(solution.reason):
        raise typer.Exit(130)
    if output is not None:
        write_network(trained, task, output)


def _solve(task: Any, settings: TrainOptions, lasting: RunOptions) -> tuple[Any, Any]:
    """Return what came of the run, and the levels."""
    problem = settings.problem(task)
    hierarchy = settings.hierarchy(task, problem)
    fas, own = settings.fas(task.habits, len(hierarchy.levels)), lasting.callbacks(task, hierarchy, settings)
    with lasting.watching() as watch:
        run = fas.begin(hierarchy, problem, callbacks=(watch, *own), every=20, evaluations=len(problem.batches))
        for i, level in enumerate(hierarchy.levels[1:], start=1):
            run.ledger.seconds[i, "match"] += level.seconds
            if level.compiling:
                run.ledger.seconds[i, "compile"] += level.compiling
        lasting.resumed(run)
        try:
            return fas.finish(run), hierarchy
        except KeyboardInterrupt:
            typer.echo(f"netgraph: left after {run.steps} of {run.total_steps} steps; nothing was written", err=True)
            raise


def _print_result(
    task: Any, hierarchy: Any, solution: Any, trained: Any, settings: TrainOptions, json_: bool
) -> dict[str, Any]:
    """Print what a run came to, as text or JSON, and return it as data."""
    from netgraph.cli.console.output import describe_run, format_outcome, run_document
    from netgraph.models.training.evaluation import evaluate_fully

    judgement = evaluate_fully(trained, task.data, batch=task.evaluation_batch)
    found = run_document(describe_run(task, hierarchy, settings), solution, judgement)
    text = (
        json.dumps(found, indent=1) if json_ else format_outcome(task, hierarchy, solution, judgement, settings.cycle)
    )
    typer.echo(text)
    return found


def _make_default_habits() -> Any:
    from netgraph.models.training.tasks import TrainingDefaults

    return TrainingDefaults()


def write_network(trained: Any, task: Any, output: Path) -> None:
    """Write a network, and of text what its tokens are."""
    import torch

    from netgraph.coarsen.hierarchy.serialize import save
    from netgraph.coarsen.network.rewrite import coarse_network
    from netgraph.models.data.tokenizer import save_tokenizer
    from netgraph.tracing.tracer import trace

    trained = trained.cpu().eval()
    if output.suffix == ".pt":
        write_atomically(partial(torch.save, trained.state_dict()), output)
    else:
        save(coarse_network(trained, trace(trained, task.example), {}), output)
    typer.echo(f"netgraph: wrote {output}", err=True)
    if task.data.tokenizer is not None:
        beside = output.with_suffix(".tokenizer.json")
        save_tokenizer(task.data.tokenizer, beside)
        typer.echo(f"netgraph: wrote {beside}, the tokenizer that it was trained with", err=True)


def check_network_output(output: Path | None) -> None:
    """Refuse a place, or a suffix, that no trained network is written to.

    Raises
    ------
    NetgraphError
    """
    if output is None:
        return
    if output.suffix not in (".safetensors", ".pt"):
        raise NetgraphError(f"--output {output} ends in {output.suffix or 'nothing'}; give NAME.safetensors or NAME.pt")
    check_output_file(output)
