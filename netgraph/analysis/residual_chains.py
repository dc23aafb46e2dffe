"""Find chains of alike residual blocks in a recorded graph.

A block computes ``x + f(x)``: one sum or several, each of the stream and a branch. Two blocks are alike if their graphs differ in
the names of parameters only. A branch that ends in a layer, or in the affine part of a norm, is proportional to the parameters
of that layer. They are the *ends* of the block: halving them halves the branch and changes nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, permutations
from operator import itemgetter
from typing import Any, cast

import torch
from torch import fx

from netgraph.recording.node_graph import is_constant
from netgraph.rules.operator_call import operator_name
from netgraph.rules.operators import COPIES, DROPOUTS, EXPANSIONS, VIEWS
from netgraph.tracing.unit_spec import UnitSpec, term_size

SUMS = ("aten.add", "aten.add_")
IDEMPOTENT = ("aten.relu", "aten.relu_", "aten.hardtanh", "aten.hardtanh_")
PROPORTIONAL = {  # positions of weight and bias, if the result is proportional to both together
    "aten.linear": (1, 2), "aten.addmm": (2, 0), "aten.conv1d": (1, 2), "aten.conv2d": (1, 2), "aten.conv3d": (1, 2),
    "aten.convolution": (1, 2), "aten.batch_norm": (1, 2), "aten.layer_norm": (2, 3), "aten.group_norm": (2, 3),
}  # fmt: skip
# Operators of stochastic depth. Their rates often grow along a chain, so blocks may differ in them and stay alike.
STOCHASTIC_DEPTH = ("aten.bernoulli_", "aten.dropout", "aten.div_")
LISTED = re.compile(r"(^|[. ])\d+ ")  # a path that ends in the number of a module
PROPORTIONAL_TO_FIRST = COPIES | VIEWS | EXPANSIONS | DROPOUTS  # the result is proportional to the first argument


@dataclass(frozen=True)
class Chain:
    """Consecutive alike residual blocks.

    Parameters
    ----------
    blocks : tuple of str
        Paths of their modules, in the order in which they run.
    names : tuple of str
        Names of parameters and buffers inside a block.
    ends : frozenset of str
        Names in ``names`` that the branches are proportional to.
    """

    blocks: tuple[str, ...]
    names: tuple[str, ...]
    ends: frozenset[str]

    @property
    def name(self) -> str:
        """The path of the first block."""
        return self.blocks[0]

    def names_in_blocks(self, name: str) -> tuple[str, ...]:
        """Return the full names of one parameter in all blocks, in order.

        Parameters
        ----------
        name : str
            Name inside a block, one of ``names``.
        """
        return tuple(f"{block}.{name}" for block in self.blocks)


@dataclass(frozen=True)
class Segment:
    """A block in a graph: the node of the stream that it reads, the sum that it ends in, and its ends."""

    entry: fx.Node
    exit: fx.Node
    ends: frozenset[str]


def find_chains(spec: UnitSpec) -> tuple[list[Chain], list[str]]:
    """Return the chains of a network, and reasons why other blocks that look alike form none.

    Parameters
    ----------
    spec : UnitSpec

    Returns
    -------
    chains : list of Chain
        Each has two blocks or more. No block is in two chains.
    reasons : list of str
    """
    chains: list[Chain] = []
    reasons: list[str] = []
    for blocks, names in iterate_alike_modules(spec):
        if any(
            block.startswith(f"{block_in_chain}.")
            for chain in chains
            for block_in_chain in chain.blocks
            for block in blocks[:1]
        ):
            continue
        segments = [_SegmentFinder(plan.graph, blocks).find_segments(reasons) for plan in spec.plans.values()]
        ends = [_find_common_ends(recordings) for recordings in zip(*segments, strict=True)]
        joined = [
            _check_links(plan.graph, blocks, found_segments, reasons)
            for plan, found_segments in zip(spec.plans.values(), segments, strict=True)
        ]
        chains += _split_chains(blocks, names, ends, [all(agreed) for agreed in zip(*joined, strict=True)])
    return chains, list(dict.fromkeys(reasons))


def explain_no_chain(reasons: Sequence[str]) -> str:
    """Return why a network has no chain, from the reasons of `find_chains`. That of a module of a list stands for the others."""
    listed = [reason for reason in reasons if LISTED.search(reason)]
    return listed[0] if listed else "no list has two neighbouring modules with parameters of the same names and shapes"


def locate_segments(graph: fx.Graph, chain: Chain) -> list[Segment]:
    """Return the segments of the blocks of a chain in a graph of the network that it was found in."""
    segments = _SegmentFinder(graph, chain.blocks).find_segments([])
    return [segment for segment in segments if segment is not None]


def iterate_alike_modules(spec: UnitSpec) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield runs of sibling modules with parameters of the same names and shapes, outer modules first."""
    children: dict[str, dict[str, list[tuple[str, tuple[int, ...], bool]]]] = {}
    for name, terms in spec.parameters.items():
        shape = tuple(term_size(term, spec.sizes) for term in terms)
        parts = name.split(".")
        for i in range(1, len(parts)):
            child = children.setdefault(".".join(parts[: i - 1]), {}).setdefault(".".join(parts[:i]), [])
            child.append((".".join(parts[i:]), shape, name in spec.trainable))
    for parent in sorted(children, key=lambda path: path.count(".") + bool(path)):
        for signature, run in groupby(children[parent].items(), key=itemgetter(1)):
            blocks = tuple(child for child, _ in run)
            if len(blocks) > 1:
                yield blocks, tuple(name for name, _, _ in signature)


class _SegmentFinder:
    """Finds the residual blocks of a graph."""

    def __init__(self, graph: fx.Graph, blocks: Sequence[str]) -> None:
        self.blocks = blocks
        self.nodes = list(graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.reads = [find_leaves(graph, block) for block in blocks]

    def find_segments(self, reasons: list[str]) -> list[Segment | None]:
        """Return the segment of each block, or None where it is no residual block."""
        return [self._find_segment(i, reasons) for i in range(len(self.blocks))]

    def _find_segment(self, i: int, reasons: list[str]) -> Segment | None:
        """Return the segment of one block: it ends at the first sum that closes off everything inside."""
        block, inside = self.blocks[i], find_descendants(self.reads[i])
        users = [self.place[user] for read in self.reads[i] for user in read.users]
        later = [self.place[u] for reads in self.reads[i + 1 :] for read in reads for u in read.users]
        if not users or (later and min(later) < max(users)):
            reasons.append(f"{block} does not run as a whole before the next block")
            return None
        for node in self.nodes[max(users) : min(later, default=len(self.nodes))]:
            if is_sum(node) and node in inside and find_leaks(inside, node, self.place) == []:
                return self._follow_residual(block, node, inside, reasons)
        reasons.append(f"{block} does not end in a sum with its input (post-norm blocks do not, for example)")
        return None

    def _follow_residual(self, block: str, exit_: fx.Node, inside: set[fx.Node], reasons: list[str]) -> Segment | None:
        """Return the segment that ends in a sum, with its entry and its ends."""
        stream = _follow_stream(exit_, inside)
        if stream is None:
            reasons.append(f"{block} changes its input before it adds to it")
            return None
        entry, branches = stream
        names: set[str] = set()
        for branch in branches:
            ends = _find_ends(branch, inside)
            if ends is None:
                reasons.append(f"a branch of {block} ends in {operator_name(branch.target)}, which no parameters scale")
                return None
            names |= ends
        if not all(name.startswith(f"{block}.") for name in names):
            reasons.append(f"{block} ends in parameters that are not its own")
            return None
        return Segment(entry, exit_, frozenset(name[len(block) + 1 :] for name in names))


def find_leaves(graph: fx.Graph, block: str) -> list[fx.Node]:
    """Return the ``get_attr`` nodes of the parameters and buffers of a block."""
    return [node for node in graph.nodes if node.op == "get_attr" and str(node.target).startswith(f"{block}.")]


def find_descendants(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return every node that depends on one of ``nodes``. The nodes themselves are not included."""
    descendants: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        for user in todo.pop().users:
            if user not in descendants:
                descendants.add(user)
                todo.append(user)
    return descendants


def find_leaks(inside: set[fx.Node], exit_: fx.Node, place: Mapping[fx.Node, int]) -> list[fx.Node]:
    """Return the nodes inside a block, other than its exit, that a node after the exit reads."""
    end = place[exit_]
    before = [node for node in inside if place[node] <= end and node is not exit_]
    return [node for node in before if any(place[user] > end for user in node.users)]


def is_sum(node: fx.Node) -> bool:
    """Return True if a node adds two tensors of the same shape."""
    if node.op != "call_function" or operator_name(node.target) not in SUMS or node.kwargs:
        return False
    shapes = [a.meta["val"].shape for a in node.all_input_nodes]
    return len(shapes) == 2 and shapes[0] == shapes[1]


def _follow_stream(node: fx.Node, inside: set[fx.Node]) -> tuple[fx.Node, list[fx.Node]] | None:
    """Follow sums back to the input of a block. Return that input and the branches that are added to it."""
    node = _skip_identities(node)
    if node not in inside:
        return node, []
    if not is_sum(node):
        return None
    for summand, branch in permutations(node.all_input_nodes):
        stream = _follow_stream(summand, inside) if branch in inside else None
        if stream is not None:
            return stream[0], [*stream[1], branch]
    return None


def _skip_identities(node: fx.Node) -> fx.Node:
    """Return the node behind operators that return their argument unchanged."""
    while node.op == "call_function" and operator_name(node.target) in COPIES:
        argument = node.args[0]
        assert isinstance(argument, fx.Node)
        a, b = node.meta["val"], argument.meta["val"]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            break
        node = argument
    return node


def _find_ends(node: fx.Node, inside: set[fx.Node]) -> set[str] | None:
    """Return the parameters that a branch is proportional to, or None."""
    name = operator_name(node.target) if node.op == "call_function" else ""
    if name in PROPORTIONAL:
        weight, bias = (node.args[i] if i < len(node.args) else None for i in PROPORTIONAL[name])
        names = [_match_parameter(argument) for argument in (weight, bias) if argument is not None]
        return {str(n) for n in names} if weight is not None and None not in names else None
    if is_sum(node):
        parts = [_find_ends(argument, inside) for argument in node.args if isinstance(argument, fx.Node)]
        return set().union(*(part or set() for part in parts)) if None not in parts else None
    if name in ("aten.mul", "aten.mul_", "aten.div", "aten.div_"):
        return _find_factor_ends(node, inside)
    first = node.args[0] if node.args else None
    return (
        _find_ends(first, inside)
        if name in PROPORTIONAL_TO_FIRST and isinstance(first, fx.Node) and first in inside
        else None
    )


def _find_factor_ends(node: fx.Node, inside: set[fx.Node]) -> set[str] | None:
    """Return the ends of a product: the scale of a layer, or the ends of the only factor that depends on the block."""
    factors = [argument for argument in node.args if isinstance(argument, fx.Node)]
    product = "mul" in operator_name(node.target)
    for factor in factors if product else ():
        scale = _match_parameter(factor)
        if scale is not None:
            return {scale}
    varying = [factor for factor in factors if factor in inside and not _is_noise(factor)]
    if len(varying) != 1 or not (product or varying[0] is node.args[0]):
        return None
    return _find_ends(varying[0], inside)


def _is_noise(node: fx.Node) -> bool:
    """Return True if a node is random noise that depends on no tensor."""
    while node.op == "call_function" and operator_name(node.target) in ("aten.div_", "aten.div"):
        node = cast("fx.Node", node.args[0])
    return node.op == "call_function" and operator_name(node.target).startswith("aten.bernoulli")


def _match_parameter(argument: Any) -> str | None:
    """Return the name of the parameter behind views, if it has no other reader."""
    while isinstance(argument, fx.Node) and len(argument.users) == 1:
        if argument.op == "get_attr":
            return str(argument.target)
        if argument.op != "call_function" or operator_name(argument.target) not in PROPORTIONAL_TO_FIRST:
            return None
        argument = argument.args[0]
    return None


def _find_common_ends(segments: Sequence[Segment | None]) -> frozenset[str] | None:
    """Return the ends of a block if training and evaluation agree on them, otherwise None."""
    ends = {None if segment is None else segment.ends for segment in segments}
    return ends.pop() if len(ends) == 1 else None


def _check_links(
    graph: fx.Graph, blocks: Sequence[str], segments: Sequence[Segment | None], reasons: list[str]
) -> list[bool]:
    """Return for each block but the first whether it continues the block before and is alike."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    joined = []
    for (a, first), (b, second) in pairwise(zip(blocks, segments, strict=True)):
        reason = None
        if first is None or second is None:
            joined.append(False)
            continue
        if not _is_successor(first, second) or find_leaks(
            {first.exit, *find_descendants([first.exit])}, second.exit, place
        ):
            reason = f"{b}, or a later node, does not read the output of {a}"
        elif not _are_alike(first.exit, second.exit, {first.entry: second.entry}, (f"{a}.", f"{b}.")):
            reason = f"{b} computes another function than {a}"
        joined.append(reason is None)
        reasons += [] if reason is None else [reason]
    return joined


def _is_successor(first: Segment, second: Segment) -> bool:
    """Return True if a block reads the output of another, or its positive part."""
    entry = second.entry
    if entry.op == "call_function" and operator_name(entry.target) in IDEMPOTENT and entry is not first.exit:
        entry = cast("fx.Node", entry.args[0])
    return _skip_identities(entry) is first.exit


def _are_alike(a: Any, b: Any, matched: dict[fx.Node, fx.Node], paths: tuple[str, str]) -> bool:
    """Return True if two nodes compute the same function, up to the paths of their parameters."""
    if isinstance(a, (list, tuple)):
        same = isinstance(b, (list, tuple)) and len(a) == len(b)
        return same and all(_are_alike(x, y, matched, paths) for x, y in zip(a, b, strict=True))
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return type(a) is type(b) and bool(a == b)
    a, b = _skip_identities(a), _skip_identities(b)
    if a in matched:
        return matched[a] is b
    if a.op == "get_attr" and b.op == "get_attr":
        same = _is_same_leaf(a, b, paths)
    else:
        same = (a.op, a.target) == (b.op, b.target) and set(a.kwargs) == set(b.kwargs)
        has_rates = a.op == "call_function" and operator_name(a.target) in STOCHASTIC_DEPTH
        first, second = (_drop_rates(node.args) if has_rates else node.args for node in (a, b))
        same = same and _are_alike(first, second, matched, paths)
        same = same and all(_are_alike(a.kwargs[key], b.kwargs[key], matched, paths) for key in a.kwargs)
    if same:
        matched[a] = b
    return same


def _drop_rates(arguments: Sequence[Any]) -> list[Any]:
    """Return arguments without floats, because the rates of stochastic depth differ between blocks."""
    return [argument for argument in arguments if not isinstance(argument, float)]


def _is_same_leaf(a: fx.Node, b: fx.Node, paths: tuple[str, str]) -> bool:
    """Return True if two leaves are the same parameter of two blocks, equal constants, or one shared tensor."""
    first, second = str(a.target), str(b.target)
    if first.startswith(paths[0]):
        return second == paths[1] + first[len(paths[0]) :]
    if is_constant(a) and is_constant(b):
        return torch.equal(a.meta["val"], b.meta["val"])
    return first == second


def _split_chains(
    blocks: Sequence[str], names: tuple[str, ...], ends: Sequence[frozenset[str] | None], joined: Sequence[bool]
) -> Iterator[Chain]:
    """Yield the longest chains in which each block continues the one before."""
    start = 0
    for i in range(1, len(blocks) + 1):
        if i < len(blocks) and joined[i - 1] and ends[i] is not None and ends[i] == ends[start]:
            continue
        common_ends = ends[start]
        if i - start > 1 and common_ends is not None:
            yield Chain(tuple(blocks[start:i]), names, common_ends)
        start = i
