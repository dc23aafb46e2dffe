"""``netgraph check``: tell the contents of a file, and if it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netgraph.cli.console.terminal import echo, echo_json
from netgraph.cli.options.coarsen import Json

if TYPE_CHECKING:
    from netgraph.cli.console.file_contents import Contents


def check_file(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file, or the folder of a hierarchy or of checkpoints.")
    ],
    json_: Json = False,
) -> None:
    """Tell the contents of a file and if it is whole, without opening the network in it."""
    from netgraph.cli.console.file_contents import read_contents

    contents = read_contents(path)
    if json_:
        echo_json(contents.to_plain())
    else:
        for depth, part in enumerate([contents, *contents.parts]):
            echo("  " * min(depth, 1) + _describe(part))
    if not contents.is_whole:
        echo(f"netgraph: {path} is not whole. Copy or save it again.", err=True)
        raise typer.Exit(1)


def _describe(contents: Contents) -> str:
    """Return a line on a file."""
    words = [contents.kind]
    if contents.format is not None:
        words.append(f"format {contents.format}")
    if contents.version is not None:
        words.append(f"of netgraph {contents.version}")
    if contents.tensors:
        types = ", ".join(f"{n} {dtype}" for dtype, n in contents.dtypes.items())
        words.append(
            f"{contents.tensors:,} tensor{'s' * (contents.tensors > 1)} ({types}) with {contents.parameters:,} numbers"
        )
    words.append(f"{contents.bytes:,} bytes" if contents.bytes else "")
    words.append("whole" if contents.is_whole else f"NOT whole: {contents.problem or 'see its parts'}")
    words.append(f"needs --trust: {contents.trust}" if contents.trust else "")
    return f"{contents.path}: " + ", ".join(word for word in words if word)
