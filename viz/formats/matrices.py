"""P, R and the adjacency matrix A as Matrix Market or npz files, for scipy, PETSc, MATLAB and Julia.

The name of the file chooses the matrix. ``net.P.mtx`` prolongs from the coarsest level to level 0, ``net.R.npz``
restricts, ``net.level2.P.mtx`` goes from level 2 to level 1 only, and ``net.level1.A.npz`` is the graph of level 1. P and R
are block diagonal, with one block for each axis in the order of the unit graph. An axis that is not merged has the identity.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io, sparse

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.transfer.nested_transfer import NestedTransfer
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.viz.formats.flat_graph import build_flat_graph, parse_level

LINE = 1000  # most characters of a comment line: Matrix Market allows 1024


def write_matrix_market(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write P, R or A in Matrix Market format. The comment lists the first row of each axis.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write, for example ``net.P.mtx`` or ``net.level1.A.mtx``. Without a letter the matrix is P.
    """
    matrix, axes = _select_matrix(hierarchy, Path(path))
    lines = [f"axis {json.dumps(name)[:LINE]} begins at {at}" for name, at in axes.items()]
    comment = "\n".join([" " + line for line in lines])
    with Path(path).open("wb") as file:  # given a path, scipy does not tell that the disk is full
        io.mmwrite(file, matrix.astype(float), comment=comment, symmetry="general")


def write_npz(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write P, R or A for `scipy.sparse.load_npz`. The arrays ``axes`` and ``begins`` hold the first row of each axis.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write, for example ``net.P.npz`` or ``net.level1.A.npz``. Without a letter the matrix is P.
    """
    matrix, axes = _select_matrix(hierarchy, Path(path))
    np.savez_compressed(
        path,
        format=np.array(b"csr"),
        shape=matrix.shape,
        data=matrix.data,
        indices=matrix.indices,
        indptr=matrix.indptr,
        _is_array=True,
        axes=np.array([json.dumps(name) for name in axes]),
        begins=np.array(list(axes.values()), dtype=np.int64),
    )


def _select_matrix(hierarchy: Hierarchy, path: Path) -> tuple[Any, dict[str, int]]:
    """Return the matrix that the name of a file asks for, and the first row of each axis."""
    letters = [word[1:] for word in path.suffixes[:-1] if word[1:] in ("P", "R", "A")]
    letter, level = (letters or ["P"])[-1], parse_level(hierarchy, path)
    if letter == "A":
        return build_flat_graph(hierarchy, level or 0).adjacency(), _axis_offsets(hierarchy, level or 0)
    if level == 0:
        raise NetgraphError(
            f"{path.name} asks for {letter} of level 0, but there is no finer level. Name level 1 or above, or no level "
            "for the matrix between the coarsest and the finest level."
        )
    matrix = transfer_matrix(hierarchy, letter, level)
    last = len(hierarchy.levels) - 1 if level is None else level
    return matrix, _axis_offsets(hierarchy, last if letter == "R" else 0 if level is None else level - 1)


def transfer_matrix(hierarchy: Hierarchy, letter: str, level: int | None = None) -> Any:
    """Return P (n, k) or R (k, n) over all axes of the unit graph, as CSR.

    Parameters
    ----------
    hierarchy : Hierarchy
    letter : str
        ``P`` or ``R``.
    level : int, optional
        Level of the transfer, which goes to the next finer level. By default the matrix is that between the coarsest level
        and the finest.

    Returns
    -------
    csr_array

    Raises
    ------
    NetgraphError
        A step merges blocks, or neurons in a way of its own in each expert.
    """
    steps = range(1, len(hierarchy.levels)) if level is None else [level]
    for i in steps:
        if hierarchy.levels[i].chains:
            raise NetgraphError(
                f"P and R connect units, but the step to level {i} merges blocks. Name a level with a step that merges units only, "
                "as in net.level1.P.mtx, or list the blocks with netgraph coarsen --json."
            )
        nested = next((a for a, t in hierarchy.levels[i].transfers.items() if isinstance(t, NestedTransfer)), None)
        if nested is not None:
            raise NetgraphError(
                f"axis {nested!r} merges in a way of its own in each unit of {hierarchy.levels[0].spec.axes[nested].within!r}, and one "
                f"matrix of its units cannot say how. Keep the axis, as in --keep {nested}, or read levels[{i}].transfers in Python."
            )
    parts = [_step_matrix(hierarchy, letter, i) for i in steps]
    product = parts[0]
    for part in parts[1:]:
        product = product @ part if letter == "P" else part @ product
    return sparse.csr_array(product)


def _step_matrix(hierarchy: Hierarchy, letter: str, level: int) -> Any:
    """Return P or R between a level and the next finer one, block diagonal over the axes."""
    merged = hierarchy.levels[level].transfers
    transfers = [
        merged.get(a.name) or Transfer.identity(a.size) for a in hierarchy.levels[level - 1].spec.used.values()
    ]
    return sparse.block_diag([t.P if letter == "P" else t.R for t in transfers], format="csr")


def _axis_offsets(hierarchy: Hierarchy, level: int) -> dict[str, int]:
    """Return the number of the first unit of each axis of a level."""
    axes = hierarchy.levels[level].spec.used.values()
    return dict(zip([a.name for a in axes], np.cumsum([0] + [a.size for a in axes])[:-1].tolist(), strict=True))
