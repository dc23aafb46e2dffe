"""`netgraph plugins`."""

from __future__ import annotations

import json

import typer

from netgraph.cli.options.coarsen import (
    Json,
)


def plugins(json_: Json = False) -> None:
    """List coarseners, affinities, rules and exporters."""
    from netgraph.plugins import GROUPS, find_distribution, list_plugins

    table = {group: {name: find_distribution(group, name) for name in sorted(list_plugins(group))} for group in GROUPS}
    if json_:
        typer.echo(json.dumps(table, indent=1))
        return
    width = max(len(name) for found in table.values() for name in found)
    for group, found in table.items():
        typer.echo(group)
        for name, owner in found.items():
            typer.echo(f"  {name:<{width}} {owner}")
