"""The endless stream of minibatches that all levels share. Its position can be saved and found again.

Before each pass the stream calls ``set_epoch`` of the batches, if they have it (as a ``DistributedSampler`` does). It draws the
first minibatch under a seed of its own. A shuffling ``DataLoader`` therefore gives the same order whatever was trained before.
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
        Seed of the first pass. Each further pass adds one.

    Attributes
    ----------
    epoch : int
        Number of the pass, from 0.
    position : int
        Minibatches taken of the pass.
    """

    def __init__(self, batches: Iterable[Any], seed: int) -> None:
        self.batches, self.seed = batches, seed
        self.epoch, self.position = 0, 0
        self._pass: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._began: list[torch.Tensor] = []  # states of the loader's own generators when the pass began

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next minibatch. After the last one of a pass, the next pass begins."""
        batch = self.peek()
        self._ahead.clear()
        self.position += 1
        return batch

    def peek(self) -> Any:
        """Return the next minibatch without taking it."""
        if self._pass is None:
            self._begin_pass()
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

    def _begin_pass(self) -> None:
        """Begin a pass, and draw its first minibatch ahead."""
        set_epoch = getattr(self.batches, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.epoch)
        self._began = [generator.get_state() for generator in find_generators(self.batches)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self.epoch)
            self._pass = iter(self.batches)
            first = next(self._pass, None)
        if first is None and self.position == 0:
            self._refuse_empty()
        self._ahead = [first]

    def _refuse_empty(self) -> None:
        """Refuse an empty pass. A pass with the minibatch ``None`` is allowed, for a problem without data."""
        if count_batches(self.batches) == 0:
            raise NetgraphError(
                "there are no minibatches. Give a loader that is not empty. With drop_last, a batch may be larger than the data."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the states of the loader's own generators when the pass began and now."""
        now = [generator.get_state() for generator in find_generators(self.batches)]
        began = self._began if self._pass is not None else now
        return {"epoch": self.epoch, "position": self.position, "ahead": len(self._ahead), "began": began, "now": now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position: begin the pass again, then draw and drop the minibatches that were taken."""
        self.epoch, self.position, self._pass, self._ahead = state["epoch"], 0, None, []
        generators = find_generators(self.batches)
        for generator, began in zip(generators, state.get("began", ()), strict=False):
            generator.set_state(began)
        most = 2 * (count_batches(self.batches) or 0) + 1000  # the length of a loader may be an estimate
        if type(state["position"]) is not int or not 0 <= state["position"] <= most:
            raise ValueError(f"its position is {state['position']!r:.40} in a pass of minibatches")
        for _ in range(state["position"]):
            next(self)
        if state["ahead"]:
            self.peek()
        for generator, now in zip(generators, state.get("now", ()), strict=False):
            generator.set_state(now)
