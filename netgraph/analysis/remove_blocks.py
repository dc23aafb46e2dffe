"""Remove residual blocks from a recorded network: readers of a removed block read the block before it, or its input."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, fx

from netgraph.analysis.residual_chains import Chain, find_chains, find_descendants, find_leaves, locate_segments
from netgraph.environment.gc_pause import gc_paused
from netgraph.errors import NetgraphError
from netgraph.recording.node_graph import NodeGraph
from netgraph.recording.recorder import Recording, erase_dead_nodes
from netgraph.tracing.tracer import trace_recordings
from netgraph.tracing.unit_spec import UnitSpec


@gc_paused()
def drop_blocks(spec: UnitSpec, state: Mapping[str, Tensor], dropped: Collection[str]) -> UnitSpec:
    """Return the spec of a network without some residual blocks.

    Parameters
    ----------
    spec : UnitSpec
    state : dict of str to Tensor
        Parameters and buffers of the network, named as by `netgraph.recording.recorder.named_state`.
    dropped : collection of str
        Paths of the blocks to remove, all blocks of a chain at most.

    Returns
    -------
    UnitSpec
        The spec of the shorter network, without the parameters of the removed blocks.

    Raises
    ------
    NetgraphError
        A path is no block of a chain.
    """
    chains, _ = find_chains(spec)
    unknown = set(dropped) - {block for chain in chains for block in chain.blocks}
    if unknown:
        raise NetgraphError(
            f"{min(unknown)} is no block of a chain. `netgraph.analysis.residual_chains.find_chains` lists the chains and "
            "their blocks."
        )
    captures = {}
    for mode, plan in spec.plans.items():
        graph = plan.graph
        for chain in chains:
            graph = _copy_without_blocks(graph, chain, [block for block in chain.blocks if block in dropped])
        erase_dead_nodes(graph)
        captures[mode] = Recording(graph, {}, spec.inputs, plan.outputs)
    prefixes = tuple(f"{block}." for block in dropped)
    remaining = {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}
    ties = {name: first for name, first in spec.ties.items() if not name.startswith(prefixes)}
    shorter = trace_recordings(
        captures,
        remaining,
        ties,
        spec.trainable & remaining.keys(),
        inside_heads=bool(spec.inside_heads),
        outputs=spec.outputs,
    )
    return shorter.with_limits_of(spec)


def _copy_without_blocks(graph: fx.Graph, chain: Chain, dropped: Collection[str]) -> fx.Graph:
    """Return a copy of a graph without some blocks of a chain."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    segments = locate_segments(graph, chain)
    skipped: set[fx.Node] = set()
    instead: dict[fx.Node, fx.Node] = {}
    for i, (segment, block) in enumerate(zip(segments, chain.blocks, strict=False)):
        if block in dropped:
            reads = find_leaves(graph, block)
            # Others may read the input of the first block too. What they compute from it stays.
            inside = find_descendants(reads if i == 0 else [segments[i - 1].exit, *reads])
            skipped |= {node for node in inside if place[node] <= place[segment.exit]} | set(reads)
            instead[segment.exit] = segment.entry if i == 0 else segments[i - 1].exit
    copy = NodeGraph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in instead:
            copies[node] = copies[instead[node]]
        elif node not in skipped:
            copies[node] = copy.node_copy(node, lambda n: copies[n])
    return copy
