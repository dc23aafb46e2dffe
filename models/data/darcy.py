"""Darcy flow, -div(a grad u) = 1 on the unit square with u = 0 on its boundary, as a data set: from a to u.

The permeability a is 12 or 3, by the sign of a Gaussian random field with the covariance (-Δ + 9)^-2 and no slope across the
boundary (Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021, appendix A.3.2). Cells
have one value of a. Fluxes between two cells take the harmonic mean, which is that of layers in a row (Patankar, "Numerical heat
transfer and fluid flow", 1980, section 4.2-3). scipy's sparse factorisation solves the five-point equations.

Values stand in the middles of cells. The average of a square of cells then stands in the middle of the coarse cell, and is the
value there up to O(h²). A sample is the same field on every grid, because its modes are drawn and not its cells.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.fft import idctn
from scipy.sparse.linalg import splu
from torch import Tensor

from netgraph.environment.memory import check_memory
from netgraph.errors import DataError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.models.data.datasets import SEED, Dataset, DataSplit

HIGH, LOW = 12.0, 3.0  # values of a
MODES = 64  # cosines a side that a field is made of, on every grid
SCALE = 100.0  # targets are 100 u, which has a mean of about 0.6
SIDES = (4, 1024)  # least and most cells a side
Array = NDArray[np.float64]


def load_darcy(
    side: int = 64, *, sizes: tuple[int, int, int] = (1000, 100, 200), seed: int = SEED, file: str | Path | None = None
) -> Dataset:
    """Make fields of permeability and solve Darcy's equation for each of them.

    Parameters
    ----------
    side : int, default 64
        Cells a side.
    sizes : tuple of int, default (1000, 100, 200)
        Samples for training, validation and test.
    seed : int, default 7619
        Seed of the fields. The same seed gives the same fields on every grid.
    file : path, optional
        A ``.safetensors`` file that keeps the solutions. It is written if it does not exist. Otherwise it is read, and has to be of
        the same grid, sizes and seed.

    Returns
    -------
    Dataset
        Inputs are float32 of shape (n, 3, side, side): a, and the two coordinates of the middle of each cell. `Dataset.ready`
        standardizes them. Targets are 100 u, float32 of shape (n, 1, side, side). There are no classes.

    Raises
    ------
    DataError
        A number is out of its range, or the file holds other solutions.

    References
    ----------
    Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021.

    Examples
    --------
    >>> from netgraph.models import load_darcy
    >>> data = load_darcy(16, sizes=(4, 1, 2))
    >>> data.train.inputs.shape, data.train.targets.shape
    (torch.Size([4, 3, 16, 16]), torch.Size([4, 1, 16, 16]))
    >>> sorted(data.train.inputs[:, 0].unique().tolist())
    [3.0, 12.0]
    """
    _check_numbers(side, sizes, seed)
    check_memory(4 * 4 * sum(sizes) * side * side, f"Darcy flow on {side} x {side} cells")
    make = partial(_make_solutions, side, sum(sizes), seed)
    settings = {"side": side, "sizes": list(sizes), "seed": seed}
    fields, solutions = make() if file is None else _read_or_write(Path(file), settings, make)
    inputs = torch.cat([fields, _stack_coordinates(side).expand(len(fields), -1, -1, -1)], dim=1)
    train, valid, test = map(DataSplit, inputs.split(sizes), solutions.split(sizes))
    middle, half, spread = (HIGH + LOW) / 2, (HIGH - LOW) / 2, 12**-0.5
    return Dataset("darcy", (), train, valid, test, mean=(middle, 0.5, 0.5), std=(half, spread, spread))


def solve_darcy(permeability: Tensor, source: Tensor | None = None) -> Tensor:
    """Solve -div(a grad u) = f on the unit square, with u = 0 on the boundary.

    Parameters
    ----------
    permeability : Tensor of shape (n, side, side)
        a in each cell, above 0.
    source : Tensor of shape (n, side, side) or (side, side), optional
        f in the middle of each cell, by default 1.

    Returns
    -------
    Tensor of shape (n, side, side)
        u in the middle of each cell, in float64.

    Raises
    ------
    DataError
        A field is not square, or has a value that is not finite or not above 0.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import solve_darcy
    >>> u = solve_darcy(torch.ones(1, 32, 32))
    >>> round(float(u.max()), 3)  # Poisson's equation: 0.0737
    0.074
    """
    if permeability.ndim != 3 or permeability.shape[1] != permeability.shape[2] or permeability.shape[1] < 2:
        raise DataError(
            f"permeability has shape {tuple(permeability.shape)}. Give fields of shape (n, side, side), of 2 cells a side or more."
        )
    if permeability.is_complex() or not bool((torch.isfinite(permeability) & (permeability > 0)).all()):
        raise DataError(
            "permeability has values that are not finite or not above 0. Give a positive number for each cell."
        )
    fields = permeability.detach().cpu().double().numpy()
    right = torch.ones(1) if source is None else source.detach().cpu()
    if right.is_complex() or (source is not None and source.shape not in (permeability.shape, permeability.shape[1:])):
        raise DataError(f"the source is {right.dtype} of shape {tuple(right.shape)}. Give a real number for each cell.")
    sources = np.broadcast_to(right.double().numpy(), fields.shape)
    solutions = [_solve_field(a, f) for a, f in zip(fields, sources, strict=True)]
    return torch.from_numpy(np.stack(solutions) if solutions else np.zeros(fields.shape))


# sum of fluxes t (u_i - u_j) / h² = f_i,  t = 2 a_i a_j / (a_i + a_j) between two cells, 2 a_i at the boundary (half a cell away)
def build_darcy_matrix(permeability: Array) -> sparse.csc_array:
    """Return the matrix of the five-point equations for one field (side, side). It is symmetric and positive definite."""
    a, side = permeability, len(permeability)
    across = np.zeros_like(a)
    across[:, :-1] = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])  # to the next column
    down = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])  # to the next row
    total = across.copy()
    total[:, 1:] += across[:, :-1]
    total[1:] += down
    total[:-1] += down
    total[0] += 2 * a[0]
    total[-1] += 2 * a[-1]
    total[:, 0] += 2 * a[:, 0]
    total[:, -1] += 2 * a[:, -1]
    row, column = across.ravel()[:-1], down.ravel()
    diagonals = [total.ravel(), -row, -row, -column, -column]
    return sparse.diags_array(diagonals, offsets=[0, 1, -1, side, -side], format="csc") * float(side * side)


def _solve_field(permeability: Array, source: Array) -> Array:
    """Return u (side, side) for one field."""
    factors = splu(
        build_darcy_matrix(permeability),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    solution: Array = factors.solve(source.ravel()).reshape(source.shape)
    return solution


def draw_permeability(n: int, side: int, seed: int) -> Tensor:
    """Return fields (n, side, side) of 12 and 3, in float64. Field i is the same for every n, and on every grid."""
    k = np.arange(MODES)
    deviations = 1 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    deviations[0, 0] = 0  # the mean
    kept, fields = min(side, MODES), np.empty((n, side, side))
    for i in range(n):
        modes = np.zeros((side, side))
        modes[:kept, :kept] = (np.random.default_rng([seed, i]).standard_normal((MODES, MODES)) * deviations)[
            :kept, :kept
        ]
        fields[i] = np.where(idctn(modes, norm="ortho") >= 0, HIGH, LOW)  # the factor of a grid changes no sign
    return torch.from_numpy(fields)


def _make_solutions(side: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return fields and 100 u, both float32 of shape (n, 1, side, side)."""
    fields = draw_permeability(n, side, seed)
    return fields[:, None].float(), SCALE * solve_darcy(fields)[:, None].float()


def _stack_coordinates(side: int) -> Tensor:
    """Return the two coordinates of the middles of cells, (2, side, side). The first runs along a row."""
    middles = (torch.arange(side) + 0.5) / side
    return torch.stack([middles.expand(side, side), middles[:, None].expand(side, side)])


def _check_numbers(side: int, sizes: tuple[int, int, int], seed: int) -> None:
    """Refuse what makes no data set."""
    if not SIDES[0] <= side <= SIDES[1]:
        raise DataError(f"the grid of Darcy flow has {side} cells a side. Give {SIDES[0]} to {SIDES[1]}, such as 64.")
    if len(sizes) != 3 or min(sizes) < 1:
        raise DataError(f"sizes are {tuple(sizes)}. Give three numbers of samples, 1 or more for each split.")
    if not 0 <= seed < 2**64:
        raise DataError(f"the seed is {seed}. Give a whole number of 0 or more and below 2^64.")


def _read_or_write(path: Path, settings: dict[str, Any], make: Any) -> tuple[Tensor, Tensor]:
    """Return the fields and solutions of a file. Make them and write the file if there is none."""
    from safetensors.torch import save_file

    if path.suffix != ".safetensors":
        raise DataError(f"{path} is no place for solutions. Give NAME.safetensors.")
    if path.exists():
        return _read_solutions(path, settings)
    check_output_file(path)
    fields, solutions = make()
    tensors = {"permeability": fields, "solution": solutions}
    write_atomically(lambda place: save_file(tensors, place, metadata={"darcy": json.dumps(settings)}), path, DataError)
    return fields, solutions


def _read_solutions(path: Path, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the fields and solutions of a file, after a check of what it holds."""
    from safetensors import safe_open

    wanted = (sum(settings["sizes"]), 1, settings["side"], settings["side"])
    try:
        with safe_open(path, "pt") as file:
            held = (file.metadata() or {}).get("darcy", "nothing of Darcy flow")
            tensors = [file.get_tensor(name) for name in ("permeability", "solution")] if held[:1] == "{" else []
    except Exception as error:  # the library raises errors of many types
        raise DataError(f"{path} cannot be read ({str(error)[:200]}). Delete it, and it is made again.") from error
    if held != json.dumps(settings) or any(t.shape != wanted or t.dtype != torch.float32 for t in tensors):
        raise DataError(
            f"{path} holds {held}, and {json.dumps(settings)} was asked for. Give another file, or delete this one."
        )
    return tensors[0], tensors[1]
