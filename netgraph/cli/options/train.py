"""From `TrainOptions` to the task, the problem and the levels of ``netgraph train``.

The solver knows no data sets and `netgraph.models` knows no solver, so the command line brings them together.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.output import warn_of_left_out_directions
from netgraph.cli.console.progress import show_progress
from netgraph.cli.console.terminal import echo
from netgraph.errors import NetgraphError
from netgraph.fas.solver.train_options import TrainOptions, parse_numbers
from netgraph.io.files.output_files import check_path
from netgraph.utils.choices import OPERATORS, RESTORATIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.fas.auto.choice import TrainingChoice
    from netgraph.fas.solver.problem import Problem
    from netgraph.models.data.datasets import Dataset
    from netgraph.models.training.tasks import Task


def choose_data(options: TrainOptions, network: str) -> str:
    """Return the name of the data set: the one that was asked for, or the usual one of the network."""
    usual = (
        options.task if options.task in OPERATORS else {"mlp": "digits", "transformer": "imdb"}.get(network, "cifar10")
    )
    return options.data or usual


def choose_network(options: TrainOptions, network: str) -> tuple[TrainOptions, str]:
    """Return options and network, where a task stands for its usual network: the residual one restores, the U-Net solves.

    Raises
    ------
    NetgraphError
        Another task was asked for too.
    """
    if network not in (*RESTORATIONS, *OPERATORS):
        return options, network
    if options.task not in ("classify", network):
        raise NetgraphError(f"{network} is a task, and --task {options.task} is another. Give one of the two.")
    return replace(options, task=network), "unet" if network in OPERATORS else "residual"


def warn_of_slow_precision(options: TrainOptions) -> None:
    """Print a warning if bfloat16 slows training down."""
    from netgraph.models.training.precision import supports_bf16

    if options.bf16 and not supports_bf16(options.device):
        echo(f"netgraph: --bf16 makes it slower: this {options.device} has no units for bfloat16", err=True)


def make_task(options: TrainOptions, network: str) -> Task:
    """Return the network with random weights, and its data.

    Raises
    ------
    NetgraphError
        No network has that name, it does not read the data, or the device is not available.
    """
    import torch

    from netgraph.io.model_zoo import parse_arch_args
    from netgraph.models.training import tasks

    _check_network(options, network)
    name = choose_data(options, network)
    data = _load_data(options, name)
    if network == "mlp" and name == "digits":
        torch.set_num_threads(1)  # a second thread costs this small network more than it saves
    task = tasks.make_task(
        network,
        data,
        widths=parse_numbers("widths", options.widths, int),
        goal=options.task,
        seed=options.seed,
        options=parse_arch_args(list(options.network_arg or ()), option="--network-arg"),
        fixed_length=not options.single_level,
    )
    place_network(task.network, options.device)
    return task


def place_network(network: nn.Module, device: str) -> None:
    """Move a network to the device of ``--device``.

    Raises
    ------
    NetgraphError
        The device is not available.
    """
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise NetgraphError(f"--device {device} is not available ({str(error)[:100]}). Take cpu.") from error


def _load_data(options: TrainOptions, name: str) -> Dataset:
    """Return a data set by its name, the photographs of a folder, or the solutions of an equation."""
    from netgraph.models.data.darcy import load_darcy
    from netgraph.models.data.datasets import NAMES, load_dataset
    from netgraph.models.data.photographs import load_photographs
    from netgraph.models.data.tokenizer import load_tokenizer
    from netgraph.utils.choices import TOKENIZERS

    if name in OPERATORS:
        with show_progress(f"solving {name}"):
            return load_darcy(options.grid)
    if name not in NAMES:
        check_path(Path(name))
        if Path(name).is_dir():
            return load_photographs(name, tile=options.tile)
    tokenizer = options.tokenizer
    words = tokenizer if tokenizer is None or tokenizer in TOKENIZERS else load_tokenizer(tokenizer)
    return load_dataset(name, root=options.data_root, download=options.download, tokenizer=words, length=options.length)


def _check_network(options: TrainOptions, network: str) -> None:
    """Refuse an unknown network, or a memory layout that it does not have, before data are read."""
    from netgraph.models.training.tasks import CNNS, NETWORKS, SOLVERS, TORCHVISION

    is_torchvision = network.startswith(TORCHVISION)
    if network not in NETWORKS and not is_torchvision:
        raise NetgraphError(
            f"no network to train is called {network!r}. There are {', '.join(NETWORKS)} and {TORCHVISION}NAME."
        )
    if options.channels_last and network not in (*CNNS, *SOLVERS) and not is_torchvision:
        raise NetgraphError(f"--channels-last lays out feature maps, and {network} has none. Leave it out.")


def choose_augmentation(options: TrainOptions, task: Task) -> str:
    """Return the name of the augmentation: the one that was asked for, or the usual one of the task."""
    return options.augment or task.defaults.augment


def make_problem(options: TrainOptions, task: Task) -> Problem:
    """Return the loss and the minibatches, with a function that evaluates on the validation split.

    Raises
    ------
    NetgraphError
        An option does not fit the data.
    """
    from netgraph.fas.solver.problem import Problem
    from netgraph.models.data.loader import Loader
    from netgraph.models.training.evaluation import prepare_metrics
    from netgraph.models.training.tasks import AUGMENTATIONS

    prepare_metrics()
    name = _check_problem_options(options, task)
    batch = task.defaults.batch if options.batch is None else options.batch
    loader = Loader(
        task.data,
        batch,
        augment=AUGMENTATIONS[name],
        degradation=task.degradation,
        one_hot=options.one_hot,
        seed=options.seed,
    )
    settings = options.fingerprint(name)
    loss = task.make_loss(options.label_smoothing)
    return Problem(loader, loss, valid=partial(_evaluate_valid, task), restrict=task.restrict, settings=settings)


def _check_problem_options(options: TrainOptions, task: Task) -> str:
    """Return the name of the augmentation, after a check that it, the targets and the loss fit the data."""
    from netgraph.models.training.tasks import AUGMENTATIONS

    if options.one_hot and options.task == "lm":
        raise NetgraphError("--one-hot would need a row of the vocabulary for each token. Leave it out.")
    if not task.answers_classes and (options.one_hot or options.label_smoothing):
        idle = "--one-hot" if options.one_hot else "--label-smoothing"
        raise NetgraphError(f"{idle} is about classes, and {options.task} has images as targets. Leave it out.")
    name = choose_augmentation(options, task)
    if AUGMENTATIONS[name] is not None and options.task in OPERATORS:
        raise NetgraphError(f"--augment {name} would move a field and not its solution. Leave it out.")
    if AUGMENTATIONS[name] is not None and task.data.train.inputs.ndim != 4:
        raise NetgraphError(f"--augment {name} moves pictures, and {task.name} reads none. Leave it out.")
    return name


def _evaluate_valid(task: Task, model: nn.Module) -> dict[str, float]:
    """Return the figures of a level's network on the validation split, at the resolution of the level."""
    from netgraph.fas.levels.batch_resolution import find_divisor, restrict_batch

    divisor, to_level = find_divisor(model), None
    if task.restrict is not None and divisor > 1:
        to_level = partial(restrict_batch, restrict=task.restrict, divisor=divisor)
    return task.evaluate(model, split="valid", to_level=to_level).figures()


def choose_levels(options: TrainOptions, task: Task, problem: Problem) -> tuple[TrainOptions, TrainingChoice]:
    """Return the options with the levels and steps that ``--auto`` chose by short probes, and the choice."""
    from netgraph.fas.auto.choice import choose_training
    from netgraph.optim.optimizers import find_optimizer

    usual = task.defaults
    choice = choose_training(
        task.network,
        task.example.to(options.device),
        problem,
        seconds=options.auto or 0.0,
        optimizer=find_optimizer(options.optimizer or usual.optimizer),
        lr=options.choose_rate(usual),
        weight_decay=usual.weight_decay if options.weight_decay is None else options.weight_decay,
        options=options.make_solver_options(),
        coarsening=replace(options.coarsening, seed=options.seed),
        seed=options.seed,
        tell=lambda text: echo(f"netgraph: {text}", err=True),
    )
    levels: dict[str, Any] = (
        {"directions": choice.directions, "n_levels": len(choice.steps)} if choice.directions else {}
    )
    chosen = replace(
        options,
        plain=not choice.directions,
        coarsening=replace(options.coarsening, **levels),
        share=",".join(map(str, choice.steps)) if choice.directions else "",
        epochs=float(f"{choice.solver.epochs:.8g}"),
        schedule="wsd",
    )
    return chosen, choice


def build_levels(options: TrainOptions, task: Task, problem: Problem) -> Hierarchy:
    """Return the hierarchy to train: one level where training is plain."""
    example = task.example.to(options.device)
    hierarchy = (
        _build_single_level(task, example) if options.single_level else _coarsen(options, task, example, problem)
    )
    _apply_memory_layout(options, hierarchy)
    _apply_recomputation(options, hierarchy)
    return hierarchy


def _build_single_level(task: Task, example: Tensor) -> Hierarchy:
    """Return the network alone. Texts of unequal length cost the mean of their lengths."""
    from netgraph.coarsen.hierarchy.hierarchy import build_single_level
    from netgraph.models.data.batching import mean_cost
    from netgraph.tracing.tracer import trace

    hierarchy = build_single_level(task.network, example)
    if task.data.padding is not None:
        cost = mean_cost(task.data, example, lambda part: trace(task.network, part).flops)
        hierarchy.levels[0].flops = round(cost)
    return hierarchy


def _coarsen(options: TrainOptions, task: Task, example: Tensor, problem: Problem) -> Hierarchy:
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
    from netgraph.coarsen.hierarchy.initial_weights import init_coarse_weights
    from netgraph.fas.solver.problem import make_batch_loss

    coarsening = replace(options.coarsening, seed=options.seed)
    loss = make_batch_loss(problem, next(iter(problem.batches))) if isinstance(coarsening.ratio, str) else None
    with announce_compilation(), show_progress("coarsening") as progress:
        hierarchy = build_hierarchy(task.network, example, options=coarsening, loss=loss, progress=progress)
    init_coarse_weights(hierarchy)  # the network is untrained
    warn_of_left_out_directions(hierarchy)
    return hierarchy


def _apply_memory_layout(options: TrainOptions, hierarchy: Hierarchy) -> None:
    """Store the channels of every level innermost where that was asked for."""
    import torch

    for level in hierarchy.levels if options.channels_last else ():
        level.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _apply_recomputation(options: TrainOptions, hierarchy: Hierarchy) -> None:
    """Let the levels of ``--recompute`` compute their activations again in the backward pass."""
    from netgraph.recording.activation_checkpointing import recompute_activations

    levels = hierarchy.levels
    everything = options.recompute == "all"
    for i in range(len(levels)) if everything else parse_numbers("recompute", options.recompute, int):
        if not 0 <= i < len(levels):
            raise NetgraphError(
                f"--recompute {i} is no level. There are levels 0 to {len(levels) - 1}. Give some of them, or all."
            )
        recompute_activations(levels[i].model)
