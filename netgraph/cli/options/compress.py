"""Options of ``netgraph compress`` and ``netgraph evaluate``, and the rows that both read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgraph.cli.options.open_network import find_text_tokenizer, print_warnings
from netgraph.coarsen.compression.options import DEFAULTS, LATENCY_BATCH, TARGET
from netgraph.coarsen.compression.target import Target
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.tuning.options import TuneOptions
from netgraph.errors import NetgraphError
from netgraph.utils.choices import DATA_RUNGS, METRICS, ROUND_SCHEDULES, TARGETS
from netgraph.utils.options import Check, check_options, declare_group, declare_option, list_flags

if TYPE_CHECKING:
    from torch import nn

    from netgraph.models.data.row_splits import RowSplits

COARSENING = dict(list_flags(CoarsenOptions))  # the flag of each field
TEST_SAMPLES = 2_000  # of a search, which runs several networks on them
ALL_SAMPLES = 10_000  # of commands that judge and do little else
TUNE_SAMPLES = 50_000
METRIC_HELP = (
    f"What networks are judged by: {', '.join(METRICS[:-1])} or {METRICS[-1]}. By default top1 for classes, perplexity for next "
    "tokens, mse for other targets, and error, the relative error of the outputs, without targets."
)

RUNGS_TEXT = f"{', '.join(DATA_RUNGS[:-1])} or {DATA_RUNGS[-1]}"
REPAIRED_ERRORS_HELP = (
    "Measure the error of each axis after a repair of its layers. It often chooses better, and takes several times as long: compress took "
    "367 instead of 99 s on MiniLM."
)


def check_rows(name: str) -> Check:
    """Return a check of a number of rows."""

    def check(value: int, options: Any) -> None:
        if value < 1:
            raise NetgraphError(f"{name} is {value:,}. Give 1 row or more.")

    return check


def check_metric_name(value: str | None, options: Any = None) -> None:
    """Refuse a metric that does not exist."""
    if value is not None and value not in METRICS:
        raise NetgraphError(f"no metric is called {value!r}. Choose among {', '.join(METRICS)}.")


def _check_epochs(value: int, options: Any) -> None:
    TuneOptions(epochs=value).check()


def _check_rounds(value: int, options: CompressOptions) -> None:
    from netgraph.coarsen.compression.training.rounds import check_channels_alone, plan_rounds

    target = options.read_target()
    plan_rounds(0.5, value, options.round_schedule)
    if value > 1 and not options.tune_epochs:
        raise NetgraphError(f"--rounds {value} tunes after each round, and --tune-epochs is 0. Give 1 or more.")
    if value > 1 and not target.is_share:
        raise NetgraphError(
            f"--rounds {value} leads to a share of a cost, and the target is {target}. Give one such as flops=0.5."
        )
    if value > 1:
        check_channels_alone(options.coarsening)


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """What a network is compressed to, how it is judged, and how its units merge."""

    target: str | None = declare_option(
        None,
        help=f"parameters=, flops= or latency=0.5 of the original's, accuracy=-1.0 points, or error=0.1 of the outputs. By default {TARGET}.",
        metavar="KIND=NUMBER", words=tuple(f"{kind}=" for kind in TARGETS),
    )  # fmt: skip
    speed: str | None = declare_option(
        None, help="How many times as fast as the original, in place of --target: 2x is latency=0.5.", metavar="FACTOR"
    )
    metric: str | None = declare_option(None, help=METRIC_HELP, metavar="NAME", words=METRICS, check=check_metric_name)
    latency_batch: int = declare_option(
        LATENCY_BATCH,
        help="Rows of the input for the target latency.",
        metavar="N",
        check=check_rows("--latency-batch"),
    )
    test_samples: int = declare_option(
        TEST_SAMPLES,
        help="Most rows of the test, which give the metric.",
        metavar="N",
        check=check_rows("--test-samples"),
    )
    tune_epochs: int = declare_option(
        0, help="Passes of training towards labels and the original's answers, after the repair.", metavar="N",
        check=_check_epochs,
    )  # fmt: skip
    tune_samples: int = declare_option(
        TUNE_SAMPLES, help="Most rows of that training.", metavar="N", check=check_rows("--tune-samples")
    )
    rounds: int = declare_option(
        1, help="Rounds of merging and --tune-epochs, towards one target.", metavar="N", check=_check_rounds
    )
    round_schedule: str = declare_option(
        ROUND_SCHEDULES[0], help="exponential (each round takes the same share of what is left) or linear (of the original).",
        metavar="NAME", words=ROUND_SCHEDULES,
    )  # fmt: skip
    repaired_errors: bool = declare_option(False, help=f"{REPAIRED_ERRORS_HELP} It needs --repair {RUNGS_TEXT}.")
    coarsening: CoarsenOptions = declare_group(
        CoarsenOptions,
        (
            "directions",
            "coarsener",
            "keep",
            "outputs",
            "fixed",
            "round_to",
            "inside_heads",
            "affinity",
            "importance",
            "repair",
            "prove",
            "seed",
        ),
        {
            "directions": replace(
                COARSENING["directions"],
                help="What becomes smaller: channels (units), depth (whole residual blocks are left out or merge), or channels+depth.",
                words=("channels", "depth", "channels+depth"),
            ),
            "coarsener": replace(COARSENING["coarsener"], default=DEFAULTS.coarsener),
            "repair": replace(COARSENING["repair"], default=DEFAULTS.repair),
        },
    )

    def check(self) -> None:
        """Check all values, as far as that needs no network.

        Raises
        ------
        NetgraphError
            An option has a value that it cannot have, or two options contradict one another.
        """
        if self.target is not None and self.speed is not None:
            raise NetgraphError(
                f"--target {self.target} and --speed {self.speed} both say what is asked for. Give one of the two."
            )
        self.read_target()
        check_options(self)
        self.coarsening.check()

    def read_target(self) -> Target:
        """Return what is asked for."""
        return Target.parse(self.target or TARGET) if self.speed is None else Target.parse_speed(self.speed)


def read_rows(
    data: str | None,
    network: nn.Module,
    example: Any,
    *,
    model: str,
    tokenizer: Path | None,
    seed: int,
    counts: Sequence[int],
) -> RowSplits:
    """Read rows for calibration, validation and the test, and print the warnings of reading them.

    Parameters
    ----------
    data : str
        The source.
    network : torch.nn.Module
        If it is a language model, the next tokens of texts are the targets.
    example : Tensor, tuple or dict
    model : str
        As it was typed. A tokenizer may lie beside it.
    tokenizer : path, optional
    seed : int
    counts : sequence of int
        Most rows of the three parts.

    Raises
    ------
    NetgraphError
        The source does not fit the network.
    """
    from netgraph.models.data.calibration import is_text
    from netgraph.models.data.row_splits import load_splits

    n, n_valid, n_test = counts
    words = find_text_tokenizer(model, tokenizer, data)
    next_tokens = is_text(str(data)) and predicts_next_tokens(network, example)
    with print_warnings():
        return load_splits(
            str(data), example=example, n=n, n_valid=n_valid, n_test=n_test, seed=seed, tokenizer=words, next_tokens=next_tokens,
        )  # fmt: skip


def check_data(data: str | None) -> None:
    """Refuse a command that measures on data, and has none.

    Raises
    ------
    NetgraphError
    """
    if data is None:
        raise NetgraphError(
            "networks are judged on rows of data. Give --data, such as digits, cifar10, a folder of pictures, a .npy file or a .txt file."
        )


def choose_metric(asked: str | None, splits: RowSplits, target: Target | None = None) -> str | None:
    """Return the name of the metric. Language models have perplexity, unless the target bounds an accuracy. None takes the usual one."""
    bounds_accuracy = target is not None and target.kind == "accuracy"
    return "perplexity" if asked is None and splits.next_tokens and not bounds_accuracy else asked


def predicts_next_tokens(network: nn.Module, example: Any) -> bool:
    """Return True if a network answers each token of a text with numbers, which no later token changes."""
    from netgraph.coarsen.compression.metrics import run_rows
    from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree

    leaves: list[Any] = []
    structure = build_structure(normalize_example(example), leaves)
    tokens = leaves[0] if leaves else None
    if tokens is None or tokens.is_floating_point() or tokens.ndim != 2:
        return False
    answers = run_rows(network, [example])[0]
    if not answers or answers[0].ndim != 3 or answers[0].shape[:2] != tokens.shape:
        return False
    other = tokens.clone()
    other[:, -1] = 1 - other[:, -1].clamp(0, 1)
    args, kwargs = unflatten_tree(structure, [other, *leaves[1:]])
    changed = run_rows(network, [kwargs or args])[0][0]
    return bool(answers[0][:, :-1].isclose(changed[:, :-1], rtol=1e-3, atol=1e-4).all())
