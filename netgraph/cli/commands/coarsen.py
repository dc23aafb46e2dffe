"""`netgraph coarsen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.cli.console.output import print_hierarchy
from netgraph.cli.options.coarsen import (
    CoarsenOptions,
    Json,
    Model,
    with_coarsen_options,
)
from netgraph.cli.options.validation import check_coarsen_options, check_open_options, typed_options
from netgraph.errors import NetgraphError
from netgraph.io.output_files import check_new_folder, check_output_file


@with_coarsen_options
def coarsen(
    context: typer.Context,
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the coarsest network (.safetensors), or all levels (a folder *.hierarchy).",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page, figure or graph of the hierarchy as well; the suffix chooses (.html)."
        ),
    ] = None,
    own_class: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the coarsest network in its own class, proven equal: NAME.pt, or a folder for transformers.",
        ),
    ] = None,
    json_: Json = False,
    *,
    recipe: CoarsenOptions,
) -> None:
    """Coarsen a network and print its hierarchy."""
    from netgraph.coarsen.user_class import convert as ownclass
    from netgraph.viz.exporters import find_exporter

    typed = typed_options(context)
    check_open_options(typed, model, recipe.arch)
    check_coarsen_options(typed, recipe, measured=True)
    _check_output(output)
    write = None if export is None else find_exporter(export)
    network, example = recipe.opened(model)
    if own_class is not None:
        ownclass.check_own_class_path(network, own_class)
    hierarchy = recipe.built(network, example)
    own = None if own_class is None else ownclass.own_class(hierarchy, example, seed=recipe.seed)
    print_hierarchy(hierarchy, json_)
    if output is not None:
        _write_output(hierarchy, output)
    if own_class is not None and own is not None:
        ownclass.save_own_class(own, own_class)
        typer.echo(f"netgraph: wrote {own_class}, a {type(own).__name__}", err=True)
    if write is not None and export is not None:
        write(hierarchy, export)
        typer.echo(f"netgraph: wrote {export}", err=True)


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in (".safetensors", ".hierarchy"):
        raise NetgraphError(
            f"--output {output} ends in {output.suffix or 'nothing'}; give NAME.safetensors for the coarsest network or NAME.hierarchy for all levels"
        )
    if output.suffix == ".safetensors":
        check_output_file(output)
        return
    from netgraph.coarsen.hierarchy.serialize import check_destination

    check_new_folder(output)
    check_destination(output)


def _write_output(hierarchy: Any, output: Path) -> None:
    from netgraph.coarsen.hierarchy.serialize import save

    save(hierarchy if output.suffix == ".hierarchy" else hierarchy.levels[-1].model, output)
    typer.echo(f"netgraph: wrote {output}", err=True)
