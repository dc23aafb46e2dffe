"""The command ``netgraph attention``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.console.artifacts import write_attention_page, write_heads_figure
from netgraph.cli.options.coarsen import CoarsenOptions, Model, with_coarsen_options
from netgraph.cli.options.validation import check_coarsen_options, check_open_options, reject_options, typed_options
from netgraph.errors import NetgraphError
from netgraph.io.output_files import check_output_file

SUFFIXES = (".html", ".svg", ".png", ".pdf")


@with_coarsen_options
def attention(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A figure to write (.svg, .png, .pdf), or the page with all heads (.html)."),
    ],
    text: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A text to show; may be given again. Else rows of --data.")
    ] = None,
    row: Annotated[int, typer.Option(metavar="N", help="Which text the words are of, from 0.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The network's tokenizer; else NAME.tokenizer.json or tokenizer.json beside it, or that of --data imdb.",
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(metavar="N", help="Show one head over the words: of this layer.")] = None,
    head: Annotated[int | None, typer.Option(metavar="N", help="And this head of the coarse level.")] = None,
    level: Annotated[int, typer.Option(metavar="N", help="The coarse level that is drawn beside the finest.")] = 1,
    *,
    recipe: CoarsenOptions,
) -> None:
    """Draw what heads attend to, fine against coarse: every head of every layer, or one over the words of a text."""
    typed = typed_options(context)
    check_output_file(out)
    check_open_options(typed, model, recipe.arch)
    check_coarsen_options(typed, recipe, measured=True)
    _check_options(typed, out, text, recipe.data)
    words = _find_tokenizer(model, tokenizer)
    network, example = recipe.opened(model)
    data = recipe.calibrated(example, words)
    shown, words = _read_texts(text, data, words, example)
    hierarchy = recipe.built(network, example, None if data is None else data.inputs)
    if out.suffix == ".html":
        write_attention_page(hierarchy, shown, words, row, out)
    else:
        options = {} if layer is None and head is None else {"layer": layer or 0, "head": head or 0}
        write_heads_figure(hierarchy, shown, words, row, out, level=level, **options)
    typer.echo(f"netgraph: wrote {out}", err=True)


def _check_options(typed: Mapping[str, str], out: Path, text: list[str] | None, data: str | None) -> None:
    if out.suffix not in SUFFIXES:
        raise NetgraphError(
            f"{out} ends in {out.suffix or 'nothing'}; attention is drawn as .svg, .png or .pdf, and shown on a page as .html"
        )
    if data is None and not text:
        raise NetgraphError("heads attend to something; give --text 'some words', or --data, such as imdb")
    if out.suffix == ".html":
        reject_options(typed, ["layer", "head", "level"], "the page has all heads of all levels")
    elif "layer" not in typed and "head" not in typed:
        reject_options(
            typed, ["row"], "all heads are drawn as means over the texts; --layer and --head draw one over words"
        )


def _find_tokenizer(model: str, asked: Path | None) -> Any:
    """Return the tokenizer that was asked for, or the one that lies beside the network; None where none does."""
    from netgraph.models.data.tokenizer import open_tokenizer

    zoo, _, rest = model.partition(":")
    place = Path(rest) if zoo == "hf" else Path(model)
    beside = [place.with_suffix(".tokenizer.json"), (place if place.is_dir() else place.parent) / "tokenizer.json"]
    found = next((path for path in beside if path.is_file()), None) if asked is None else asked
    return None if found is None else open_tokenizer(found)


def _read_texts(text: list[str] | None, data: Any, words: Any, example: Any) -> tuple[Any, Any]:
    """Return what is shown, as the network takes it, and the tokenizer that made it."""
    from netgraph.models.data.calibration import encode_like_example

    words = words or (None if data is None else data.tokenizer)
    if not text:
        return data.inputs, words
    if words is None:
        raise NetgraphError(
            "a text needs the network's tokenizer, and none lies beside the network; give --tokenizer FILE, or --data imdb "
            "for the one that `netgraph train transformer` trains"
        )
    return encode_like_example(text, example=example, tokenizer=words), words
