"""``netgraph coarsen``: coarsen a network, print its hierarchy and write it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.network_files import check_levels_output, check_spares_input, note_command, write_levels
from netgraph.cli.console.output import print_hierarchy
from netgraph.cli.console.terminal import echo
from netgraph.cli.console.tokenizer_file import write_tokenizer
from netgraph.cli.options.coarsen import Data, Json, Opening, coarsen_network, open_network, read_inputs
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import Model
from netgraph.cli.options.validation import check_coarsen_options, check_open_options, typed_options
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.io.files.locks import lock_outputs

if TYPE_CHECKING:
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy


@with_options
def coarsen_model(
    context: typer.Context,
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the coarsest network (.safetensors, or a folder with a card for the hub), or all levels (a folder *.hierarchy).",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a page, a figure or a graph of the hierarchy. The suffix chooses the format (.html).",
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
    options: CoarsenOptions,
    data: Data,
    opening: Opening,
) -> None:
    """Coarsen a network and print its hierarchy."""
    from netgraph.coarsen.user_class import convert
    from netgraph.viz.exporters import find_exporter

    check_open_options(typed_options(context), model, opening.arch)
    check_coarsen_options(context, options, data, reads_data=True)
    check_levels_output(output)
    check_spares_input(model, output, export, own_class)
    context.with_resource(lock_outputs(output, export, own_class))
    write = None if export is None else find_exporter(export)
    network, example = open_network(model, options, data, opening)
    if own_class is not None:
        convert.check_own_class_path(network, own_class)
    hierarchy = coarsen_network(network, example, options, read_inputs(data, example, options.seed, model))
    converted = None if own_class is None else convert.own_class(hierarchy, example, seed=options.seed)
    print_hierarchy(hierarchy, json_)
    if output is not None:
        write_levels(hierarchy, output, example, options.seed)
        write_tokenizer(model, output)
    if own_class is not None and converted is not None:
        note_command(converted)
        convert.save_own_class(converted, own_class)
        echo(f"netgraph: wrote {own_class}, a {type(converted).__name__}", err=True)
    if write is not None and export is not None:
        write(hierarchy, export)
        echo(f"netgraph: wrote {export}", err=True)
    _exit_on_nonfinite(hierarchy, example)


def _exit_on_nonfinite(hierarchy: Hierarchy, example: Any) -> None:
    """End with the exit code of a failed oracle if weights or outputs are not finite, in the network or by merging."""
    from netgraph.coarsen.hierarchy.report import describe_overflow
    from netgraph.coarsen.network.finite_values import find_nonfinite_outputs, list_nonfinite

    names = list_nonfinite(dict(hierarchy.levels[0].model.named_parameters()))  # buffers may be masks
    if names:
        listed = f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:3])} are"
        echo(f"netgraph: {listed} not finite in the network, and so in each level. Repair the network first.", err=True)
        raise typer.Exit(4)
    for i, level in enumerate(hierarchy.levels):
        if overflowed := level.reasons.get("overflowed"):
            echo(f"netgraph: level {i} is {describe_overflow(level, overflowed)}.", err=True)
            raise typer.Exit(4)
    for i, level in enumerate(hierarchy.levels):
        if problem := find_nonfinite_outputs(level.model, example):
            subject, mend = (
                (f"level {i} answers", "Coarsen the network in float32, or try another --repair.") if i
                else ("the network answers", "Give another --input, or repair the network first.")
            )  # fmt: skip
            echo(f"netgraph: {subject} with numbers that are not finite: {problem} {mend}", err=True)
            raise typer.Exit(4)
