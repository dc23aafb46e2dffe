"""What an estimate from several levels cannot do, refused by name before work begins.

The weights of its terms suppose that f of a minibatch is the mean over its samples. Statistics of the minibatch, as in batch norms in
training mode, and losses that add up or weigh samples break that. The difference of two levels would then not have the expectation of
zero that the sum needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import NetgraphError
from netgraph.fas.estimate.samples import count_samples, cut_samples
from netgraph.fas.estimate.step import PLAIN, EstimateRun
from netgraph.fas.levels.grid import keep_modes, without_side_effects
from netgraph.fas.levels.smoother import Value, compute_value
from netgraph.fas.levels.vectors import copy_vector
from netgraph.fas.options.all_options import Options
from netgraph.optim.optimizers import needs_closure

PROBE = 8  # samples on which the mean is checked
FORWARDS = 5  # passes of all of them that `check_mean` takes
TOLERANCE = 1e-3  # of the loss, far above rounding in single precision
LEAVE = "or set estimate.kind to minibatch."


def list_estimated(options: Options, n_levels: int) -> list[int]:
    """Return the levels whose gradients come from several levels."""
    return [level for level in range(n_levels - 1) if options.estimate_of(level).kind != PLAIN]


def check_estimate(run: EstimateRun, cycle: str) -> None:
    """Refuse cycles, levels, minibatches and losses that an estimate does not fit.

    Raises
    ------
    NetgraphError
        The cycle is additive, the optimizer evaluates the loss itself, the levels have no distribute or no costs, a minibatch cannot be cut, or f is no mean over samples.
    """
    levels = list_estimated(run.options, len(run.grids))
    if not levels:
        return
    if cycle == "additive":
        raise NetgraphError(
            "an additive cycle smooths a level while the next one holds its correction, and an estimate writes to that level. Take "
            f"another cycle, {LEAVE}"
        )
    optimizer = run.grids[levels[0]].smoother.optimizer
    if needs_closure(optimizer):
        raise NetgraphError(
            f"{type(optimizer).__name__} evaluates the loss itself, and an estimate is a gradient without a loss. Take another optimizer, "
            f"{LEAVE}"
        )
    check_levels(run)
    batch = run.move_to_level(run.stream.peek(), run.grids[levels[0]])
    n = count_samples(batch)
    if n < 2:
        raise NetgraphError(
            f"a minibatch has 1 sample, and an estimate cuts it into several. Give larger ones, {LEAVE}"
        )
    sample = cut_samples(batch, 0, min(n, PROBE))
    for level, grid in enumerate(run.grids[levels[0] :], start=levels[0]):
        forwards = check_mean(grid.model, run.problem.value, sample, level)
        run.ledger.spend(level, "variance", forwards * min(n, PROBE) * run.maps.flops[level])


def check_levels(run: EstimateRun) -> None:
    """Refuse levels without the map that carries coarse gradients up, and levels without costs."""
    if not hasattr(run.maps, "distribute"):
        raise NetgraphError(
            f"the levels are a {type(run.maps).__name__} without distribute, the transpose of inject, which carries coarse gradients "
            f"up. Give it that method, {LEAVE}"
        )
    if not all(cost > 0 for cost in run.maps.flops):
        raise NetgraphError(
            f"the levels cost {', '.join(f'{cost:g}' for cost in run.maps.flops)} operations, and samples are shared out by cost. Give "
            f"numbers above 0, {LEAVE}"
        )


def check_mean(model: nn.Module, value: Value, batch: Any, level: int) -> int:
    """Refuse an f that is not the mean over the samples of a minibatch, and return the number of forward passes.

    Random numbers, as of dropout, differ between a minibatch and its halves. A random network is compared in evaluation mode.

    Raises
    ------
    NetgraphError
        The network or the loss couples samples.
    """
    with keep_modes([model]):
        model.train()
        whole, again = (_evaluate_seeded(model, value, batch, seed) for seed in (1, 2))
        if whole != again:
            model.eval()
        loss, halves = _evaluate_seeded(model, value, batch, 1), _evaluate_halves(model, value, batch)
        model.train()
        changed = _find_changed_buffer(model, value, batch)
    if abs(loss - halves) > TOLERANCE * max(abs(loss), abs(halves)):
        raise NetgraphError(
            f"the loss of a minibatch is {loss:.6g} on level {level}, and the mean over its halves is {halves:.6g}. An estimate needs a "
            f"loss that is the mean over samples. Take reduction='mean' and layers that do not couple samples, {LEAVE}"
        )
    if changed is not None:
        raise NetgraphError(
            f"{changed} of level {level} holds statistics of minibatches, such as those of a batch norm in training mode. Small minibatches "
            f"have other ones than large ones, and an estimate needs a loss that is the mean over samples. Take other norms, {LEAVE}"
        )
    return FORWARDS


def _evaluate_seeded(model: nn.Module, value: Value, batch: Any, seed: int) -> float:
    """Return f on a minibatch under a seed, without side effects."""
    with without_side_effects([model]), torch.no_grad():
        torch.manual_seed(seed)
        return float(compute_value(model, value, batch, bf16=False))


def _evaluate_halves(model: nn.Module, value: Value, batch: Any) -> float:
    """Return the mean of f over the samples of two halves."""
    n = count_samples(batch)
    half = n // 2
    first, second = (_evaluate_seeded(model, value, cut_samples(batch, *cut), 1) for cut in ((0, half), (half, n)))
    return (half * first + (n - half) * second) / n


def _find_changed_buffer(model: nn.Module, value: Value, batch: Any) -> str | None:
    """Return the name of a buffer that a forward pass in training mode sets by its minibatch."""
    n = count_samples(batch)
    first, second = (_read_buffers(model, value, cut_samples(batch, *cut)) for cut in ((0, n // 2), (n // 2, n)))
    return next((name for name, tensor in first.items() if not torch.equal(tensor, second[name])), None)


def _read_buffers(model: nn.Module, value: Value, batch: Any) -> dict[str, Tensor]:
    """Return the buffers of real numbers after a forward pass, and restore them."""
    with without_side_effects([model]), torch.no_grad():
        compute_value(model, value, batch, bf16=False)
        return copy_vector({name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()})
