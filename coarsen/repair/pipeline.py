"""Repair: what a coarse network can regain after merging, rung by rung.

``none``      nothing.
``rescale``   without data: what averaging unlike units took from their variance is given back (`netgraph.coarsen.repair.variance`).
``norms``     every batch norm's statistics are estimated anew on calibration data. Jordan et al., "REPAIR: REnormalizing
              permuted activations for interpolation repair", ICLR 2023, section 3.
``ridge``     besides, each layer's weights are fitted by least squares so that from the coarse network's inputs they give
              what the fine layer answers (`netgraph.coarsen.repair.refit`), layer after layer.
``tune``      besides, a short training towards the fine network's own outputs (`netgraph.coarsen.repair.distillation`).

The fine and the coarse network run side by side, all calibration batches at once, so each layer is repaired on inputs
that come out of repaired layers: one pass of both networks in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netgraph.coarsen.network.functional_error import split_batches
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.repair.batch_norm import merge_with_norms
from netgraph.coarsen.repair.distillation import tune_network
from netgraph.coarsen.repair.refit import Refit
from netgraph.coarsen.repair.variance import rescale_units
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import LAYERS, NORM
from netgraph.tracing.unit_spec import UnitSpec

RUNGS = ("none", "rescale", "norms", "ridge", "tune")


@dataclass
class RepairReport:
    """What a repair did.

    Parameters
    ----------
    rung : str
    fitted : dict of str to (float, float)
        For each refitted weight the relative error of its answers, before and after.
    norms : int
        Batch norms with new statistics.
    left : dict of str to str
        Weights that were not refitted, and why.
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
) -> RepairReport:
    """Repair a coarse network in place.

    Parameters
    ----------
    model : torch.nn.Module
        The fine network; is left as it is.
    spec : UnitSpec
        Of the fine network.
    transfers : dict of str to Transfer
        From its units to the coarse network's.
    coarse : GraphNetwork
    rung : str
        ``none``, ``rescale``, ``norms``, ``ridge`` or ``tune``.
    data : Tensor, tuple or dict, optional
        Calibration inputs, nested as the traced example; needed from ``norms`` on.
    batch : int
        Rows at a time.
    strength : float, optional
        Of the ridge, as a share of the mean square of what a layer's weights multiply; by default chosen for each layer
        on inputs held out.
    steps : int
        Of the tuning.
    seed : int
        Of the tuning's order and mixtures.

    Returns
    -------
    Repair

    Raises
    ------
    NetgraphError
        An unknown rung, or no data where it needs some.
    """
    check_rung(rung, data)
    done = RepairReport(rung)
    if rung == "rescale":
        rescale_units(model, spec, transfers, coarse)
    elif rung != "none":
        batches = split_batches(data, batch)
        fine = coarse_network(model, spec, {}).eval()
        training = coarse.training
        coarse.eval()
        merge_with_norms(model, spec, transfers, coarse)
        _repair_layers(
            fine, coarse, batches, Refit(spec, transfers, traced_state(model), coarse.tensors(), strength), done
        )
        if rung == "tune":
            tune_network(fine, coarse, data, steps=steps, batch=batch, seed=seed)
        coarse.train(training)
    return done


def check_rung(rung: str, data: Any) -> None:
    """Raise `NetgraphError` for a rung that does not exist, or that lacks its data."""
    if rung not in RUNGS:
        raise NetgraphError(f"no repair is called {rung!r}; choose one of {', '.join(RUNGS)}")
    if data is None and rung in ("norms", "ridge", "tune"):
        raise NetgraphError(f"repair {rung!r} needs calibration data; give some, or choose none or rescale")


def _repair_layers(
    fine: GraphNetwork, coarse: GraphNetwork, batches: Sequence[Any], refit: Refit, done: RepairReport
) -> None:
    ways = (network.walk(batches, (*LAYERS, NORM)) for network in (fine, coarse))
    kept: set[str] = set()
    for a, b in zip(*ways, strict=True):
        with torch.no_grad():
            if b.function is NORM:
                done.norms += estimate_statistics(b, keep=b.names[3] in kept)
            elif done.rung != "norms" and not _reads_same_input(a, b):
                _fit_layer(a, b, refit, done, kept)


def _reads_same_input(fine: CallSite, coarse: CallSite) -> bool:
    """Tell whether a layer reads what the fine one reads: merging then gave its best weights."""
    x, y = fine.arguments[0][0], coarse.arguments[0][0]
    return x.shape == y.shape and torch.equal(x, y)


def _fit_layer(fine: CallSite, coarse: CallSite, refit: Refit, done: RepairReport, kept: set[str]) -> None:
    """Fit a layer; say of those that cannot be fitted why."""
    hindrance = refit.find_obstacle(coarse)
    if hindrance is not None:
        done.left.update([hindrance])
        return
    name = coarse.names[1]
    assert name is not None
    done.fitted[name] = refit.layer(fine, coarse)
    if (norm := refit.norm(name)) is not None:
        kept.add(norm[2])


def estimate_statistics(stop: CallSite, *, keep: bool) -> bool:
    """Write the mean and variance of what a norm is about to see; return whether there were old ones.

    With ``keep`` its scale and shift change too, so that it computes what it did: a fit chose that already.
    """
    _, scale, shift, mean, variance, _, _, eps = stop.arguments[0][:8]
    if stop.names[3] is None or stop.names[4] is None:
        return False
    flat = [arguments[0].movedim(1, 0).flatten(1).double() for arguments in stop.arguments]  # (channels, n)
    n = sum(x.shape[1] for x in flat)
    m = sum(x.sum(1) for x in flat) / n
    v = sum((x - m[:, None]).square().sum(1) for x in flat) / max(n - 1, 1)
    if keep:
        gain = scale.double() / (variance.double() + eps).sqrt()
        scale.copy_(gain * (v + eps).sqrt())
        shift.add_(gain * (m - mean))
    mean.copy_(m)
    variance.copy_(v)
    return True
