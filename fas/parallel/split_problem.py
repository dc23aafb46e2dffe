"""A problem whose minibatches are split by rows among the ranks::

    f       = sum_r (n_r / N) f_r            f_r is the mean over the n_r rows of rank r, N = sum_r n_r
    grad f  = (1 / W) sum_r grad (W n_r / N) f_r,      the mean over W ranks that DistributedDataParallel takes

All ranks draw the same stream of whole minibatches, and each evaluates f on its own rows. Position, order and resume of the stream are
therefore those of one process, and an uneven last minibatch weighs its rows as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from netgraph.fas.estimate.samples import count_samples, cut_samples
from netgraph.fas.levels.grid import keep_modes, without_side_effects
from netgraph.fas.levels.smoother import check_gradient
from netgraph.fas.parallel.ranks import Ranks


def choose_rows(n: int, rank: int, count: int) -> tuple[int, int]:
    """Return the first row of a rank, and the one after its last: parts of n rows that differ by one at most.

    Examples
    --------
    >>> [choose_rows(7, rank, 3) for rank in range(3)]
    [(0, 2), (2, 4), (4, 7)]
    """
    return n * rank // count, n * (rank + 1) // count


class SplitValue:
    """f of a level on the rows of this rank, weighed so that the mean over the ranks is f on the whole minibatch.

    Parameters
    ----------
    value : callable ``(model, minibatch) -> scalar``
        f, a mean over the rows of a minibatch.
    ranks : Ranks
    """

    def __init__(self, value: Callable[[nn.Module, Any], Tensor], ranks: Ranks) -> None:
        self.value, self.ranks = value, ranks
        self._wrapped: dict[int, DistributedDataParallel] = {}  # by the id of its model, which it keeps alive
        self._moving: dict[int, list[str]] = {}  # names of the buffers that a step in training mode changes

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return W n_r / N times the mean over this rank's rows. A backward pass averages its gradient over the ranks.

        A rank without rows, in a minibatch of fewer rows than ranks, takes all of them with a weight of zero, because the others wait
        for its gradient.
        """
        n, count = count_samples(batch), self.ranks.count
        start, stop = choose_rows(n, self.ranks.rank, count)
        rows = cut_samples(batch, start, stop) if stop > start else batch
        loss = self.value(self._wrapped[id(model)] if torch.is_grad_enabled() else model, rows)
        weight = (stop - start) * count / n
        return loss if weight == 1.0 or not isinstance(loss, Tensor) else loss * weight

    def mean_over_ranks(self, number: float) -> float:
        """Return f on whole minibatches from that of this rank."""
        return self.ranks.mean(number)

    def hold_gradients(self, model: nn.Module) -> AbstractContextManager[None]:
        """Let gradients add up on each rank during a block. The next backward pass after it averages the sum."""
        return self._wrapped[id(model)].no_sync()

    def wrap(self, models: Sequence[nn.Module], batch: Callable[[int], Any]) -> None:
        """Wrap the networks of all levels, which take over the parameters and buffers of the first rank.

        Parameters
        ----------
        models : sequence of torch.nn.Module
        batch : callable ``(level) -> minibatch``
            Of any size, on the device of the level.
        """
        self._wrapped.clear()
        for level, model in enumerate(models):
            self._wrap_model(model, batch(level))

    # DistributedDataParallel orders its buckets anew after its first backward pass. The pass below is the first one in a run that begins
    # and in one that is resumed, so that both add up gradients in the same order.
    def _wrap_model(self, model: nn.Module, batch: Any) -> None:
        """Wrap a network after a pass that shows which parameters it leaves out and which buffers it changes."""
        floats = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        before = {name: buffer.clone() for name, buffer in floats.items()}
        with keep_modes([model]), without_side_effects([model]):
            model.train()
            loss = self.value(model, batch)
            check_gradient(loss)
            loss.backward()
            moving = [name for name, buffer in floats.items() if not torch.equal(buffer, before[name])]
        idle = any(p.requires_grad and p.grad is None for p in model.parameters())
        _forget_gradients(model)
        found = self.ranks.gather((idle, moving))
        self._wrapped[id(model)] = _average_gradients(model, any(each for each, _ in found))
        self._moving[id(model)] = [name for name in floats if any(name in names for _, names in found)]
        with keep_modes([model]), without_side_effects([model]):
            model.train()
            self(model, batch).backward()
        _forget_gradients(model)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all ranks the running statistics of the first one, as DistributedDataParallel does. Each rank has seen its own rows."""
        names = self._moving[id(model)]
        if names:
            buffers = dict(model.named_buffers())
            self.ranks.share_tensors([buffers[name] for name in names])


def _average_gradients(model: nn.Module, find_unused: bool) -> DistributedDataParallel:
    """Return a network whose backward passes average gradients. Its buffers are shared after steps alone (`SplitValue.share_buffers`)."""
    names = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers"
    if sync not in names:
        sync = "broadcast_buffers"  # its name until PyTorch 2.12
    settings: dict[str, Any] = {sync: False, "find_unused_parameters": find_unused}
    return DistributedDataParallel(model, **settings)


def _forget_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


class SplitProblem:
    """A problem of several processes: the same minibatches and figures, and f on the rows of each rank.

    Parameters
    ----------
    problem : Objective
    ranks : Ranks
    """

    def __init__(self, problem: Any, ranks: Ranks) -> None:
        self.batches: Iterable[Any] = problem.batches
        self.valid = getattr(problem, "valid", None)
        self.settings = dict(getattr(problem, "settings", {}))
        self.value = SplitValue(problem.value, ranks)
