"""A logarithmic colour scale of attention, centred at uniform attention: 1/n of n tokens.

Untrained and shallow heads attend almost uniformly, and a linear scale from zero shows them all in the same colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 0.25  # smallest number of octaves, so that rounding errors show no pattern


@dataclass(frozen=True)
class UniformCenteredScale:
    """A logarithmic scale from the uniform share / 2^octaves at position 0 to the uniform share * 2^octaves at position 1.

    Parameters
    ----------
    even : float
        The uniform share: one over the number of tokens.
    octaves : float
        Half the range of the scale, in powers of two.
    """

    even: float
    octaves: float

    @classmethod
    def from_maps(cls, maps: Iterable[NDArray[Any]], n: int) -> UniformCenteredScale:
        """Return the scale that ends at the largest share in some maps over n tokens."""
        most = max(float(weights.max(initial=0)) for weights in maps)
        return cls(1 / n, max(LEAST, float(np.log2(max(most * n, 1)))))

    def to_positions(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the positions of shares, 0 to 1. Shares below the scale, such as zero, are at position 0."""
        smallest = self.even * 2.0**-self.octaves
        times = np.log2(np.maximum(weights, smallest) / self.even)
        return np.asarray(np.clip(0.5 + times / (2 * self.octaves), 0, 1))

    def to_share(self, position: float) -> float:
        """Return the share at a position."""
        return float(self.even * 2 ** (self.octaves * (2 * position - 1)))
