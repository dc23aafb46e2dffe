"""The endless stream of minibatches that all levels share; its place can be written down and found again.

Before each pass ``set_epoch`` is called where the batches have it (as a ``DistributedSampler`` does), and the first batch is
drawn under a seed of its own, so that a shuffling ``DataLoader`` gives the same order whatever was trained before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.solver.problem import count_batches
from netgraph.fas.solver.random_state import find_generators


class MinibatchStream:
    """Minibatches, pass after pass.

    Parameters
    ----------
    batches : iterable
    seed : int

    Attributes
    ----------
    epoch : int
        Passes that were begun, less one.
    position : int
        Minibatches taken of the pass.
    """

    def __init__(self, batches: Iterable[Any], seed: int) -> None:
        self.batches, self.seed = batches, seed
        self.epoch, self.position = 0, 0
        self._pass: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._own: list[torch.Tensor] = []  # the loader's own generators where the pass began

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next minibatch, of the next pass where this one is over."""
        found = self.peek()
        self._ahead.clear()
        self.position += 1
        return found

    def peek(self) -> Any:
        """Return the minibatch that is next, and leave it there."""
        if self._pass is None:
            self._begin()
        assert self._pass is not None
        if not self._ahead:
            try:
                self._ahead.append(next(self._pass))
            except StopIteration:
                self.epoch, self.position, self._pass = self.epoch + 1, 0, None
                return self.peek()
        return self._ahead[0]

    def take(self, n: int) -> list[Any]:
        """Return the next n minibatches."""
        return [next(self) for _ in range(n)]

    def _begin(self) -> None:
        set_epoch = getattr(self.batches, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.epoch)
        self._own = [generator.get_state() for generator in find_generators(self.batches)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self.epoch)
            self._pass = iter(self.batches)
            first = next(self._pass, None)
        if first is None and self.position == 0:
            self._refuse_empty()
        self._ahead = [first]

    def _refuse_empty(self) -> None:
        """A pass may hold the minibatch ``None``, for a problem without data; an empty one is a mistake."""
        if count_batches(self.batches) == 0:
            raise NetgraphError(
                "there are no minibatches; give a loader that is not empty (is drop_last larger than it?)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream, with the states of the loader's own generators where the pass began and now."""
        now = [generator.get_state() for generator in find_generators(self.batches)]
        began = self._own if self._pass is not None else now
        return {"epoch": self.epoch, "position": self.position, "ahead": len(self._ahead), "began": began, "now": now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place in the stream: the pass is begun again, and what was taken of it is drawn and left."""
        self.epoch, self.position, self._pass, self._ahead = state["epoch"], 0, None, []
        own = find_generators(self.batches)
        for generator, began in zip(own, state.get("began", ()), strict=False):
            generator.set_state(began)
        for _ in range(state["position"]):
            next(self)
        if state["ahead"]:
            self.peek()
        for generator, now in zip(own, state.get("now", ()), strict=False):
            generator.set_state(now)
