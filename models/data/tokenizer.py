"""Text to numbers: word-level or BPE tokenizers of the library tokenizers, kept as JSON.

Byte-pair encoding: Sennrich, Haddow and Birch, ACL 2016. Every text begins with ``[CLS]``, so that none is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import DataError

PAD, UNKNOWN, CLS = 0, 1, 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]")
LIMIT = 2**26  # bytes of a tokenizer's file
KINDS = ("word", "bpe")
_AT_ONCE = 1000


def train_tokenizer(texts: Sequence[str], *, kind: str = "word", vocabulary: int = 20_000) -> Any:
    """Return a tokenizer trained on texts; the same texts give the same one.

    Parameters
    ----------
    texts : sequence of str
    kind : str
        ``word``: lower-case words and marks, the most frequent kept. ``bpe``: byte pairs, without unknown words.
    vocabulary : int
        Tokens at most, the special ones included.

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    DataError
        Another kind, or the library is not installed.
    """
    library = _import_tokenizers()
    if kind not in KINDS:
        raise DataError(f"no tokenizer is called {kind!r}; there are {' and '.join(KINDS)}")
    tokenizer, trainer = (_word_tokenizer if kind == "word" else _bpe_tokenizer)(library, vocabulary)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[(SPECIAL[CLS], CLS)]
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _word_tokenizer(library: Any, vocabulary: int) -> tuple[Any, Any]:
    tokenizer = library.Tokenizer(library.models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
    kinds = library.normalizers
    tokenizer.normalizer = kinds.Sequence([kinds.Replace("<br />", " "), kinds.NFC(), kinds.Lowercase()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False
    )
    return tokenizer, trainer


def _bpe_tokenizer(library: Any, vocabulary: int) -> tuple[Any, Any]:
    tokenizer = library.Tokenizer(library.models.BPE())
    kinds = library.normalizers
    tokenizer.normalizer = kinds.Sequence([kinds.Replace("<br />", " "), kinds.NFC()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    return tokenizer, trainer


def save_tokenizer(tokenizer: Any, path: str | Path) -> None:
    """Write a tokenizer as JSON."""
    try:
        Path(path).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}); give a folder that exists and has room") from error


def load_tokenizer(path: str | Path) -> Any:
    """Read what `save_tokenizer` wrote.

    Raises
    ------
    DataError
        The file is missing, damaged, or its special tokens are not ours.
    """
    tokenizer = open_tokenizer(path)
    found = [tokenizer.token_to_id(token) for token in SPECIAL]
    if found != [PAD, UNKNOWN, CLS]:
        raise DataError(f"{path} numbers {', '.join(SPECIAL)} {found}, not [0, 1, 2]; train it with train_tokenizer")
    return tokenizer


def open_tokenizer(path: str | Path) -> Any:
    """Read the JSON of any tokenizer, such as the ``tokenizer.json`` beside a network of Hugging Face.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > LIMIT:
        raise DataError(f"{path} is no tokenizer: a JSON file of at most {LIMIT:,} bytes is needed; save one there")
    try:
        return _import_tokenizers().Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except DataError:
        raise
    except Exception as error:  # the library's errors have no class of their own
        raise DataError(f"{path} cannot be read as a tokenizer ({str(error)[:200]}); save it again") from error


def decode_tokens(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return each token as one reads it."""
    kept = (tokenizer.decode([int(token)], skip_special_tokens=False).strip() for token in tokens)
    return [word or str(tokenizer.id_to_token(int(token))) for word, token in zip(kept, tokens, strict=True)]


def padding_id(tokenizer: Any) -> int:
    """Return the token that fills up short texts, ``PAD`` where a tokenizer names none, or there is none."""
    if tokenizer is None:
        return PAD
    named = [tokenizer.token_to_id(name) for name in (SPECIAL[PAD], "<pad>")]
    padding: int = (tokenizer.padding or {}).get("pad_id", next((i for i in named if i is not None), PAD))
    return padding


def encode_texts(tokenizer: Any, texts: Sequence[str], *, length: int = 256) -> Tensor:
    """Return token numbers (n, length), int32, cut at ``length`` and filled up with the tokenizer's padding, else ``PAD``."""
    own = type(tokenizer).from_str(tokenizer.to_str())  # cutting is a setting of the tokenizer
    own.no_padding()
    own.enable_truncation(length)
    tokens = np.full((len(texts), length), padding_id(tokenizer), np.int32)
    for i, ids in enumerate(_encode_in_batches(own, texts)):
        tokens[i, : len(ids)] = ids
    return torch.from_numpy(tokens)


def _encode_in_batches(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), _AT_ONCE):
        for found in tokenizer.encode_batch(list(texts[start : start + _AT_ONCE])):
            yield found.ids


def attention_mask(tokens: Tensor, padding: int = PAD) -> Tensor:
    """Return which tokens are text, bool of the tokens' shape."""
    return torch.ne(tokens, padding)


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError(
            "text needs the library tokenizers; pip install 'netgraph-coarsening[text]' brings it"
        ) from error
    return tokenizers
