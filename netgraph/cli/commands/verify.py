"""``netgraph verify``: run the dead-unit and duplicate-unit oracles."""

from __future__ import annotations

from typing import Annotated

import typer

from netgraph.cli.console.progress import show_progress
from netgraph.cli.console.terminal import echo, echo_json
from netgraph.cli.options.coarsen import InsideHeads, Json, Outputs, Seed
from netgraph.cli.options.command_options import with_options
from netgraph.cli.options.open_network import Model, OpenOptions
from netgraph.cli.options.validation import check_open_options, typed_options
from netgraph.errors import NetgraphError


@with_options
def verify_model(
    context: typer.Context,
    model: Model,
    opening: OpenOptions,
    seed: Seed = 7619,
    json_: Json = False,
    tolerance: Annotated[float, typer.Option(metavar="ERROR", help="Largest relative error that passes.")] = 1e-4,
    inside_heads: InsideHeads = False,
    outputs: Outputs = None,
) -> None:
    """Run the dead-unit and duplicate-unit oracles on every axis of a network, in evaluation mode."""
    from netgraph.coarsen.network.oracles import verify
    from netgraph.tracing.tracer import trace

    if not 0 <= tolerance < float("inf"):
        raise NetgraphError(f"--tolerance {tolerance} is no relative error. Give a number of 0 or more.")
    check_open_options(typed_options(context), model, opening.arch)
    network, example = opening.open_network(model, seed)
    with show_progress("oracles") as progress:
        spec = trace(network, example, inside_heads=inside_heads, outputs=outputs or ())
        verdicts = verify(network, spec, example, seed=seed, progress=progress)
    if json_:
        rows = [
            {
                "oracle": v.oracle,
                "axes": v.axes,
                "error": v.error,
                "note": v.note,
                "roundoff": v.roundoff,
                "passes": v.passes(tolerance),
            }
            for v in verdicts
        ]
        echo_json(rows)
    for v in verdicts if not json_ else ():
        axes = v.axes[0] if len(v.axes) == 1 else f"all {len(v.axes)} axes at once" if v.axes else "the network itself"
        outcome = v.note if v.error is None else f"{v.error:.1e} {'ok' if v.passes(tolerance) else 'WRONG'}"
        echo(f"{v.oracle:<10} {axes}  {outcome}")
    failed = [v for v in verdicts if not v.passes(tolerance)]
    if failed and failed[0].oracle == "finite":
        echo(
            f"netgraph: the network can be compared with nothing: {failed[0].note} Repair it, or give another --input.",
            err=True,
        )
        raise typer.Exit(4)
    if failed:
        near = [rule for rule in spec.foreign_rules if any(rule.axes & set(v.axes) for v in failed)]
        mend = f"repair the {' and '.join(rule.described for rule in near)}" if near else "report the network"
        echo(
            f"netgraph: {len(failed)} oracles failed: their error is above {tolerance}. Coarsen with --keep for these axes, and {mend}.",
            err=True,
        )
        raise typer.Exit(4)
