"""The command ``netgraph export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.options.coarsen import Model, Recipe, with_recipe
from netgraph.cli.options.validation import check_opening, check_recipe, check_saved, given


@with_recipe
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
    recipe: Recipe,
) -> None:
    """Coarsen a network, or open a saved *.hierarchy, and write it: a page, a figure, a graph, or P and R."""
    from netgraph.coarsen.hierarchy.serialize import load
    from netgraph.viz.exporters import exporter

    write, typed = exporter(out), given(context)
    if Path(model).is_dir():
        check_saved(typed, model)
        hierarchy: Any = load(model)
    else:
        check_opening(typed, model, recipe.arch)
        check_recipe(typed, recipe, measured=False)
        hierarchy = recipe.hierarchy(model)
    write(hierarchy, out)
    typer.echo(f"netgraph: wrote {out}", err=True)
