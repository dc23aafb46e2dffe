"""A folder of images as one tensor: decoded by Pillow, cropped and resized to the input of a network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.environment.optional_packages import import_package
from netgraph.errors import DataError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # some other formats of Pillow start programs
PIXELS = 2**26  # pixels of an image before it is resized
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def find_images(folder: Path) -> tuple[list[Path], list[int] | None]:
    """Return the images of a folder, sorted, and their classes if each lies in the folder of its class.

    Parameters
    ----------
    folder : path

    Returns
    -------
    files : list of path
    classes : list of int or None

    Raises
    ------
    DataError
        The folder has no images.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(ENDINGS))}). Give a folder with images.")
    kinds = [path.relative_to(folder).parts[:-1] for path in files]
    if not all(len(kind) == 1 for kind in kinds):
        return files, None
    names = sorted(set(kinds))
    return files, [names.index(kind) for kind in kinds]


def read_images(files: list[Path], shape: tuple[int, int, int]) -> Tensor:
    """Return the center of each image, resized.

    Parameters
    ----------
    files : list of path
    shape : tuple of int
        Channels, height and width.

    Returns
    -------
    float32 Tensor of shape (n, channels, height, width)
        From 0 to 1.

    Raises
    ------
    DataError
        An image is damaged or too large, or the number of channels is not 1, 3 or 4.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise DataError(
            f"the network takes {channels} channels, but images have 1, 3 or 4. Give a tensor file instead."
        )
    out = torch.empty((len(files), channels, height, width))
    for row, path in zip(out, files, strict=True):
        row.copy_(_read_image(path, MODES[channels], height, width))
    return out


def read_photograph(path: Path) -> Tensor:
    """Return an image in colour and in its own size, as a uint8 tensor of shape (3, height, width).

    Raises
    ------
    DataError
        The image is damaged or too large.
    """
    return torch.from_numpy(np.array(_decode_image(path, "RGB", None), np.uint8)).permute(2, 0, 1)


def _read_image(path: Path, mode: str, height: int, width: int) -> Tensor:
    """Return one image as a tensor of shape (channels, height, width)."""
    values = torch.from_numpy(np.array(_decode_image(path, mode, (width, height)), np.float32)) / 255
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _decode_image(path: Path, mode: str, size: tuple[int, int] | None) -> Any:
    """Return an image of Pillow: its center, resized to (width, height), or all of it in its own size."""
    import_package("PIL", "a folder of images", DataError)
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `PIXELS` is the limit
            with Image.open(path, formats=FORMATS) as image:
                _check_pixels(image, path)
                converted = image.convert(mode)
                return converted if size is None else ImageOps.fit(converted, size, Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # decoders raise errors of many types
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataError(f"{path} cannot be decoded ({reason}). Repair or remove the image.") from error


def _check_pixels(image: Any, path: Path) -> None:
    """Raise an error if an image has too many pixels."""
    width, height = image.size
    if width * height > PIXELS:
        raise DataError(f"{path} has {width:,} × {height:,} pixels, at most {PIXELS:,} are decoded. Make it smaller.")
