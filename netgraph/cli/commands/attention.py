"""``netgraph attention``: draw the attention of heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.console.artifacts import write_attention_page, write_heads_figure
from netgraph.cli.console.terminal import echo
from netgraph.cli.options.coarsen import Data, Opening, coarsen_network, open_network
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import Model, Tokenizer, find_tokenizer
from netgraph.cli.options.validation import check_coarsen_options, check_open_options, reject_options, typed_options
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.errors import NetgraphError
from netgraph.io.files.output_files import check_output_file

SUFFIXES = (".html", ".svg", ".png", ".pdf")


@with_options
def draw_attention(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A figure to write (.svg, .png, .pdf), or the page with all heads (.html)."),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A text to show (repeatable). By default rows of --data."),
    ] = None,
    row: Annotated[int, typer.Option(metavar="N", help="Number of the text that is shown, from 0.")] = 0,
    tokenizer: Tokenizer = None,
    layer: Annotated[
        int | None, typer.Option(metavar="N", help="Layer of a single head, which is drawn over the words.")
    ] = None,
    head: Annotated[int | None, typer.Option(metavar="N", help="Number of that head on the coarse level.")] = None,
    level: Annotated[int, typer.Option(metavar="N", help="Coarse level to draw next to the finest.")] = 1,
    *,
    options: CoarsenOptions,
    data: Data,
    opening: Opening,
) -> None:
    """Draw the attention of heads, fine against coarse: every head of every layer, or one over the words of a text."""
    typed = typed_options(context)
    check_output_file(out)
    check_open_options(typed, model, opening.arch)
    check_coarsen_options(context, options, data, reads_data=True)
    _check_options(typed, out, text, data.data)
    words = find_tokenizer(model, tokenizer)
    network, example = open_network(model, options, data, opening)
    rows = data.read(example, options.seed, words)
    inputs, words = _read_texts(text, rows, words, example)
    hierarchy = coarsen_network(network, example, options, None if rows is None else rows.inputs)
    if out.suffix == ".html":
        write_attention_page(hierarchy, inputs, words, row, out)
    else:
        one_head = {} if layer is None and head is None else {"layer": layer or 0, "head": head or 0}
        write_heads_figure(hierarchy, inputs, words, row, out, level=level, **one_head)
    echo(f"netgraph: wrote {out}", err=True)


def _check_options(typed: Mapping[str, str], out: Path, text: list[str] | None, data: str | None) -> None:
    """Check the kind of the figure, and that there is a text."""
    if out.suffix not in SUFFIXES:
        raise NetgraphError(
            f"{out} ends in {out.suffix or 'nothing'}. Attention is drawn as .svg, .png or .pdf, and shown on a page as .html."
        )
    if data is None and not text:
        raise NetgraphError("there is no text to attend to. Give --text 'some words', or --data, such as imdb.")
    if out.suffix == ".html":
        reject_options(typed, ["layer", "head", "level"], "the page has all heads of all levels")
    elif "layer" not in typed and "head" not in typed:
        reject_options(
            typed, ["row"], "all heads are drawn as means over the texts. --layer and --head draw one over words"
        )


def _read_texts(text: list[str] | None, rows: Any, words: Any, example: Any) -> tuple[Any, Any]:
    """Return the texts as inputs of the network, and their tokenizer."""
    from netgraph.models.data.calibration import encode_like_example

    words = words or (None if rows is None else rows.tokenizer)
    if not text:
        return rows.inputs, words
    if words is None:
        raise NetgraphError(
            "a text needs the network's tokenizer, and its folder has none. Give --tokenizer FILE, or --data imdb "
            "for the one that `netgraph train transformer` trains."
        )
    return encode_like_example(text, example=example, tokenizer=words), words
