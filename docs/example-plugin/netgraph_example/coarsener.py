"""A coarsener: the baseline that ignores every weight.

The entry point in ``pyproject.toml`` makes it available as ``--coarsener runs`` and ``coarsener="runs"``.
"""

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen import AxisGraph, declare_traits


@declare_traits(ignores_edges=True)
def runs(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Merge runs of consecutive units. All have one size if ``n_coarse`` divides the number of units.

    Parameters
    ----------
    graph : AxisGraph
        The units of one axis. Only their number is read.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Not used, because nothing here is random.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Aggregate of each unit, numbered from 0.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph
    >>> runs(AxisGraph("fc1", sparse.csr_array((5, 5)), np.ones(5)), 2)
    array([0, 0, 0, 1, 1])
    """
    return np.arange(graph.n_units) * n_coarse // graph.n_units
