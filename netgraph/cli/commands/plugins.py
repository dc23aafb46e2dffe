"""``netgraph plugins``: list coarseners, affinities, rules and exporters."""

from __future__ import annotations

from netgraph.cli.console.terminal import echo, echo_json
from netgraph.cli.options.coarsen import Json


def print_plugins(json_: Json = False) -> None:
    """List coarseners, affinities, rules and exporters."""
    from netgraph.plugins import GROUPS, find_distribution, list_plugins

    table = {group: {name: find_distribution(group, name) for name in sorted(list_plugins(group))} for group in GROUPS}
    if json_:
        echo_json(table)
        return
    width = max(len(name) for owners in table.values() for name in owners)
    for group, owners in table.items():
        echo(group)
        for name, owner in owners.items():
            echo(f"  {name:<{width}} {owner}")
