"""TuneOptions: how a small network is tuned, one field an option.

`netgraph.coarsen.fine_tune` takes the fields as keywords, and ``netgraph finetune`` makes its options from them. Nothing here imports
PyTorch, because ``netgraph --help`` reads these fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netgraph.errors import NetgraphError
from netgraph.utils.choices import OPTIMIZERS, SCHEDULES, TUNING_LOSSES
from netgraph.utils.options import check_options, declare_option, document_options
from netgraph.utils.text import is_index

MODES = ("train", "eval")
LARGEST_COUNT = 10**6  # of epochs: more would not end in years
RANK = 8  # of adapters, as in peft
LR = 2e-3  # of adamw, as in training (docs/finetune.md has the measurements)
WEIGHTS = {
    "labels": 1.0,
    "knowledge": 1.0,
    "hint": 1.0,
    "relational": 25.0,
}  # the last of Park et al., 2019, section 4.1


def parse_words(text: str | Sequence[str]) -> tuple[str, ...]:
    """Read words with commas between them."""
    if not isinstance(text, str):
        return tuple(text)
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_weights(text: str | Mapping[str, float]) -> dict[str, float]:
    """Read ``LOSS=WEIGHT``, with commas between them.

    Raises
    ------
    NetgraphError
        A part is not of this form.
    """
    if not isinstance(text, str):
        return dict(text)
    weights = {}
    for part in parse_words(text):
        name, _, value = part.partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            raise NetgraphError(f"{part!r} is not LOSS=WEIGHT, as in knowledge=0.5.") from None
    return weights


def parse_adapters(text: str) -> int | None:
    """Read ``lora`` or ``lora:RANK``, and return the rank. Without a text return None.

    Raises
    ------
    NetgraphError
        The text is not of this form.

    Examples
    --------
    >>> from netgraph.coarsen.tuning.options import parse_adapters
    >>> parse_adapters("lora"), parse_adapters("lora:4"), parse_adapters("")
    (8, 4, None)
    """
    kind, colon, rank = text.partition(":")
    if not text:
        return None
    if kind != "lora" or (colon and not is_index(rank)):
        raise NetgraphError(f"no adapters are called {text!r}. Give lora, or lora:RANK as in lora:8.")
    if colon and not 1 <= int(rank) <= LARGEST_COUNT:
        raise NetgraphError(f"adapters of rank {rank} cannot be. Give a rank from 1 to {LARGEST_COUNT:,}.")
    return int(rank) if colon else RANK


def _check_adapters(value: str, options: TuneOptions) -> None:
    if parse_adapters(value) is not None and "hint" in options.losses:
        raise NetgraphError(
            f"the loss hint compares the layers that adapters ({value}) wrap. Leave one of the two out."
        )


def _check_losses(value: Sequence[str], options: Any) -> None:
    unknown = [name for name in value if name not in TUNING_LOSSES]
    if unknown:
        raise NetgraphError(f"no loss is called {unknown[0]!r}. Choose among {', '.join(TUNING_LOSSES)}.")


def _check_weights(value: Mapping[str, float], options: Any) -> None:
    _check_losses(list(value), options)
    wrong = [name for name, weight in value.items() if not 0 < weight < math.inf]
    if wrong:
        raise NetgraphError(f"the loss {wrong[0]} has the weight {value[wrong[0]]}. Give a number above 0.")


def _check_count(name: str, least: int) -> Callable[[int, Any], None]:
    def check(value: int, options: Any) -> None:
        if not least <= value <= LARGEST_COUNT:
            raise NetgraphError(f"{name} is {value}. Give a number from {least} to {LARGEST_COUNT:,}.")

    return check


def _check_range(name: str, low: float, high: float) -> Callable[[float | None, Any], None]:
    def check(value: float | None, options: Any) -> None:
        if value is not None and not low <= value < high:
            raise NetgraphError(f"{name} is {value:g}. Give a number from {low:g} on and below {high:g}.")

    return check


def _check_positive(name: str) -> Callable[[float | None, Any], None]:
    def check(value: float | None, options: Any) -> None:
        if value is not None and not 0 < value <= 1e30:  # multiples of it still have single precision
            raise NetgraphError(f"{name} is {value:g}. Give a number above 0, and at most 1e30.")

    return check


def _check_word(name: str, words: Sequence[str]) -> Callable[[str, Any], None]:
    def check(value: str, options: Any) -> None:
        if value and value not in words:
            raise NetgraphError(f"no {name} is called {value!r}. Choose among {', '.join(words)}.")

    return check


@document_options
@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How a small network is tuned.

    Parameters
    ----------
    **options

    Examples
    --------
    >>> from netgraph.coarsen import TuneOptions
    >>> options = TuneOptions(epochs=5, losses=("labels", "hint"))
    >>> options.check()
    >>> options.weight_of("relational")
    25.0
    """

    epochs: int = declare_option(3, help="Passes over the rows.", metavar="N", check=_check_count("epochs", 0))
    losses: Sequence[str] = declare_option(
        (), help="labels, knowledge, hint, relational, with commas. By default labels and knowledge, as far as there are targets and a teacher.",
        metavar="LOSS,...", type=str, typed_default="", join=parse_words, words=TUNING_LOSSES, check=_check_losses,
        doc="``labels``, ``knowledge``, ``hint``, ``relational``. By default ``labels`` where there are targets, and ``knowledge`` where there "
        "is an original.",
    )  # fmt: skip
    weights: Mapping[str, float] | None = declare_option(
        None, help="Weight of a loss, as knowledge=0.5, with commas. By default 1, and 25 for relational.",
        metavar="LOSS=WEIGHT,...", type=str, typed_default="", join=parse_weights,
        check=lambda value, options: _check_weights(value or {}, options),
    )  # fmt: skip
    temperature: float | None = declare_option(
        None, help="Temperature of knowledge. By default 2 where targets are classes. Without, answers are compared by their squared error.",
        metavar="T", check=_check_positive("temperature"),
    )  # fmt: skip
    layers: Sequence[str] = declare_option(
        (), help="Layers of hint, by the names of their weights, with commas. By default all that merged, or else the middle one.",
        metavar="NAME,...", type=str, typed_default="", join=parse_words, name="hint_layers",
    )  # fmt: skip
    outputs: Sequence[str] = declare_option(
        (), help="Outputs that matter, by name, with commas. By default all.", metavar="NAME,...", type=str, typed_default="",
        join=parse_words,
    )  # fmt: skip
    adapters: str = declare_option(
        "", help="lora or lora:RANK trains two small matrices beside each layer alone, and adds their product to its weight at the end. Needs peft.",
        metavar="lora[:RANK]", words=("lora", "lora:"), check=_check_adapters,
        doc="``lora`` or ``lora:RANK``: low-rank adapters of linear layers and convolutions are trained in place of all parameters, and are added "
        "to the weights at the end. The package peft (the extra ``adapters``) brings them. The rank is 8 by default.",
    )  # fmt: skip
    lr: float | None = declare_option(
        None, help="Largest learning rate. By default 2e-3 for adam, adamw and muon, 1e-3 for rmsprop and 0.2 for sgd.",
        metavar="RATE", check=_check_positive("lr"),
    )  # fmt: skip
    batch: int = declare_option(64, help="Rows of a minibatch.", metavar="N", check=_check_count("batch", 1))
    optimizer: str = declare_option(
        "adamw", help="adam, adamw, rmsprop or sgd (Nesterov 0.9).", metavar="NAME", words=OPTIMIZERS,
        check=_check_word("optimizer", OPTIMIZERS),
    )  # fmt: skip
    schedule: str = declare_option(
        "cosine", help="one-cycle, wsd (warm-up, stable, decay), cosine or constant.", metavar="NAME", words=SCHEDULES,
        check=_check_word("schedule", SCHEDULES),
    )  # fmt: skip
    warmup: float = declare_option(
        0.05,
        help="Share of the steps in which the rate rises from 0.",
        metavar="SHARE",
        check=_check_range("warmup", 0, 1),
    )
    weight_decay: float = declare_option(
        0.01, help="Decay of weights. Norms and biases do not decay.", metavar="RATE",
        check=_check_range("weight_decay", 0, 1e30),
    )  # fmt: skip
    clip: float | None = declare_option(
        1.0, help="Largest length of the gradient.", metavar="LENGTH", check=_check_positive("clip"),
        doc="Largest length of the gradient. None does not clip.",
    )  # fmt: skip
    mode: str = declare_option(
        "", help="train (batch norm measures its batches, dropout is on) or eval. By default train where labels are a loss.",
        metavar="MODE", words=MODES, check=_check_word("mode", MODES),
    )  # fmt: skip
    bf16: bool = declare_option(False, help="Compute products in bfloat16.")
    seed: int = declare_option(7619, help="Seed of the order of the rows, and of dropout.", metavar="N")

    def check(self) -> None:
        """Check all values, as far as that needs no data.

        Raises
        ------
        NetgraphError
            An option has a value that it cannot have.
        """
        check_options(self)

    def weight_of(self, loss: str) -> float:
        """Return the weight of a loss.

        Parameters
        ----------
        loss : str
        """
        return (self.weights or {}).get(loss, WEIGHTS.get(loss, 1.0))
