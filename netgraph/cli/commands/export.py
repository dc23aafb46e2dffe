"""The command ``netgraph export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.options.coarsen import CoarsenOptions, Model, with_coarsen_options
from netgraph.cli.options.validation import (
    check_coarsen_options,
    check_open_options,
    check_saved_hierarchy,
    typed_options,
)


@with_coarsen_options
def export(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The file to write; its suffix chooses the format: `netgraph plugins` lists exporters."
        ),
    ],
    *,
    recipe: CoarsenOptions,
) -> None:
    """Coarsen a network, or open a saved *.hierarchy, and write it: a page, a figure, a graph, or P and R."""
    from netgraph.coarsen.hierarchy.serialize import load
    from netgraph.viz.exporters import find_exporter

    write, typed = find_exporter(out), typed_options(context)
    if Path(model).is_dir():
        check_saved_hierarchy(typed, model)
        hierarchy: Any = load(model)
    else:
        check_open_options(typed, model, recipe.arch)
        check_coarsen_options(typed, recipe, measured=False)
        hierarchy = recipe.hierarchy(model)
    write(hierarchy, out)
    typer.echo(f"netgraph: wrote {out}", err=True)
