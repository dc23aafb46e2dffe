"""A coarse network in the place of the finest one, while a trainer of somebody else's calls that: for its callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim.optimizer import Optimizer

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.coarse_start import CoarseStart
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.options import Options

logger = logging.getLogger("netgraph.standin")


class ForwardSwap:
    """Nested iteration behind the back of a trainer.

    The finest network's ``forward`` runs the level at work, and the trainer's optimizer has that level's parameters.

    Parameters
    ----------
    hierarchy : Hierarchy, or levels of your own
        Of the network that the trainer calls.
    begin : sequence of int
        Steps on level 1, level 2, and so on.
    options : Options, optional
        ``split`` and ``smoothing.moments`` count.
    ignored : sequence of str
        Keyword arguments that coarse networks, which take what their example had, are not given.
    seed : int
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
        """The level at work; the finest before and after training."""
        return 0 if self.start is None else self.start.level

    def enter(self, optimizer: Optimizer) -> None:
        """Begin: the optimizer gets the coarsest level's parameters."""
        self.start = CoarseStart(self.maps, optimizer, self.begin, self.options, self.seed)
        self._replace_forward()

    def advance(self) -> None:
        """Count a step of the optimizer."""
        if self.start is not None and self.start.advance():
            logger.info("training goes on on level %d", self.start.level)
            self._replace_forward()

    def leave(self) -> None:
        """End: weights of a coarse level that is still at work go up, and the finest network is itself again."""
        if self.start is not None and self.start.level:
            logger.warning(
                "training ended on level %d; its weights are prolonged, and no finer level was trained", self.level
            )
            self.start.finish()
        self._replace_forward()
        self.start = None

    def _replace_forward(self) -> None:
        finest = self.maps.models[0]
        finest.__dict__.pop("forward", None)
        if self.level:
            finest.forward = self._forward(self.maps.models[self.level])

    def _forward(self, coarse: Any) -> Callable[..., Any]:
        finest = self.maps.models[0]

        def forward(*inputs: Any, **named: Any) -> Any:
            if "labels" in named:
                raise NetgraphError("a coarse network computes no loss from labels; give the Trainer compute_loss_func")
            if coarse.training != finest.training:
                coarse.train(finest.training)
            return coarse(*inputs, **{name: value for name, value in named.items() if name not in self.ignored})

        return forward
