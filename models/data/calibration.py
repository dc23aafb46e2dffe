"""Calibration data: inputs that a network is to be judged by, from a data set, pictures or a file, made to fit it.

Whatever is wrong with them is said before work begins, and sizes are read before memory is taken.
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

from netgraph.errors import DataError
from netgraph.models.data.datasets import NAMES, load_dataset
from netgraph.models.data.readers.image_folder import find_images, read_images
from netgraph.models.data.readers.tensor_file import ENDINGS, read_tensors
from netgraph.models.data.tokenizer import attention_mask, encode_texts, padding_id

LIMIT = 2**31  # numbers in all


class CalibrationData(NamedTuple):
    """Inputs in the form of the network's example, their targets where the source has them, and of text its tokenizer."""

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
    """Return at most ``n`` rows of calibration data, drawn at random, that fit a network's example.

    Parameters
    ----------
    source : str or path
        ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10`` or ``imdb`` (their training split), a folder of pictures,
        or a ``.npy``, ``.pt`` or ``.safetensors`` file of one tensor, or of tensors ``inputs`` and ``targets``.
    example : Tensor, or tuple or dict of one Tensor (of two for text: tokens and their mask)
        What the network takes, (rows, ...). Images become vectors where it takes vectors, which a warning says.
    n : int
    seed : int
    root : path, optional
        The folder of data sets; the environment variable ``NETGRAPH_DATA`` by default.
    tokenizer : tokenizers.Tokenizer, optional
        For ``imdb``; it should be the network's own.

    Returns
    -------
    Calibration
        ``inputs`` is a tensor, tuple or dict like the example, of its dtype.

    Raises
    ------
    DataError
        Source and network do not fit, the file is damaged, or a number is not finite.
    """
    tensors = _example_tensors(example)
    wanted = tensors[0]
    if n < 1 or n * max(math.prod(wanted.shape[1:]), 1) > LIMIT:
        raise DataError(
            f"n = {n:,} rows of {_format_shape(wanted)} are asked for; at least one and at most {LIMIT:,} numbers can be: change n"
        )
    if len(tensors) > 2 or (len(tensors) == 2 and str(source) != "imdb"):
        raise DataError(
            f"the network takes {len(tensors)} tensors and {source} gives one; only imdb gives tokens and mask"
        )
    found = _read_source(source, wanted, n, seed, root, tokenizer)
    inputs = _fit_to_example(found.inputs, wanted, str(source))
    mask = [attention_mask(inputs, padding_id(found.tokenizer)).to(tensors[1].dtype)] if len(tensors) == 2 else []
    return found._replace(inputs=_pack_like(example, [inputs, *mask]))


def encode_like_example(texts: Sequence[str], *, example: Any, tokenizer: Any) -> Any:
    """Return texts in the form of a network's example, cut or filled up to its number of tokens.

    Parameters
    ----------
    texts : sequence of str
    example : Tensor, or tuple or dict of tokens and perhaps their mask
    tokenizer : tokenizers.Tokenizer
        The network's own.

    Raises
    ------
    DataError
        The network takes no tokens.
    """
    tensors = _example_tensors(example)
    wanted = tensors[0]
    if wanted.is_floating_point() or wanted.ndim != 2 or len(tensors) > 2:
        raise DataError(
            f"the network takes {len(tensors)} tensors, the first {wanted.dtype} of {_format_shape(wanted)}; texts are whole "
            "numbers (rows, tokens), and perhaps their mask"
        )
    tokens = encode_texts(tokenizer, texts, length=wanted.shape[1])
    lengths = torch.tensor([len(tokenizer.encode(text).ids) for text in texts])[:, None]
    mask = [(torch.arange(wanted.shape[1]) < lengths).to(tensors[1].dtype)] if len(tensors) == 2 else []
    return _pack_like(example, [tokens.to(wanted.dtype), *mask])


def _example_tensors(example: Any) -> list[Tensor]:
    values = list(example.values()) if isinstance(example, Mapping) else example
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    if not values or not all(isinstance(v, Tensor) and v.ndim > 1 for v in values):
        raise DataError("the example is no tensor of rows, nor a tuple or dict of such; give what the network takes")
    return values


def _pack_like(example: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(example, Tensor):
        return tensors[0]
    return dict(zip(example, tensors, strict=True)) if isinstance(example, Mapping) else tuple(tensors)


def _read_source(
    source: str | Path, wanted: Tensor, n: int, seed: int, root: str | Path | None, tokenizer: Any
) -> CalibrationData:
    path = Path(source)
    if str(source) in NAMES:
        return _read_dataset(str(source), wanted, n, seed, root, tokenizer)
    if path.is_dir():
        files, classes = find_images(path)
        rows = draw_rows(len(files), n, seed)
        inputs = read_images([files[i] for i in rows.tolist()], _image_shape(wanted, path))
        return CalibrationData(inputs, None if classes is None else torch.tensor(classes)[rows])
    if path.suffix not in ENDINGS:
        raise DataError(
            f"{source} is neither a data set ({', '.join(NAMES)}), nor a folder, nor a {', '.join(ENDINGS)} file; give one of these"
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a file that does, or one of {', '.join(NAMES)}")
    inputs, found = read_tensors(path)
    _check_shape(inputs, wanted, str(path))
    rows = draw_rows(len(inputs), n, seed)
    return CalibrationData(inputs[rows], None if found is None else found[rows].clone())


def draw_rows(n_rows: int, n: int, seed: int) -> Tensor:
    """Return at most n of ``n_rows`` row numbers, in rising order; memory is that of n."""
    rows = np.random.default_rng(seed).choice(n_rows, min(n, n_rows), replace=False, shuffle=False)
    return torch.from_numpy(np.sort(rows))


def _read_dataset(
    name: str, wanted: Tensor, n: int, seed: int, root: str | Path | None, tokenizer: Any
) -> CalibrationData:
    if (name == "imdb") == wanted.is_floating_point() or (name == "imdb" and wanted.ndim != 2):
        raise DataError(
            f"{name} is {'text, as whole numbers (rows, tokens)' if name == 'imdb' else 'images, as floats'}, and the network "
            f"takes {wanted.dtype} of {_format_shape(wanted)}; choose a source that fits it"
        )
    data = load_dataset(name, root=root, tokenizer=tokenizer, length=wanted.shape[1])
    rows = draw_rows(len(data.train), n, seed)
    return CalibrationData(data.ready(data.train.inputs[rows]), data.train.targets[rows], data.tokenizer)


def _image_shape(wanted: Tensor, path: Path) -> tuple[int, int, int]:
    """Return channels, height and width that pictures must have: those of the example, or of a square as a vector."""
    if wanted.ndim == 4 and wanted.is_floating_point():
        return wanted.shape[1], wanted.shape[2], wanted.shape[3]
    for channels in (1, 3):
        side = math.isqrt(wanted.shape[1] // channels)
        if wanted.ndim == 2 and wanted.is_floating_point() and channels * side**2 == wanted.shape[1]:
            return channels, side, side
    raise DataError(
        f"{path} holds pictures, and the network takes {wanted.dtype} of {_format_shape(wanted)}; give a tensor file"
    )


def _check_shape(inputs: Tensor, wanted: Tensor, source: str) -> None:
    """Refuse inputs that are not the network's, before a row is read."""
    if inputs.ndim > 0 and len(inputs) == 0:
        raise DataError(f"{source} holds no rows; give a file that has some")
    fits = inputs.ndim > 0 and (inputs.shape[1:] == wanted.shape[1:] or _can_flatten(inputs, wanted))
    if not fits:
        raise DataError(
            f"{source} holds {_format_shape(inputs)} inputs, and the network takes {_format_shape(wanted)}; give data of that shape"
        )
    if _number_kind(inputs) != _number_kind(wanted):
        raise DataError(
            f"{source} holds {inputs.dtype} inputs, and the network takes {wanted.dtype}; convert them: images are floats in [0, 1]"
        )


def _can_flatten(inputs: Tensor, wanted: Tensor) -> bool:
    return wanted.ndim == 2 and inputs.ndim > 2 and math.prod(inputs.shape[1:]) == wanted.shape[1]


def _fit_to_example(inputs: Tensor, wanted: Tensor, source: str) -> Tensor:
    """Return inputs as the network takes them: of its shape and dtype, and finite."""
    _check_shape(inputs, wanted, source)
    if _can_flatten(inputs, wanted):
        warnings.warn(
            f"{source}: inputs of {_format_shape(inputs)} are flattened to {wanted.shape[1]} numbers", stacklevel=3
        )
        inputs = inputs.flatten(1)
    found = inputs.to(wanted.dtype)
    if not found.is_floating_point() and not torch.equal(found.to(inputs.dtype), inputs):
        raise DataError(f"{source} holds whole numbers beyond {wanted.dtype}; give the network's own")
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        rows = int((~torch.isfinite(found)).flatten(1).any(1).sum())
        raise DataError(
            f"{source} holds numbers that are not finite, in {rows:,} of {len(found):,} rows; mend or leave them out"
        )
    return found.clone()


def _number_kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool or tensor.is_complex():
        return str(tensor.dtype)
    return "float" if tensor.is_floating_point() else "whole"


def _format_shape(tensor: Tensor) -> str:
    return " × ".join(["rows", *(f"{size:,}" for size in tensor.shape[1:])]) if tensor.ndim else "single-number"
