"""``netgraph plugins``: list coarseners, affinities, rules and exporters."""

from __future__ import annotations

import json

from netgraph.cli.console.terminal import echo, echo_lines
from netgraph.cli.options.coarsen import Json


def print_plugins(json_: Json = False) -> None:
    """List coarseners, affinities, rules and exporters."""
    from netgraph.plugins import GROUPS, find_distribution, list_plugins

    table = {group: {name: find_distribution(group, name) for name in sorted(list_plugins(group))} for group in GROUPS}
    if json_:
        echo_lines(json.dumps(table, indent=1))
        return
    width = max(len(name) for owners in table.values() for name in owners)
    for group, owners in table.items():
        echo(group)
        for name, owner in owners.items():
            echo(f"  {name:<{width}} {owner}")
