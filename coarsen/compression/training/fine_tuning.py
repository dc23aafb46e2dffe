"""fine_tune: train a small network in place, towards labels and towards the network that it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.compression.training.hints import Hints, make_hints
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.tuning.adapters import adapters_in, plan_adapters
from netgraph.coarsen.tuning.batches import Augment, Batch, draw_batches
from netgraph.coarsen.tuning.loop import Descent, Pair, descend
from netgraph.coarsen.tuning.losses import (
    IGNORED,
    Answer,
    knowledge_loss,
    label_loss,
    place_classes_last,
    relational_loss,
)
from netgraph.coarsen.tuning.options import LR, TuneOptions, parse_adapters
from netgraph.errors import NetgraphError
from netgraph.io.hub.origin import Step, add_step
from netgraph.optim.optimizers import convert_rate
from netgraph.tracing.recordable import check_input_tensors
from netgraph.utils.options import replace_options, show_options
from netgraph.utils.pytree import count_common_rows
from netgraph.utils.seeds import make_generator

TEMPERATURE = 2.0
TITLE = "Tuning"  # of its step in the history of a network


@show_options(TuneOptions)
def fine_tune(
    network: nn.Module,
    original: nn.Module | None,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    options: TuneOptions | None = None,
    hierarchy: Hierarchy | None = None,
    augment: Augment | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **keywords: Any,
) -> list[float]:
    """Train a small network in place, towards labels and towards the network that it came from.

    Without labels as a loss and without ``augment``, inputs of floating point are mixed two by two, and the network stays in evaluation
    mode. An epoch leaves out a rest of rows that does not fill a batch. Where there are fewer rows than a batch, a batch has all of them.

    Parameters
    ----------
    network : torch.nn.Module
        The small network: a recorded graph, or a network of any class, on any device.
    original : torch.nn.Module or None
        The network that it came from. It is left as it is.
    inputs : Tensor, tuple or dict
        Rows, nested like the example of the network.
    targets : Tensor, optional
        Of each row its class or its values, or for a language model the next token of each token. The class -100 does not count.
    options : TuneOptions, optional
        All options in one object. Keywords replace single options.
    hierarchy : Hierarchy, optional
        From the original to the network. The loss ``hint`` restricts hidden layers by its transfers. Without it, ``hint`` trains a linear
        regressor.
    augment : callable ``(inputs, generator) -> inputs``, optional
        Changes the first input of each batch.
    progress : callable ``("tuning", done, total)``, optional
        Is called after each step.
    **keywords

    Returns
    -------
    list of float
        Mean loss of each epoch.

    Raises
    ------
    NetgraphError
        A loss lacks its targets or the original, the two networks answer in other shapes, the inputs do not fit, the network has no parameter
        to train, or the loss is not finite. In the last case the network has its former weights. Adapters find no layer, peft is missing, or
        the network reads a weight without calling its layer.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015. Romero et al., "FitNets", ICLR 2015. Park et al.,
    "Relational knowledge distillation", CVPR 2019. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent",
    CVPR 2022. Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.coarsen import fine_tune
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> inputs = torch.randn(256, 8)
    >>> small = ng.build_hierarchy(network, inputs[:2]).levels[1].model
    >>> losses = fine_tune(small, network, inputs, epochs=20, lr=0.01)
    >>> losses[-1] < losses[0] / 4
    True
    """
    options = replace_options(options or TuneOptions(), keywords, "fine_tune")
    options.check()
    random = make_generator(options.seed)
    losses = _choose_losses(options, original, targets)
    rows = _count_rows(inputs, targets, augment)
    pair = Pair(network=network, original=original if needs_original(losses) else None, outputs=options.outputs)
    _check_pair(pair)
    rank = parse_adapters(options.adapters)
    plan = None if rank is None else plan_adapters(network, rank)
    batch = options.batch if rows is None else min(options.batch, rows)
    per_epoch = 1 if rows is None else rows // batch
    trial = next(draw_batches(inputs, 1, batch, make_generator(options.seed), targets=targets, augment=augment))
    with pair.prepared(training=False):
        hints = make_hints(pair, trial, hierarchy, options.layers, options.seed) if "hint" in losses else Hints(())
        pair = replace(pair, layers=hints.names)
        objective = Objective(options, losses, choose_temperature(options, targets), hints)
        with torch.no_grad():  # what does not fit is told before work begins
            pair.measure(trial, lambda answer, *_: _check_classes(answer, trial.targets, targets))
            pair.measure(trial, objective)
    is_labelled = "labels" in losses
    batches = draw_batches(
        inputs,
        options.epochs * per_epoch,
        batch,
        random,
        targets=targets,
        mix=not is_labelled and augment is None,
        augment=augment,
    )
    with adapters_in(network, plan, options.seed, partial(_run_once, pair, trial)):
        values = descend(
            pair, batches, objective, options.epochs * per_epoch, make_descent(options, training=is_labelled),
            further=list(hints.regressors.values()), progress=progress,
        )  # fmt: skip
    means = [sum(values[i : i + per_epoch]) / per_epoch for i in range(0, len(values), per_epoch)]
    if means:
        add_step(network, _describe_tuning(options, losses, rows, means))
    return means


def _describe_tuning(options: TuneOptions, losses: Sequence[str], rows: int | None, means: Sequence[float]) -> Step:
    """Return the tuning as a step of its network, for the card of a folder."""
    descent = make_descent(options, training="labels" in losses)
    facts = {
        "losses": ", ".join(f"{name} with weight {options.weight_of(name):g}" for name in losses),
        "epochs": str(options.epochs),
        "rows": "not counted" if rows is None else f"{rows:,}",
        "optimizer": f"{descent.optimizer}, learning rate {descent.lr:g}, {descent.schedule}",
        "mean loss": f"{means[0]:.4g} in the first epoch, {means[-1]:.4g} in the last",
        "seed": str(options.seed),
        **({"adapters": options.adapters} if options.adapters else {}),
    }
    return Step(TITLE, facts)


def _run_once(pair: Pair, batch: Batch) -> list[Tensor]:
    """Return the outputs of the small network on a minibatch, in evaluation mode."""
    with pair.prepared(training=False), torch.no_grad():
        return pair.answer(pair.network, batch).outputs


@dataclass(frozen=True)
class Objective:
    """The weighted sum of the losses."""

    options: TuneOptions
    losses: Sequence[str]
    temperature: float | None
    hints: Hints

    def __call__(self, answer: Answer, expected: Answer | None, targets: Tensor | None) -> Tensor:
        """Return the loss of a minibatch."""
        _check_answer(answer)
        return torch.stack(
            [self.options.weight_of(name) * self._measure(name, answer, expected, targets) for name in self.losses]
        ).sum()

    def _measure(self, name: str, answer: Answer, expected: Answer | None, targets: Tensor | None) -> Tensor:
        if name == "labels":
            assert targets is not None
            return label_loss(answer.outputs[0], targets)
        assert expected is not None
        _check_answer(expected)
        if name == "knowledge":
            return knowledge_loss(answer.outputs, expected.outputs, temperature=self.temperature, targets=targets)
        if name == "relational":
            return relational_loss(answer.outputs[0], expected.outputs[0])
        return self.hints.measure(answer.layers, expected.layers)


def make_descent(options: TuneOptions, *, training: bool) -> Descent:
    """Return how the options go down the loss."""
    return Descent(
        optimizer=options.optimizer,
        lr=convert_rate(LR, "adamw", options.optimizer) if options.lr is None else options.lr,
        schedule=options.schedule,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
        clip=options.clip,
        bf16=options.bf16,
        training=options.mode == "train" if options.mode else training,
        seed=options.seed,
    )


def needs_original(losses: Sequence[str]) -> bool:
    """Return True if one of the losses compares with the original."""
    return any(name != "labels" for name in losses)


def choose_temperature(options: TuneOptions, targets: Tensor | None) -> float | None:
    """Return the temperature of classes, None where outputs are compared as values."""
    classes = targets is not None and not targets.is_floating_point()
    return TEMPERATURE if options.temperature is None and classes else options.temperature


def _choose_losses(options: TuneOptions, original: nn.Module | None, targets: Tensor | None) -> tuple[str, ...]:
    """Return the losses, after a check that each has what it compares with."""
    usual = ("labels",) * (targets is not None) + ("knowledge",) * (original is not None)
    losses = tuple(dict.fromkeys(options.losses)) or usual
    if not losses:
        raise NetgraphError("there are neither targets nor an original to train towards. Give one of them.")
    if "labels" in losses and targets is None:
        raise NetgraphError(
            "the loss labels needs targets, and there are none. Give targets, or take the loss knowledge."
        )
    if needs_original(losses) and original is None:
        missing = next(name for name in losses if name != "labels")
        raise NetgraphError(
            f"the loss {missing} needs the original network, and there is none. Give it, or take the loss labels."
        )
    _refuse_idle(options, losses)
    return losses


def _refuse_idle(options: TuneOptions, losses: tuple[str, ...]) -> None:
    """Refuse options of losses that are not among those of this training."""
    idle = [(f"the weight of {name}", name) for name in sorted(set(options.weights or ()) - {*losses})]
    idle += [("the temperature", "knowledge")] * (options.temperature is not None and "knowledge" not in losses)
    idle += [("the choice of hint layers", "hint")] * (bool(options.layers) and "hint" not in losses)
    if idle:
        what, name = idle[0]
        raise NetgraphError(
            f"{what} would have no effect: the losses are {', '.join(losses)}. Leave it out, or take the loss {name} too."
        )


def _count_rows(inputs: Any, targets: Tensor | None, augment: Augment | None) -> int | None:
    """Return the rows of the inputs, after a check of inputs and targets."""
    check_input_tensors(inputs)
    rows = count_common_rows(inputs)
    if rows == 0:
        raise NetgraphError("the inputs have no rows. Give some to train on.")
    if rows is None and augment is not None:
        raise NetgraphError(
            "the inputs have no rows in common, as those of a graph, and augment changes rows. Leave it out."
        )
    if targets is not None and (targets.dtype == torch.bool or targets.is_complex()):
        raise NetgraphError(f"the targets are {targets.dtype}. Give classes as whole numbers, or real values.")
    if targets is not None and rows is not None and (not targets.ndim or len(targets) != rows):
        raise NetgraphError(
            f"there are targets of {tuple(targets.shape)} for {rows:,} rows of inputs. Give one for each row."
        )
    return rows


def _check_pair(pair: Pair) -> None:
    """Refuse a network that nothing can train, or that is its own original."""
    if not any(p.requires_grad for p in pair.network.parameters()):
        raise NetgraphError("the network has no parameter to train. Give one with parameters that require gradients.")
    if pair.network is pair.original:
        raise NetgraphError("the network and its original are one object. Give a copy of the network to train.")


def _check_answer(answer: Answer) -> None:
    """Refuse an answer that has no number to train."""
    if not answer.outputs or not answer.outputs[0].is_floating_point():
        raise NetgraphError("a network answers no tensor of real numbers. Choose an output by its name with outputs=.")


def _check_classes(answer: Answer, some: Tensor | None, targets: Tensor | None) -> Tensor:
    """Refuse targets that are no classes of the answer."""
    _check_answer(answer)
    if targets is not None and some is not None and not targets.is_floating_point():
        n = place_classes_last(answer.outputs[0], some).shape[-1]
        counted = targets[targets != IGNORED]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < n:
            raise NetgraphError(
                f"the targets go from {int(counted.min())} to {int(counted.max())}, and the network answers {n} classes. Give targets that number "
                "its classes from 0."
            )
    return torch.zeros(())
