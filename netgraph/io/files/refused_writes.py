"""Results that took long, such as a trained network: kept elsewhere if the system refuses their place when the work is done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from netgraph.errors import NetgraphError

PREFIX = "netgraph-kept-"


def write_or_keep(write: Callable[[Path], object], path: Path, contents: str) -> None:
    """Write a result to its place. If the system refuses, write it to a new folder where temporary files go.

    Parameters
    ----------
    write : callable ``(path) -> object``
        Writes a file or a folder completely or not at all.
    path : path
        Place of the result.
    contents : str
        The result in a sentence, such as "the trained network".

    Raises
    ------
    NetgraphError
        The result is not at its place. The message says where it is kept, or that it is lost.
    """
    try:
        write(path)
        return
    except (NetgraphError, OSError) as error:
        refusal = error
    aside = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=PREFIX))
        write(aside / path.name)
    except (NetgraphError, OSError) as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        raise NetgraphError(f"{refusal} {contents.capitalize()} is lost, because {error}") from refusal
    raise NetgraphError(f"{refusal} {contents.capitalize()} is kept as {aside / path.name}.") from refusal


def write_all(*writes: Callable[[], object]) -> NetgraphError | None:
    """Call functions that write results, all of them even if some fail. Return the errors as one, or None."""
    refusals = []
    for write in writes:
        try:
            write()
        except NetgraphError as error:
            refusals.append(error)
    return NetgraphError(" ".join(map(str, refusals))) if refusals else None
