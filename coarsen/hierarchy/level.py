"""Level: one network of a hierarchy, and the step that leads to it from the finer one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netgraph.coarsen.directions.depth import ChainCoarsening
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec


@dataclass
class Level:
    """One network of a hierarchy.

    Parameters
    ----------
    model : torch.nn.Module
        The given network on level 0, a recorded graph on coarse levels.
    spec : UnitSpec
        With this level's numbers of units.
    transfers : dict of str to Transfer, default {}
        From the units of the next finer level to this one's. Empty on level 0.
    seconds : float or None, default 0.0
        Time to build the level, in seconds, without compiling kernels. None for a level that was read from a file.
    flops : int, default 0
        FLOPs of the products in one forward pass on the example.
    reasons : dict, default {}
        Values that were chosen or measured while the level was built: ``coarseners``, ``ratios``, ``curves``, ``repair``, ``error``.
        ``unable`` holds the directions that could do nothing here, and the reasons.
    chains : tuple of ChainCoarsening, default ()
        Residual blocks of the next finer level that merged here.
    pool : int, default 1
        Ratio of the finest level's resolution to this one's. The network takes the fine input in any case.
    compiling : float, default 0.0
        Time in which kernels were compiled, in seconds. It is spent once on a machine.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> level = ng.build_hierarchy(model, torch.zeros(1, 4)).levels[1]
    >>> level.n_units, level.n_parameters, level.transfers["0"].n_coarse
    (3, 23, 3)
    """

    model: nn.Module
    spec: UnitSpec
    transfers: dict[str, Transfer] = field(default_factory=dict)
    seconds: float | None = 0.0
    flops: int = 0
    reasons: dict[str, Any] = field(default_factory=dict)
    chains: tuple[ChainCoarsening, ...] = ()
    pool: int = 1
    compiling: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.model, GraphNetwork):
            self.model.resolution_divisor = self.pool

    @property
    def n_units(self) -> int:
        """Number of units of all axes that may merge."""
        return sum(axis.size for axis in self.spec.axes.values() if axis.kind != "index" and axis.kept is None)

    @property
    def n_parameters(self) -> int:
        """Number of parameters. Tied ones count once."""
        return sum(p.numel() for p in self.model.parameters())

    def describe_step(self, above: Level) -> str:
        """Return the directions of the step from the level above, in words."""
        blocks = [(len(step.chain.blocks), len(step.kept)) for step in self.chains]
        parts = ["channels"] * bool(self.transfers)
        parts += [f"space 1/{self.pool}"] * (self.pool != above.pool)
        parts += [f"depth {sum(n for n, _ in blocks)} -> {sum(k for _, k in blocks)}"] * bool(blocks)
        return " + ".join(parts)

    def format_seconds(self) -> str:
        """Return the seconds as text, empty if they are not known."""
        return "" if self.seconds is None else f"{self.seconds:.2f}"
