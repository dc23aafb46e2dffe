"""Nested iteration as a callback of Lightning: training begins on coarse levels. Needs the extra ``lightning``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.forward_swap import ForwardSwap
from netgraph.fas.options import Options


class LightningCoarseStart(Callback):
    """Train the coarse levels of a network first, by the module's own steps, optimizer and schedule.

    Parameters
    ----------
    hierarchy : Hierarchy
        Of the network that ``training_step`` calls, an attribute of the module.
    begin : sequence of int
        Steps on level 1, level 2, and so on.
    options : Options, optional
        ``split`` and ``smoothing.moments`` count.
    seed : int

    Raises
    ------
    NetgraphError
        As training starts: the module has several optimizers, or its optimizer has parameters of other networks.
    """

    def __init__(
        self, hierarchy: Hierarchy, begin: Sequence[int], *, options: Options | None = None, seed: int = 7619
    ) -> None:
        self.stand_in = ForwardSwap(hierarchy, begin, options=options, seed=seed)
        self._steps = 0

    @property
    def level(self) -> int:
        """The level at work."""
        return self.stand_in.level

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the optimizer the coarsest level's parameters."""
        if len(trainer.optimizers) != 1:
            raise NetgraphError(f"the module has {len(trainer.optimizers)} optimizers; a coarse start is for one")
        if trainer.global_step:
            raise NetgraphError(
                "training goes on from a checkpoint; a coarse start is for the first step, leave it out"
            )
        self._steps = 0
        self.stand_in.enter(trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count steps of the optimizer: with accumulated gradients not every minibatch is one."""
        while self._steps < trainer.global_step:
            self._steps += 1
            self.stand_in.advance()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finest network."""
        self.stand_in.leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the finest network whatever happens."""
        self.stand_in.leave()
