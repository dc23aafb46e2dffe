"""Repair: what a coarse network can regain after merging, rung by rung.

``none``      nothing.
``rescale``   without data: what averaging unlike units took from their variance is given back (`netgraph.coarsen.rescale`).
``norms``     every batch norm's statistics are estimated anew on calibration data. Jordan et al., "REPAIR: REnormalizing
              permuted activations for interpolation repair", ICLR 2023, section 3.
``ridge``     besides, each layer's incoming weights are fitted so that the coarse inputs stand for the fine ones
              (`netgraph.coarsen.ridge`), layer after layer.
``tune``      besides, a short training towards the fine network's own outputs.

The fine and the coarse network run side by side, all calibration batches at once, so each layer is repaired on inputs
that come out of repaired layers: one pass of both networks in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netgraph.coarsen.judging import batches_of, outputs
from netgraph.coarsen.network import coarse_network
from netgraph.coarsen.normscale import Gains, fold
from netgraph.coarsen.rescale import rescale
from netgraph.coarsen.ridge import Fit
from netgraph.coarsen.transfer import Transfer
from netgraph.coarsen.verify import tensors_of
from netgraph.errors import NetgraphError
from netgraph.layers import LAYERS, LINEAR, NORM
from netgraph.program import GraphNetwork
from netgraph.spec import UnitSpec
from netgraph.steps import Stop
from netgraph.structure import normalise_example

RUNGS = ("none", "rescale", "norms", "ridge", "tune")


@dataclass
class Repair:
    """What a repair did.

    Parameters
    ----------
    rung : str
    fitted : dict of str to (float, float)
        For each refitted weight the relative error of its coarse inputs as they stood for the fine ones, before and after.
    norms : int
        Batch norms with new statistics.
    left : dict of str to str
        Weights that read merged units and were not refitted, and why.
    """

    rung: str
    fitted: dict[str, tuple[float, float]] = field(default_factory=dict)
    norms: int = 0
    left: dict[str, str] = field(default_factory=dict)


def repair(
    model: nn.Module,
    spec: UnitSpec,
    transfers: Mapping[str, Transfer],
    coarse: GraphNetwork,
    *,
    rung: str = "ridge",
    data: Any = None,
    batch: int = 64,
    strength: float = 1e-3,
    steps: int = 100,
    seed: int = 0,
) -> Repair:
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
    strength : float
        Of the ridge, as a share of the inputs' mean square.
    steps : int
        Of the tuning.
    seed : int
        Order of the batches in tuning.

    Returns
    -------
    Repair

    Raises
    ------
    NetgraphError
        An unknown rung, or no data where it needs some.
    """
    check_rung(rung, data)
    done = Repair(rung)
    if rung == "rescale":
        rescale(model, spec, transfers, coarse)
    elif rung != "none":
        batches = batches_of(data, batch)
        fine = coarse_network(model, spec, {}).eval()
        training = coarse.training
        coarse.eval()
        gains = fold(model, spec, transfers, coarse)
        _side_by_side(fine, coarse, batches, _Repairer(spec, transfers, gains, strength, done))
        if rung == "tune":
            tune(fine, coarse, batches, steps=steps, seed=seed)
        coarse.train(training)
    return done


def check_rung(rung: str, data: Any) -> None:
    """Raise `NetgraphError` for a rung that does not exist, or that lacks its data."""
    if rung not in RUNGS:
        raise NetgraphError(f"no repair is called {rung!r}; choose one of {', '.join(RUNGS)}")
    if data is None and rung in ("norms", "ridge", "tune"):
        raise NetgraphError(f"repair {rung!r} needs calibration data; give some, or choose none or rescale")


def _side_by_side(fine: GraphNetwork, coarse: GraphNetwork, batches: Sequence[Any], repairer: _Repairer) -> None:
    ways = (network.walk(batches, (*LAYERS, NORM)) for network in (fine, coarse))
    for a, b in zip(*ways, strict=True):
        (repairer.layer if b.function in LAYERS else repairer.norm)(a, b)


@dataclass
class _Repairer:
    """Writes into the coarse network at each halt."""

    spec: UnitSpec
    transfers: Mapping[str, Transfer]
    gains: Gains
    strength: float
    done: Repair

    def norm(self, fine: Stop, coarse: Stop) -> None:
        """Write the mean and variance of what the norm is about to see."""
        if coarse.names[3] is None or coarse.names[4] is None:
            return
        flat = [arguments[0].movedim(1, 0).flatten(1).double() for arguments in coarse.arguments]  # (channels, n)
        n = sum(x.shape[1] for x in flat)
        mean = sum(x.sum(1) for x in flat) / n
        variance = sum((x - mean[:, None]).square().sum(1) for x in flat) / max(n - 1, 1)
        coarse.arguments[0][3].copy_(mean)
        coarse.arguments[0][4].copy_(variance)
        self.done.norms += 1

    def layer(self, fine: Stop, coarse: Stop) -> None:
        """Fit the incoming weights, if they read merged units and nothing else reads them."""
        if self.done.rung == "norms":
            return
        name, bias = coarse.names[1], coarse.names[2] if len(coarse.names) > 2 else None
        if name is None or not Fit.touches(self.spec, self.transfers, name):
            return
        if coarse.function is not LINEAR and len(coarse.arguments[0]) > 6 and coarse.arguments[0][6] != 1:
            self.done.left[name] = "its channels come in groups"
            return
        fit = Fit(self.spec, self.transfers, name, centred=bias is not None or name in self.gains)
        dim = -1 if coarse.function is LINEAR else 1
        for a, b in zip(fine.arguments, coarse.arguments, strict=True):
            fit.add(a[0].movedim(dim, -1).flatten(0, -2), b[0].movedim(dim, -1).flatten(0, -2))
        with torch.no_grad():
            self.done.fitted[name] = fit.write(
                fine.arguments[0], coarse.arguments[0], bias, self.strength, self.gains.get(name)
            )


def tune(fine: GraphNetwork, coarse: GraphNetwork, batches: Sequence[Any], *, steps: int, seed: int) -> None:
    """Train a coarse network towards the fine one's outputs: Adam, learning rate 1e-3 falling to 0 as a cosine.

    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, with the squared error of outputs.
    Batch norm keeps its statistics, and dropout is off.
    """
    wanted = outputs(fine, batches)
    free = [p for p in coarse.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(free, lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        i = int(torch.randint(len(batches), (1,), generator=order))
        loss = sum(
            (x - y).square().mean() / y.square().mean().clamp_min(1e-12)
            for x, y in zip(tensors_of(_run(coarse, batches[i])), wanted[i], strict=True)
            if y.is_floating_point()
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule.step()


def _run(network: GraphNetwork, batch: Any) -> Any:
    args, kwargs = normalise_example(batch)
    return network(*args, **kwargs)
