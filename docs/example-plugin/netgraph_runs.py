"""A coarsener of one's own, whole: the baseline that ignores every weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def runs(graph: Any, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Merge runs of consecutive units, of one size where that divides their number.

    Parameters
    ----------
    graph : AxisGraph
        Only the number of its units is asked for.
    n_coarse : int
    seed : int
        Unused: nothing here is random.

    Returns
    -------
    aggregates : int array of shape (n_units,)
    """
    return np.arange(graph.n_units) * n_coarse // graph.n_units
