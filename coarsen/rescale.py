"""Repair without data: give a merged unit back the variance that averaging unlike members took from it.

The mean of m members has the share r = |mean w|² / mean |w|² of their variance, as if their inputs were white: for
members of one length and mean correlation c that is (1 + (m - 1) c) / m, the estimate of Wang et al., "Forget the data
and fine-tuning! Just fold the network to compress", ICLR 2025, section 4 (Fold-AR). Where a batch norm follows, its
variance is multiplied by r; elsewhere weights and bias are divided by sqrt(r).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from netgraph.call import operator_name
from netgraph.coarsen.network import traced_state
from netgraph.coarsen.transfer import Transfer
from netgraph.program import GraphNetwork
from netgraph.spec import UnitSpec

LAYERS = ("aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d")


def rescale(model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], coarse: GraphNetwork) -> None:
    """Rescale a coarse network in place; ``transfers`` lead to it from the ``spec`` of ``model``.

    Axes with products, with aggregates of one size (a norm over units restores their variance itself) or of layers
    whose weights something else reads too are left alone.
    """
    state, small = traced_state(model), coarse.tensors()
    with torch.no_grad():
        for weight, bias, variance in made_units(spec):
            term = spec.parameters[weight][0]
            transfer = transfers.get(str(term[0])) if len(term) == 1 else None
            if transfer is None or spec.axes[str(term[0])].equal is not None:
                continue
            r = variance_share(state[weight].flatten(1), transfer)
            if variance is not None:
                small[variance].mul_(r.to(small[variance]))
                continue
            for name in (weight, bias):
                if name is not None:
                    small[name].div_(r.sqrt().to(small[name]).reshape(-1, *[1] * (small[name].ndim - 1)))


def variance_share(rows: Tensor, transfer: Transfer) -> Tensor:
    """Return r for each aggregate, (k,), of units with the weights ``rows`` (n, d); 1 where they are all zero."""
    rows = rows.double()
    mean = transfer.average(rows, 0).square().sum(1)
    members = transfer.average(rows.square().sum(1), 0)
    return torch.where(members > 0, (mean / members.clamp_min(1e-300)).clamp_min(1e-3), torch.ones_like(mean))


def made_units(spec: UnitSpec) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield weight, bias, and the variance of the batch norm that follows, of each layer of the evaluation graph."""
    for node in spec.plans["eval"].graph.nodes:
        if node.op != "call_function" or operator_name(node.target) not in LAYERS:
            continue
        names = [_parameter(a) for a in node.args[1:3]]
        if names[0] is None or spec.sums.get((names[0], 0)):
            continue
        norm = next((u for u in node.users if operator_name(u.target) == "aten.batch_norm"), None)
        yield names[0], names[1] if len(names) > 1 else None, None if norm is None else _parameter(norm.args[4])


def _parameter(node: object) -> str | None:
    """Return the name of a parameter that one call alone reads."""
    op, users = getattr(node, "op", None), getattr(node, "users", ())
    return str(node.target) if op == "get_attr" and len(users) == 1 else None  # type: ignore[attr-defined]
