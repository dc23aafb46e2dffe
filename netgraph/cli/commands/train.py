"""``netgraph train``: train a network on real data, print the result and write the network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.output import describe_run, format_outcome, print_solver_options, run_document
from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.options.coarsen import Json
from netgraph.cli.options.command_options import After, with_options
from netgraph.cli.options.completion import complete_words
from netgraph.cli.options.processes import join_processes
from netgraph.cli.options.run import RunOptions, ended_by_signal
from netgraph.cli.options.train import (
    build_levels,
    choose_data,
    choose_levels,
    choose_network,
    make_problem,
    make_task,
    warn_of_slow_precision,
)
from netgraph.cli.options.validation import check_data_options, check_train_options, typed_options
from netgraph.errors import NetgraphError
from netgraph.fas.solver.train_options import TrainOptions
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.locks import lock_outputs
from netgraph.io.files.output_files import check_output_file
from netgraph.io.files.pickles import save_pickle
from netgraph.io.files.refused_writes import write_all, write_or_keep
from netgraph.utils.choices import NETWORKS, OPERATORS, RESTORATIONS

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.fas.auto.choice import TrainingChoice
    from netgraph.fas.solver.problem import Problem
    from netgraph.fas.solver.run import Callback, Run
    from netgraph.fas.solver.solution import Solution
    from netgraph.models.training.tasks import Task


EVALUATIONS = 20  # of a run with a budget of time, which they are part of
REFUSED_SHARE = 0.1  # of the steps, from which on a run has failed


def _list_solver_options(wanted: bool) -> None:
    if wanted:
        print_solver_options()
        raise typer.Exit()


@with_options
def train_network(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            autocompletion=complete_words((*NETWORKS, *RESTORATIONS, *OPERATORS)),
            help="mlp, cnn (also resnet20, resnet56, vgg, wide-resnet), torchvision:NAME, transformer, residual, unet or fno, "
            "or a task: denoise, inpaint, deblur, super-resolution of images, darcy.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write the trained network (.safetensors), or its state dict (.pt)."
        ),
    ] = None,
    json_: Json = False,
    *,
    options: TrainOptions,
    list_options: Annotated[
        bool,
        typer.Option(
            "--options", help="List the options of the solver and exit.", is_eager=True, callback=_list_solver_options
        ),
        After("option"),
    ] = False,
    run: RunOptions,
) -> None:
    """Train a network on real data, by FAS on a hierarchy of its coarse forms or, with --plain, by itself."""
    with join_processes(options) as (options, is_first):
        if is_first:
            _train(context, network, output, options, run, json_=json_)
        else:
            _train_with_the_first(context, network, options, run)


def _train(
    context: typer.Context, network: str, output: Path | None, options: TrainOptions, run: RunOptions, *, json_: bool
) -> None:
    """Train a network, print the result and write the network."""
    check_network_output(output)
    context.with_resource(lock_outputs(output))
    options, task, problem = _prepare_task(context, network, options, run, lock=True)
    choice = None
    if options.auto is not None:
        options, choice = choose_levels(options, task, problem)
    solution, hierarchy = _solve(task, problem, options, run)
    trained = solution.model if solution.mean is None else solution.mean
    document, outcome = _describe_result(task, hierarchy, solution, trained, options)
    if choice is not None:
        document["auto"] = describe_choice(choice, options, task)
        outcome = f"{choice}\n{document['auto']['again']}\n\n{outcome}"
    stopped = ended_by_signal(solution.reason)
    writes = [] if output is None or stopped else [partial(write_network, trained, task, output)]
    refusal = write_all(*writes, partial(run.write_report, document))  # a closed stdout must not lose the network
    if json_:
        echo_json(document)
    else:
        echo_lines(outcome)
    if refusal is not None:
        raise refusal
    _exit_as_ended(solution)


def _train_with_the_first(context: typer.Context, network: str, options: TrainOptions, run: RunOptions) -> None:
    """Take part in the run of the first process, which prints and writes."""
    run = run.keep_silent()
    options, task, problem = _prepare_task(context, network, options, run, lock=False)
    solution, _ = _solve(task, problem, options, run)
    _exit_as_ended(solution)


def _prepare_task(
    context: typer.Context, network: str, options: TrainOptions, run: RunOptions, *, lock: bool
) -> tuple[TrainOptions, Task, Problem]:
    """Return the checked options, the network with its data, and the problem. Lock the folders of the run before data are read."""
    from netgraph.models.training.tasks import TrainingDefaults

    run.check()
    options, network = choose_network(options, network)
    options.check()
    options.make_solver(TrainingDefaults(), options.coarsening.n_levels)  # its errors come before data are read
    check_train_options(typed_options(context), options, run)
    check_data_options(typed_options(context), choose_data(options, network))
    if lock:
        context.with_resource(run.lock_folders())
    task = make_task(options, network)
    warn_of_slow_precision(options)
    return options, task, make_problem(options, task)


def _exit_as_ended(solution: Solution) -> None:
    """Exit with the code of a run that a signal ended, or that refused many steps."""
    if ended_by_signal(solution.reason):
        raise typer.Exit(130)
    if solution.n_refused >= REFUSED_SHARE * max(solution.history[-1]["step"], 1):
        raise typer.Exit(4)  # the reason says how many steps were refused


def describe_choice(choice: TrainingChoice, options: TrainOptions, task: Task) -> dict[str, Any]:
    """Return what ``--auto`` chose as data, with the options that give the same run again.

    Parameters
    ----------
    choice : TrainingChoice
    options : TrainOptions
        The options that it chose.
    task : Task
    """
    is_other = not choice.directions and task.data.padding is not None
    same = "nearly the same run, with texts of their own lengths" if is_other else "the same run without probes"
    levels = f"--coarsen {choice.directions} --levels {len(choice.steps)} --share {options.share}"
    again = f"{same}: {levels if choice.directions else '--plain'} --epochs {options.epochs:.8g} --schedule wsd"
    return {
        "seconds": choice.spent,
        "probes": choice.rows(),
        "left_out": choice.left_out,
        "reason": choice.reason,
        "again": again,
    }


def _solve(task: Task, problem: Problem, options: TrainOptions, run_options: RunOptions) -> tuple[Solution, Hierarchy]:
    """Train the task and return the solution with its levels."""
    from netgraph.fas.auto.switch import SwitchOnPlateau
    from netgraph.fas.solver.problem import count_batches

    hierarchy = build_levels(options, task, problem)
    solver = options.make_solver(task.defaults, len(hierarchy.levels))
    switch: list[Callback] = [SwitchOnPlateau()] if options.switch == "plateau" and len(hierarchy.levels) > 1 else []
    callbacks = [*switch, *run_options.make_callbacks(task, hierarchy, options)]  # a checkpoint holds the decision
    with run_options.show_run() as display:
        run = solver.begin(
            hierarchy,
            problem,
            callbacks=(display, *callbacks),
            every=20,
            evaluations=_space_evaluations(options, count_batches(problem.batches) or 1),
        )
        _count_coarsening(run, hierarchy)
        run_options.resume_run(run)
        try:
            return solver.finish(run), hierarchy
        except KeyboardInterrupt:
            echo(f"netgraph: left after {run.steps} of {run.total_steps} steps. Nothing was written.", err=True)
            raise


def _space_evaluations(options: TrainOptions, n_batches: int) -> int:
    """Return the steps between two evaluations: one pass, or more where many passes share a budget of time."""
    n_passes = options.epochs or 0.0
    return n_batches if options.auto is None else max(n_batches, round(n_batches * n_passes / EVALUATIONS))


def _count_coarsening(run: Run, hierarchy: Hierarchy) -> None:
    """Add the seconds of coarsening to the ledger of a run."""
    for i, level in enumerate(hierarchy.levels[1:], start=1):
        run.ledger.seconds[i, "match"] += level.seconds or 0.0
        if level.compiling:
            run.ledger.seconds[i, "compile"] += level.compiling


def _describe_result(
    task: Task, hierarchy: Hierarchy, solution: Solution, trained: nn.Module, options: TrainOptions
) -> tuple[dict[str, Any], str]:
    """Return the result of a run as data and as text."""
    from netgraph.models.training.evaluation import METRICS

    evaluation = task.evaluate(trained, metrics=METRICS)
    document = run_document(describe_run(task, hierarchy, options), solution, evaluation)
    return document, format_outcome(task, hierarchy, solution, evaluation, options.cycle)


def write_network(trained: nn.Module, task: Task, output: Path) -> None:
    """Write a network, and the tokenizer of a network of text.

    Parameters
    ----------
    trained : torch.nn.Module
    task : Task
    output : path
        ``.safetensors`` for a network that opens by itself, ``.pt`` for its state dict.

    Raises
    ------
    NetgraphError
        The system refuses. The message says where the network is kept.
    """
    from netgraph.coarsen.hierarchy.serialize import save
    from netgraph.coarsen.network.rewrite import coarse_network
    from netgraph.models.data.tokenizer import save_tokenizer
    from netgraph.tracing.tracer import trace

    trained = trained.cpu().eval()
    if output.suffix == ".pt":
        write = partial(write_atomically, partial(save_pickle, trained.state_dict()))
    else:
        write = partial(save, coarse_network(trained, trace(trained, task.example), {}))
    write_or_keep(write, output, "the trained network")
    echo(f"netgraph: wrote {output}", err=True)
    if task.data.tokenizer is not None:
        tokenizer_file = output.with_suffix(".tokenizer.json")
        write_or_keep(partial(save_tokenizer, task.data.tokenizer), tokenizer_file, "the tokenizer of the network")
        echo(f"netgraph: wrote {tokenizer_file}, the tokenizer of the network", err=True)


def check_network_output(output: Path | None) -> None:
    """Check before training that the network can be written.

    Raises
    ------
    NetgraphError
        The suffix is neither .safetensors nor .pt, or the folder does not exist.
    """
    if output is None:
        return
    if output.suffix not in (".safetensors", ".pt"):
        raise NetgraphError(
            f"--output {output} ends in {output.suffix or 'nothing'}. Give NAME.safetensors or NAME.pt."
        )
    check_output_file(output)
