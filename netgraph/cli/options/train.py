"""The command ``netgraph train``: a network of `netgraph.models` on real data, by FAS or plainly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.output import warn_of_left_out_directions
from netgraph.cli.options.coarsen import (
    Affinity,
    Coarsen,
    Coarsener,
    DepthBy,
    InsideHeads,
    Levels,
    RoundTo,
    Seed,
    parse_ratio_or_gap,
)
from netgraph.cli.options.completion import (
    AUGMENTS,
    CYCLES,
    DATA_SETS,
    OPTIMIZERS,
    SCHEDULES,
    TOKENIZERS,
    complete_words,
)
from netgraph.cli.options.parsing import (
    check_below_one,
    check_choice,
    check_positive,
    check_weight_decay,
    parse_numbers,
    parse_pairs,
    value_or_default,
)
from netgraph.errors import NetgraphError


def _print_solver_options(wanted: bool) -> None:
    if not wanted:
        return
    from netgraph.fas.options import build_option_table

    for name, default, meaning in build_option_table():
        typer.echo(f"{name:<20} {default:<12} {meaning}")
    typer.echo(
        f"{'level.N.NAME':<20} {'':<12} For one level, 0 being the finest: lr, pre and all of smoothing, gate.NAME, tau.NAME."
    )
    raise typer.Exit()


@dataclass(frozen=True)
class TrainOptions:
    """How a command was asked to train; each field is an option."""

    data: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_words(DATA_SETS),
            help="digits, mnist, fashion-mnist, cifar10 or imdb.",
        ),
    ] = ""
    data_root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of data sets; else NETGRAPH_DATA.")
    ] = None
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing.")] = False
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK",
            autocompletion=complete_words(("classify", "lm")),
            help="classify, or lm: predict the next token.",
        ),
    ] = "classify"
    length: Annotated[int, typer.Option(metavar="N", help="Tokens of a text.")] = 256
    widths: Annotated[
        str, typer.Option(metavar="N,N,...", help="Hidden widths of an MLP, 1024,1024; of others the base width.")
    ] = ""
    network_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="For the network, such as norm=post; may be given again."),
    ] = None
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_words(TOKENIZERS),
            help="word or bpe, trained here, or a tokenizer's file.",
        ),
    ] = None
    recompute: Annotated[
        str,
        typer.Option(metavar="LEVELS", help="Levels that keep few activations and run again backwards: all, or 0,1."),
    ] = ""
    cycle: Annotated[
        str,
        typer.Option(metavar="NAME", autocompletion=complete_words(CYCLES), help="kaskade, full, v, w, f or additive."),
    ] = "kaskade"
    plain: Annotated[bool, typer.Option("--plain", help="Train on the finest level alone.")] = False
    levels: Levels = 3
    ratio: Annotated[
        Any,
        typer.Option(
            metavar="SHARE",
            parser=parse_ratio_or_gap,
            help="Share of units that stay from level to level, or gap:0.05: as few as raise the loss by no more.",
        ),
    ] = 0.5
    round_to: RoundTo = 1
    coarsen: Coarsen = "channels"
    depth_by: DepthBy = "split"
    inside_heads: InsideHeads = False
    coarsener: Coarsener = "hem"
    affinity: Affinity = "cosine"
    share: Annotated[
        str, typer.Option(metavar="SHARE,...", help="Share of the steps for each level's turn, finest first.")
    ] = ""
    epochs: Annotated[
        float | None, typer.Option(metavar="N", help="Passes over the data in all, on whatever levels.")
    ] = None
    batch: Annotated[int | None, typer.Option(metavar="N", help="Rows of a minibatch.")] = None
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_words(OPTIMIZERS),
            help="adam, adamw, rmsprop or sgd (Nesterov 0.9).",
        ),
    ] = None
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Largest rate of the schedule.")] = None
    schedule: Annotated[
        str,
        typer.Option(metavar="NAME", autocompletion=complete_words(SCHEDULES), help="one-cycle, cosine or constant."),
    ] = "one-cycle"
    schedule_per_level: Annotated[
        bool, typer.Option("--schedule-per-level", help="A schedule for each level by itself, not one over all.")
    ] = False
    weight_decay: Annotated[
        float | None, typer.Option(metavar="RATE", help="Of weights; norms and biases are let be.")
    ] = None
    label_smoothing: Annotated[float, typer.Option(metavar="SHARE", help="Of the training loss.")] = 0.0
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_words(AUGMENTS),
            help="Of images: none, crop, crop-flip, rotate or crop-flip-rotate.",
        ),
    ] = None
    one_hot: Annotated[bool, typer.Option("--one-hot", help="Give targets as one-hot rows: the same loss.")] = False
    bf16: Annotated[bool, typer.Option("--bf16", help="Run products in bfloat16.")] = False
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Keep kernels and feature maps with their channels innermost.")
    ] = False
    ema: Annotated[
        float | None, typer.Option(metavar="DECAY", help="Decay of a running mean, which is judged and written.")
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the solver, such as gate.gap=0.05; may be given again."),
    ] = None
    options: Annotated[
        bool,
        typer.Option(
            "--options", help="List the solver's options and leave.", is_eager=True, callback=_print_solver_options
        ),
    ] = False
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or mps.")] = "cpu"
    seed: Seed = 7619

    def fas(self, habits: Any, n_levels: int) -> Any:
        """Return the solver."""
        import torch

        from netgraph.fas.options import parse_options
        from netgraph.fas.solver.solver import FAS

        makers: dict[str, Callable[..., Any]] = {
            "adam": torch.optim.Adam,
            "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
            "rmsprop": torch.optim.RMSprop,
            "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        }
        check_below_one("ema", self.ema)
        check_below_one("label-smoothing", self.label_smoothing)
        name = check_choice("optimizer", self.optimizer or habits.optimizer, makers)
        given = {"smoothing.bf16": "true"} if self.bf16 else {}
        given |= {} if self.ema is None else {"smoothing.ema": str(self.ema)}
        return FAS(
            "kaskade" if n_levels == 1 else self.cycle,
            makers[name],
            value_or_default(self.lr, habits.lr),
            epochs=check_positive("epochs", value_or_default(self.epochs, habits.epochs)),
            schedule=self.schedule,
            share=(1.0,) if n_levels == 1 else parse_numbers("share", self.share, float) or None,
            weight_decay=check_weight_decay(value_or_default(self.weight_decay, habits.weight_decay)),
            options=parse_options({**given, **parse_pairs(self.option or [])}),
            schedule_per_level=self.schedule_per_level and n_levels > 1,
            seed=self.seed,
        )

    @property
    def alone(self) -> bool:
        """Whether there is no level but the finest, which takes texts of any length."""
        return self.plain or self.levels == 1

    def data_of(self, network: str) -> str:
        """Return the data set's name, the usual one of a network where none is given."""
        return self.data or {"mlp": "digits", "transformer": "imdb"}.get(network, "cifar10")

    def warn(self) -> None:
        """Say what will cost time and need not."""
        from netgraph.models.training.precision import supports_bf16

        if self.bf16 and not supports_bf16(self.device):
            typer.echo(f"netgraph: --bf16 makes it slower: this {self.device} has no units for bfloat16", err=True)

    def make_task(self, network: str) -> Any:
        """Return the network with random weights, and its data, read only where both are of a kind."""
        import torch

        from netgraph.io.model_zoo import parse_arch_args
        from netgraph.models.data.datasets import load_dataset
        from netgraph.models.data.tokenizer import KINDS, load_tokenizer
        from netgraph.models.training.tasks import CNNS, NETWORKS, TORCHVISION, make_task

        of_torchvision = network.startswith(TORCHVISION)
        if not of_torchvision:
            check_choice("network to train", network, (*NETWORKS, f"{TORCHVISION}NAME"))
        if self.channels_last and network not in CNNS and not of_torchvision:
            raise NetgraphError(f"--channels-last lays out feature maps, and {network} has none; leave it off")
        name = self.data_of(network)
        words = self.tokenizer if self.tokenizer in (None, *KINDS) else load_tokenizer(self.tokenizer)
        data = load_dataset(name, root=self.data_root, download=self.download, tokenizer=words, length=self.length)
        if network == "mlp" and name == "digits":
            torch.set_num_threads(1)  # so small a network works less than a second thread is waited for
        widths = parse_numbers("widths", self.widths, int)
        given = parse_arch_args(self.network_arg or [], option="--network-arg")
        task = make_task(
            network, data, widths=widths, goal=self.task, seed=self.seed, options=given, whole=not self.alone
        )
        try:
            task.network.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise NetgraphError(
                f"--device {self.device} is not to be had here ({str(error)[:100]}); take cpu"
            ) from error
        return task

    def problem(self, task: Any) -> Any:
        """Return what is minimised, and the figures measured on the validation split."""
        from netgraph.fas.solver.problem import Problem
        from netgraph.models.data.loader import Loader
        from netgraph.models.training.tasks import AUGMENTATIONS, make_cross_entropy
        from netgraph.models.training.trainer import evaluate, prepare_metrics

        prepare_metrics()
        if self.one_hot and self.task == "lm":
            raise NetgraphError("--one-hot would need a row of the vocabulary for each token; leave it off")
        augment = AUGMENTATIONS[check_choice("augmentation", self.augment or task.habits.augment, AUGMENTATIONS)]
        if augment is not None and task.data.train.inputs.ndim != 4:
            raise NetgraphError(f"--augment {self.augment} moves pictures, and {task.name} reads none; leave it off")
        batch = value_or_default(self.batch, task.habits.batch)
        loader = Loader(task.data, batch, augment=augment, one_hot=self.one_hot, seed=self.seed)

        def valid(model: Any) -> dict[str, float]:
            return evaluate(model, task.data, split="valid", batch=task.evaluation_batch)._asdict()

        return Problem(loader, make_cross_entropy(self.label_smoothing), valid=valid, settings=self.made_of(task))

    def made_of(self, task: Any) -> dict[str, Any]:
        """Return what loss, minibatches, network and levels are made of, as it is typed: a run is resumed with the same."""
        names = ["task", "label_smoothing", "one_hot", "channels_last"]
        if not self.alone:
            names += ["coarsen", "depth_by", "coarsener", "affinity", "ratio", "round_to", "inside_heads"]
        found = {name: getattr(self, name) for name in names}
        found |= {"augment": self.augment or task.habits.augment, "network_arg": sorted(self.network_arg or ())}
        return {f"--{name.replace('_', '-')}": value for name, value in found.items()}

    def hierarchy(self, task: Any, problem: Any) -> Any:
        """Return the levels, one where training is plain."""
        from netgraph.cli.console.progress import show_progress
        from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy, build_single_level
        from netgraph.coarsen.hierarchy.initial_weights import init_coarse_weights
        from netgraph.fas.solver.problem import make_batch_loss
        from netgraph.models.data.batching import mean_cost
        from netgraph.tracing.tracer import trace

        example = task.example.to(self.device)
        if self.alone:
            levels = build_single_level(task.network, example)
            if task.data.padding is not None:
                cost = mean_cost(task.data, example, lambda part: trace(task.network, part).flops)
                levels.levels[0].flops = round(cost)
            return self._laid_out(levels)
        loss = make_batch_loss(problem, next(iter(problem.batches))) if isinstance(self.ratio, str) else None
        with announce_compilation(), show_progress("coarsening") as told:
            levels = build_hierarchy(
                task.network, example, directions=self.coarsen, depth_by=self.depth_by, coarsener=self.coarsener,
                affinity=self.affinity, n_levels=self.levels, ratio=self.ratio, loss=loss, round_to=self.round_to,
                inside_heads=self.inside_heads, seed=self.seed, progress=told,
            )  # fmt: skip
        init_coarse_weights(levels)  # the network is a new one
        warn_of_left_out_directions(levels)
        return self._laid_out(levels)

    def _laid_out(self, hierarchy: Any) -> Any:
        """Give every level the memory layout, and the way of keeping activations, that was asked for."""
        import torch

        for level in hierarchy.levels if self.channels_last else ():
            level.model.to(memory_format=torch.channels_last)
        return self._recomputing(hierarchy)

    def _recomputing(self, hierarchy: Any) -> Any:
        """Have the levels that were asked for run their activations again in the backward pass."""
        from netgraph.recording.activation_checkpointing import recompute_activations

        levels = hierarchy.levels
        for i in range(len(levels)) if self.recompute == "all" else parse_numbers("recompute", self.recompute, int):
            if not 0 <= i < len(levels):
                raise NetgraphError(
                    f"--recompute {i}: there are levels 0 to {len(levels) - 1}; give some of them, or all"
                )
            recompute_activations(levels[i].model)
        return hierarchy
