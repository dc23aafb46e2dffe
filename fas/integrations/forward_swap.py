"""Run a coarse network in place of the finest one while a trainer calls the finest one. The callbacks use this."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim.optimizer import Optimizer

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.coarse_start import CoarseStart
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.options.all_options import Options

logger = logging.getLogger("netgraph.standin")


class ForwardSwap:
    """Nested iteration inside a trainer that knows only the finest network.

    The ``forward`` of the finest network runs the current level, and the trainer's optimizer has the parameters of that level.

    Parameters
    ----------
    hierarchy : Hierarchy or Maps
        Hierarchy of the network that the trainer calls, or levels of your own.
    begin : sequence of int
        Steps on level 1, level 2, and so on.
    options : Options, optional
        Only ``split`` and ``smoothing.moments`` have an effect, without ``split.rewarm``.
    ignored : sequence of str
        Keyword arguments that coarse networks do not get. They take those of the example that they were traced on.
    seed : int
        Seed of the noise that makes copies of a unit differ.
    """

    def __init__(
        self,
        hierarchy: Hierarchy | Maps,
        begin: Sequence[int],
        *,
        options: Options | None = None,
        ignored: Sequence[str] = (),
        seed: int = 7619,
    ) -> None:
        self.maps: Maps = HierarchyMaps(hierarchy) if isinstance(hierarchy, Hierarchy) else hierarchy
        self.begin, self.options, self.ignored, self.seed = begin, options or Options(), ignored, seed
        self.start: CoarseStart | None = None

    @property
    def level(self) -> int:
        """Number of the current level, 0 before and after training."""
        return 0 if self.start is None else self.start.level

    def enter(self, optimizer: Optimizer) -> None:
        """Begin training: give the optimizer the parameters of the coarsest level."""
        self.start = CoarseStart(self.maps, optimizer, self.begin, self.options, self.seed)
        self._replace_forward()

    def advance(self) -> None:
        """Count a step of the optimizer, and replace ``forward`` if the level changes."""
        if self.start is not None and self.start.advance():
            logger.info("training continues on level %d", self.start.level)
            self._replace_forward()

    def leave(self) -> None:
        """End training: prolong the weights of a coarse level, and restore the finest network's ``forward``."""
        if self.start is not None and self.start.level:
            logger.warning(
                "training ended on level %d. Its weights are prolonged, and no finer level was trained", self.level
            )
            self.start.finish()
        self._replace_forward()
        self.start = None

    def _replace_forward(self) -> None:
        """Let the finest network run the current level."""
        finest = self.maps.models[0]
        finest.__dict__.pop("forward", None)
        if self.level:
            finest.forward = self._coarse_forward(self.maps.models[self.level])

    def _coarse_forward(self, coarse: Any) -> Callable[..., Any]:
        finest = self.maps.models[0]

        def forward(*inputs: Any, **named: Any) -> Any:
            if "labels" in named:
                raise NetgraphError(
                    "a coarse network cannot compute a loss from labels. Give the Trainer compute_loss_func."
                )
            if coarse.training != finest.training:
                coarse.train(finest.training)
            return coarse(*inputs, **{name: value for name, value in named.items() if name not in self.ignored})

        return forward
