"""Level: one network of a hierarchy, and the way that leads to it from the finer one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netgraph.coarsen.directions.depth import ChainCoarsening
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.tracing.unit_spec import UnitSpec


@dataclass
class Level:
    """One network of a hierarchy.

    Parameters
    ----------
    model : torch.nn.Module
        Level 0 is the network as given.
    spec : UnitSpec
        With this level's numbers of units.
    transfers : dict of str to Transfer
        From the next finer level's units to this one's; empty on level 0.
    seconds : float
        What making the level took, without compiling kernels.
    flops : int
        Operations of the products of one forward pass on the example.
    reasons : dict
        What was chosen by measured error, and what repair did: ``coarseners``, ``ratios``, ``curves``, ``repair``, ``error``;
        ``unable`` holds the directions that could do nothing here, and why.
    chains : tuple of Shortening
        Residual blocks of the next finer level that merged here.
    pool : int
        How many times lower than the finest level's the resolution is; the network takes the fine input all the same.
    compiling : float
        Seconds in which kernels were compiled meanwhile, once on a machine.
    """

    model: nn.Module
    spec: UnitSpec
    transfers: dict[str, Transfer] = field(default_factory=dict)
    seconds: float = 0.0
    flops: int = 0
    reasons: dict[str, Any] = field(default_factory=dict)
    chains: tuple[ChainCoarsening, ...] = ()
    pool: int = 1
    compiling: float = 0.0

    @property
    def n_units(self) -> int:
        """Units of all axes that may merge."""
        return sum(axis.size for axis in self.spec.axes.values() if axis.kind != "index" and axis.kept is None)

    @property
    def n_parameters(self) -> int:
        """Parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    def way(self, above: Level) -> str:
        """Return the directions of the step from the level above, in words."""
        blocks = [(len(step.chain.blocks), len(step.kept)) for step in self.chains]
        said = ["channels"] * bool(self.transfers)
        said += [f"space 1/{self.pool}"] * (self.pool != above.pool)
        said += [f"depth {sum(n for n, _ in blocks)} -> {sum(k for _, k in blocks)}"] * bool(blocks)
        return " + ".join(said)
