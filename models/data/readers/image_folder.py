"""A folder of pictures as one tensor: decoded by Pillow, cut and resized to what a network takes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import DataError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # Pillow knows others, some of which start programs
PIXELS = 2**26  # of a picture before it is resized
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def find_images(folder: Path) -> tuple[list[Path], list[int] | None]:
    """Return the pictures of a folder, sorted, and their classes where each lies in a folder of its class.

    Raises
    ------
    DataError
        There is none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not files:
        raise DataError(f"{folder} holds no picture ({', '.join(sorted(ENDINGS))}); give a folder that does")
    kinds = [path.relative_to(folder).parts[:-1] for path in files]
    if not all(len(kind) == 1 for kind in kinds):
        return files, None
    names = sorted(set(kinds))
    return files, [names.index(kind) for kind in kinds]


def read_images(files: list[Path], shape: tuple[int, int, int]) -> Tensor:
    """Return pictures (n, channels, height, width), float32 in [0, 1]: the middle of each, resized.

    Raises
    ------
    DataError
        A picture is damaged or too large, or the number of channels is not 1, 3 or 4.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise DataError(
            f"the network takes {channels} channels and pictures have 1, 3 or 4; give a tensor file instead"
        )
    out = torch.empty((len(files), channels, height, width))
    for row, path in zip(out, files, strict=True):
        row.copy_(_read_image(path, MODES[channels], height, width))
    return out


def _read_image(path: Path, mode: str, height: int, width: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have a limit of our own
            with Image.open(path, formats=FORMATS) as picture:
                _check_pixels(picture, path)
                fitted = ImageOps.fit(picture.convert(mode), (width, height), Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataError(f"{path} cannot be decoded ({reason}); mend the picture or take it out") from error
    values = torch.from_numpy(np.array(fitted, np.float32)) / 255
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _check_pixels(picture: Any, path: Path) -> None:
    width, height = picture.size
    if width * height > PIXELS:
        raise DataError(f"{path} has {width:,} × {height:,} pixels; at most {PIXELS:,} are decoded: make it smaller")
