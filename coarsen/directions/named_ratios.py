"""Ratios by name: a name is that of an axis of units, or that of a chain of blocks, which is the path of its first block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netgraph.analysis.residual_chains import Chain, find_chains
from netgraph.errors import NetgraphError
from netgraph.tracing.unit_spec import UnitSpec


def split_ratios(
    spec: UnitSpec, named: Mapping[str, float], directions: Iterable[str], *, blocks: int | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the ratios of axes, and those of chains.

    Where a chain and an axis have one name, the ratio is for both.

    Parameters
    ----------
    spec : UnitSpec
        Of the finest level.
    named : dict of str to float
        Ratios by axis or chain.
    directions : iterable of str
        All directions that become smaller on any level.
    blocks : int, optional
        Number of blocks of every chain that stay, in place of a ratio.

    Returns
    -------
    by_axis : dict of str to float
    by_block : dict of str to float
        The ratio of a chain at each of its blocks. On a coarser level a part of a chain can be left, which another block begins.

    Raises
    ------
    NetgraphError
        A name is neither that of an axis nor of a chain, or nothing of that kind merges.
    """
    merged = sorted(set(directions))
    by_axis = {name: ratio for name, ratio in named.items() if name in spec.axes and "channels" in merged}
    if "depth" not in merged and by_axis == dict(named):
        return by_axis, {}  # chains take time to find
    chains = {chain.name: chain for chain in find_chains(spec)[0]}
    by_chain = {name: ratio for name, ratio in named.items() if name in chains and "depth" in merged}
    for name in named:
        if name not in by_axis and name not in by_chain:
            raise NetgraphError(_explain_no_effect(name, spec, chains, merged))
        if name not in by_axis and blocks is not None:
            raise NetgraphError(
                f"chain {name!r} has a ratio, but blocks (--blocks) says how many blocks of each chain stay. Give one of the two."
            )
    by_block = {block: ratio for name, ratio in by_chain.items() for block in chains[name].blocks}
    return by_axis, {block: ratio for block, ratio in by_block.items() if block in by_chain or block not in spec.axes}


def _explain_no_effect(name: str, spec: UnitSpec, chains: Mapping[str, Chain], merged: list[str]) -> str:
    """Return the reason why no axis and no chain takes a ratio, with the names that there are."""
    if name in spec.axes:
        return f"axis {name!r} has a ratio, but {' and '.join(merged)} merges no units. Leave its ratio out, or add channels."
    if name in chains:
        return f"chain {name!r} has a ratio, but {' and '.join(merged)} merges no blocks. Leave its ratio out, or add depth."
    kinds, lists = [], []
    if "channels" in merged:
        kinds.append("axis")
        lists.append(f"Axes that may merge are {', '.join(axis.name for axis in spec.free[:8]) or 'none'}")
    if "depth" in merged:
        kinds.append("chain")
        lists.append(f"Chains, named by their first blocks, are {', '.join(chains) or 'none'}")
    lists.append("`netgraph inspect` lists all axes")
    return f"no {' or '.join(kinds) or 'axis or chain'} is named {name!r}. {'. '.join(lists)}."
