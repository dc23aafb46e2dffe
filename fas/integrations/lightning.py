"""Nested iteration as a Lightning callback. It needs the extra ``lightning``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.environment.optional_packages import describe_missing
from netgraph.environment.processes import check_single_process
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.forward_swap import ForwardSwap
from netgraph.fas.options.all_options import Options

prepare_torchvision()  # Lightning imports torchmetrics, which imports torchvision
try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise NetgraphError(describe_missing("lightning", "LightningCoarseStart", error)) from error


class LightningCoarseStart(Callback):
    """Train the coarse levels of a network first, inside Lightning's own training loop.

    The steps, the optimizer and its schedule stay those of the module.

    Parameters
    ----------
    hierarchy : Hierarchy
        Hierarchy of the network that ``training_step`` calls, an attribute of the module.
    begin : sequence of int
        Steps on level 1, level 2, and so on.
    options : Options, optional
        Options of the solver. Only ``split`` and ``smoothing.moments`` have an effect, without ``split.rewarm``.
    seed : int, default 7619
        Seed of the noise that makes copies of a unit differ.

    Raises
    ------
    NetgraphError
        When training starts: the module has several optimizers, its optimizer has parameters of another network, or training
        continues from a checkpoint.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import LightningCoarseStart
    >>> from netgraph.models import mlp
    >>> hierarchy = ng.build_hierarchy(mlp((6, 8, 3)), torch.randn(2, 6), n_levels=2)
    >>> LightningCoarseStart(hierarchy, begin=(100,)).level  # 0 until training starts
    0
    """

    def __init__(
        self, hierarchy: Hierarchy, begin: Sequence[int], *, options: Options | None = None, seed: int = 7619
    ) -> None:
        self.swap = ForwardSwap(hierarchy, begin, options=options, seed=seed)
        self._steps = 0

    @property
    def level(self) -> int:
        """Number of the current level."""
        return self.swap.level

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the optimizer the parameters of the coarsest level."""
        check_single_process("A coarse start", trainer.world_size)
        if len(trainer.optimizers) != 1:
            raise NetgraphError(f"the module has {len(trainer.optimizers)} optimizers. A coarse start works with one.")
        if trainer.global_step:
            raise NetgraphError(
                "training continues from a checkpoint, and a coarse start begins at the first step. Remove this callback."
            )
        self._steps = 0
        self.swap.enter(trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count steps of the optimizer. With accumulated gradients, a step takes several minibatches."""
        while self._steps < trainer.global_step:
            self._steps += 1
            self.swap.advance()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the finest network."""
        self.swap.leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the finest network after an error too."""
        self.swap.leave()
