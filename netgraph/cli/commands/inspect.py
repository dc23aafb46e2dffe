"""``netgraph inspect``: print the axes of a network."""

from __future__ import annotations

import typer

from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.options.coarsen import Json, Outputs
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import Model, OpenOptions
from netgraph.cli.options.validation import check_open_options, typed_options


@with_options
def inspect_model(
    context: typer.Context, model: Model, opening: OpenOptions, json_: Json = False, outputs: Outputs = None
) -> None:
    """Print over which axis every dimension of every parameter runs, and which axes may merge."""
    from netgraph.tracing.tracer import trace

    check_open_options(typed_options(context), model, opening.arch)
    network, example = opening.open_network(model)
    spec = trace(network, example, outputs=outputs or ())
    axes = [axis for axis in spec.axes.values() if axis.kind != "index"]
    if json_:
        rows = [{"name": a.name, "size": a.size, "kind": a.kind, "kept": a.kept, "equal": a.equal} for a in axes]
        lines = dict(line.split(" ", 1) for line in str(spec).splitlines())
        echo_json({"parameters": lines, "axes": rows, "untraced": list(spec.untraced)})
        return
    echo_lines(str(spec))
    echo()
    for axis in axes:
        state = f"kept: {axis.kept}" if axis.kept else f"equal aggregates: {axis.equal}" if axis.equal else "free"
        echo(f"{axis.name}  {axis.size} {axis.kind}s  {state}")
    if spec.untraced:
        echo(f"never read in the run: {', '.join(spec.untraced)}")
