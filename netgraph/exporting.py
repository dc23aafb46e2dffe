"""The command ``netgraph export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.building import Model, Recipe, with_recipe


@with_recipe
def export(
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(help="The file to write; its suffix chooses the format: `netgraph plugins` lists exporters."),
    ],
    *,
    recipe: Recipe,
) -> None:
    """Coarsen a network, or open a saved *.hierarchy, and write it: a page, a figure, a graph, or P and R."""
    from netgraph.coarsen.saving import load
    from netgraph.viz.export import exporter

    write = exporter(out)
    hierarchy: Any = load(model) if Path(model).is_dir() else recipe.hierarchy(model)
    write(hierarchy, out)
    typer.echo(f"netgraph: wrote {out}", err=True)
