"""The tokenizer of a network of text: the file beside the network, which follows it to each file that a command writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from netgraph.cli.console.terminal import echo
from netgraph.errors import DataError
from netgraph.io.files.atomic_writes import write_atomically


def find_tokenizer_file(model: str, path: Path | None = None) -> Path | None:
    """Return the file of a network's tokenizer.

    Parameters
    ----------
    model : str
        The network as it was typed.
    path : path, optional
        The tokenizer that was asked for.

    Returns
    -------
    path or None
        That of ``path``, ``NAME.tokenizer.json`` beside the network, ``tokenizer.json`` in its folder, or None.
    """
    from netgraph.io.hub.text_files import find_source_folder

    place = Path(model.removeprefix("hf:"))
    folder = find_source_folder(model) or place.parent
    beside = [place.parent / f"{place.stem}.tokenizer.json", folder / "tokenizer.json"]
    return path or next((candidate for candidate in beside if os.path.isfile(candidate)), None)


def write_tokenizer(model: str, output: Path, *, path: Path | None = None, tokenizer: Any = None) -> None:
    """Write the tokenizer of a network beside a file that was made from it, and say so.

    Without it, texts would get other tokens where that file is opened. A folder of a network has it inside, where it did not get one with
    its network.

    Parameters
    ----------
    model : str
        The network as it was typed.
    output : path
        The file that was written.
    path : path, optional
        The tokenizer that was asked for.
    tokenizer : tokenizers.Tokenizer, optional
        That of the texts that were read, for a network without one of its own.
    """
    from netgraph.models.data.tokenizer import save_tokenizer

    source, inside = find_tokenizer_file(model, path), output.is_dir() and output.suffix != ".hierarchy"
    target = output / "tokenizer.json" if inside else output.with_suffix(".tokenizer.json")
    if (source is None and tokenizer is None) or (inside and target.exists()):
        return
    if source is None:
        save_tokenizer(tokenizer, target)
    elif target.exists() and os.path.samefile(source, target):
        return
    else:
        numbers = source.read_bytes()
        write_atomically(lambda place: place.write_bytes(numbers), target, DataError)
    echo(f"netgraph: wrote {target}, the tokenizer of the network", err=True)
