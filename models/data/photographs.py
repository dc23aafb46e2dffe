"""Photographs of a folder at their own resolution, cut into tiles for the restoration of images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from netgraph.environment.memory import check_memory
from netgraph.errors import DataError
from netgraph.models.data.datasets import SEED, Dataset, DataSplit
from netgraph.models.data.readers.image_folder import find_images, read_photograph

SPLITS = ("train", "valid", "test")


def load_photographs(folder: str | Path, *, tile: int = 128) -> Dataset:
    """Read the photographs of a folder and cut them into square tiles that do not overlap.

    Whole photographs go to one split, so that no tile of the test split has a neighbour in training. Sub-folders ``train``,
    ``valid`` and ``test`` are the splits where all three are there. Otherwise a tenth of the photographs, at least one, is for
    validation, and as many for testing.

    Parameters
    ----------
    folder : path
        PNG, JPEG, BMP or WebP files, in sub-folders too.
    tile : int, default 128
        Pixels a side. What is left over at the right and at the bottom is not used.

    Returns
    -------
    Dataset
        Images are uint8 of shape (n, 3, tile, tile). There are no classes.

    Raises
    ------
    DataError
        The folder has fewer than three photographs, one is damaged, a split has none that is as large as a tile, or only some of
        the three sub-folders are there.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from netgraph.models import load_photographs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(3):
    ...         Image.new("RGB", (70, 40), (i, i, i)).save(f"{folder}/{i}.png")
    ...     data = load_photographs(folder, tile=32)
    >>> data.train.inputs.shape
    torch.Size([2, 3, 32, 32])
    """
    folder = Path(folder)
    if tile < 1:
        raise DataError(f"tile is {tile}. Give the pixels of a side, such as 128.")
    splits = {
        name: _cut_split(files, tile, name) for name, files in (_list_splits(folder) or _draw_splits(folder)).items()
    }
    return Dataset(folder.name, (), splits["train"], splits["valid"], splits["test"])


def _list_splits(folder: Path) -> dict[str, list[Path]]:
    """Return the photographs of the sub-folders that are named like splits. Empty if there are none."""
    there = [name for name in SPLITS if (folder / name).is_dir()]
    if there and len(there) < len(SPLITS):
        missing = " and ".join(name for name in SPLITS if name not in there)
        raise DataError(
            f"{folder} has the sub-folder {there[0]}, and none called {missing}. Give all of train, valid and test, or none of "
            "these names."
        )
    return {name: find_images(folder / name)[0] for name in there}


def _draw_splits(folder: Path) -> dict[str, list[Path]]:
    """Return all photographs of a folder, shared out at random."""
    files, _ = find_images(folder)
    if len(files) < 3:
        raise DataError(
            f"{folder} has {len(files)} photographs. Give three or more: training, validation and test need one each."
        )
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(SEED)).tolist()
    n = max(len(files) // 10, 1)
    parts = {"test": order[:n], "valid": order[n : 2 * n], "train": order[2 * n :]}
    return {name: [files[i] for i in sorted(rows)] for name, rows in parts.items()}


def _cut_split(files: list[Path], tile: int, name: str) -> DataSplit:
    """Return the tiles of some photographs as a split. Its targets are the tiles themselves."""
    tiles, n_bytes = [], 0
    for path in files:
        tiles.append(cut_tiles(read_photograph(path), tile))
        n_bytes += tiles[-1].nbytes
        check_memory(2 * n_bytes, f"{path.parent} in tiles")  # the list and the whole
    images = torch.cat(tiles)
    if not len(images):
        names = ", ".join(path.name for path in files[:3])
        raise DataError(
            f"no photograph for the split {name} ({names}) has {tile} x {tile} pixels. Give a smaller tile."
        )
    return DataSplit(images, images)


def cut_tiles(image: Tensor, tile: int) -> Tensor:
    """Return the whole squares (n, channels, tile, tile) of an image (channels, height, width), row by row."""
    rows, columns = (side // tile for side in image.shape[1:])
    cut = image[:, : rows * tile, : columns * tile].unflatten(2, (columns, tile)).unflatten(1, (rows, tile))
    tiles: Tensor = cut.permute(1, 3, 0, 2, 4).flatten(0, 1).contiguous()
    return tiles
