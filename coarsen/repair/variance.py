"""Repair without data: give a merged unit the variance back that averaging unlike members took from it.

The mean of m members has the share r = |mean w|² / mean |w|² of their variance, if their inputs are white. For members of
equal length and mean correlation c that is (1 + (m - 1) c) / m, the estimate of Wang et al., "Forget the data and fine-tuning!
Just fold the network to compress", ICLR 2025, section 4 (Fold-AR). If a batch norm follows, units are merged in its scale
(`netgraph.coarsen.repair.batch_norm`) and its variance is multiplied by r. Otherwise weights and bias are divided by sqrt(r).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.repair.batch_norm import merge_with_norms, multiply_rows
from netgraph.coarsen.repair.relu_scale import merge_relu_units
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.layers import find_layers
from netgraph.tracing.unit_spec import UnitSpec


def rescale_units(model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], coarse: GraphNetwork) -> None:
    """Rescale the units of a coarse network in place.

    Three kinds of axes are left alone: those with products, those with aggregates of one size (a norm over units restores their
    variance itself), and those of layers with weights that something else reads too.

    Parameters
    ----------
    model : torch.nn.Module
        The fine network.
    spec : UnitSpec
        Of ``model``.
    transfers : dict of str to Transfer
        From its units to those of the coarse network.
    coarse : GraphNetwork
    """
    state, coarse_state = traced_state(model), coarse.tensors()
    gains = merge_with_norms(model, spec, transfers, coarse)
    entries = merge_relu_units(model, spec, transfers, coarse)
    with torch.no_grad():
        for layer in find_layers(spec):
            transfer = transfers.get(layer.axis)
            if transfer is None or spec.axes[layer.axis].equal is not None:
                continue
            rows = state[layer.weight].flatten(1)
            if layer.weight in gains:
                rows = multiply_rows(gains[layer.weight][0], rows)
            share = variance_share(rows, transfer, entries.get(layer.axis))
            if layer.norm is not None:
                coarse_state[layer.norm[3]].mul_(share.to(coarse_state[layer.norm[3]]))
                continue
            for name in filter(None, (layer.weight, layer.bias)):
                coarse_state[name].div_(
                    share.sqrt().to(coarse_state[name]).reshape(-1, *[1] * (coarse_state[name].ndim - 1))
                )


def variance_share(rows: Tensor, transfer: Transfer, entries: Tensor | None = None) -> Tensor:
    """Return the share r of their variance that averaging leaves to each aggregate, (k,). It is 1 if all weights are zero.

    Parameters
    ----------
    rows : Tensor of shape (n, d)
        Weights of the units.
    transfer : Transfer
    entries : Tensor of shape (n,), optional
        Entries of a weighted P. By default they are ones.
    """
    rows = rows.double()
    p = torch.ones_like(rows[:, 0]) if entries is None else entries
    square = transfer.average(p.square(), 0)
    mean = transfer.average(multiply_rows(p, rows), 0).square().sum(1) / square.clamp_min(1e-300)
    members = transfer.average(rows.square().sum(1), 0)
    return torch.where(members > 0, (mean / members.clamp_min(1e-300)).clamp_min(1e-3), torch.ones_like(mean))
