"""The tokenizer of a folder of Hugging Face transformers, opened without running code that lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netgraph.environment.offline import stay_offline
from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import DataError, describe_error
from netgraph.io.hub.folder_kind import CONFIG, read_entries
from netgraph.io.hub.text_files import OLDER_TOKENIZERS, TOKENIZER
from netgraph.io.huggingface import silence_transformers
from netgraph.models.data.tokenizer import LIMIT, check_numbers, open_tokenizer

SETTINGS = ("tokenizer_config.json", CONFIG)


def open_folder_tokenizer(folder: str | Path) -> Any:
    """Return the tokenizer of a folder that transformers saved.

    ``tokenizer.json`` is read by the library tokenizers. Older files, such as ``vocab.json`` and ``merges.txt``, are read by transformers, which
    looks nowhere else and runs no code of the folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    DataError
        There is no tokenizer, it is damaged, or it is code of its own.
    """
    folder = Path(folder)
    if (folder / TOKENIZER).is_file():
        return open_tokenizer(folder / TOKENIZER)
    _check_files(folder)
    prepare_torchvision()
    transformers = import_package("transformers", f"the tokenizer of {folder}, which has no tokenizer.json,", DataError)
    try:
        with stay_offline(), silence_transformers(transformers.utils.logging):
            opened = transformers.AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        return opened.backend_tokenizer
    except Exception as error:  # the classes of transformers raise many kinds
        raise DataError(
            f"{folder} has no tokenizer that can be read ({describe_error(error)}). Save it with tokenizer.save_pretrained, which writes tokenizer.json."
        ) from error


def _check_files(folder: Path) -> None:
    """Refuse files that are too large, settings that name code, and numbers of tokens for which memory would not suffice."""
    for name in (*OLDER_TOKENIZERS, *SETTINGS):
        file = folder / name
        if file.is_file() and file.stat().st_size > LIMIT:
            raise DataError(f"{file} has more than {LIMIT:,} bytes, and is no file of a tokenizer.")
    for name in SETTINGS:
        if "auto_map" in _read_entries(folder / name):
            raise DataError(
                f"{folder / name} names code of its own (auto_map), which is not run. Save the tokenizer as tokenizer.json."
            )
    try:
        check_numbers({"model": {"vocab": _read_entries(folder / "vocab.json")}})
    except ValueError as error:
        raise DataError(f"{folder / 'vocab.json'} cannot be read ({error}). Save it again.") from error


def _read_entries(file: Path) -> dict[str, Any]:
    """Return a JSON object, empty where there is no such file."""
    return read_entries(file) if file.is_file() else {}
