"""Data sets by name, resident in memory: scikit-learn's digits, and MNIST, Fashion-MNIST, CIFAR-10 and IMDB from a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph.errors import DataError
from netgraph.models.data import tokenizer as text
from netgraph.models.data.readers import cifar, idx, imdb
from netgraph.models.data.readers.imdb import fetch_imdb

SEED = 7619  # of the validation split: the same one for everybody
FOLDERS = {
    "mnist": ("MNIST/raw",),
    "fashion-mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-batches-py", "cifar10"),
    "imdb": ("imdb", "aclImdb"),
}
NAMES = ("digits", *FOLDERS)
_NUMBERS = tuple(str(i) for i in range(10))
_CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class DataSplit:
    """Inputs and their targets.

    Parameters
    ----------
    inputs : Tensor, (n, ...)
    targets : Tensor, (n,) or, for next tokens, (n, length)
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Parameters
    ----------
    name : str
    classes : tuple of str
    train, valid, test : Split
        Grey images are float32 in [0, 1], (n, 1, height, width); CIFAR's are uint8, (n, 3, 32, 32), a quarter of the
        memory; text is int32 token numbers, (n, length). What a network takes is ``ready(inputs)``.
    mean, std : tuple of float
        Of the channels, taken off and divided by in `ready`; empty where images stay in [0, 1].
    padding : int, optional
        The token that fills up short texts; batches are cut to the texts in them.
    tokenizer : tokenizers.Tokenizer, optional
        What made the tokens.
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

    def ready(self, inputs: Tensor) -> Tensor:
        """Return inputs as a network takes them: float32 images, standardised where ``mean`` says so; int64 tokens."""
        if inputs.dtype == torch.int32:
            return inputs.long()
        values = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        if not self.mean:
            return values
        mean, std = (torch.tensor(v, device=values.device)[:, None] for v in (self.mean, self.std))
        return ((values.reshape(len(values), len(self.mean), -1) - mean) / std).reshape(values.shape)

    def flat(self) -> Dataset:
        """Return the data set with each image as one vector."""
        return self._map_splits(lambda split: DataSplit(split.inputs.flatten(1), split.targets))

    def whole(self) -> Dataset:
        """Return the data set with texts of one length: a coarse network takes that of the example it was traced on."""
        return replace(self, padding=None)

    def next_tokens(self) -> Dataset:
        """Return the data set for a language model: each token's target is the next one, -100 where there is none.

        Raises
        ------
        DataError
            It is no text.
        """
        if self.padding is None:
            raise DataError(f"{self.name} is no text, so that no next token can be asked for; load imdb")
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
    """Return a data set; its validation split is the same for everybody.

    Parameters
    ----------
    name : str
        ``digits`` (ships with scikit-learn), ``mnist``, ``fashion-mnist``, ``cifar10`` or ``imdb``.
    root : path, optional
        The folder of data sets; the environment variable ``NETGRAPH_DATA`` by default.
    download : bool
        Fetch what is missing: images by torchvision, ``imdb`` from its authors.
    tokenizer : str or tokenizers.Tokenizer, optional
        For ``imdb``: ``word`` (by default) or ``bpe``, trained on the training split, or one at hand.
    length : int
        Tokens of a text at most.

    Raises
    ------
    DataError
        The name is unknown, or a file is missing or not the published one.
    """
    if name not in NAMES:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
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
    given = root or os.environ.get("NETGRAPH_DATA")
    if not given:
        raise DataError(
            f"{name} is read from a folder, and none is given; set NETGRAPH_DATA to it (or give --data-root, or root=), or take digits, "
            "which need none"
        )
    return Path(given)


def _find_folder(name: str, root: Path, download: bool) -> Path:
    """Return the first folder that holds a data set, after fetching it where that is asked for and possible."""
    choices = [root / folder for folder in FOLDERS[name]]
    found = next((folder for folder in choices if folder.is_dir()), None)
    if found is not None:
        return found
    if download and name == "imdb":
        fetch_imdb(root)
        return root / "aclImdb"
    if download:
        _download_images(name, root)
        return choices[0]
    mend = f"--download, or load({name!r}, root=..., download=True), fetches it"
    raise DataError(f"{root} has no folder {' or '.join(FOLDERS[name])}, where {name} is looked for; {mend}")


def _download_images(name: str, root: Path) -> None:
    from netgraph.utils.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    from torchvision import datasets

    kinds = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
    try:
        kinds[name](str(root), download=True)
    except Exception as error:  # of the network, of the disk, of the archive
        said = (str(error).splitlines() or [""])[0].rstrip(":")
        raise DataError(
            f"{name} cannot be fetched to {root} ({type(error).__name__}: {said}); try again, or copy it there"
        ) from error


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 16
    targets = torch.as_tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    test, rest = order[: len(order) // 4], order[len(order) // 4 :]
    train, valid = _split_train_valid(images[rest], targets[rest], 135)
    return Dataset("digits", _NUMBERS, train, valid, DataSplit(images[test], targets[test]))


def _load_grey_images(name: str, classes: tuple[str, ...], arrays: tuple[Tensor, ...]) -> Dataset:
    images, labels, test, test_labels = arrays
    train, valid = _split_train_valid(images.float() / 255, labels.long(), 5000)
    return Dataset(name, classes, train, valid, DataSplit(test.float() / 255, test_labels.long()))


def _load_cifar10(folder: Path) -> Dataset:
    images, labels, test, test_labels = cifar.read_batches(folder)
    train, valid = _split_train_valid(images, labels.long(), 5000)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the 50,000 training images
    return Dataset("cifar10", cifar.CLASSES, train, valid, DataSplit(test, test_labels.long()), mean, std)


def _load_imdb(folder: Path, tokenizer: Any, length: int) -> Dataset:
    read = imdb.read_folder if (folder / "train").is_dir() else imdb.read_csv
    (texts, labels), (test, test_labels) = read(folder, "train"), read(folder, "test")
    chosen, held = _split_rows(len(texts), 2500)
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = text.train_tokenizer([texts[i] for i in chosen.tolist()], kind=tokenizer or "word")
    tokens, targets = text.encode_texts(tokenizer, texts, length=length), torch.tensor(labels)
    last = DataSplit(text.encode_texts(tokenizer, test, length=length), torch.tensor(test_labels))
    train, valid = DataSplit(tokens[chosen], targets[chosen]), DataSplit(tokens[held], targets[held])
    return Dataset(
        "imdb", ("negative", "positive"), train, valid, last, padding=text.padding_id(tokenizer), tokenizer=tokenizer
    )


def _split_rows(n: int, n_valid: int) -> tuple[Tensor, Tensor]:
    """Return which of n are for training and which are held out for validation."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    return order[n_valid:], order[:n_valid]


def _split_train_valid(inputs: Tensor, targets: Tensor, n_valid: int) -> tuple[DataSplit, DataSplit]:
    train, valid = _split_rows(len(inputs), n_valid)
    return DataSplit(inputs[train], targets[train]), DataSplit(inputs[valid], targets[valid])
