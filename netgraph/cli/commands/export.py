"""``netgraph export``: write a hierarchy as a page, a figure, a graph, or as P and R, or a network for a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.network_files import check_spares_input
from netgraph.cli.console.progress import show_progress
from netgraph.cli.console.runtime_file import print_runtime_file
from netgraph.cli.console.terminal import echo, echo_json
from netgraph.cli.console.tokenizer_file import write_tokenizer
from netgraph.cli.options.coarsen import Data, Json, Opening, coarsen_network, open_network, read_inputs
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import DataOptions, Model, OpenOptions, holds_hierarchy
from netgraph.cli.options.runtime import RuntimeOptions
from netgraph.cli.options.validation import (
    check_coarsen_options,
    check_open_options,
    check_saved_hierarchy,
    reject_options,
    typed_options,
)
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.io.files.locks import lock_outputs
from netgraph.utils.options import list_flags

if TYPE_CHECKING:
    from netgraph.coarsen.runtimes.write_network import RuntimeReport


@with_options
def export_hierarchy(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file to write. Its suffix chooses the format: `netgraph plugins` lists the exporters of hierarchies, and "
            ".onnx, .pt2, .pte and .xml hold a network for a runtime.",
        ),
    ],
    json_: Json = False,
    *,
    options: CoarsenOptions,
    data: Data,
    opening: Opening,
    runtime: RuntimeOptions,
) -> None:
    """Coarsen a network, or open a saved *.hierarchy, and write it: a page, a figure, a graph, or P and R. For a runtime (.onnx, .pt2, .pte, .xml) write a network as it is."""
    from netgraph.coarsen.hierarchy.serialize import load
    from netgraph.coarsen.runtimes.formats import is_runtime_file
    from netgraph.viz.exporters import find_exporter

    typed = typed_options(context)
    check_spares_input(model, out)
    if is_runtime_file(out):
        context.with_resource(lock_outputs(out))
        report = _write_for_runtime(typed, model, out, options.seed, data, opening, runtime)
        print_runtime_file(report, json_)
        echo(f"netgraph: wrote {out}", err=True)
        write_tokenizer(model, out)
        return
    reject_options(
        typed,
        [flag.name for _, flag in list_flags(RuntimeOptions)],
        f"{out} is no file for a runtime, such as net.onnx",
    )
    write = find_exporter(out)
    context.with_resource(lock_outputs(out))
    if holds_hierarchy(model):
        check_saved_hierarchy(typed, model)
        hierarchy: Any = load(model)
    else:
        check_open_options(typed, model, opening.arch)
        check_coarsen_options(context, options, data, reads_data=False)
        network, example = open_network(model, options, data, opening)
        hierarchy = coarsen_network(network, example, options, read_inputs(data, example, options.seed, model))
    write(hierarchy, out)
    if json_:
        echo_json({"path": str(out), "bytes": out.stat().st_size})
    echo(f"netgraph: wrote {out}", err=True)


def _write_for_runtime(
    typed: Mapping[str, str],
    model: str,
    out: Path,
    seed: int,
    data: DataOptions,
    opening: OpenOptions,
    runtime: RuntimeOptions,
) -> RuntimeReport:
    """Write a network as it is, or one level of a saved hierarchy, for a runtime."""
    from netgraph.coarsen.hierarchy.serialize import load
    from netgraph.coarsen.runtimes.formats import find_format
    from netgraph.coarsen.runtimes.write_network import write_network
    from netgraph.viz.exporters import choose_level

    coarsening = [flag.name for _, flag in list_flags(CoarsenOptions) if flag.name != "seed"]
    reject_options(
        typed,
        coarsening,
        f"{out} holds the network as it is, and `netgraph coarsen -o NAME.safetensors` coarsens it before",
    )
    if data.data is None:
        reject_options(typed, ["samples"], "it counts rows of data, and there are none without --data")
    find_format(out, aot=runtime.aot)
    if holds_hierarchy(model):
        idle = [flag.name for _, flag in list_flags(OpenOptions)]
        reject_options(typed, idle, f"{model} is a hierarchy that is already made")
        hierarchy: Any = load(model)
        network, example = choose_level(hierarchy, out, runtime.level)
    else:
        reject_options(typed, ["level"], f"{model} is no *.hierarchy")
        check_open_options(typed, model, opening.arch)
        network, example = opening.open_network(model, seed, data.data)
    rows = read_inputs(data, example, seed, model)
    with show_progress("exporting"):
        return write_network(
            network, out, example, batch=runtime.batch, data=rows, tolerance=runtime.tolerance, aot=runtime.aot
        )
