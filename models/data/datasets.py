"""Data sets by name, held in memory.

scikit-learn's digits need no file. MNIST, Fashion-MNIST, CIFAR-10 and IMDB are read from a folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph.environment.optional_packages import import_package
from netgraph.errors import DataError
from netgraph.io.files.output_files import check_path
from netgraph.models.data import tokenizer as text
from netgraph.models.data.readers import cifar, idx, imdb
from netgraph.models.data.readers.imdb import fetch_imdb

SEED = 7619  # of the validation split, which is the same in every run
FOLDERS = {
    "mnist": ("MNIST/raw",),
    "fashion-mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-batches-py", "cifar10"),
    "imdb": ("imdb", "aclImdb"),
}
NAMES = ("digits", *FOLDERS)
IMAGE_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_NUMBERS = tuple(str(i) for i in range(10))
_CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class DataSplit:
    """Inputs and targets of one part of a data set.

    Parameters
    ----------
    inputs : Tensor of shape (n, ...)
        One row for each example.
    targets : Tensor of shape (n,) or (n, length)
        Class of each example, or the next token of each token.

    Raises
    ------
    DataError
        Inputs and targets have different numbers of rows.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import DataSplit
    >>> len(DataSplit(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)))
    5
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if not self.inputs.ndim or not self.targets.ndim or len(self.inputs) != len(self.targets):
            raise DataError(
                f"inputs of shape {tuple(self.inputs.shape)} do not pair with targets of shape {tuple(self.targets.shape)}. Give as "
                "many rows of both."
            )

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, in three splits.

    Parameters
    ----------
    name : str
        Name of the data set.
    classes : tuple of str
        Names of the classes, in the order of their numbers.
    train, valid, test : DataSplit
        Grey images are float32 in [0, 1] of shape (n, 1, height, width). CIFAR-10's images are uint8 of shape
        (n, 3, 32, 32), a quarter of the memory. Texts are int32 tokens of shape (n, length).
    mean, std : tuple of float, default ()
        Mean and standard deviation of each channel, by which `ready` standardizes. Empty: images stay in [0, 1].
    padding : int, optional
        Token that fills up short texts. Batches are then cut to the longest text in them.
    tokenizer : tokenizers.Tokenizer, optional
        Tokenizer of the texts.

    Raises
    ------
    DataError
        The padding token, the means or the deviations do not fit the inputs.

    Examples
    --------
    >>> from netgraph.models import load_dataset
    >>> digits = load_dataset("digits")
    >>> len(digits.train), len(digits.valid), len(digits.test)
    (1213, 135, 449)
    >>> digits.ready(digits.test.inputs[:2]).shape
    torch.Size([2, 1, 8, 8])
    """

    name: str
    classes: tuple[str, ...]
    train: DataSplit
    valid: DataSplit
    test: DataSplit
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    padding: int | None = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        if self.padding is not None and not 0 <= self.padding < 2**31:
            raise DataError(
                f"the padding token of {self.name} is {self.padding}. Give a token, a whole number from 0 on and below 2^31."
            )
        if len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
            raise DataError(
                f"{self.name} has the means {self.mean} and the standard deviations {self.std}. Give one of both for each channel, and "
                "deviations above 0."
            )
        if self.padding is not None and any(split.inputs.ndim != 2 for split in (self.train, self.valid, self.test)):
            raise DataError(
                f"{self.name} has a padding token, and its inputs are no texts of shape (n, length). Leave padding out."
            )

    def ready(self, inputs: Tensor) -> Tensor:
        """Return inputs in the form that a network takes.

        Parameters
        ----------
        inputs : Tensor
            Rows of a split.

        Returns
        -------
        Tensor
            Images as float32, standardized if the data set has ``mean`` and ``std``. Tokens as int64.
        """
        if inputs.dtype == torch.int32:
            return inputs.long()
        values = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        if not self.mean:
            return values
        if values.ndim < 2 or values[:1].numel() % len(self.mean):
            raise DataError(
                f"inputs of shape {tuple(values.shape)} do not have the {len(self.mean)} channels of {self.name}. Give rows of a split."
            )
        mean, std = (torch.tensor(v, device=values.device)[:, None] for v in (self.mean, self.std))
        return ((values.reshape(len(values), len(self.mean), -1) - mean) / std).reshape(values.shape)

    def flat(self) -> Dataset:
        """Return the data set with each image as one vector."""
        return self._map_splits(lambda split: DataSplit(split.inputs[..., None].flatten(1), split.targets))

    def fixed_length(self) -> Dataset:
        """Return the data set with all texts at their full length.

        A coarse network takes texts of one length, that of the example on which its network was traced.
        """
        return replace(self, padding=None)

    def next_tokens(self) -> Dataset:
        """Return the data set for a language model: the target of each token is the next token, -100 if there is none.

        Raises
        ------
        DataError
            The data set has no texts.
        """
        if self.padding is None:
            raise DataError(f"{self.name} has no texts, and a language model needs them. Load imdb.")
        return self._map_splits(self._shift_targets)

    def _shift_targets(self, split: DataSplit) -> DataSplit:
        following = split.inputs[:, 1:].long()
        return DataSplit(split.inputs[:, :-1], following.masked_fill(torch.eq(following, self.padding or 0), -100))

    def _map_splits(self, change: Callable[[DataSplit], DataSplit]) -> Dataset:
        return replace(self, train=change(self.train), valid=change(self.valid), test=change(self.test))


def load_dataset(
    name: str = "digits",
    *,
    root: str | Path | None = None,
    download: bool = False,
    tokenizer: Any = None,
    length: int = 256,
) -> Dataset:
    """Load a data set by its name.

    Parameters
    ----------
    name : str, default "digits"
        ``digits`` (part of scikit-learn), ``mnist``, ``fashion-mnist``, ``cifar10`` or ``imdb``.
    root : path, optional
        Folder of the data sets. By default the environment variable ``NETGRAPH_DATA`` names it.
    download : bool, default False
        Fetch missing files: images through torchvision, IMDB from its authors.
    tokenizer : str or tokenizers.Tokenizer, optional
        For ``imdb``. A tokenizer, or the kind that is trained on the training split: ``word`` (the default) or ``bpe``.
    length : int, default 256
        Largest number of tokens of a text.

    Returns
    -------
    Dataset
        Its validation split is the same in every run.

    Raises
    ------
    DataError
        The name is unknown, or a file is missing or differs from the published one.

    Examples
    --------
    >>> from netgraph.models import load_dataset
    >>> data = load_dataset("digits")
    >>> data.train.inputs.shape
    torch.Size([1213, 1, 8, 8])
    >>> data.flat().train.inputs.shape
    torch.Size([1213, 64])
    """
    if name not in NAMES:
        raise DataError(f"no data set is called {name!r}. Choose one of {', '.join(NAMES)}.")
    if name == "digits":
        return _load_digits()
    folder = _find_folder(name, _find_root(name, root), download)
    if name == "imdb":
        return _load_imdb(folder, tokenizer, length)
    if name == "cifar10":
        return _load_cifar10(folder)
    files, classes = (idx.MNIST, _NUMBERS) if name == "mnist" else (idx.FASHION, _CLOTHES)
    return _load_grey_images(name, classes, idx.read_idx(folder, files))


def _find_root(name: str, root: str | Path | None) -> Path:
    """Return the folder of data sets: ``root``, or the folder that NETGRAPH_DATA names."""
    folder = root or os.environ.get("NETGRAPH_DATA")
    if not folder:
        raise DataError(
            f"{name} is read from a folder, and no folder was given. Pass --data-root to `netgraph train` (root= in Python), set NETGRAPH_DATA, "
            "or choose digits, which needs no folder."
        )
    return Path(folder)


def _find_folder(name: str, root: Path, download: bool) -> Path:
    """Return the first folder that holds a data set. Fetch the data set if it is missing and ``download`` is True."""
    check_path(root, DataError)
    choices = [root / folder for folder in FOLDERS[name]]
    existing = next((folder for folder in choices if folder.is_dir()), None)
    if existing is not None:
        return existing
    if download and name == "imdb":
        fetch_imdb(root)
        return root / "aclImdb"
    if download:
        _download_images(name, root)
        return choices[0]
    raise DataError(
        f"{root} has no folder {' or '.join(FOLDERS[name])} for {name}. Fetch it with --download, or with "
        f"load_dataset({name!r}, root=..., download=True)."
    )


def _download_images(name: str, root: Path) -> None:
    """Fetch images through torchvision."""
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    import_package("torchvision", f"fetching {name}", DataError)
    from torchvision import datasets

    kinds = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
    try:
        kinds[name](str(root), download=True)
    except Exception as error:  # network, disk and archive raise many classes
        reason = (str(error).splitlines() or [""])[0].rstrip(":")
        raise DataError(
            f"{name} cannot be fetched to {root} ({type(error).__name__}: {reason}). Try again, or copy the files there."
        ) from error


def _load_digits() -> Dataset:
    """Return scikit-learn's digits, a quarter of them for testing."""
    import_package("sklearn", "the data set digits", DataError)
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 16
    targets = torch.as_tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    test, rest = order[: len(order) // 4], order[len(order) // 4 :]
    train, valid = _split_train_valid(images[rest], targets[rest], 135)
    return Dataset("digits", _NUMBERS, train, valid, DataSplit(images[test], targets[test]))


def _load_grey_images(name: str, classes: tuple[str, ...], arrays: tuple[Tensor, ...]) -> Dataset:
    """Return MNIST or Fashion-MNIST from images and labels of both files."""
    images, labels, test, test_labels = arrays
    train, valid = _split_train_valid(images.float() / 255, labels.long(), 5000)
    return Dataset(name, classes, train, valid, DataSplit(test.float() / 255, test_labels.long()))


def _load_cifar10(folder: Path) -> Dataset:
    """Return CIFAR-10. Its images stay uint8 until `Dataset.ready`."""
    images, labels, test, test_labels = cifar.read_batches(folder)
    train, valid = _split_train_valid(images, labels.long(), 5000)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the 50,000 training images
    return Dataset("cifar10", cifar.CLASSES, train, valid, DataSplit(test, test_labels.long()), mean, std)


def _load_imdb(folder: Path, tokenizer: Any, length: int) -> Dataset:
    """Return IMDB as tokens. A tokenizer given by its kind is trained on the training split alone."""
    read = imdb.read_folder if (folder / "train").is_dir() else imdb.read_csv
    (texts, labels), (test, test_labels) = read(folder, "train"), read(folder, "test")
    train_rows, valid_rows = _split_rows(len(texts), 2500)
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = text.train_tokenizer([texts[i] for i in train_rows.tolist()], kind=tokenizer or "word")
    tokens, targets = text.encode_texts(tokenizer, texts, length=length), torch.tensor(labels)
    test_split = DataSplit(text.encode_texts(tokenizer, test, length=length), torch.tensor(test_labels))
    train, valid = (DataSplit(tokens[rows], targets[rows]) for rows in (train_rows, valid_rows))
    padding = text.padding_id(tokenizer)
    return Dataset("imdb", ("negative", "positive"), train, valid, test_split, padding=padding, tokenizer=tokenizer)


def _split_rows(n: int, n_valid: int) -> tuple[Tensor, Tensor]:
    """Return the rows of n for training and the rows for validation, by the seed `SEED`."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    return order[n_valid:], order[:n_valid]


def _split_train_valid(inputs: Tensor, targets: Tensor, n_valid: int) -> tuple[DataSplit, DataSplit]:
    train, valid = _split_rows(len(inputs), n_valid)
    return DataSplit(inputs[train], targets[train]), DataSplit(inputs[valid], targets[valid])
