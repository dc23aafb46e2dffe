"""Rows of a source in three parts that share no row: for calibration, for validation and for a test.

A data set brings its splits, and a folder may have train, valid and test in it. Other rows are divided at random by the seed: half of
them for calibration, a quarter for validation, a quarter for the test. The division depends on nothing else, so that a test finds the
same rows again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from netgraph.errors import DataError
from netgraph.io.files.output_files import check_path
from netgraph.models.data.calibration import (
    CalibrationData,
    check_request,
    draw_rows,
    open_dataset,
    open_tensor_file,
    read_image_rows,
    shape_like_example,
)
from netgraph.models.data.datasets import NAMES, DataSplit
from netgraph.models.data.readers.image_folder import find_images
from netgraph.models.data.text_windows import is_text_file, read_windows
from netgraph.utils.seeds import make_random

CALIBRATION, VALIDATION, TEST = 512, 2000, 10_000  # most rows of each part
VALUES = 2**28  # most numbers in all inputs of one part, 1 GiB of float32. Fewer rows are taken where they are large
FOLDERS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test",)}
Read = Callable[[str, Tensor], CalibrationData]  # part and row numbers


class RowSplits(NamedTuple):
    """Rows in three parts that share no row.

    Parameters
    ----------
    calibration, validation, test : CalibrationData
        Inputs in the form of the network's example, with targets if the source has them.
    origin : tuple of str
        How many rows each part has, and where they come from.
    next_tokens : bool, default False
        The target of each token is the next one.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import load_splits
    >>> load_splits("digits", example=torch.zeros(2, 1, 8, 8)).origin
    ('512 rows of the training split', '135 rows of the validation split', '449 rows of the test split')
    """

    calibration: CalibrationData
    validation: CalibrationData
    test: CalibrationData
    origin: tuple[str, str, str]
    next_tokens: bool = False


def load_splits(
    source: str | Path,
    *,
    example: Any,
    n: int = CALIBRATION,
    n_valid: int = VALIDATION,
    n_test: int = TEST,
    seed: int = 7619,
    root: str | Path | None = None,
    tokenizer: Any = None,
    next_tokens: bool = False,
) -> RowSplits:
    """Draw rows for calibration, validation and a test, in the form of a network's example.

    Parameters
    ----------
    source : str or path
        A data set, whose own splits are taken, or a file or a folder as `load_calibration` takes them. A folder that has ``train`` and
        ``test`` in it, and perhaps ``valid``, is read by these. Rows without splits are divided by the seed. Windows of a text are divided in
        their order: the first half, the next quarter, and the last.
    example : Tensor, or tuple or dict of tensors
        Input of the network, of shape (rows, ...).
    n, n_valid, n_test : int, default 512, 2000 and 10000
        Largest numbers of rows.
    seed : int, default 7619
        Seed of the draw.
    root : path, optional
        Folder of the data sets. By default the environment variable ``NETGRAPH_DATA`` names it.
    tokenizer : tokenizers.Tokenizer, optional
        Tokenizer of the network, for texts. A text file needs it.
    next_tokens : bool, default False
        For texts: the target of each token is the next one, as a language model needs it.

    Returns
    -------
    RowSplits

    Raises
    ------
    DataError
        The source does not fit the network, has fewer than four rows, or a file is damaged.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import load_splits
    >>> splits = load_splits("digits", example=torch.zeros(2, 64), n=100, n_test=200)
    >>> splits.calibration.inputs.shape, len(splits.validation.targets), len(splits.test.targets)
    (torch.Size([100, 64]), 135, 200)
    """
    like = check_request(source, example, n)
    for count in (n_valid, n_test):
        check_request(source, example, min(count, 1))  # there may be any number of them, from 1 on
    room = max(VALUES // max(math.prod(like.shape[1:]), 1), 1)
    most = {"train": n, "valid": min(n_valid, room), "test": min(n_test, room)}
    read, rows, names = _open_source(source, like, seed, root, tokenizer, next_tokens)
    drawn = {part: rows[part][draw_rows(len(rows[part]), most[part], seed)] for part in most}
    train, valid, test = (shape_like_example(read(part, drawn[part]), example, str(source)) for part in most)
    first, second, third = (f"{len(drawn[part]):,} {names[part]}" for part in most)
    return RowSplits(train, valid, test, (first, second, third), next_tokens)


def _open_source(
    source: str | Path, like: Tensor, seed: int, root: str | Path | None, tokenizer: Any, next_tokens: bool
) -> tuple[Read, dict[str, Tensor], dict[str, str]]:
    """Return a function that reads rows of a part, the row numbers of each part, and words for each part."""
    if str(source) in NAMES:
        return _open_dataset(str(source), like, root, tokenizer, next_tokens)
    if is_text_file(source):
        return _open_text(source, like, tokenizer, next_tokens)
    if next_tokens:
        raise DataError(f"{source} has no texts whose next tokens are targets. Give imdb or a text file.")
    path = Path(source)
    check_path(path, DataError)
    if path.is_dir():
        return _open_folder(path, like, seed)
    inputs, targets = open_tensor_file(path, like)
    return (
        lambda _, rows: CalibrationData(inputs[rows], None if targets is None else targets[rows].clone()),
        _divide_rows(len(inputs), seed, path),
        _name_rows(len(inputs)),
    )


def _open_dataset(
    name: str, like: Tensor, root: str | Path | None, tokenizer: Any, next_tokens: bool
) -> tuple[Read, dict[str, Tensor], dict[str, str]]:
    """Return the splits of a data set."""
    data = open_dataset(name, like, root, tokenizer, extra=int(next_tokens))
    data = data.next_tokens() if next_tokens else data
    splits: dict[str, DataSplit] = {"train": data.train, "valid": data.valid, "test": data.test}

    def read(part: str, rows: Tensor) -> CalibrationData:
        return CalibrationData(data.ready(splits[part].inputs[rows]), splits[part].targets[rows], data.tokenizer)

    words = {
        "train": "rows of the training split",
        "valid": "rows of the validation split",
        "test": "rows of the test split",
    }
    return read, {part: torch.arange(len(split)) for part, split in splits.items()}, words


def _open_text(
    source: str | Path, like: Tensor, tokenizer: Any, next_tokens: bool
) -> tuple[Read, dict[str, Tensor], dict[str, str]]:
    """Return the windows of a text in their order, so that no part has a passage of another."""
    windows, length = read_windows(source, tokenizer, like.shape[1]), like.shape[1]
    n, quarter = len(windows), len(windows) // 4
    _check_rows(quarter, Path(source))

    def read(_: str, rows: Tensor) -> CalibrationData:
        tokens = windows[rows].long()
        return CalibrationData(tokens[:, :-1], tokens[:, 1:] if next_tokens else None, tokenizer)

    numbers, first = torch.arange(n), n - 2 * quarter
    parts = {"train": numbers[:first], "valid": numbers[first : n - quarter], "test": numbers[n - quarter :]}
    places = {"train": "first", "valid": "next", "test": "last"}
    words = {part: f"of the {places[part]} {len(rows):,} windows of {length:,} tokens" for part, rows in parts.items()}
    return read, parts, words


def _open_folder(path: Path, like: Tensor, seed: int) -> tuple[Read, dict[str, Tensor], dict[str, str]]:
    """Return the images of a folder, by the folders train, valid and test in it or divided by the seed."""
    folders = {part: next((path / n for n in names if (path / n).is_dir()), None) for part, names in FOLDERS.items()}
    if folders["train"] is None or folders["test"] is None:
        files, classes = find_images(path)
        rows, words = _divide_rows(len(files), seed, path), _name_rows(len(files))
        return lambda _, numbers: read_image_rows(files, classes, numbers, like, path), rows, words
    images = {part: find_images(folder) for part, folder in folders.items() if folder is not None}
    _check_same_classes(path, {part: files for part, (files, classes) in images.items() if classes is not None})
    rows = {part: torch.arange(len(files)) for part, (files, _) in images.items()}
    words = {part: f"rows of {folder.name}" for part, folder in folders.items() if folder is not None}
    if "valid" not in images:  # a quarter of the training images
        order = _shuffle(len(rows["train"]), seed)
        images["valid"], words["valid"] = images["train"], words["train"]
        rows["train"], rows["valid"] = order[len(order) // 4 :], order[: len(order) // 4]
        _check_rows(min(map(len, rows.values())), path)
    return lambda part, numbers: read_image_rows(*images[part], numbers, like, path), rows, words


def _check_same_classes(path: Path, files: dict[str, list[Path]]) -> None:
    """Refuse parts with other classes, whose numbers would differ."""
    classes = {part: {file.parent.name for file in some} for part, some in files.items()}
    if len({frozenset(names) for names in classes.values()}) > 1:
        first, *others = classes.values()
        odd = sorted(set().union(*others) ^ first)
        raise DataError(
            f"the folders in {path} have different classes, such as {odd[0]!r}. Give each of them all classes."
        )


def _divide_rows(n: int, seed: int, path: Path) -> dict[str, Tensor]:
    """Return half of the rows, a quarter and a quarter, at random by the seed."""
    _check_rows(n // 4, path)
    order = _shuffle(n, seed)
    quarter = n // 4
    return {"train": order[2 * quarter :], "valid": order[quarter : 2 * quarter], "test": order[:quarter]}


def _check_rows(least: int, path: Path) -> None:
    """Refuse rows of which a part would have none."""
    if least < 1:
        raise DataError(f"{path} has too few rows for calibration, validation and a test. Give four rows or more.")


def _shuffle(n: int, seed: int) -> Tensor:
    """Return the numbers below n in an order of the seed."""
    return torch.from_numpy(make_random(seed).permutation(n))


def _name_rows(n: int) -> dict[str, str]:
    """Return the words for parts of rows that have no splits."""
    return dict.fromkeys(FOLDERS, f"of {n:,} rows")
