"""``netgraph features``: draw feature maps of merged channels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgraph.cli.console.terminal import echo
from netgraph.cli.options.coarsen import Data, Opening, coarsen_network, open_network, read_inputs
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import Model
from netgraph.cli.options.validation import check_coarsen_options, check_open_options, typed_options
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.errors import NetgraphError
from netgraph.io.files.output_files import check_output_file


@with_options
def draw_features(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The figure to write: .svg, .png or .pdf.")],
    axis: Annotated[
        str | None,
        typer.Option(metavar="AXIS", help="Axis of the channels. By default the largest axis with large maps."),
    ] = None,
    level: Annotated[int, typer.Option(help="Coarse level to draw next to the finest.")] = 1,
    image: Annotated[int, typer.Option(help="Row of --data with the image, from 0.")] = 0,
    *,
    options: CoarsenOptions,
    data: Data,
    opening: Opening,
) -> None:
    """Draw the feature maps of merged channels for an image of --data, next to their aggregates, and their patterns."""
    from netgraph.viz.figures.features import write_feature_figure

    if out.suffix not in (".svg", ".png", ".pdf"):
        raise NetgraphError(f"{out} ends in {out.suffix or 'nothing'}. Feature maps are drawn as .svg, .png or .pdf.")
    if data.data is None:
        raise NetgraphError("feature maps need an image. Give --data, such as cifar10 or a folder of pictures.")
    check_output_file(out)
    check_open_options(typed_options(context), model, opening.arch)
    check_coarsen_options(context, options, data, reads_data=True)
    network, example = open_network(model, options, data, opening)
    inputs = read_inputs(data, example, options.seed, model)
    hierarchy = coarsen_network(network, example, options, inputs)
    write_feature_figure(hierarchy, inputs, out, axis=axis, level=level, image=image)
    echo(f"netgraph: wrote {out}", err=True)
