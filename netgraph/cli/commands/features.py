"""The command ``netgraph features``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgraph.cli.options.coarsen import CoarsenOptions, Model, with_coarsen_options
from netgraph.cli.options.validation import check_coarsen_options, check_open_options, typed_options
from netgraph.errors import NetgraphError
from netgraph.io.output_files import check_output_file


@with_coarsen_options
def features(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The figure to write: .svg, .png or .pdf.")],
    axis: Annotated[
        str | None,
        typer.Option(metavar="AXIS", help="Whose channels; else the axis with most of those with large maps."),
    ] = None,
    level: Annotated[int, typer.Option(help="The coarse level that is drawn beside the finest.")] = 1,
    image: Annotated[int, typer.Option(help="Which row of --data the answers are to, from 0.")] = 0,
    *,
    recipe: CoarsenOptions,
) -> None:
    """Draw what merged channels answer to an image of --data, beside their aggregates, and their receptive patterns."""
    from netgraph.viz.figures.features import write_feature_figure

    typed = typed_options(context)
    if out.suffix not in (".svg", ".png", ".pdf"):
        raise NetgraphError(f"{out} ends in {out.suffix or 'nothing'}; feature maps are drawn as .svg, .png or .pdf")
    if recipe.data is None:
        raise NetgraphError("feature maps are answers to images; give --data, such as cifar10 or a folder of pictures")
    check_output_file(out)
    check_open_options(typed, model, recipe.arch)
    check_coarsen_options(typed, recipe, measured=True)
    network, example = recipe.opened(model)
    inputs = recipe.calibrated(example).inputs
    hierarchy = recipe.built(network, example, inputs)
    write_feature_figure(hierarchy, inputs, out, axis=axis, level=level, image=image)
    typer.echo(f"netgraph: wrote {out}", err=True)
