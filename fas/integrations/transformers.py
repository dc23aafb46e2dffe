"""Nested iteration as a callback of the Trainer of transformers: training begins on coarse levels. Needs the extra ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.forward_swap import ForwardSwap
from netgraph.fas.options import Options

COUNTED = ("num_items_in_batch",)  # what the Trainer tells networks about the loss, which coarse ones do not compute


class TransformersCoarseStart(TrainerCallback):
    """Train the coarse levels of a network first, by the Trainer's own steps, optimizer and schedule.

    The loss is the Trainer's: give it ``compute_loss_func``, since a hierarchy is traced on inputs without labels.

    Parameters
    ----------
    hierarchy : Hierarchy
        Of the Trainer's network.
    begin : sequence of int
        Steps on level 1, level 2, and so on.
    options : Options, optional
        ``split`` and ``smoothing.moments`` count.
    seed : int
    """

    def __init__(
        self, hierarchy: Hierarchy, begin: Sequence[int], *, options: Options | None = None, seed: int = 7619
    ) -> None:
        self.stand_in = ForwardSwap(hierarchy, begin, options=options, ignored=COUNTED, seed=seed)

    @property
    def level(self) -> int:
        """The level at work."""
        return self.stand_in.level

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Give the optimizer the coarsest level's parameters."""
        if args.fp16 or args.bf16 or args.world_size > 1:
            raise NetgraphError("a coarse start is for one process in full precision; set fp16 and bf16 to False")
        if state.global_step:
            raise NetgraphError(
                "training goes on from a checkpoint; a coarse start is for the first step, leave it out"
            )
        optimizer = given["optimizer"]
        self.stand_in.enter(getattr(optimizer, "optimizer", optimizer))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Clip as the Trainer does, which has clipped the finest level's gradients."""
        if self.level and args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters(), args.max_grad_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Clear the level's gradients, as the Trainer does the finest level's, and count the step."""
        for parameter in self._parameters():
            parameter.grad = None
        self.stand_in.advance()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Leave the finest network."""
        self.stand_in.leave()

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self.stand_in.maps.models[self.level].parameters())
