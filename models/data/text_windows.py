"""A text file as windows of tokens, for language models.

The whole text is one sequence of tokens, without special tokens. It is cut into windows that follow one another. The target of each token is
the next one, so that a window has one token more than its inputs: the first of the window behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import DataError, describe_error
from netgraph.models.data.tokenizer import check_tokenizer, explain_panics

PREFIX = "text:"
SUFFIX = ".txt"
LIMIT = 2**28  # bytes of a text
PIECE = 2**20  # characters that are encoded together, up to the end of their line


def is_text_file(source: str | Path) -> bool:
    """Return True for ``NAME.txt`` and ``text:FILE``.

    Examples
    --------
    >>> from netgraph.models.data.text_windows import is_text_file
    >>> is_text_file("book.txt"), is_text_file("text:README.md"), is_text_file("imdb")
    (True, True, False)
    """
    return str(source).startswith(PREFIX) or str(source).endswith(SUFFIX)


def read_windows(source: str | Path, tokenizer: Any, length: int) -> Tensor:
    """Return the windows of a text file.

    Parameters
    ----------
    source : str or path
        ``NAME.txt``, or ``text:FILE`` with any suffix. UTF-8, at most 256 MiB.
    tokenizer : tokenizers.Tokenizer
        Of the network.
    length : int
        Tokens that the network takes.

    Returns
    -------
    Tensor of shape (n, length + 1)
        Tokens as int32. The last of a window is the first of the next. A rest that fills no window is left out.

    Raises
    ------
    DataError
        There is no such file, it is no text, it has fewer tokens than a window, or there is no tokenizer.
    """
    path = Path(str(source).removeprefix(PREFIX))
    if tokenizer is None:
        raise DataError(
            f"{path} is read by the tokenizer of the network, and there is none. Give --tokenizer FILE (tokenizer= in Python), or put a "
            "tokenizer.json into the folder of the network."
        )
    check_tokenizer(tokenizer)
    tokens = np.concatenate([np.zeros(0, np.int32), *_encode(path, tokenizer)])
    if len(tokens) <= length:
        raise DataError(f"{path} has {len(tokens):,} tokens, and a window takes {length + 1:,}. Give a longer text.")
    return torch.from_numpy(tokens).unfold(0, length + 1, length)


def _encode(path: Path, tokenizer: Any) -> Iterator[np.ndarray]:
    """Yield the tokens of a text, piece by piece."""
    whole = type(tokenizer).from_str(tokenizer.to_str())  # a copy, because truncation is a setting of the tokenizer
    whole.no_padding()
    whole.no_truncation()
    for piece in _read_pieces(path):
        with explain_panics():
            yield np.array(whole.encode(piece, add_special_tokens=False).ids, np.int32)


def _read_pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file in pieces of whole lines."""
    if not path.is_file():
        raise DataError(
            f"{path} is {'a folder' if path.is_dir() else 'not here'}. Give a text file, as NAME.txt or text:FILE."
        )
    if path.stat().st_size > LIMIT:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, and at most {LIMIT:,} are read. Give a part of it.")
    try:
        with path.open(encoding="utf-8") as file:
            while lines := file.readlines(PIECE):
                yield "".join(lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}). Save it in UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({describe_error(error)}).") from error
