"""``netgraph export``: write a hierarchy as a page, a figure, a graph, or as P and R."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.console.terminal import echo
from netgraph.cli.options.coarsen import Data, Opening, coarsen_network, open_network, read_inputs
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import Model
from netgraph.cli.options.validation import (
    check_coarsen_options,
    check_open_options,
    check_saved_hierarchy,
    typed_options,
)
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.io.files.locks import lock_outputs


@with_options
def export_hierarchy(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file to write. Its suffix chooses the format: `netgraph plugins` lists the exporters.",
        ),
    ],
    *,
    options: CoarsenOptions,
    data: Data,
    opening: Opening,
) -> None:
    """Coarsen a network, or open a saved *.hierarchy, and write it: a page, a figure, a graph, or P and R."""
    from netgraph.coarsen.hierarchy.serialize import load
    from netgraph.viz.exporters import find_exporter

    write, typed = find_exporter(out), typed_options(context)
    context.with_resource(lock_outputs(out))
    if os.path.isdir(model):
        check_saved_hierarchy(typed, model)
        hierarchy: Any = load(model)
    else:
        check_open_options(typed, model, opening.arch)
        check_coarsen_options(context, options, data, reads_data=False)
        network, example = open_network(model, options, data, opening)
        hierarchy = coarsen_network(network, example, options, read_inputs(data, example, options.seed))
    write(hierarchy, out)
    echo(f"netgraph: wrote {out}", err=True)
