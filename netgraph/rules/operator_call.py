"""One operator call as a rule sees it: its arguments by name, the spaces of its operands, and the verbs of a rule.

A rule makes three kinds of statement. It *relates spaces* (`Call.unite`, `Call.pin`, `Call.contract`, `Call.sums`), it names
the *arguments that hold sizes* (`Call.resize`, `Call.rewrite`), and it names the *factors* that keep a sum right when fewer
units are summed (`Call.scale`). The statements are collected in one `TraceState` for each recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, fx

from netgraph.environment.torch_internals import OpOverload, read_schema
from netgraph.errors import TraceError
from netgraph.rules import index_space as sp
from netgraph.rules.index_space import MisfitError, Space
from netgraph.utils.source_location import format_location, is_user_file

Spaces = list[Space]
PASSED_COUNTS = "passed_counts"  # key of ``meta`` of a call: its arguments that are sizes that depend on numbers


@dataclass
class ParameterUse:
    """One dimension of a parameter that an operator call reads.

    Parameters
    ----------
    parameter : str
    dim : int
        Dimension of the parameter.
    node : torch.fx.Node
        The call.
    operand : torch.fx.Node
        The operand of the call that holds the numbers of the parameter.
    summed : list of Space
        The spaces that the call sums over along this dimension.
    """

    parameter: str
    dim: int
    node: fx.Node
    operand: fx.Node
    summed: list[Space] = field(default_factory=list)


@dataclass
class SizeEdit:
    """An argument of a node that depends on sizes.

    Parameters
    ----------
    argument : str
        Name of the argument in the operator's schema.
    spaces : list of Space or None
        The spaces whose sizes the argument holds. None leaves an entry of a list as it is.
    compute : callable, optional
        Computes the argument from the ratio fine size / coarse size of the space.
    single : bool, default False
        Whether the argument is one integer instead of a list.
    """

    argument: str
    spaces: list[Space | None]
    compute: Callable[[float], Any] | None = None
    single: bool = False


@dataclass
class SizeFactor:
    """A factor (fine size / coarse size) ** ``power`` on an operand, or on the result if ``operand`` is None."""

    operand: fx.Node | None
    space: Space
    power: float


@dataclass
class Choice:
    """Some units that an operator chooses among all units of an axis by their rank, as a router chooses experts.

    Parameters
    ----------
    chosen : Space
        Runs over the ranks.
    among : Space
        The units of which some are chosen.
    node : torch.fx.Node
        The call.
    """

    chosen: Space
    among: Space
    node: fx.Node


@dataclass
class TraceState:
    """Spaces and statements about the nodes of one recording, as far as its graph has been walked.

    Parameters
    ----------
    spaces : dict of Node to list of Space
        One space for each dimension of a node's tensor, or a list of such lists for several tensors.
    origins : dict of Node to (str, list of frozenset of int)
        For a node that holds the numbers of a parameter under other dimensions: the parameter, and for each dimension of
        the node the dimensions of the parameter that its numbers may come from.
    uses, edits, scales : collections
        The statements of the rules: `ParameterUse`, `SizeEdit` and `SizeFactor`.
    replacements : dict of Node to (operator, dict)
        Calls that another operator replaces, and its arguments.
    sources : list of (Space, Node, int)
        Where the size of a variable space can be read at run time: a node and its dimension.
    from_input : set of Node
        The nodes that depend on an input of the network.
    inside_heads : bool
        Whether dimensions inside attention heads may merge.
    training : bool
        Whether the recording is that of the training mode.
    head_dims : list of Space
        Those dimensions.
    norm_groups : list of (Space, Space)
        The groups that a group norm alone makes, and the channels inside one.
    choices : list of Choice
        Where units are chosen by their rank.
    unit_numbers : dict of (Node, int or None) to Space
        For a node, or one of its results, that holds numbers of units: the axis of these units.
    place_columns : dict of Node to list of Space
        For a node whose rows are places of a tensor, one column for each dimension: the axes of these dimensions.
    chosen_parameters : set of str
        The parameters of which only the entries of chosen units are read.
    tables : dict of str to list of Space
        The spaces of the constants that modules hold as attributes, by the names of these, for all modes.
    outputs : tuple of str
        Names of the outputs that matter. Without a name all of them do.
    contracted : list of (Space, str)
        Spaces over which two activations are contracted, with reasons. Where they lie inside heads, they are kept.
    foreign : dict of Node to str
        The calls whose rules are of a user or of another distribution, and these rules in words.
    """

    spaces: dict[fx.Node, Any] = field(default_factory=dict)
    origins: dict[fx.Node, tuple[str, list[frozenset[int]]]] = field(default_factory=dict)
    uses: list[ParameterUse] = field(default_factory=list)
    edits: dict[fx.Node, list[SizeEdit]] = field(default_factory=dict)
    scales: dict[fx.Node, list[SizeFactor]] = field(default_factory=dict)
    replacements: dict[fx.Node, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    sources: list[tuple[Space, fx.Node, int]] = field(default_factory=list)
    from_input: set[fx.Node] = field(default_factory=set)
    inside_heads: bool = False
    training: bool = False
    head_dims: list[Space] = field(default_factory=list)
    norm_groups: list[tuple[Space, Space]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    unit_numbers: dict[tuple[fx.Node, int | None], Space] = field(default_factory=dict)
    place_columns: dict[fx.Node, list[Space]] = field(default_factory=dict)
    chosen_parameters: set[str] = field(default_factory=set)
    tables: dict[str, Spaces] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    contracted: list[tuple[Space, str]] = field(default_factory=list)
    foreign: dict[fx.Node, str] = field(default_factory=dict)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the recorded shape of a node's tensor."""
    value = node.meta["val"]
    return tuple(int(n) for n in value.shape)


class Call:
    """One call of an operator, the only argument of a rule.

    ``call["weight"]`` reads an argument by its name in the operator's schema. Defaults are filled in.

    Parameters
    ----------
    node : torch.fx.Node
        The call in the recorded graph.
    state : TraceState
        Collects the statements of the rule.
    """

    def __init__(self, node: fx.Node, state: TraceState) -> None:
        self.node = node
        self.state = state
        self.arguments: dict[str, Any] = bind_arguments(node)
        self.summed: dict[fx.Node, dict[int, Space]] = {}
        self.is_alias = False
        self.followed: set[fx.Node] = set()

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def follows_count(self, name: str) -> bool:
        """Return True if an argument is a size that depends on numbers (`netgraph.recording.operators.passed_counts`)."""
        return any(count.place == name for count in self.node.meta.get(PASSED_COUNTS, ()))

    def has(self, name: str) -> bool:
        """Return True if an argument is given and not None."""
        return self.arguments.get(name) is not None

    @property
    def name(self) -> str:
        """The operator's name, ``aten.conv2d``."""
        return operator_name(self.node.target)

    @property
    def operands(self) -> list[fx.Node]:
        """Tensor operands in order, including those inside lists."""
        return [n for n in self.node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]

    def spaces(self, operand: str | fx.Node) -> Spaces:
        """Return the spaces of an operand's dimensions."""
        node = self.arguments[operand] if isinstance(operand, str) else operand
        return [sp.resolve(space) for space in self.state.spaces[node]]

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
        """Return a list of dimensions counted from the front. An empty argument means all dimensions."""
        value = self.arguments.get(name)
        if isinstance(value, int):
            value = [value]
        return sorted(d % max(ndim, 1) for d in value) if value else list(range(ndim))

    # Relations between spaces

    def unite(self, a: Space, b: Space) -> None:
        """State that two spaces are the same. Without a common structure, pin both and give this operator as the reason."""
        try:
            sp.unite(a, b)
        except MisfitError as misfit:
            self.pin(a, f"no common structure ({misfit})")
            self.pin(b, f"no common structure ({misfit})")

    def pin(self, space: Space, reason: str) -> None:
        """Keep the units of a space as they are. The operator's name and source line complete the reason."""
        sp.pin(space, f"{reason}: {self.name}{self.location()}")

    def location(self) -> str:
        """Return `` at file:line`` of the call in the source of the network, or nothing."""
        return source_line(self.node)

    def new_pinned_space(self, size: int, reason: str) -> Space:
        """Return a new pinned space."""
        return sp.new_space(size, f"{reason}: {self.name}{self.location()}")

    def new_dynamic_space(self, dim: int, reason: str) -> Space:
        """Return a pinned space for a dimension of the result. Its size depends on numbers, and is read at run time."""
        space: Space = (sp.Atom(self.shape()[dim], f"{reason}: {self.name}{self.location()}"),)
        for atom in sp.iter_atoms(space):
            atom.dynamic = True
        self.state.sources.append((space, self.node, dim))
        return space

    def list_places(self, condition: fx.Node) -> list[Spaces]:
        """Return the spaces of the lists of indices, one for each dimension, at which a condition holds.

        The lists have one length, which is read at run time.

        Raises
        ------
        TraceError
            The lists have fewer than two entries, so that the recording cannot tell their length from other sizes.
        """
        for result, space in enumerate(self.spaces(condition)):
            self.pin(space, "looked up by a condition")
            self.state.unit_numbers[self.node, result] = space
        lists = self.output_shapes()
        if lists and lists[0][0] < 2:
            raise TraceError(
                f"a condition holds at {lists[0][0]} places of the example{self.location()}, as for an expert that no token chose, and "
                "the recording could not follow what depends on their number. Give an example on which it holds at two or more."
            )
        atom = sp.Atom(lists[0][0], f"as many as a condition holds at: {self.name}{self.location()}")
        atom.dynamic = True
        self.state.sources.append(((atom,), next(iter(self.node.users)), 0))
        return [[(atom,)] for _ in lists]

    def equal(self, space: Space, reason: str) -> None:
        """Require that all aggregates along a space have the same size."""
        sp.require_equal(space, f"{reason}: {self.name}{self.location()}")

    def sums(self, operand: fx.Node, dim: int, space: Space | None = None) -> None:
        """State that the operator sums an operand over one of its dimensions.

        Merged units of a parameter then add up: injection takes sums along that dimension. A value computed from
        parameters has no such choice. It needs aggregates of one size and a factor at run time.
        """
        space = self.spaces(operand)[dim] if space is None else space
        if operand in self.state.origins:
            self.summed.setdefault(operand, {})[dim] = space
        else:
            self.equal(space, "summed over")
            self.scale(operand, space, 1.0)

    def contract(self, a: fx.Node, dim_a: int, b: fx.Node, dim_b: int) -> None:
        """Sum the product of two operands over one dimension of each."""
        sa, sb = self.spaces(a)[dim_a], self.spaces(b)[dim_b]
        self.unite(sa, sb)
        if b in self.state.origins:
            self.sums(b, dim_b)
        elif a in self.state.origins:
            self.sums(a, dim_a)
        elif a in self.state.from_input and b in self.state.from_input:
            scores = leads_to_softmax(self.node)
            self.contract_activations(a, sa, "contracted between two activations", scores=scores)
        else:
            self.sums(b if a in self.state.from_input else a, dim_b if a in self.state.from_input else dim_a)

    def contract_activations(
        self, a: fx.Node | None, space: Space, reason: str, power: float = 1.0, *, scores: bool = True
    ) -> None:
        """State that two activations are contracted over a space, which requires aggregates of one size.

        The factor is that of the operand ``a``, or of the result where there is none.
        The dimensions of queries and keys are kept, unless dimensions inside heads may merge. ``scores`` says that the products
        are scores of attention. Other products keep the dimensions inside heads only, which the whole trace shows.
        """
        if scores and not self.state.inside_heads:
            self.pin(space, reason)
            return
        self.equal(space, reason)
        self.scale(a, space, power if a is None else power / max(self._occurrences(a), 1))
        if self.state.inside_heads:
            self.state.head_dims.append(space)
        else:
            self.state.contracted.append((space, f"{reason}: {self.name}{self.location()}"))

    def _occurrences(self, operand: fx.Node) -> int:
        """Return how often an operand stands in the arguments, since a factor is that of each of them."""
        return [*self.node.args, *self.node.kwargs.values()].count(operand)

    def broadcast(self, operands: Iterable[Spaces]) -> Spaces:
        """Unite dimensions from the last on, as broadcasting does. A dimension of size one fits any space."""
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
        """Regroup dimensions into the given sizes. If that splits units, keep the unchanged outer dimensions and pin the rest."""
        try:
            return sp.reshape(spaces, sizes)
        except MisfitError as misfit:
            n = 0
            most = min(len(spaces), len(sizes))
            while n < most and sp.size_of(spaces[n]) == sizes[n]:
                n += 1
            last = 0  # dimensions at the end that stay as they are
            while last < most - n and sp.size_of(spaces[-1 - last]) == sizes[-1 - last]:
                last += 1
            for space in spaces[n : len(spaces) - last]:
                self.pin(space, f"reshaped across units ({misfit})")
            made = [self.new_pinned_space(size, "reshaped across units") for size in sizes[n : len(sizes) - last]]
            return [*spaces[:n], *made, *spaces[len(spaces) - last :]]

    # Units that are chosen by their rank

    def choose_units(self, among: Space, chosen: Space, *, result: int | None = None) -> None:
        """State that the result, or one of several, holds numbers of units of ``among``, and ``chosen`` runs over the ranks."""
        self.state.choices.append(Choice(chosen, among, self.node))
        self.state.unit_numbers[self.node, result] = among

    def follow_numbers(self, operand: fx.Node, space: Space) -> bool:
        """Return True if an operand holds numbers of units, which look up entries of ``space``. Unite their axis with it.

        Such a look-up stays right when clones merge: the numbers of all of them then mean one coarse unit.
        """
        among = self.state.unit_numbers.get((operand, None))
        if among is None or sp.size_of(among) != sp.size_of(space):
            return False
        self.unite(among, space)
        self.followed.add(operand)
        return True

    def look_up_chosen(self, table: fx.Node, operand: fx.Node, space: Space) -> bool:
        """Follow the numbers of the first dimension of a table (`follow_numbers`), and note that a parameter is read in part."""
        followed = self.follow_numbers(operand, space)
        if followed and table in self.state.origins:
            self.state.chosen_parameters.add(self.state.origins[table][0])
        return followed

    def pass_numbers(self, operand: fx.Node) -> None:
        """State that the result holds the numbers of units that an operand holds, if it holds any."""
        if (operand, None) in self.state.unit_numbers:
            self.state.unit_numbers[self.node, None] = self.state.unit_numbers[operand, None]

    def take_column(self, operand: fx.Node, dim: int, column: int, *, result: int | None = None) -> None:
        """State that the result, or one of several, is a column of an operand. It holds numbers of units if that lists places."""
        columns = self.state.place_columns.get(operand)
        if columns is not None and dim == 1:
            self.state.unit_numbers[self.node, result] = columns[column]

    def pin_numbers(self) -> None:
        """Keep the units whose numbers this call reads in another way than to look up entries, or to pass them on."""
        for operand in self.node.all_input_nodes:
            among = self.state.unit_numbers.get((operand, None))
            if among is not None and operand not in self.followed and (self.node, None) not in self.state.unit_numbers:
                self.pin(among, "the numbers of chosen units are used")

    # Arguments that depend on sizes, and factors

    def resize(self, argument: str, spaces: Sequence[Space | None] | Space, *, single: bool = False) -> None:
        """State that an argument holds the sizes of spaces, or with ``single`` the size of one space as an integer."""
        listed = [spaces] if single else list(spaces)
        self.state.edits.setdefault(self.node, []).append(SizeEdit(argument, listed, None, single))  # type: ignore[arg-type]

    def rewrite(self, argument: str, space: Space, compute: Callable[[float], Any]) -> None:
        """Recompute an argument when a space shrinks. Its new value is ``compute(fine size / coarse size)``."""
        self.state.edits.setdefault(self.node, []).append(SizeEdit(argument, [space], compute, True))

    def scale(self, operand: fx.Node | None, space: Space, power: float) -> None:
        """Multiply an operand, or the result, by (fine size / coarse size) ** power of a space."""
        self.state.scales.setdefault(self.node, []).append(SizeFactor(operand, space, power))

    def replace_operator(self, target: Any, arguments: dict[str, Any]) -> None:
        """Replace the call by one of an operator with arguments that can hold unequal sizes."""
        self.state.replacements[self.node] = (target, arguments)

    def alias(self, operand: fx.Node, dims: Sequence[int | Sequence[int] | None]) -> None:
        """State that the result holds the operand's numbers, with ``dims[i]`` the operand dimensions in dimension i of the result."""
        self.is_alias = True
        self.pass_numbers(operand)
        origin = self.state.origins.get(operand)
        if origin is None:
            return
        leaf, of = origin
        mapped = []
        for entry in dims:
            several = [entry] if isinstance(entry, int) else list(entry or ())
            mapped.append(frozenset().union(*(of[d] for d in several)) if several else frozenset())
        self.state.origins[self.node] = (leaf, mapped)

    def record_uses(self) -> None:
        """Record every parameter dimension that this call reads, with the spaces that it sums over."""
        for operand in self.node.all_input_nodes:
            origin = self.state.origins.get(operand)
            if origin is None or (self.is_alias and operand not in self.summed):
                continue
            leaf, dims = origin
            for dim, of in enumerate(dims):
                summed = self.summed.get(operand, {}).get(dim)
                for leaf_dim in of:
                    use = ParameterUse(leaf, leaf_dim, self.node, operand, [] if summed is None else [summed])
                    self.state.uses.append(use)


Rule = Callable[[Call], Spaces | list[Spaces]]

SOFTMAX = ("softmax", "_softmax", "special_softmax", "_safe_softmax", "log_softmax")
# Calls between the products of queries and keys and their softmax: a scale, a mask or a bias, and views of these.
SCORES = (
    "mul", "div", "add", "sub", "add_", "mul_", "div_", "masked_fill", "masked_fill_", "where", "view", "reshape", "transpose",
    "permute", "to", "_to_copy", "unsqueeze", "squeeze", "clone", "contiguous", "dropout", "clamp", "clamp_", "tanh", "float",
    "type_as", "unflatten", "flatten", "slice", "select", "expand", "clamp_min", "clamp_max", "cat", "maximum", "split", "chunk",
)  # fmt: skip


def leads_to_softmax(node: fx.Node) -> bool:
    """Return True if a result becomes the argument of a softmax, by way of scales, masks and views alone."""
    seen, rest = {node}, [node]
    while rest:
        for user in rest.pop().users:
            name = operator_name(user.target).rpartition(".")[2] if user.op == "call_function" else ""
            if name in SOFTMAX:
                return True
            if user not in seen and (name in SCORES or name == "getitem"):
                seen.add(user)
                rest.append(user)
    return False


@cache
def operator_name(target: Any) -> str:
    """Return ``aten.conv2d`` of an operator overload, or the plain name of a function."""
    if isinstance(target, OpOverload):
        return f"{target.namespace}.{read_schema(target).name.split('::')[1]}"
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
    """Return the arguments of an operator, or None if it has no schema. Cached: PyTorch rebuilds its list at each access."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    return tuple(SchemaArgument(a.name, a.default_value, a.has_default_value(), a.kwarg_only) for a in schema.arguments)


def bind_arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by schema name, with defaults filled in."""
    parameters = schema_arguments(node.target)
    positional, named = node.args, node.kwargs
    if parameters is None:
        return {**{str(i): a for i, a in enumerate(positional)}, **named}
    bound = {p.name: named.get(p.name, p.default) for p in parameters}
    bound.update(zip(bound, positional, strict=False))
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
