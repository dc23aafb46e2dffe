"""Chains: alike residual blocks one after the other, found in a recorded graph.

A block computes ``x + f(x)``: one sum or several, each of the stream and a branch. Two blocks are alike where their graphs
are the same but for the names of their parameters. Where a branch ends in a layer, or in the affine part of a norm, it
is proportional to that layer's parameters, the block's *ends*: to halve them halves the branch and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, permutations
from operator import itemgetter
from typing import Any, cast

import torch
from torch import fx

from netgraph.rules.operator_call import operator_name
from netgraph.tracing.unit_spec import UnitSpec, term_size

SUMS = ("aten.add", "aten.add_")
SAME = ("aten.to", "aten.alias", "aten.detach", "aten.contiguous")  # where shape and type are those of the argument
AGAIN = ("aten.relu", "aten.relu_", "aten.hardtanh", "aten.hardtanh_")  # applied twice they do what they do once
PROPORTIONAL = {  # where an operator's result is proportional to its weight and bias together
    "aten.linear": (1, 2), "aten.addmm": (2, 0), "aten.conv1d": (1, 2), "aten.conv2d": (1, 2), "aten.conv3d": (1, 2),
    "aten.convolution": (1, 2), "aten.batch_norm": (1, 2), "aten.layer_norm": (2, 3), "aten.group_norm": (2, 3),
}  # fmt: skip
RATES = ("aten.bernoulli_", "aten.dropout", "aten.div_")  # of stochastic depth, which often grow along the chain
THROUGH = {
    "aten.dropout", "aten.feature_dropout", "aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.alias",
    "aten.unflatten", "aten.permute", "aten.transpose", "aten.t", "aten.contiguous", "aten.clone", "aten.expand", "aten.to",
    "aten.squeeze", "aten.unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """Alike residual blocks one after the other.

    Parameters
    ----------
    blocks : tuple of str
        Paths of their modules, in the order in which they run.
    names : tuple of str
        Parameters and buffers by their names inside a block.
    ends : frozenset of str
        Those of ``names`` that the branches are proportional to.
    """

    blocks: tuple[str, ...]
    names: tuple[str, ...]
    ends: frozenset[str]

    @property
    def name(self) -> str:
        """After the first block."""
        return self.blocks[0]

    def family(self, name: str) -> tuple[str, ...]:
        """Return what a parameter inside a block is called in the network, block after block."""
        return tuple(f"{block}.{name}" for block in self.blocks)


@dataclass(frozen=True)
class Segment:
    """A block in a graph: what it reads of the stream, the sum that it ends in, and its ends."""

    entry: fx.Node
    exit: fx.Node
    ends: frozenset[str]


def find_chains(spec: UnitSpec) -> tuple[list[Chain], list[str]]:
    """Return the chains of a network, and why other blocks that look alike are none.

    Parameters
    ----------
    spec : UnitSpec

    Returns
    -------
    found : list of Chain
        Each of two blocks or more; no block is in two of them.
    reasons : list of str
    """
    found: list[Chain] = []
    reasons: list[str] = []
    for blocks, names in _find_candidates(spec):
        if any(block.startswith(f"{taken}.") for chain in found for taken in chain.blocks for block in blocks[:1]):
            continue
        segments = [_SegmentFinder(plan.graph, blocks).segments(reasons) for plan in spec.plans.values()]
        ends = [_find_common_ends(found) for found in zip(*segments, strict=True)]
        joined = [
            _check_links(plan.graph, blocks, part, reasons)
            for plan, part in zip(spec.plans.values(), segments, strict=True)
        ]
        found += _split_chains(blocks, names, ends, [all(both) for both in zip(*joined, strict=True)])
    return found, list(dict.fromkeys(reasons))


def locate_segments(graph: fx.Graph, chain: Chain) -> list[Segment]:
    """Return where a chain's blocks lie in a graph of the network that it was found in."""
    found = _SegmentFinder(graph, chain.blocks).segments([])
    return [segment for segment in found if segment is not None]


def _find_candidates(spec: UnitSpec) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield runs of sibling modules that have parameters of the same names and shapes, outer modules first."""
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
    """A graph, looked through for residual blocks."""

    def __init__(self, graph: fx.Graph, blocks: Sequence[str]) -> None:
        self.blocks = blocks
        self.nodes = list(graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.reads = [find_leaves(graph, block) for block in blocks]

    def segments(self, reasons: list[str]) -> list[Segment | None]:
        """Return each block's segment, None where it is no residual block."""
        return [self._find_segment(i, reasons) for i in range(len(self.blocks))]

    def _find_segment(self, i: int, reasons: list[str]) -> Segment | None:
        block, inside = self.blocks[i], find_descendants(self.reads[i])
        users = [self.place[user] for read in self.reads[i] for user in read.users]
        later = [self.place[u] for reads in self.reads[i + 1 :] for read in reads for u in read.users]
        if not users or (later and min(later) < max(users)):
            reasons.append(f"{block} does not run as a whole before the next block")
            return None
        for node in self.nodes[max(users) : min(later, default=len(self.nodes))]:
            if is_sum(node) and node in inside and find_leaks(inside, node, self.place) == []:
                return self._follow_residual(block, node, inside, reasons)
        reasons.append(f"{block} does not end in a sum with what it was given (a post-norm block does not, for one)")
        return None

    def _follow_residual(self, block: str, exit_: fx.Node, inside: set[fx.Node], reasons: list[str]) -> Segment | None:
        found = _follow_stream(exit_, inside)
        if found is None:
            reasons.append(f"{block} changes what it was given before it adds to it")
            return None
        entry, branches = found
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
    """Return the nodes that read a block's parameters and buffers."""
    return [node for node in graph.nodes if node.op == "get_attr" and str(node.target).startswith(f"{block}.")]


def find_descendants(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return every node that depends on one of some nodes, these left out."""
    found: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        for user in todo.pop().users:
            if user not in found:
                found.add(user)
                todo.append(user)
    return found


def find_leaks(inside: set[fx.Node], exit_: fx.Node, place: Mapping[fx.Node, int]) -> list[fx.Node]:
    """Return the nodes inside a block, but for its exit, that something behind the exit reads."""
    end = place[exit_]
    before = [node for node in inside if place[node] <= end and node is not exit_]
    return [node for node in before if any(place[user] > end for user in node.users)]


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors of one shape."""
    if node.op != "call_function" or operator_name(node.target) not in SUMS or node.kwargs:
        return False
    shapes = [a.meta["val"].shape for a in node.all_input_nodes]
    return len(shapes) == 2 and shapes[0] == shapes[1]


def _follow_stream(node: fx.Node, inside: set[fx.Node]) -> tuple[fx.Node, list[fx.Node]] | None:
    """Follow sums back to what a block was given; return that and the branches that were added to it."""
    node = _skip_identities(node)
    if node not in inside:
        return node, []
    if not is_sum(node):
        return None
    for own, branch in permutations(node.all_input_nodes):
        found = _follow_stream(own, inside) if branch in inside else None
        if found is not None:
            return found[0], [*found[1], branch]
    return None


def _skip_identities(node: fx.Node) -> fx.Node:
    """Return what a node is, seen through operators that give back what they take."""
    while node.op == "call_function" and operator_name(node.target) in SAME:
        given = node.args[0]
        assert isinstance(given, fx.Node)
        a, b = node.meta["val"], given.meta["val"]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            break
        node = given
    return node


def _find_ends(node: fx.Node, inside: set[fx.Node]) -> set[str] | None:
    """Return the parameters that a branch is proportional to, None where there are none."""
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
    return _find_ends(first, inside) if name in THROUGH and isinstance(first, fx.Node) and first in inside else None


def _find_factor_ends(node: fx.Node, inside: set[fx.Node]) -> set[str] | None:
    """Return the ends of a product: a layer's scale, or those of the one factor that depends on the block."""
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
    """Whether a node is noise, whose numbers depend on nothing."""
    while node.op == "call_function" and operator_name(node.target) in ("aten.div_", "aten.div"):
        node = cast("fx.Node", node.args[0])
    return node.op == "call_function" and operator_name(node.target).startswith("aten.bernoulli")


def _match_parameter(argument: Any) -> str | None:
    """Return the parameter that an argument is, seen through views, if nothing else reads it."""
    while isinstance(argument, fx.Node) and len(argument.users) == 1:
        if argument.op == "get_attr":
            return str(argument.target)
        if argument.op != "call_function" or operator_name(argument.target) not in THROUGH:
            return None
        argument = argument.args[0]
    return None


def _find_common_ends(found: Sequence[Segment | None]) -> frozenset[str] | None:
    """Return a block's ends where training and evaluation agree on them."""
    ends = {None if segment is None else segment.ends for segment in found}
    return ends.pop() if len(ends) == 1 else None


def _check_links(
    graph: fx.Graph, blocks: Sequence[str], segments: Sequence[Segment | None], reasons: list[str]
) -> list[bool]:
    """Tell for each block but the first whether it goes on from the one before, and is alike."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    joined = []
    for (a, first), (b, second) in pairwise(zip(blocks, segments, strict=True)):
        why = None
        if first is None or second is None:
            joined.append(False)
            continue
        if not _is_successor(first, second) or find_leaks(
            {first.exit, *find_descendants([first.exit])}, second.exit, place
        ):
            why = f"{b} takes something else than what {a} gives, or something behind it does"
        elif not _are_alike(first.exit, second.exit, {first.entry: second.entry}, (f"{a}.", f"{b}.")):
            why = f"{b} computes otherwise than {a}"
        joined.append(why is None)
        reasons += [] if why is None else [why]
    return joined


def _is_successor(first: Segment, second: Segment) -> bool:
    """Whether a block takes what another gives, or its positive part."""
    given = second.entry
    if given.op == "call_function" and operator_name(given.target) in AGAIN and given is not first.exit:
        given = cast("fx.Node", given.args[0])
    return _skip_identities(given) is first.exit


def _are_alike(a: Any, b: Any, known: dict[fx.Node, fx.Node], paths: tuple[str, str]) -> bool:
    """Whether two nodes compute the same of the same, but for the paths of their parameters."""
    if isinstance(a, (list, tuple)):
        same = isinstance(b, (list, tuple)) and len(a) == len(b)
        return same and all(_are_alike(x, y, known, paths) for x, y in zip(a, b, strict=True))
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return type(a) is type(b) and bool(a == b)
    a, b = _skip_identities(a), _skip_identities(b)
    if a in known:
        return known[a] is b
    if a.op == "get_attr" and b.op == "get_attr":
        same = _is_same_leaf(a, b, paths)
    else:
        same = (a.op, a.target) == (b.op, b.target) and set(a.kwargs) == set(b.kwargs)
        drawn = a.op == "call_function" and operator_name(a.target) in RATES
        first, second = (_drop_rates(node.args) if drawn else node.args for node in (a, b))
        same = same and _are_alike(first, second, known, paths)
        same = same and all(_are_alike(a.kwargs[key], b.kwargs[key], known, paths) for key in a.kwargs)
    if same:
        known[a] = b
    return same


def _drop_rates(arguments: Sequence[Any]) -> list[Any]:
    return [argument for argument in arguments if not isinstance(argument, float)]


def _is_same_leaf(a: fx.Node, b: fx.Node, paths: tuple[str, str]) -> bool:
    first, second = str(a.target), str(b.target)
    if first.startswith(paths[0]):
        return second == paths[1] + first[len(paths[0]) :]
    if first.startswith("constants.") and second.startswith("constants."):
        return torch.equal(a.meta["val"], b.meta["val"])
    return first == second


def _split_chains(
    blocks: Sequence[str], names: tuple[str, ...], ends: Sequence[frozenset[str] | None], joined: Sequence[bool]
) -> Iterator[Chain]:
    """Yield the longest chains in which each block goes on from the one before."""
    start = 0
    for i in range(1, len(blocks) + 1):
        if i < len(blocks) and joined[i - 1] and ends[i] is not None and ends[i] == ends[start]:
            continue
        own = ends[start]
        if i - start > 1 and own is not None:
            yield Chain(tuple(blocks[start:i]), names, own)
        start = i
