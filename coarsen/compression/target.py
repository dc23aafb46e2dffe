"""What a compressed network is held to: a share of the original's cost, or what it may lose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netgraph.errors import NetgraphError
from netgraph.utils.choices import TARGETS

SHARES = ("parameters", "flops", "latency")
TOLERANCE = 0.02  # relative, of a share


@dataclass(frozen=True)
class Target:
    """A bound on the cost or on the loss of a compressed network.

    Parameters
    ----------
    kind : {"parameters", "flops", "latency", "accuracy", "error"}
    value : float
        A share of the original's cost for the first three. Points of accuracy that may be lost, as a negative number, or the
        relative error that the outputs may have.

    Examples
    --------
    >>> from netgraph.coarsen import Target
    >>> Target.parse("latency=0.5"), Target.parse("accuracy=-1.0")
    (Target(kind='latency', value=0.5), Target(kind='accuracy', value=-1.0))
    """

    kind: str
    value: float

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """Read a target such as ``parameters=0.5``, ``flops=0.5``, ``latency=0.5``, ``accuracy=-1.0`` or ``error=0.1``.

        Raises
        ------
        NetgraphError
            The kind is unknown, or its value is out of range.
        """
        if isinstance(text, Target):
            return text
        kind, _, number = str(text).partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if kind not in TARGETS:
            raise NetgraphError(
                f"target {text!r} is not KIND=NUMBER. Give one of {', '.join(TARGETS)}, as in flops=0.5."
            )
        if kind == "accuracy" and not -100 < value <= 0:
            raise NetgraphError(
                f"target {text!r} is no loss of accuracy. Give the points that may go, as in accuracy=-1.0."
            )
        if kind != "accuracy" and not 0 < value < 1:
            raise NetgraphError(f"target {text!r} is no share. Give a number between 0 and 1, as in {kind}=0.5.")
        return cls(kind, value)

    @classmethod
    def parse_speed(cls, text: str) -> Target:
        """Read a factor of speed such as ``2x``: the share of the milliseconds is its inverse.

        Raises
        ------
        NetgraphError
            The text is no number above 1 with an x behind it.
        """
        try:
            factor = float(text.removesuffix("x"))
        except ValueError:
            factor = math.nan
        if not 1 < factor < math.inf:
            raise NetgraphError(f"speed {text!r} is no factor above 1. Give one such as 2x.")
        return cls("latency", 1 / factor)

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"

    @property
    def is_share(self) -> bool:
        """True if the target is a share of a cost of the original."""
        return self.kind in SHARES

    def is_met(self, value: float) -> bool:
        """Return True if a share is within 2 % of the target or below it, or a loss within the bound.

        Parameters
        ----------
        value : float
            A share of the original's cost, points of accuracy gained (negative where lost), or the error of the outputs.
        """
        if self.is_share:
            return value <= self.value * (1 + TOLERANCE)
        return value >= self.value if self.kind == "accuracy" else value <= self.value
