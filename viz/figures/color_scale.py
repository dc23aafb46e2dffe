"""Colours of attention around what even attention would give: as many times 1/n above the middle as below.

Untrained and shallow heads attend almost evenly, and on a scale from zero all their places look alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 0.25  # octaves at least: rounding errors are no pattern


@dataclass(frozen=True)
class UniformCenteredScale:
    """A logarithmic scale from the even share / 2^octaves, place 0, to the even share * 2^octaves, place 1.

    Parameters
    ----------
    even : float
        One over the number of tokens.
    octaves : float
    """

    even: float
    octaves: float

    @classmethod
    def of(cls, maps: Iterable[NDArray[Any]], n: int) -> UniformCenteredScale:
        """Return the scale whose end is the largest share in some maps over n tokens."""
        most = max(float(weights.max(initial=0)) for weights in maps)
        return cls(1 / n, max(LEAST, float(np.log2(max(most * n, 1)))))

    def places(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return where shares stand, 0 to 1; what is smaller than the scale, such as zero, stands at its beginning."""
        smallest = self.even * 2.0**-self.octaves
        times = np.log2(np.maximum(weights, smallest) / self.even)
        return np.asarray(np.clip(0.5 + times / (2 * self.octaves), 0, 1))

    def share(self, place: float) -> float:
        """Return the share that stands at a place."""
        return float(self.even * 2 ** (self.octaves * (2 * place - 1)))
