"""Nested iteration as a callback of the Trainer of transformers. It needs the extra ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.environment.optional_packages import describe_missing
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.forward_swap import ForwardSwap
from netgraph.fas.options.all_options import Options

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise NetgraphError(describe_missing("transformers", "TransformersCoarseStart", error)) from error

COUNTED = ("num_items_in_batch",)  # the Trainer passes it for the loss, which coarse networks do not compute


class TransformersCoarseStart(TrainerCallback):
    """Train the coarse levels of a network first, inside the training loop of the transformers Trainer.

    The steps, the optimizer and its schedule stay those of the Trainer. The Trainer must compute the loss: give it
    ``compute_loss_func``, because a hierarchy is traced on inputs without labels.

    Parameters
    ----------
    hierarchy : Hierarchy
        Hierarchy of the Trainer's network.
    begin : sequence of int
        Steps on level 1, level 2, and so on.
    options : Options, optional
        Options of the solver. Only ``split`` and ``smoothing.moments`` have an effect, without ``split.rewarm``.
    seed : int, default 7619
        Seed of the noise that makes copies of a unit differ.

    Raises
    ------
    NetgraphError
        When training starts: the Trainer uses half precision or several processes, or continues from a checkpoint.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import TransformersCoarseStart
    >>> from netgraph.models import mlp
    >>> hierarchy = ng.build_hierarchy(mlp((6, 8, 3)), torch.randn(2, 6), n_levels=2)
    >>> TransformersCoarseStart(hierarchy, begin=(100,)).level  # 0 until training starts
    0
    """

    def __init__(
        self, hierarchy: Hierarchy, begin: Sequence[int], *, options: Options | None = None, seed: int = 7619
    ) -> None:
        self.swap = ForwardSwap(hierarchy, begin, options=options, ignored=COUNTED, seed=seed)

    @property
    def level(self) -> int:
        """Number of the current level."""
        return self.swap.level

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the optimizer the parameters of the coarsest level."""
        if args.fp16 or args.bf16 or args.world_size > 1:
            raise NetgraphError(
                "a coarse start needs one process in full precision. Set fp16 and bf16 to False, and train in one process."
            )
        if state.global_step:
            raise NetgraphError(
                "training continues from a checkpoint, and a coarse start begins at the first step. Remove this callback."
            )
        optimizer = kwargs["optimizer"]
        self.swap.enter(getattr(optimizer, "optimizer", optimizer))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clip gradients of a coarse level. The Trainer itself has clipped those of the finest level."""
        if self.level and args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters(), args.max_grad_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Clear gradients of the current level and count the step. The Trainer itself clears those of the finest level."""
        for parameter in self._parameters():
            parameter.grad = None
        self.swap.advance()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the finest network."""
        self.swap.leave()

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self.swap.maps.models[self.level].parameters())
