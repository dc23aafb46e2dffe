"""Word-level and byte-pair tokenizers of the library tokenizers, stored as JSON.

Byte-pair encoding: Sennrich, Haddow and Birch, ACL 2016. Every text begins with ``[CLS]``, so no text is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.environment.memory import check_memory
from netgraph.environment.optional_packages import import_package
from netgraph.errors import DataError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_path
from netgraph.utils.choices import TOKENIZERS

PAD, UNKNOWN, CLS = 0, 1, 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]")
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")  # of GPT-2, Llama 3 and Llama, which have no padding token
LIMIT = 2**26  # bytes of a tokenizer's file
MOST_TOKENS = 2**22  # the largest vocabularies have about 2**20
_AT_ONCE = 1000


def train_tokenizer(texts: Sequence[str], *, kind: str = "word", vocabulary: int = 20_000) -> Any:
    """Train a tokenizer on texts. The same texts give the same tokenizer.

    Parameters
    ----------
    texts : sequence of str
        Training texts.
    kind : str, default "word"
        ``word``: the most frequent lower-case words and punctuation marks. ``bpe``: byte pairs, without unknown words.
    vocabulary : int, default 20,000
        Largest number of tokens, special tokens included.

    Returns
    -------
    tokenizers.Tokenizer
        The trained tokenizer.

    Raises
    ------
    DataError
        The kind does not exist, or the library is not installed.

    Examples
    --------
    >>> from netgraph.models import train_tokenizer
    >>> tokenizer = train_tokenizer(["a fine film", "a dull film"], vocabulary=50)
    >>> tokenizer.encode("a fine film").tokens
    ['[CLS]', 'a', 'fine', 'film']
    """
    library = _import_tokenizers()
    if kind not in TOKENIZERS:
        raise DataError(f"no tokenizer is called {kind!r}. Choose {' or '.join(TOKENIZERS)}.")
    if not len(SPECIAL) < vocabulary < 2**63:
        raise DataError(
            f"a vocabulary of {vocabulary} tokens was asked for. Give a number above {len(SPECIAL)}, which are special."
        )
    tokenizer, trainer = (_word_tokenizer if kind == "word" else _bpe_tokenizer)(library, vocabulary)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[(SPECIAL[CLS], CLS)]
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _word_tokenizer(library: Any, vocabulary: int) -> tuple[Any, Any]:
    """Return an untrained word-level tokenizer and its trainer."""
    tokenizer = library.Tokenizer(library.models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
    kinds = library.normalizers
    tokenizer.normalizer = kinds.Sequence([kinds.Replace("<br />", " "), kinds.NFC(), kinds.Lowercase()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False
    )
    return tokenizer, trainer


def _bpe_tokenizer(library: Any, vocabulary: int) -> tuple[Any, Any]:
    """Return an untrained byte-pair tokenizer and its trainer."""
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
    """Write a tokenizer as JSON.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        The tokenizer.
    path : str or path
        File to write.

    Raises
    ------
    DataError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from netgraph.models import load_tokenizer, save_tokenizer, train_tokenizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tokenizer(train_tokenizer(["a fine film"]), Path(folder) / "words.json")
    ...     load_tokenizer(Path(folder) / "words.json").get_vocab_size()
    6
    """
    text = check_tokenizer(tokenizer).to_str(pretty=True)
    write_atomically(lambda place: place.write_text(text, encoding="utf-8"), Path(path), DataError)


def check_tokenizer(tokenizer: Any) -> Any:
    """Return a tokenizer of the library tokenizers.

    Raises
    ------
    DataError
        It is something else.
    """
    if not hasattr(tokenizer, "to_str"):
        raise DataError(
            f"the tokenizer is of type {type(tokenizer).__name__}. Give a tokenizers.Tokenizer, such as that of load_tokenizer."
        )
    return tokenizer


def load_tokenizer(path: str | Path) -> Any:
    """Read a tokenizer that `save_tokenizer` wrote.

    Parameters
    ----------
    path : str or path
        JSON file.

    Returns
    -------
    tokenizers.Tokenizer
        The tokenizer. Its special tokens are ``[PAD]`` 0, ``[UNK]`` 1 and ``[CLS]`` 2.

    Raises
    ------
    DataError
        The file is missing or damaged, or its special tokens have other numbers.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from netgraph.models import load_tokenizer, save_tokenizer, train_tokenizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tokenizer(train_tokenizer(["a fine film"]), Path(folder) / "words.json")
    ...     load_tokenizer(Path(folder) / "words.json").encode("a film").ids
    [2, 3, 4]
    """
    tokenizer = open_tokenizer(path)
    numbers = [tokenizer.token_to_id(token) for token in SPECIAL]
    if numbers != [PAD, UNKNOWN, CLS]:
        raise DataError(f"{path} numbers {', '.join(SPECIAL)} {numbers}, not [0, 1, 2]. Train it with train_tokenizer.")
    return tokenizer


def open_tokenizer(path: str | Path) -> Any:
    """Read the JSON file of any tokenizer, such as the ``tokenizer.json`` of a Hugging Face model.

    Parameters
    ----------
    path : str or path
        JSON file of at most 64 MiB.

    Returns
    -------
    tokenizers.Tokenizer
        The tokenizer.

    Raises
    ------
    DataError
        The file is missing, too large or damaged.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from netgraph.models import open_tokenizer, save_tokenizer, train_tokenizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tokenizer(train_tokenizer(["a fine film"]), Path(folder) / "words.json")
    ...     open_tokenizer(Path(folder) / "words.json").encode("a film").tokens
    ['[CLS]', 'a', 'film']
    """
    path = Path(path)
    check_path(path, DataError)
    if not path.is_file() or path.stat().st_size > LIMIT:
        raise DataError(f"{path} is no tokenizer. Give a JSON file of at most {LIMIT:,} bytes.")
    try:
        text = path.read_text(encoding="utf-8")
        check_numbers(_parse(text))
        with explain_panics():
            tokenizer = _import_tokenizers().Tokenizer.from_str(text)
            tokenizer.encode("a")  # parts of a file may contradict one another
        return tokenizer
    except DataError:
        raise
    except Exception as error:  # the library's errors have no common class
        raise DataError(f"{path} cannot be read as a tokenizer ({str(error)[:200]}). Save it again.") from error


def _parse(text: str) -> Any:
    """Return JSON as data.

    Raises
    ------
    ValueError
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON nests too deep") from None


def check_numbers(document: Any) -> None:
    """Refuse numbers of tokens for which the library would take gigabytes. It ends the process where it does not get them.

    Raises
    ------
    ValueError
    """
    model = document.get("model") if isinstance(document, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    added = document.get("added_tokens") if isinstance(document, dict) else None
    numbers += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if any(type(number) is int and number >= MOST_TOKENS for number in numbers):
        raise ValueError(f"a token has a number above {MOST_TOKENS:,}")


@contextmanager
def explain_panics() -> Iterator[None]:
    """Turn a panic of the library in a block, which is no `Exception`, into an error.

    Raises
    ------
    DataError
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(f"the tokenizer contradicts itself ({str(error)[:200]}). Train or save it again.") from error


def decode_tokens(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return each token as readable text, its name in the vocabulary if it decodes to nothing."""
    words = (tokenizer.decode([int(token)], skip_special_tokens=False).strip() for token in tokens)
    return [word or str(tokenizer.id_to_token(int(token))) for word, token in zip(words, tokens, strict=True)]


def padding_id(tokenizer: Any) -> int:
    """Return the padding token of a tokenizer, else the token that ends a text, else ``PAD``."""
    if tokenizer is None:
        return PAD
    named = [tokenizer.token_to_id(name) for name in (SPECIAL[PAD], "<pad>", *ENDS)]
    padding: int = (tokenizer.padding or {}).get("pad_id", next((i for i in named if i is not None), PAD))
    return padding


def encode_texts(tokenizer: Any, texts: Sequence[str], *, length: int = 256) -> Tensor:
    """Encode texts as tokens of one length.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        The tokenizer. Its own settings of truncation and padding are left as they are.
    texts : sequence of str
        The texts.
    length : int, default 256
        Tokens of each text. Longer texts are cut, shorter texts are filled with the padding token.

    Returns
    -------
    Tensor of shape (n, length)
        Tokens as int32.

    Raises
    ------
    DataError
        The tokenizer or the length is none.

    Examples
    --------
    >>> from netgraph.models import encode_texts, train_tokenizer
    >>> texts = ["a fine film", "a film"]
    >>> encode_texts(train_tokenizer(texts), texts, length=5).tolist()
    [[2, 3, 5, 4, 0], [2, 3, 4, 0, 0]]
    """
    check_tokenizer(tokenizer)
    if not 0 < length < 2**31:
        raise DataError(f"length is {length}. Give a number of tokens above 0 and below 2^31.")
    check_memory(4 * len(texts) * length, f"a length of {length:,} tokens for {len(texts):,} texts")
    cutting = type(tokenizer).from_str(tokenizer.to_str())  # a copy, because truncation is a setting of the tokenizer
    cutting.no_padding()
    cutting.enable_truncation(length)
    tokens = np.full((len(texts), length), padding_id(tokenizer), np.int32)
    for i, ids in enumerate(_encode_in_batches(cutting, texts)):
        tokens[i, : len(ids)] = ids[:length]  # special tokens alone may be more
    return torch.from_numpy(tokens)


def _encode_in_batches(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the tokens of each text."""
    for start in range(0, len(texts), _AT_ONCE):
        with explain_panics():
            encodings = tokenizer.encode_batch(list(texts[start : start + _AT_ONCE]))
        for encoding in encodings:
            yield encoding.ids


def attention_mask(tokens: Tensor, padding: int = PAD) -> Tensor:
    """Mark the tokens that are text.

    Parameters
    ----------
    tokens : Tensor of int
        Tokens of any shape.
    padding : int, default 0
        The padding token.

    Returns
    -------
    Tensor of bool
        True for every token but padding, in the same shape.

    Raises
    ------
    DataError
        The tokens or the padding token are none.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import attention_mask
    >>> attention_mask(torch.tensor([[2, 7, 0]])).tolist()
    [[True, True, False]]
    """
    if tokens.layout != torch.strided or tokens.is_floating_point() or tokens.is_complex():
        raise DataError(
            f"the tokens are {tokens.dtype} in layout {tokens.layout}. Give a dense tensor of whole numbers."
        )
    if not -(2**63) <= padding < 2**63:
        raise DataError(f"the padding token is {padding}. Give a token, a whole number from 0 on.")
    return torch.ne(tokens, padding)


def _import_tokenizers() -> Any:
    return import_package("tokenizers", "reading texts", DataError)
