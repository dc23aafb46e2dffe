"""Repair of a coarse network after merging. Each rung of the ladder includes those before it, from ``norms`` on.

``none``      nothing.
``rescale``   without data: give units the variance back that averaging took (`netgraph.coarsen.repair.variance`).
``norms``     estimate the statistics of every batch norm again on calibration data. Jordan et al., "REPAIR: REnormalizing
              permuted activations for interpolation repair", ICLR 2023, section 3.
``ridge``     also fit the weights of each layer by least squares. They map the inputs of the coarse network to the outputs of
              the fine layer (`netgraph.coarsen.repair.refit`), layer after layer.
``tune``      also train shortly towards the outputs of the fine network (`netgraph.coarsen.repair.distillation`).

The fine and the coarse network run side by side, with all calibration batches at once. Each layer is repaired on inputs that
come out of repaired layers, in one pass of both networks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn

from netgraph.coarsen.network.functional_error import split_batches
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.repair.batch_norm import merge_with_norms
from netgraph.coarsen.repair.distillation import tune_network
from netgraph.coarsen.repair.left_weights import SAME_INPUT, find_left_weights
from netgraph.coarsen.repair.recurrent import GATES, find_recurrent_obstacle, fit_recurrent
from netgraph.coarsen.repair.refit import Refit
from netgraph.coarsen.repair.variance import rescale_units
from netgraph.coarsen.repair.weight_products import FITTED, find_product_obstacle, name_layers, name_weight, walk_layers
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import BATCH_NORM
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.choices import DATA_RUNGS, RUNGS

STOPS = (*FITTED, BATCH_NORM, *GATES)  # calls before which networks pause


class Original(NamedTuple):
    """A network before some of its blocks were left out, from whose answers a shorter one is repaired.

    Parameters
    ----------
    network : GraphNetwork
        Its heads are in the basis of those of the shorter network.
    runs : dict of str to str
        By kept block the last block of the run for which it stands, which may be itself. Other blocks are missing.
    dropped : collection of str
        Paths of the blocks that are missing.
    """

    network: GraphNetwork
    runs: Mapping[str, str]
    dropped: Collection[str]


@dataclass
class RepairReport:
    """Result of a repair.

    Parameters
    ----------
    rung : str
        Rung of the ladder that was applied.
    fitted : dict of str to (float, float), default {}
        For each refitted weight the relative error of its outputs, before and after.
    norms : int, default 0
        Number of batch norms with new statistics.
    left : dict of str to str, default {}
        Weights of merged layers that were not refitted, and the reasons.

    Examples
    --------
    >>> from netgraph.coarsen import RepairReport
    >>> RepairReport("ridge", fitted={"fc2.weight": (0.3, 0.1)})
    RepairReport(rung='ridge', fitted={'fc2.weight': (0.3, 0.1)}, norms=0, left={})
    """

    rung: str
    fitted: dict[str, tuple[float, float]] = field(default_factory=dict)
    norms: int = 0
    left: dict[str, str] = field(default_factory=dict)


def repair_network(
    model: nn.Module,
    spec: UnitSpec,
    transfers: Mapping[str, Transfer],
    coarse: GraphNetwork,
    *,
    rung: str = "ridge",
    data: Any = None,
    batch: int = 64,
    strength: float | None = None,
    steps: int = 1000,
    seed: int = 0,
    original: Original | None = None,
    merged_only: bool = False,
) -> RepairReport:
    """Repair a coarse network in place.

    Parameters
    ----------
    model : torch.nn.Module
        The fine network. It stays as it is.
    spec : UnitSpec
        Of the fine network.
    transfers : dict of str to Transfer
        From its units to those of the coarse network.
    coarse : GraphNetwork
        The coarse network.
    rung : {"none", "rescale", "norms", "ridge", "tune"}, default "ridge"
        Rung of the ladder.
    data : Tensor, tuple or dict, optional
        Calibration inputs, nested like the traced example. ``norms``, ``ridge`` and ``tune`` need them.
    batch : int, default 64
        Rows at a time.
    strength : float, optional
        Strength of the ridge, as a share of the mean square of the layer's inputs. By default it is chosen for each layer on inputs
        that are held out.
    steps : int, default 1000
        Steps of ``tune``.
    seed : int, default 0
        Order and mixtures of inputs in ``tune``.
    original : Original, optional
        The network that has the blocks which ``model`` lacks. Layers are then fitted to its outputs: the last layer of a kept block to
        the stream behind the blocks that are missing after it.
    merged_only : bool, default False
        Fit only layers whose weights run over an axis that shrinks, and end behind the last of them. The error of the outputs is then
        known at a part of the cost. Layers after them do not correct what is left, and batch norms are estimated again as ever.

    Returns
    -------
    RepairReport

    Raises
    ------
    NetgraphError
        The rung is unknown, or it needs data and there are none.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.coarsen import repair_network
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> data = torch.randn(256, 8)
    >>> coarse = ng.build_hierarchy(model, data[:2]).levels[1]
    >>> report = repair_network(model, ng.trace(model, data[:2]), coarse.transfers, coarse.model, data=data)
    >>> sorted(report.fitted)
    ['2.weight']
    >>> before, after = report.fitted["2.weight"]
    >>> after < before
    True
    """
    check_rung(rung, data)
    report = RepairReport(rung)
    if rung == "rescale":
        rescale_units(model, spec, transfers, coarse)
    elif rung != "none":
        batches = split_batches(data, batch)
        fine = (coarse_network(model, spec, {}) if original is None else original.network).eval()
        training = coarse.training
        coarse.eval()
        merge_with_norms(model, spec, transfers, coarse)
        refit = Refit(spec, transfers, traced_state(model), coarse.tensors(), strength)
        _repair_layers(fine, coarse, batches, refit, report, original, merged_only)
        if rung == "tune":
            tune_network(fine, coarse, data, steps=steps, batch=batch, seed=seed, outputs=spec.outputs)
        coarse.train(training)
    return report


def check_rung(rung: str, data: Any) -> None:
    """Raise `NetgraphError` for an unknown rung, or for one that needs data and has none."""
    if rung not in RUNGS:
        raise NetgraphError(f"no repair is called {rung!r}. Choose one of {', '.join(RUNGS)}.")
    if data is None and rung in DATA_RUNGS:
        raise NetgraphError(f"repair {rung!r} needs calibration data. Give some, or choose none or rescale.")


def _repair_layers(
    fine: GraphNetwork,
    coarse: GraphNetwork,
    batches: Sequence[Any],
    refit: Refit,
    report: RepairReport,
    original: Original | None,
    merged_only: bool,
) -> None:
    """Walk both networks side by side, layer by layer, and fit or estimate each layer of the coarse one."""
    # Both walks pause before the same calls, in the same order, except in blocks that the coarse network lacks. A layer of the
    # coarse network is changed while it waits for its call, and so all later layers read its repaired outputs.
    walks = walk_layers(fine, batches, STOPS), walk_layers(coarse, batches, STOPS)
    pairs = zip(*walks, strict=True) if original is None else _pair_stops(*walks, original, refit)
    fitted_norms: set[str] = set()
    for fine_layer, coarse_layer in islice(pairs, _count_needed(coarse, refit) if merged_only else None):
        with torch.no_grad():
            if coarse_layer.function is BATCH_NORM:
                report.norms += estimate_statistics(coarse_layer, keep=coarse_layer.names[3] in fitted_norms)
            elif report.rung != "norms" and coarse_layer.function in GATES:
                _fit_recurrent(fine_layer, coarse_layer, refit, report)
            elif report.rung != "norms" and (not merged_only or refit.is_merged(coarse_layer.names[1])):
                _fit_layer(fine_layer, coarse_layer, refit, report, fitted_norms)
    if report.rung != "norms":
        report.left.update(find_left_weights(refit.spec, refit.transfers, {*report.fitted, *report.left}))


def _count_needed(coarse: GraphNetwork, refit: Refit) -> int | None:
    """Return the number of pauses up to the last merged layer, or None for all of them, where batch norms may follow."""
    if coarse.steps("eval").name_stops((BATCH_NORM, *GATES)):
        return None
    stops = name_layers(coarse, STOPS)
    return max((i for i, (_, names) in enumerate(stops, 1) if any(map(refit.is_merged, names))), default=0)


def _pair_stops(
    fine: Iterator[CallSite], coarse: Iterator[CallSite], original: Original, refit: Refit
) -> Iterator[tuple[CallSite, CallSite]]:
    """Yield the pauses of the coarse network, each with the one of the original whose outputs it takes over."""
    joins = {name: join for name, join in _find_joins(original).items() if refit.find_norm(name) is None}
    for coarse_layer in coarse:
        weight = coarse_layer.names[1] if len(coarse_layer.names) > 1 else None
        join = joins.get(str(weight)) if coarse_layer.summand is not None else None
        fine_layer = next(stop for stop in fine if not _is_in(stop.names, original.dropped))
        if join is not None:
            fine_layer = next(stop for stop in fine if join in stop.names)
        yield fine_layer, coarse_layer


def _find_joins(original: Original) -> dict[str, str]:
    """Return by the last weight of each kept block that of the last block of its run, where blocks are missing after it."""
    weights = [name for stop in name_layers(original.network, FITTED) if (name := name_weight(*stop)) is not None]
    joins = {}
    for kept, last in original.runs.items():
        inside = [weight for weight in weights if weight.startswith(f"{last}.")]
        if last != kept and inside:
            joins[f"{kept}{inside[-1].removeprefix(last)}"] = inside[-1]
    return joins


def has_named_stops(original: Original, shorter: GraphNetwork) -> bool:
    """Return True if the pauses in the missing blocks are known by the names of their parameters, so that the others can be paired."""
    kept = [stop for stop in name_layers(original.network, STOPS) if not _is_in(stop[1], original.dropped)]
    return kept == name_layers(shorter, STOPS)


def _is_in(names: Sequence[str | None], blocks: Collection[str]) -> bool:
    """Return True if one of the names is that of a parameter of a block."""
    return any(name is not None and name.startswith(tuple(f"{block}." for block in blocks)) for name in names)


def _reads_same_input(fine: CallSite, coarse: CallSite) -> bool:
    """Return True if a layer reads the same input as the fine layer. Merging then gave its best weights."""
    x, y = fine.arguments[0][0], coarse.arguments[0][0]
    return x.shape == y.shape and torch.equal(x, y)


def _fit_layer(fine: CallSite, coarse: CallSite, refit: Refit, report: RepairReport, fitted_norms: set[str]) -> None:
    """Fit a layer, or report the reason why it is not fitted."""
    if (reason := find_product_obstacle(coarse)) is not None:
        if refit.is_merged(name := name_weight(coarse.function, coarse.names)):
            report.left[str(name)] = reason
        return
    name = coarse.names[1]
    norm = None if name is None else refit.find_norm(name)
    if _reads_same_input(fine, coarse):
        if refit.is_merged(name):
            report.left[str(name)] = SAME_INPUT
        if norm is not None:  # layer and norm give the target as they are, and new statistics would move them from it
            fitted_norms.add(norm[2])
        return
    obstacle = refit.find_obstacle(fine, coarse)
    if obstacle is not None:
        if obstacle[0] is not None:
            report.left[obstacle[0]] = obstacle[1]
        return
    assert name is not None
    report.fitted[name] = refit.fit_layer(fine, coarse)
    if norm is not None:
        fitted_norms.add(norm[2])


def _fit_recurrent(fine: CallSite, coarse: CallSite, refit: Refit, report: RepairReport) -> None:
    """Fit the layers of a recurrent call, or report the reason why they cannot be fitted."""
    shapes = [[tensor.shape for tensor in stop.arguments[0][2]] for stop in (fine, coarse)]
    if shapes[0] == shapes[1] and _reads_same_input(fine, coarse):
        return
    obstacle = find_recurrent_obstacle(refit, coarse)
    if obstacle is None:
        report.fitted.update(fit_recurrent(refit, fine, coarse))
    else:
        report.left.update(dict.fromkeys(*obstacle))


def estimate_statistics(stop: CallSite, *, keep: bool) -> bool:
    """Set the mean and variance of a norm to those of its input.

    Parameters
    ----------
    stop : CallSite
    keep : bool
        Change scale and shift too, and so keep the function of the norm: a fit has chosen it already.

    Returns
    -------
    bool
        True if the norm has statistics.
    """
    _, scale, shift, mean, variance, _, _, eps = stop.arguments[0][:8]
    if stop.names[3] is None or stop.names[4] is None:
        return False
    flat = [arguments[0].movedim(1, 0).flatten(1).double() for arguments in stop.arguments]  # (channels, n)
    n = sum(x.shape[1] for x in flat)
    m = sum(x.sum(1) for x in flat) / n
    v = sum((x - m[:, None]).square().sum(1) for x in flat) / max(n - 1, 1)
    if keep:  # new scale / sqrt(v + eps) = gain, and new shift - gain m = shift - gain mean
        gain = scale.double() / (variance.double() + eps).sqrt()
        scale.copy_(gain * (v + eps).sqrt())
        shift.add_(gain * (m - mean))
    mean.copy_(m)
    variance.copy_(v)
    return True
