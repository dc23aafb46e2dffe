"""`netgraph inspect`."""

from __future__ import annotations

import json

import typer

from netgraph.cli.options.coarsen import (
    Arch,
    ArchArg,
    CodeDir,
    Input,
    Json,
    Model,
    Trust,
)
from netgraph.cli.options.open_network import open_network
from netgraph.cli.options.validation import check_open_options, typed_options


def inspect(
    context: typer.Context, model: Model, arch: Arch = None, arch_arg: ArchArg = None, input_: Input = None, trust: Trust = False,
    code_dir: CodeDir = None, json_: Json = False,
) -> None:  # fmt: skip
    """Print over which axis every dimension of every parameter runs, and which axes may merge."""
    from netgraph.tracing.tracer import trace

    check_open_options(typed_options(context), model, arch)
    network, example = open_network(model, arch, arch_arg, input_, trust, code_dir)
    spec = trace(network, example)
    axes = [a for a in spec.axes.values() if a.kind != "index"]
    if json_:
        rows = [{"name": a.name, "size": a.size, "kind": a.kind, "kept": a.kept, "equal": a.equal} for a in axes]
        lines = dict(line.split(" ", 1) for line in str(spec).splitlines())
        typer.echo(json.dumps({"parameters": lines, "axes": rows, "untraced": list(spec.untraced)}, indent=1))
        return
    typer.echo(str(spec))
    typer.echo()
    for axis in axes:
        state = f"kept: {axis.kept}" if axis.kept else f"equal aggregates: {axis.equal}" if axis.equal else "free"
        typer.echo(f"{axis.name}  {axis.size} {axis.kind}s  {state}")
    if spec.untraced:
        typer.echo(f"never read in the run: {', '.join(spec.untraced)}")
