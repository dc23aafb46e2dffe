"""What has to be the same on all ranks, and what a split of minibatches supposes, checked before work begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from netgraph.errors import NetgraphError
from netgraph.fas.estimate.checks import list_estimated
from netgraph.fas.estimate.samples import count_samples, cut_samples
from netgraph.fas.levels.grid import keep_modes, without_side_effects
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.levels.rematch import digest_axes
from netgraph.fas.levels.smoother import compute_value
from netgraph.fas.options.all_options import Options
from netgraph.fas.parallel.ranks import Ranks
from netgraph.fas.parallel.split_problem import choose_rows
from netgraph.utils.pytree import build_structure

TOLERANCE = 1e-3  # of the loss, far above rounding in single precision
NOISE = 10.0  # multiple of the change between two seeds that a random loss may differ by
SEEDS_ALIKE = "Give every rank the same seed before the network and its hierarchy are made."


def check_same_levels(ranks: Ranks, maps: Maps) -> None:
    """Refuse levels that differ between the ranks, by the level, the axis and both digests.

    Raises
    ------
    NetgraphError
    """
    if not ranks.are_several:
        return
    facts: dict[str, Any] = {"the number of levels": len(maps.models)}
    if isinstance(maps, HierarchyMaps):
        for i, level in enumerate(maps.hierarchy.levels):
            facts |= {f"the aggregates of axis {axis} of level {i}": d for axis, d in digest_axes(level).items()}
    for i, model in enumerate(maps.models):  # last, because the aggregates decide them
        facts[f"the shapes of level {i}"] = _digest(f"{n} {tuple(p.shape)}" for n, p in model.named_parameters())
    ranks.check_equal(facts, SEEDS_ALIKE)


def check_same_weights(ranks: Ranks, model: nn.Module, level: int) -> None:
    """End a run whose ranks have come apart, as by an f that does not call the network that it is given.

    Raises
    ------
    NetgraphError
    """
    if ranks.are_several:
        sums = {f"the weights of {name} on level {level}": total for name, total in sum_bits(model).items()}
        ranks.check_equal(sums, "Each has trained by itself. Let value(model, batch) call model(...) itself.")


def sum_bits(model: nn.Module) -> dict[str, int]:
    """Return the sum of the bits of each parameter, read as whole numbers."""
    parameters = dict(model.named_parameters())
    if not parameters:
        return {}
    sums = [_as_whole_numbers(p.detach()).sum(dtype=torch.int64) for p in parameters.values()]
    return dict(zip(parameters, torch.stack([total.cpu() for total in sums]).tolist(), strict=True))


def _as_whole_numbers(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor as integers of the size of its numbers."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return real.contiguous().view(sizes[real.element_size()])


def check_same_run(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Refuse ranks whose runs have other lengths, options or seeds."""
    short = {
        name: value if isinstance(value, (int, float)) else _digest([repr(value)]) for name, value in facts.items()
    }
    ranks.check_equal(short, "Start all of them with the same arguments.")


def check_no_estimates(options: Options, n_levels: int) -> None:
    """Refuse gradients that are estimated from several levels.

    Raises
    ------
    NetgraphError
    """
    if list_estimated(options, n_levels):
        raise NetgraphError(
            "estimate.kind takes a gradient from samples of several levels, which several processes do not share yet. Set it to "
            "minibatch, or train in one process."
        )


def check_split(
    ranks: Ranks,
    batches: Iterable[Any],
    n_batches: int | None,
    batch: Any,
    model: nn.Module,
    value: Callable[[nn.Module, Any], Tensor],
) -> None:
    """Refuse minibatches that cannot be split among the ranks.

    Parameters
    ----------
    ranks : Ranks
    batches : iterable
    n_batches : int or None
        Their number in one pass, None if it is unknown.
    batch : object
        The first of them, on the device of the model.
    model : torch.nn.Module
        The finest network.
    value : callable ``(model, minibatch) -> scalar``
        f on whole minibatches.

    Raises
    ------
    NetgraphError
        The loader splits them already, the ranks have other data, the number of ranks does not divide the rows, or f is no mean over rows.
    """
    if isinstance(getattr(batches, "sampler", None), DistributedSampler):
        raise NetgraphError(
            "the loader has a DistributedSampler, which gives each rank data of its own. Give all ranks the same loader without it: "
            "each takes its rows of every minibatch."
        )
    facts = {"the number of minibatches": n_batches, "the first minibatch": _digest_batch(batch)}
    ranks.check_equal(
        facts, "Give all of them the same data in the same order. Each takes its rows of every minibatch."
    )
    n = _find_rows(batches, batch)
    if n % ranks.count:
        raise NetgraphError(
            f"a minibatch has {n} rows, which {ranks.count} processes cannot share equally. Take a multiple of {ranks.count}, or "
            "another number of processes."
        )
    _check_mean(ranks, batch, model, value)


def _find_rows(batches: Iterable[Any], batch: Any) -> int:
    """Return the rows of a minibatch as the loader states them, which the first of texts may not have, or those of the first."""
    n = count_samples(batch)
    stated = (getattr(batches, name, None) for name in ("batch_size", "batch"))
    return next((size for size in stated if isinstance(size, int)), n)


def _check_mean(ranks: Ranks, batch: Any, model: nn.Module, value: Callable[[nn.Module, Any], Tensor]) -> None:
    """Refuse an f that is not the mean over rows. The mean over the ranks would be another function."""
    n = count_samples(batch)
    start, stop = choose_rows(n, ranks.rank, ranks.count)
    with keep_modes([model]):
        model.eval()
        whole, again = (_evaluate(model, value, batch, seed) for seed in (1, 2))
        part = _evaluate(model, value, cut_samples(batch, start, stop), 1) if stop > start else 0.0
    mean = ranks.mean(part * (stop - start) * ranks.count / n)
    whole, again = ranks.share((whole, again))
    if abs(mean - whole) > TOLERANCE * max(abs(mean), abs(whole)) + NOISE * abs(whole - again):
        raise NetgraphError(
            f"the loss of a minibatch is {whole:.6g}, and the mean over the rows of {ranks.count} processes is {mean:.6g}. A split among "
            "processes needs a loss that is the mean over rows. Take reduction='mean' and a loss that does not couple or weigh rows."
        )


def _evaluate(model: nn.Module, value: Callable[[nn.Module, Any], Tensor], batch: Any, seed: int) -> float:
    """Return f on a minibatch under a seed, without side effects."""
    with without_side_effects([model]), torch.no_grad():
        torch.manual_seed(seed)
        return float(compute_value(model, value, batch, bf16=False))


def _digest_batch(batch: Any) -> str:
    """Return a digest of the tensors of a minibatch."""
    leaves: list[Tensor] = []
    build_structure(batch, leaves)
    digest = hashlib.sha256()
    for leaf in leaves:
        numbers = torch.view_as_real(leaf) if leaf.is_complex() else leaf
        digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        digest.update(numbers.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def _digest(words: Iterable[str]) -> str:
    """Return a digest of words."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
