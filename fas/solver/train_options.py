"""TrainOptions: how a network is trained on a hierarchy, one field an option.

``netgraph train`` makes its options from these fields, and `TrainOptions.make_solver` the solver. The checkpoints of a run
keep `TrainOptions.fingerprint`, MLflow and ``run.json`` keep `TrainOptions.to_plain`. Nothing here imports PyTorch at first,
because ``netgraph --help`` reads these fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from netgraph.coarsen.hierarchy.options import CoarsenOptions, parse_ratio_or_gap
from netgraph.errors import NetgraphError
from netgraph.utils.choices import (
    AUGMENTATIONS,
    CYCLES,
    DATA_SETS,
    NESTED,
    OPTIMIZERS,
    PARALLEL,
    SCHEDULES,
    SWITCHES,
    TASKS,
    TOKENIZERS,
)
from netgraph.utils.options import (
    Check,
    Flag,
    check_options,
    declare_group,
    declare_option,
    document_options,
    read_flag_values,
    reuse_option,
)

if TYPE_CHECKING:
    from netgraph.fas.options.all_options import Options
    from netgraph.fas.solver.solver import FAS

TEXTS = list[str] | None


class TrainDefaults(Protocol):
    """The usual way to train a task. It holds where an option is None."""

    @property
    def epochs(self) -> float: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def schedule(self) -> str: ...


def parse_numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Read numbers with commas between them.

    Parameters
    ----------
    name : str
        The option, for the error.
    text : str
    kind : callable ``(text) -> number``

    Raises
    ------
    NetgraphError
        The text is no list of numbers.

    Examples
    --------
    >>> parse_numbers("widths", "16,8", int)
    (16, 8)
    """
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise NetgraphError(f"--{name} {text!r} is no list of numbers with commas between them.") from None


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Read options of the solver, ``NAME=VALUE`` each.

    Raises
    ------
    NetgraphError
        A text is not of this form.
    """
    for text in texts:
        if "=" not in text:
            raise NetgraphError(f"--option {text!r} is not NAME=VALUE. `netgraph train --options` lists the names.")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


# Checks: each raises a NetgraphError that names the value and the remedy. None stands for the default of the task.


def _check_word(called: str, words: Sequence[str]) -> Check:
    def check(value: str | None, options: Any) -> None:
        if value is not None and value not in words:
            raise NetgraphError(f"no {called} is called {value!r}. There are {', '.join(words)}.")

    return check


def _check_below_one(name: str) -> Check:
    def check(value: float | None, options: Any) -> None:
        if value is not None and not 0 <= value < 1:
            raise NetgraphError(f"--{name} is {value:g}. Give a number from 0 on and below 1.")

    return check


def _check_epochs(value: float | None, options: Any) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise NetgraphError(f"epochs is {value:g}. Give a number above 0.")


def _check_seconds(value: float | None, options: Any) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise NetgraphError(f"--auto is {value:g}. Give the seconds that choosing and training may take.")


def _check_weight_decay(value: float | None, options: Any) -> None:
    from netgraph.optim.optimizers import LARGEST_RATE  # torch is imported when a check runs

    if value is not None and not 0 <= value <= LARGEST_RATE:
        raise NetgraphError(f"--weight-decay is {value:g}. Give a number of 0 or more, and at most {LARGEST_RATE:g}.")


def _check_share(value: str, options: Any) -> None:
    parse_numbers("share", value, float)


def _check_widths(value: str, options: Any) -> None:
    parse_numbers("widths", value, int)


def _check_solver_option(value: Sequence[str] | None, options: Any) -> None:
    from netgraph.fas.options.text import parse_options

    parse_options(parse_pairs(value or ()))


@document_options
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a network is trained on a hierarchy of its coarse forms.

    The fields are options of ``netgraph train``. Those of ``coarsening`` are shared with `CoarsenOptions`. An option is
    written here once, with its default, its help text and its check.

    Parameters
    ----------
    **options

    Examples
    --------
    >>> from netgraph.fas import TrainOptions
    >>> options = TrainOptions(cycle="v", lr=1e-3, ema=0.99)
    >>> options.check()
    >>> options.single_level, options.coarsening.n_levels
    (False, 3)
    >>> options.to_plain()["cycle"]
    'v'
    """

    data: str = declare_option(
        "",
        help="digits, mnist, fashion-mnist, cifar10, imdb, or a folder of photographs.",
        metavar="NAME",
        words=DATA_SETS,
    )
    data_root: Path | None = declare_option(
        None, help="Folder of data sets. By default the environment variable NETGRAPH_DATA names it.", metavar="FOLDER"
    )
    download: bool = declare_option(False, help="Download data that is missing.")
    task: str = declare_option(
        "classify", help="classify, lm (predict the next token), denoise, inpaint, deblur or super-resolution of images, or darcy (learn the "
        "solutions of an equation).",
        metavar="TASK", words=TASKS,
        check=_check_word("task", TASKS),
    )  # fmt: skip
    length: int = declare_option(256, help="Tokens of a text.", metavar="N")
    tile: int = declare_option(128, help="Pixels a side of the tiles that photographs are cut into.", metavar="N")
    grid: int = declare_option(64, help="Cells a side of the grid of darcy.", metavar="N")
    widths: str = declare_option(
        "", help="Hidden widths of an MLP, as 1024,1024. Other networks take one number, the base width.",
        metavar="N,N,...", check=_check_widths,
    )  # fmt: skip
    network_arg: Sequence[str] | None = declare_option(
        None, help="Argument of the network, such as norm=post (repeatable).", type=TEXTS, metavar="NAME=VALUE"
    )
    tokenizer: str | None = declare_option(
        None, help="word or bpe, trained here, or the file of a tokenizer.", metavar="NAME", words=TOKENIZERS
    )
    recompute: str = declare_option(
        "", help="Levels that keep few activations and compute them again in the backward pass: all, or 0,1.",
        metavar="LEVELS",
    )  # fmt: skip
    cycle: str = declare_option(
        "kaskade", help="kaskade, full, v, w, f or additive.", metavar="NAME", words=CYCLES,
        check=_check_word("cycle", CYCLES),
    )  # fmt: skip
    always: bool = declare_option(
        False, help="Go down in every cycle, at any cost. The line search alone judges the correction."
    )
    plain: bool = declare_option(False, help="Train on the finest level alone.")
    auto: float | None = declare_option(
        None, help="Choose directions, levels and steps by short probes, for a budget of seconds.", metavar="SECONDS",
        check=_check_seconds,
    )  # fmt: skip
    coarsening: CoarsenOptions = declare_group(
        CoarsenOptions,
        ("n_levels", "ratio", "round_to", "directions", "depth_by", "blocks", "inside_heads", "coarsener", "affinity"),
        {
            "ratio": Flag(
                "ratio",
                "Share of units that stay from level to level. gap:0.05 takes the smallest share that raises the loss by at most 5 %.",
                Any, 0.5, "SHARE", parse=parse_ratio_or_gap,
            )
        },
    )  # fmt: skip
    share: str = declare_option(
        "", help="Share of the steps for each level's turn, finest first.", metavar="SHARE,...", check=_check_share
    )
    switch: str = declare_option(
        "share", help="When a finer level begins: share, or plateau (when it would earn more, at the latest by its share).",
        metavar="NAME", words=SWITCHES, check=_check_word("rule to switch", SWITCHES),
    )  # fmt: skip
    epochs: float | None = declare_option(
        None, help="Passes over the data, all levels together.", metavar="N", check=_check_epochs
    )
    batch: int | None = declare_option(None, help="Rows of a minibatch.", metavar="N")
    optimizer: str | None = declare_option(
        None, help="adam, adamw, rmsprop, sgd (Nesterov 0.9) or muon (with AdamW outside of hidden matrices).", metavar="NAME", words=OPTIMIZERS,
        check=_check_word("optimizer", OPTIMIZERS),
    )  # fmt: skip
    lr: float | None = declare_option(
        None, help="Largest learning rate of the schedule. By default 2e-3 for adam, adamw and muon, 1e-3 for rmsprop and 0.2 for sgd, and "
        "half of these for transformers.",
        metavar="RATE",
    )  # fmt: skip
    schedule: str | None = declare_option(
        None, help="one-cycle, wsd (warm-up, stable, decay), cosine or constant. wsd in nested iteration.", metavar="NAME",
        words=SCHEDULES,
        check=_check_word("schedule", SCHEDULES),
    )  # fmt: skip
    schedule_per_level: bool = declare_option(
        False, help="One schedule for each level in place of one over all levels."
    )
    weight_decay: float | None = declare_option(
        None, help="Decay of weights. Norms and biases do not decay.", metavar="RATE", check=_check_weight_decay
    )
    label_smoothing: float = declare_option(
        0.0, help="Label smoothing of the training loss.", metavar="SHARE", check=_check_below_one("label-smoothing")
    )
    augment: str | None = declare_option(
        None, help="Augmentation of images: none, crop, crop-flip, rotate or crop-flip-rotate.", metavar="NAME",
        words=AUGMENTATIONS, check=_check_word("augmentation", AUGMENTATIONS),
    )  # fmt: skip
    one_hot: bool = declare_option(False, help="Give targets as one-hot rows. The loss is the same.")
    bf16: bool = declare_option(False, help="Run products in bfloat16.")
    channels_last: bool = declare_option(False, help="Store channels innermost in kernels and feature maps.")
    ema: float | None = declare_option(
        None, help="Decay of a running mean of the parameters. The mean is evaluated and written.", metavar="DECAY",
        check=_check_below_one("ema"),
    )  # fmt: skip
    option: Sequence[str] | None = declare_option(
        None, help="Option of the solver, such as gate.gap=0.05 (repeatable).", type=TEXTS, metavar="NAME=VALUE",
        check=_check_solver_option,
    )  # fmt: skip
    device: str = declare_option("cpu", help="cpu, cuda or mps.", metavar="NAME")
    parallel: str | None = declare_option(
        None, help="How the processes of torchrun train one network: ddp, or none to refuse them. By default ddp where there are several.",
        metavar="NAME", words=PARALLEL, check=_check_word("way of several processes", PARALLEL),
    )  # fmt: skip
    seed: int = reuse_option(CoarsenOptions, "seed")

    def check(self) -> None:
        """Check all values, as far as that needs no data.

        Raises
        ------
        NetgraphError
            An option has a value that it cannot have.
        """
        check_options(self)
        if not self.single_level:
            self.coarsening.check()

    @property
    def single_level(self) -> bool:
        """True where training has the finest level alone. Texts of any length are then allowed."""
        return self.plain or self.coarsening.n_levels == 1

    def make_solver(self, defaults: TrainDefaults, n_levels: int) -> FAS:
        """Return the solver.

        Parameters
        ----------
        defaults : TrainDefaults
            Epochs, optimizer, rate and decay where the option is None.
        n_levels : int
            Levels of the hierarchy. A single level is trained without cycles.

        Returns
        -------
        FAS

        Raises
        ------
        NetgraphError
            The solver does not accept an option.
        """
        from netgraph.fas.solver.solver import FAS
        from netgraph.optim.optimizers import find_optimizer

        return FAS(
            "kaskade" if n_levels == 1 else self.cycle,
            find_optimizer(self.optimizer or defaults.optimizer),
            self.choose_rate(defaults),
            epochs=defaults.epochs if self.epochs is None else self.epochs,
            schedule=self.schedule or (None if n_levels > 1 and self.cycle in NESTED else defaults.schedule),
            share=(1.0,) if n_levels == 1 else parse_numbers("share", self.share, float) or None,
            weight_decay=defaults.weight_decay if self.weight_decay is None else self.weight_decay,
            options=self.make_solver_options(),
            schedule_per_level=self.schedule_per_level and n_levels > 1,
            seed=self.seed,
            parallel=None if self.parallel == "none" else self.parallel,
        )

    def choose_rate(self, defaults: TrainDefaults) -> float:
        """Return the largest rate: the option, or that of the task, converted if the optimizer is another one.

        Parameters
        ----------
        defaults : TrainDefaults

        Returns
        -------
        float
        """
        from netgraph.optim.optimizers import convert_rate

        if self.lr is not None:
            return self.lr
        return convert_rate(defaults.lr, defaults.optimizer, self.optimizer or defaults.optimizer)

    def make_solver_options(self) -> Options:
        """Return the options of the solver, those of ``--option`` included."""
        from netgraph.fas.options.groups import OPEN_GATE
        from netgraph.fas.options.text import parse_options

        named = {"smoothing.bf16": "true"} if self.bf16 else {}
        named |= {} if self.ema is None else {"smoothing.ema": str(self.ema)}
        named |= {f"gate.{name}": str(value) for name, value in OPEN_GATE.items()} if self.always else {}
        return parse_options({**named, **parse_pairs(self.option or ())})

    def to_plain(self) -> dict[str, Any]:
        """Return the options by their names on the command line, for MLflow and ``run.json``."""
        return read_flag_values(self)

    def fingerprint(self, augment: str) -> dict[str, Any]:
        """Return the options that make loss, minibatches, network and levels. A run resumes with the same.

        Parameters
        ----------
        augment : str
            Augmentation of the run, which the task chooses where the option is None.

        Returns
        -------
        dict of str to value
            By the name on the command line, such as ``--coarsener``.
        """
        names = ["task", "label_smoothing", "one_hot", "channels_last"]
        if not self.single_level:
            names += ["coarsen", "depth_by", "blocks", "coarsener", "affinity", "ratio", "round_to", "inside_heads"]
        plain = self.to_plain()
        kept = {name: plain[name] for name in names}
        kept |= {"augment": augment, "network_arg": sorted(self.network_arg or ())}
        return {f"--{name.replace('_', '-')}": value for name, value in kept.items()}
