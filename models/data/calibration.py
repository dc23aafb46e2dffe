"""Calibration data: inputs from a data set, an image folder or a tensor file, in the form that a network takes.

Everything is checked before work begins, and sizes are read before memory is allocated.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import DataError, NetgraphError
from netgraph.io.files.output_files import check_path
from netgraph.models.data.datasets import IMAGE_SHAPES, NAMES, Dataset, load_dataset
from netgraph.models.data.readers.image_folder import find_images, read_images
from netgraph.models.data.readers.tensor_file import ENDINGS, read_tensors
from netgraph.models.data.text_windows import is_text_file, read_windows
from netgraph.models.data.tokenizer import attention_mask, encode_texts, padding_id
from netgraph.utils.seeds import make_random

LIMIT = 2**31  # largest number of values in all rows together


class CalibrationData(NamedTuple):
    """Calibration inputs of a network, with targets and tokenizer if the source has them.

    Parameters
    ----------
    inputs : Tensor, tuple or dict
        Rows in the form of the network's example.
    targets : Tensor, optional
        Class or value of each row.
    tokenizer : tokenizers.Tokenizer, optional
        Tokenizer of the texts.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import load_calibration
    >>> inputs, targets, tokenizer = load_calibration("digits", example=torch.zeros(2, 1, 8, 8), n=20)
    >>> inputs.shape, targets.shape, tokenizer
    (torch.Size([20, 1, 8, 8]), torch.Size([20]), None)
    """

    inputs: Any
    targets: Tensor | None
    tokenizer: Any = None


def load_calibration(
    source: str | Path,
    *,
    example: Any,
    n: int = 512,
    seed: int = 7619,
    root: str | Path | None = None,
    tokenizer: Any = None,
) -> CalibrationData:
    """Draw rows of calibration data at random, in the form of a network's example.

    Parameters
    ----------
    source : str or path
        ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10`` or ``imdb`` (rows of the training split), an image folder, or
        a ``.npy``, ``.pt`` or ``.safetensors`` file. A file holds one tensor, or the tensors ``inputs`` and ``targets``. Windows of a text:
        ``NAME.txt``, or ``text:FILE``.
    example : Tensor, or tuple or dict of tensors
        Input of the network, of shape (rows, ...). Networks for text may take two tensors: tokens and their mask. For a
        network on vectors, images are flattened and a warning says so.
    n : int, default 512
        Largest number of rows.
    seed : int, default 7619
        Seed of the draw.
    root : path, optional
        Folder of the data sets. By default the environment variable ``NETGRAPH_DATA`` names it.
    tokenizer : tokenizers.Tokenizer, optional
        Tokenizer of the network, for texts. A text file needs it.

    Returns
    -------
    CalibrationData
        ``inputs`` is a tensor, tuple or dict like the example, of the same dtype. ``targets`` is None if the source has none.

    Raises
    ------
    DataError
        The source does not fit the network, a file is damaged, or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import load_calibration
    >>> load_calibration("digits", example=torch.zeros(2, 1, 8, 8), n=128).inputs.shape
    torch.Size([128, 1, 8, 8])
    """
    like = check_request(source, example, n)
    return shape_like_example(_read_source(source, like, n, seed, root, tokenizer), example, str(source))


def check_request(source: str | Path, example: Any, n: int) -> Tensor:
    """Return the first tensor of an example. Refuse a number of rows that is out of range, and a source for other networks."""
    tensors = _example_tensors(example)
    like = tensors[0]
    if n < 1 or n * max(math.prod(like.shape[1:]), 1) > LIMIT:
        raise DataError(
            f"{n:,} rows were asked for, and inputs have the shape {_format_shape(like)}. Change n to at least 1 row, and to at "
            f"most {LIMIT:,} values in all."
        )
    if len(tensors) > 2 or (len(tensors) == 2 and not is_text(source)):
        raise DataError(
            f"the network takes {len(tensors)} tensors, and {source} gives one (texts give two, tokens and their mask). Give the rows in "
            f"Python, {_write_call(example)}; build_hierarchy(data=), sweep, fine_tune and make_metric take them too."
        )
    if is_text_file(source) and (like.is_floating_point() or like.ndim != 2):
        raise DataError(
            f"{source} is text, as whole numbers (rows, tokens), and the network takes {like.dtype} of {_format_shape(like)}. Choose a source that fits it."
        )
    return like


def shape_like_example(data: CalibrationData, example: Any, source: str) -> CalibrationData:
    """Return rows in the form of a network's example, with a mask of the tokens if it takes one."""
    tensors = _example_tensors(example)
    inputs = _fit_to_example(data.inputs, tensors[0], source)
    if data.targets is not None and data.targets.is_floating_point():
        _check_finite(data.targets, source, "targets")
    mask = []
    if len(tensors) == 2:
        seen = torch.ones_like(inputs) if is_text_file(source) else attention_mask(inputs, padding_id(data.tokenizer))
        mask = [seen.to(tensors[1].dtype)]  # windows of a text have no padding
    return data._replace(inputs=_pack_like(example, [inputs, *mask]))


def is_text(source: str | Path) -> bool:
    """Return True for a source whose rows are tokens of texts."""
    return str(source) == "imdb" or is_text_file(source)


def find_shape(source: str | Path) -> tuple[int, ...] | None:
    """Return the shape of one row of a source of images or tensors, None where it has none of its own.

    Texts have the length that a network takes, and pictures of a folder are made as large as it takes.

    Parameters
    ----------
    source : str or path
        As for `load_calibration`.

    Returns
    -------
    tuple of int or None
        None too for a file that cannot be read, which `load_calibration` refuses with the reason.
    """
    if str(source) in NAMES:
        return IMAGE_SHAPES.get(str(source))
    path = Path(source)
    if path.suffix not in ENDINGS or not path.is_file():
        return None
    try:
        inputs, _ = read_tensors(path)
    except NetgraphError:
        return None
    return tuple(inputs.shape[1:]) if inputs.ndim > 1 and inputs.is_floating_point() else None


def encode_like_example(texts: Sequence[str], *, example: Any, tokenizer: Any) -> Any:
    """Return texts in the form of a network's example, cut or filled to its number of tokens.

    Parameters
    ----------
    texts : sequence of str
        The texts.
    example : Tensor, or tuple or dict of tokens and optionally their mask
        Input of the network, tokens of shape (rows, length).
    tokenizer : tokenizers.Tokenizer
        Tokenizer of the network.

    Raises
    ------
    DataError
        The network takes no tokens.
    """
    tensors = _example_tensors(example)
    like = tensors[0]
    if like.is_floating_point() or like.ndim != 2 or len(tensors) > 2:
        raise DataError(
            f"the network takes {len(tensors)} tensors, the first {like.dtype} of {_format_shape(like)}. A network for texts "
            "takes whole numbers (rows, tokens), and optionally their mask."
        )
    tokens = encode_texts(tokenizer, texts, length=like.shape[1])
    lengths = torch.tensor([len(tokenizer.encode(text).ids) for text in texts])[:, None]
    mask = [(torch.arange(like.shape[1]) < lengths).to(tensors[1].dtype)] if len(tensors) == 2 else []
    return _pack_like(example, [tokens.to(like.dtype), *mask])


def _example_tensors(example: Any) -> list[Tensor]:
    """Return the tensors of an example: itself, or the entries of a tuple or dict."""
    values = list(example.values()) if isinstance(example, Mapping) else example
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    if not values or not all(isinstance(v, Tensor) and v.ndim > 1 for v in values):
        raise DataError("the example must be a tensor of shape (rows, ...), or a tuple or dict of such tensors.")
    return values


def _write_call(example: Any) -> str:
    """Return the call that takes rows of several tensors, with the names that the network has for them."""
    if isinstance(example, Mapping):
        rows = ", ".join(f"{name!r}: ..." for name in example)
        return f"as in netgraph.compress(model, {{{rows}}})"
    return f"as in netgraph.compress(model, ({', '.join('...' for _ in example)}))"


def _pack_like(example: Any, tensors: Sequence[Tensor]) -> Any:
    """Return tensors in the form of an example: alone, in a tuple, or in a dict with its keys."""
    if isinstance(example, Tensor):
        return tensors[0]
    return dict(zip(example, tensors, strict=True)) if isinstance(example, Mapping) else tuple(tensors)


def _read_source(
    source: str | Path, like: Tensor, n: int, seed: int, root: str | Path | None, tokenizer: Any
) -> CalibrationData:
    """Return at most ``n`` rows of a source, not yet in the shape and dtype of the network's example ``like``."""
    path = Path(source)
    if str(source) in NAMES:
        return _read_dataset(str(source), like, n, seed, root, tokenizer)
    if is_text_file(source):
        windows = read_windows(source, tokenizer, like.shape[1])
        return CalibrationData(windows[draw_rows(len(windows), n, seed), :-1].long(), None, tokenizer)
    check_path(path, DataError)
    if path.is_dir():
        files, classes = find_images(path)
        return read_image_rows(files, classes, draw_rows(len(files), n, seed), like, path)
    inputs, targets = open_tensor_file(path, like)
    rows = draw_rows(len(inputs), n, seed)
    return CalibrationData(inputs[rows], None if targets is None else targets[rows].clone())


def read_image_rows(
    files: Sequence[Path], classes: Sequence[int] | None, rows: Tensor, like: Tensor, folder: Path
) -> CalibrationData:
    """Return some of the images of a folder, in the size that an example holds, with their classes if they have some."""
    inputs = read_images([files[i] for i in rows.tolist()], _image_shape(like, folder))
    return CalibrationData(inputs, None if classes is None else torch.tensor(classes)[rows])


def open_tensor_file(path: Path, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return inputs and targets of a file whose rows fit an example. They stay on disk until rows are taken."""
    if path.suffix not in ENDINGS:
        raise DataError(
            f"{path} is neither a data set ({', '.join(NAMES)}), a folder, or a file that ends in {', '.join(ENDINGS)} or .txt. "
            "Give one of these."
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist. Give an existing file, or one of {', '.join(NAMES)}.")
    inputs, targets = read_tensors(path)
    _check_shape(inputs, like, str(path))
    return inputs, targets


def draw_rows(n_rows: int, n: int, seed: int) -> Tensor:
    """Return at most ``n`` different row numbers below ``n_rows``, in rising order. Memory grows with ``n`` alone."""
    rows = make_random(seed).choice(n_rows, min(n, n_rows), replace=False, shuffle=False)
    return torch.from_numpy(np.sort(rows))


def _read_dataset(
    name: str, like: Tensor, n: int, seed: int, root: str | Path | None, tokenizer: Any
) -> CalibrationData:
    """Return rows of the training split, as a network is trained on them."""
    data = open_dataset(name, like, root, tokenizer)
    rows = draw_rows(len(data.train), n, seed)
    return CalibrationData(data.ready(data.train.inputs[rows]), data.train.targets[rows], data.tokenizer)


def open_dataset(name: str, like: Tensor, root: str | Path | None, tokenizer: Any, *, extra: int = 0) -> Dataset:
    """Return a data set whose inputs fit an example. Texts have the length of its tokens, or ``extra`` more."""
    if (name == "imdb") == like.is_floating_point() or (name == "imdb" and like.ndim != 2):
        form = "text, as whole numbers (rows, tokens)" if name == "imdb" else "images, as floats"
        raise DataError(
            f"{name} is {form}, and the network takes {like.dtype} of {_format_shape(like)}. Choose a source that fits it."
        )
    return load_dataset(name, root=root, tokenizer=tokenizer, length=like.shape[1] + extra)


def _image_shape(like: Tensor, path: Path) -> tuple[int, int, int]:
    """Return channels, height and width of the images that an example holds. A vector counts as a square image."""
    if like.ndim == 4 and like.is_floating_point():
        return like.shape[1], like.shape[2], like.shape[3]
    for channels in (1, 3):
        side = math.isqrt(like.shape[1] // channels)
        if like.ndim == 2 and like.is_floating_point() and channels * side**2 == like.shape[1]:
            return channels, side, side
    raise DataError(
        f"{path} holds images, and the network takes {like.dtype} of {_format_shape(like)}. Give a tensor file."
    )


def _check_shape(inputs: Tensor, like: Tensor, source: str) -> None:
    """Reject inputs of another shape or kind than the network's example, before a row is read."""
    if inputs.ndim > 0 and len(inputs) == 0:
        raise DataError(f"{source} holds no rows. Give a file that holds some.")
    fits = inputs.ndim > 0 and (inputs.shape[1:] == like.shape[1:] or _can_flatten(inputs, like))
    if not fits:
        raise DataError(
            f"{source} holds {_format_shape(inputs)} inputs, and the network takes {_format_shape(like)}. Give data of that shape."
        )
    if _number_kind(inputs) != _number_kind(like):
        raise DataError(
            f"{source} holds {inputs.dtype} inputs, and the network takes {like.dtype}. Convert them: images are floats in [0, 1]."
        )


def _can_flatten(inputs: Tensor, like: Tensor) -> bool:
    """Return True if rows flatten to the vectors that a network takes."""
    return like.ndim == 2 and inputs.ndim > 2 and math.prod(inputs.shape[1:]) == like.shape[1]


def _fit_to_example(inputs: Tensor, like: Tensor, source: str) -> Tensor:
    """Return inputs in the shape and dtype of the network's example, after a check that they are finite."""
    _check_shape(inputs, like, source)
    if _can_flatten(inputs, like):
        warnings.warn(
            f"{source}: inputs of {_format_shape(inputs)} are flattened to {like.shape[1]} numbers", stacklevel=3
        )
        inputs = inputs.flatten(1)
    values = inputs.to(like.dtype)
    if not values.is_floating_point() and not torch.equal(values.to(inputs.dtype), inputs):
        raise DataError(
            f"{source} holds whole numbers outside the range of {like.dtype}. Give the network's own inputs."
        )
    if values.is_floating_point():
        _check_finite(values, source, "numbers")
    return values.clone()


def _check_finite(values: Tensor, source: str, what: str) -> None:
    """Refuse rows that hold NaN or infinity."""
    bad = ~torch.isfinite(values.reshape(len(values), -1)).all(1)
    if bool(bad.any()):
        raise DataError(
            f"{source} holds {what} that are not finite, in {int(bad.sum()):,} of {len(values):,} rows. Correct or remove these rows."
        )


def _number_kind(tensor: Tensor) -> str:
    """Return ``float``, ``whole``, or the dtype's own name for bool and complex."""
    if tensor.dtype == torch.bool or tensor.is_complex():
        return str(tensor.dtype)
    return "float" if tensor.is_floating_point() else "whole"


def _format_shape(tensor: Tensor) -> str:
    """Return the shape of a tensor of rows as text, such as ``rows × 3 × 32 × 32``."""
    return " × ".join(["rows", *(f"{size:,}" for size in tensor.shape[1:])]) if tensor.ndim else "single-number"
