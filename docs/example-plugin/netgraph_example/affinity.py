"""An affinity: the share of incoming weights that have the same sign.

The entry point in ``pyproject.toml`` makes it available as ``--affinity signs`` and ``affinity="signs"``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.graph import AxisUnits


def signs(units: AxisUnits, *, seed: int = 0) -> NDArray[Any]:
    """Return the share of incoming weights in which two units have the same sign.

    Parameters
    ----------
    units : AxisUnits
        The units of one axis. ``units.incoming`` holds their weights, one row each.
    seed : int, default 0
        Not used, because nothing here is random.

    Returns
    -------
    array of shape (n_units, n_units)
        Symmetric, not negative, with a zero diagonal.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> units = SimpleNamespace(incoming=np.array([[1.0, 2.0, -3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]))
    >>> signs(units).tolist()
    [[0.0, 0.75], [0.75, 0.0]]
    """
    positive = units.incoming > 0
    shares = (positive[:, None, :] == positive[None, :, :]).mean(axis=2)
    np.fill_diagonal(shares, 0)
    return np.asarray(shares)
