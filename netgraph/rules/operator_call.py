"""One operator call as a rule sees it: its arguments by name, the axes of its operands, and what it may say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import MisfitError, Space
from netgraph.utils.source_location import format_location, is_user_file

Spaces = list[Space]


@dataclass
class ParameterUse:
    """A parameter dimension that one operator call consumes, and the atoms along which it sums it."""

    leaf: str
    dim: int
    node: fx.Node
    operand: fx.Node
    dual: list[Space] = field(default_factory=list)


@dataclass
class SizeEdit:
    """What has to be written anew in a node when sizes change.

    ``argument`` names the schema argument, ``spaces`` the spaces whose sizes it holds (one for an integer; None
    leaves an entry of a list alone), ``compute`` makes it from the ratio fine size / coarse size of ``spaces``.
    """

    argument: str
    spaces: list[Space | None]
    compute: Callable[[float], Any] | None = None
    single: bool = False


@dataclass
class SizeFactor:
    """Multiply an operand (or the result, where ``operand`` is None) by (fine size / coarse size) ** ``power``."""

    operand: fx.Node | None
    space: Space
    power: float


@dataclass
class TraceState:
    """What has been worked out so far, for all nodes of one recording."""

    spaces: dict[fx.Node, Any] = field(default_factory=dict)
    origins: dict[fx.Node, tuple[str, list[frozenset[int]]]] = field(default_factory=dict)
    uses: list[ParameterUse] = field(default_factory=list)
    edits: dict[fx.Node, list[SizeEdit]] = field(default_factory=dict)
    scales: dict[fx.Node, list[SizeFactor]] = field(default_factory=dict)
    retarget: dict[fx.Node, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    sources: list[tuple[Space, fx.Node, int]] = field(default_factory=list)
    from_input: set[fx.Node] = field(default_factory=set)
    inside_heads: bool = False  # whether numbers inside heads may merge
    inner: list[Space] = field(default_factory=list)  # those numbers


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the recorded shape of a node's tensor."""
    value = node.meta["val"]
    return tuple(int(n) for n in value.shape)


class Call:
    """An operator call: what a rule reads, and the verbs it speaks.

    Arguments are read by their schema names, ``call["weight"]``; defaults are filled in.
    """

    def __init__(self, node: fx.Node, trail: TraceState) -> None:
        self.node = node
        self.trail = trail
        self.arguments: dict[str, Any] = bind_arguments(node)
        self.summed: dict[fx.Node, dict[int, Space]] = {}
        self.is_alias = False

    # reading

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def has(self, name: str) -> bool:
        """Tell whether an argument is given and not None."""
        return self.arguments.get(name) is not None

    @property
    def name(self) -> str:
        """The operator's name, ``aten.conv2d``."""
        return operator_name(self.node.target)

    @property
    def operands(self) -> list[fx.Node]:
        """Tensor operands in order, those inside lists included."""
        return [n for n in self.node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]

    def spaces(self, operand: str | fx.Node) -> Spaces:
        """Return the spaces of an operand's dimensions."""
        node = self.arguments[operand] if isinstance(operand, str) else operand
        return [sp.resolve(space) for space in self.trail.spaces[node]]

    def shape(self, operand: str | fx.Node | None = None) -> tuple[int, ...]:
        """Return the recorded shape of an operand, or of the result."""
        node = self.node if operand is None else self.arguments[operand] if isinstance(operand, str) else operand
        return shape_of(node)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return the recorded shapes of a result that is a list or tuple of tensors."""
        return [
            tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else () for value in self.node.meta["val"]
        ]

    def dim(self, name: str, ndim: int) -> int:
        """Return a dimension argument counted from the front."""
        return int(self.arguments[name]) % max(ndim, 1)

    def dims(self, name: str, ndim: int) -> list[int]:
        """Return a list of dimensions counted from the front; all of them where the argument is empty."""
        value = self.arguments.get(name)
        if isinstance(value, int):
            value = [value]
        return sorted(d % max(ndim, 1) for d in value) if value else list(range(ndim))

    # saying what is the same, kept, summed

    def unite(self, a: Space, b: Space) -> None:
        """Say that two spaces are the same; what no structure explains is pinned with this operator's name."""
        try:
            sp.unite(a, b)
        except MisfitError as misfit:
            self.pin(a, f"no common structure ({misfit})")
            self.pin(b, f"no common structure ({misfit})")

    def pin(self, space: Space, reason: str) -> None:
        """Keep a space as it is; the reason is completed by the operator's name and source line."""
        sp.pin(space, f"{reason}: {self.name}{self.place()}")

    def place(self) -> str:
        """Return `` at file:line`` of the call in the network's own source, or nothing."""
        return source_line(self.node)

    def new_pinned_space(self, size: int, reason: str) -> Space:
        """Return a new space that stays as it is."""
        return sp.new_space(size, f"{reason}: {self.name}{self.place()}")

    def equal(self, space: Space, reason: str) -> None:
        """Ask for aggregates of one size along a space."""
        sp.require_equal(space, f"{reason}: {self.name}{self.place()}")

    def sums(self, operand: fx.Node, dim: int, space: Space | None = None) -> None:
        """Say that an operand is summed over along one dimension (it is dual there).

        A parameter is then injected by sums. What is computed from parameters is a value like any other, so
        its terms must all count the same: aggregates of one size, and a factor at run time.
        """
        space = self.spaces(operand)[dim] if space is None else space
        if operand in self.trail.origins:
            self.summed.setdefault(operand, {})[dim] = space
        else:
            self.equal(space, "summed over")
            self.scale(operand, space, 1.0)

    def contract(self, a: fx.Node, dim_a: int, b: fx.Node, dim_b: int) -> None:
        """Sum the product of two operands over one dimension of each."""
        sa, sb = self.spaces(a)[dim_a], self.spaces(b)[dim_b]
        self.unite(sa, sb)
        if b in self.trail.origins:
            self.sums(b, dim_b)
        elif a in self.trail.origins:
            self.sums(a, dim_a)
        elif a in self.trail.from_input and b in self.trail.from_input:
            self.contract_activations(a, sa, "contracted between two activations")
        else:
            self.sums(b if a in self.trail.from_input else a, dim_b if a in self.trail.from_input else dim_a)

    def contract_activations(self, a: fx.Node, space: Space, reason: str, power: float = 1.0) -> None:
        """Say that two activations are contracted over a space: it is kept, or inside heads its aggregates have one size."""
        if not self.trail.inside_heads or self.operands.count(a) > 1:
            self.pin(space, reason)
            return
        self.equal(space, reason)
        self.scale(a, space, power)
        self.trail.inner.append(space)

    def broadcast(self, operands: Iterable[Spaces]) -> Spaces:
        """Unite dimensions from the last on, as broadcasting does; a dimension of one index meets any."""
        out: Spaces = []
        for spaces in operands:
            out = [sp.ONE] * (len(spaces) - len(out)) + out
            for i, space in enumerate(reversed(spaces), 1):
                if out[-i] == sp.ONE:
                    out[-i] = space
                elif space != sp.ONE:
                    self.unite(out[-i], space)
        return out

    def reshape(self, spaces: Sequence[Space], sizes: Sequence[int]) -> Spaces:
        """Regroup dimensions; leading ones that stay are kept even where the rest has to be pinned."""
        try:
            return sp.reshape(spaces, sizes)
        except MisfitError as misfit:
            n = 0
            while n < min(len(spaces), len(sizes)) and sp.size_of(spaces[n]) == sizes[n]:
                n += 1
            for space in spaces[n:]:
                self.pin(space, f"reshaped across units ({misfit})")
            return list(spaces[:n]) + [self.new_pinned_space(size, "reshaped across units") for size in sizes[n:]]

    # saying what to write anew

    def resize(self, argument: str, spaces: Sequence[Space | None] | Space, *, single: bool = False) -> None:
        """Say that an argument holds the sizes of spaces; ``single`` where it is one integer of one space."""
        listed = [spaces] if single else list(spaces)
        self.trail.edits.setdefault(self.node, []).append(SizeEdit(argument, listed, None, single))  # type: ignore[arg-type]

    def rewrite(self, argument: str, space: Space, compute: Callable[[float], Any]) -> None:
        """Say that an argument is a function of fine size / coarse size of a space."""
        self.trail.edits.setdefault(self.node, []).append(SizeEdit(argument, [space], compute, True))

    def scale(self, operand: fx.Node | None, space: Space, power: float) -> None:
        """Multiply an operand, or the result, by (fine size / coarse size) ** power of a space."""
        self.trail.scales.setdefault(self.node, []).append(SizeFactor(operand, space, power))

    def replace_operator(self, target: Any, arguments: dict[str, Any]) -> None:
        """Write the call anew as another operator, one whose arguments can hold unequal sizes."""
        self.trail.retarget[self.node] = (target, arguments)

    def alias(self, operand: fx.Node, dims: Sequence[int | Sequence[int] | None]) -> None:
        """Say that the result is the operand's own numbers; ``dims[i]`` names the operand's dimensions in result i."""
        self.is_alias = True
        origin = self.trail.origins.get(operand)
        if origin is None:
            return
        leaf, of = origin
        mapped = []
        for entry in dims:
            several = [entry] if isinstance(entry, int) else list(entry or ())
            mapped.append(frozenset().union(*(of[d] for d in several)) if several else frozenset())
        self.trail.origins[self.node] = (leaf, mapped)

    def record_uses(self) -> None:
        """Note every parameter dimension that this call consumes, summed or as it is."""
        for operand in self.node.all_input_nodes:
            origin = self.trail.origins.get(operand)
            if origin is None or (self.is_alias and operand not in self.summed):
                continue
            leaf, dims = origin
            for dim, of in enumerate(dims):
                summed = self.summed.get(operand, {}).get(dim)
                for leaf_dim in of:
                    use = ParameterUse(leaf, leaf_dim, self.node, operand, [] if summed is None else [summed])
                    self.trail.uses.append(use)


@cache
def operator_name(target: Any) -> str:
    """Return ``aten.conv2d`` of an operator overload, or the plain name of a function."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}"
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


@dataclass(frozen=True)
class SchemaArgument:
    """One argument of an operator's schema."""

    name: str
    default: Any
    has_default: bool
    kwarg_only: bool


@cache
def schema_arguments(target: Any) -> tuple[SchemaArgument, ...] | None:
    """Return the arguments of an operator, None where it has no schema; PyTorch makes its own list anew at each look."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    return tuple(SchemaArgument(a.name, a.default_value, a.has_default_value(), a.kwarg_only) for a in schema.arguments)


def bind_arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by schema name, defaults filled in."""
    parameters = schema_arguments(node.target)
    given, named = node.args, node.kwargs
    if parameters is None:
        return {**{str(i): a for i, a in enumerate(given)}, **named}
    bound = {p.name: named.get(p.name, p.default) for p in parameters}
    bound.update(zip(bound, given, strict=False))
    return bound


def source_line(node: fx.Node) -> str:
    """Return `` at file:line`` of the innermost frame outside PyTorch, or nothing."""
    place = ""
    for line in (node.meta.get("stack_trace") or node.stack_trace or "").split("\n"):
        line = line.strip()
        if line.startswith('File "'):
            name, number = line[6:].split('", line ')
            place = format_location(name, number.split(",")[0]) if is_user_file(name) else place
    return place
