"""Run a serialized graph step by step.

No code is generated from a file. Operators come from an allow-list, and everything else is data. A name in the graph can only
refer to an earlier node or to a tensor of the same file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from netgraph.environment.memory import check_memory
from netgraph.environment.torch_internals import OpOverload, set_gradients
from netgraph.errors import LoadError, TraceError
from netgraph.recording.forward import autocast
from netgraph.recording.forward.followed_dtype import KINDS, read_followed
from netgraph.recording.operators.guards import RELATIONS, check_decision
from netgraph.recording.operators.lookups import join_lookups
from netgraph.recording.operators.stand_ins import STAND_INS
from netgraph.recording.run_memory import ARITHMETIC, check_call, check_operands, find_unknown_step
from netgraph.recording.serialize import BUILTINS
from netgraph.rules.registry import find_operator_rule, load_rules

EXTRA = {"aten.sym_size"}
MAX_SIZE = 2**34  # bound on a size, and on the product of the sizes in one argument
SWITCH = set_gradients
ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
RESHAPES = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.reshape.default)
UNBOUNDED = 2**62  # larger integers mean "to the end" or "the least" and ask for no memory


@dataclass(frozen=True)
class Ref:
    """A reference to the result of an earlier step."""

    index: int


@dataclass(frozen=True)
class RefList:
    """A list that contains references."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class LayerCall:
    """The layer that computes a step: the slot of the module, and those arguments of the step that it takes."""

    slot: int
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class Step:
    """One call: the function, its arguments, the slot of its result, and the slots that no later step reads.

    The memory for the result of a checked step is compared with the free memory in each run, since its size depends on numbers.
    Where the step has a layer, that is called in the place of the function, and reads its parameters itself.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    index: int
    freed: tuple[int, ...]
    checked: bool = False
    layer: LayerCall | None = None


@dataclass(frozen=True)
class CallSite:
    """A pause before a call, on several batches.

    Parameters
    ----------
    function : operator
    arguments : list of list
        Positional arguments, for each batch.
    names : tuple of str or None
        For each argument the name of its parameter or buffer, if this call is the only reader.
    keywords : list of dict
        Keyword arguments, for each batch.
    summand : list, optional
        For each batch the other summand, if the result of the call (or of the batch norm after it) is added to a tensor that exists already.
    listed : dict of int to tuple
        For each argument that is a list, the names of its parts as in ``names``.
    shift : (str, Tensor), optional
        Name and value of a parameter of one dimension that is added to the result first, if this addition is its only reader.
    result_sizes : list of list of int, optional
        For each batch the sizes to which the result is reshaped first. One may be -1.
    """

    function: Callable[..., Any]
    arguments: list[list[Any]]
    names: tuple[str | None, ...]
    keywords: list[dict[str, Any]]
    summand: list[Any] | None = None
    listed: dict[int, tuple[str | None, ...]] = field(default_factory=dict)
    shift: tuple[str, Tensor] | None = None
    result_sizes: list[list[int]] | None = None


@dataclass
class Followers:
    """What happens to the result of a call first: slots of the shift and of the other summand, and the sizes of a reshape."""

    shift: int | None = None
    summand: int | None = None
    sizes: Any = None


class Interpreter:
    """A serialized graph, ready to run.

    Parameters
    ----------
    document : list
        A graph as `netgraph.recording.serialize.serialize_graph` returns it.
    names : collection of str
        Tensors that the graph may read.
    dtype : torch.dtype, optional
        The precision of the network's parameters, which some arguments follow. By default that of the recording.

    Raises
    ------
    LoadError
        An operator, a name or a size is not one that netgraph writes.
    """

    def __init__(self, document: Sequence[Any], names: Collection[str], dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self.follows = False  # whether any argument follows the precision of the network
        self.slots: dict[str, int] = {}
        self.inputs: list[int] = []
        self.reads: list[tuple[int, str]] = []
        self.results: tuple[Any, ...] | None = None
        steps = []
        for name, operator, args, kwargs in document:
            index = self.slots[name] = len(self.slots)
            kind, _, target = operator.partition(":")
            if kind == "placeholder":
                self.inputs.append(index)
            elif kind == "get_attr":
                self.reads.append((index, _check_name(target, names)))
            elif kind == "output":
                self.results = tuple(self._parse_value(v) for v in args[0])
            else:
                steps.append(self._parse_step(operator, args, kwargs, index))
        if self.results is None:
            raise LoadError("a graph of the file has no output. The file is damaged or was not written by netgraph.")
        self.steps = self._mark_last_reads(join_lookups(steps, find_reads, self.result_slots))
        self.n_slots = len(self.slots)
        self.layers: list[tuple[int, str]] = []  # slot and path of each layer that steps call
        self.layer_reads: list[tuple[int, str]] = []  # the part of `reads` that is needed by layers alone
        self.own_reads = self.reads
        self.fixed_results: dict[int, Any] = {}  # by step, set while the network is recorded again
        self.measured: set[Any] = set()  # shapes of inputs whose memory is known to be there
        self.has_checked = False  # whether the memory of any step is compared in each run

    def call_layers(self, calls: Mapping[str, tuple[str, tuple[int, ...]]], skipped: Collection[str]) -> None:
        """Let modules of the network compute some steps.

        Parameters
        ----------
        calls : dict of str to tuple
            By node of the document, the path of the module and the places of the arguments that it takes.
        skipped : collection of str
            Nodes that a module takes over.
        """
        paths = dict.fromkeys(path for path, _ in calls.values())
        places = {path: len(self.slots) + i for i, path in enumerate(paths)}
        self.layers, self.n_slots = [(slot, path) for path, slot in places.items()], len(self.slots) + len(paths)
        gone = {self.slots[name] for name in skipped}
        by_slot = {self.slots[name]: call for name, call in calls.items()}
        steps = []
        for step in self.steps:
            if step.index in by_slot:
                path, inputs = by_slot[step.index]
                step = replace(step, layer=LayerCall(places[path], tuple(step.args[i] for i in inputs)))
            if step.index not in gone:
                steps.append(step)
        self.steps = steps
        needed = {i for s in steps for i in (find_reads(s) if s.layer is None else _collect_refs(s.layer.inputs))}
        needed.update(self.result_slots)
        self.own_reads = [(index, name) for index, name in self.reads if index in needed]
        self.layer_reads = [(index, name) for index, name in self.reads if index not in needed]

    def _parse_step(self, operator: str, args: Any, kwargs: Any, index: int) -> Step:
        """Return the step of one call, with its operator and sizes checked."""
        values = tuple(self._parse_value(v) for v in args)
        keywords = tuple((str(k), self._parse_value(v)) for k, v in kwargs["dict"].items())
        function = _find_operator(operator)
        if operator in autocast.OPERATORS:
            autocast.check_call(function, values, lambda value: isinstance(value, Ref))
        if "split" not in operator and function is not check_decision:  # these sizes are those of existing tensors
            _refuse_products((*values, *(v for _, v in keywords)))
        if operator.startswith("aten.arange"):  # its sizes are no list, and its numbers have eight bytes
            check_memory(
                8 * max((abs(v) for v in values if type(v) is int and abs(v) < UNBOUNDED), default=0),
                "a range of the file",
            )
        if function in BUILTINS.values() and (keywords or not _are_builtin_arguments(function, values)):
            raise LoadError(f"{operator} has other arguments than netgraph writes. The file is refused.")
        return Step(STAND_INS.get(function, function), values, keywords, index, ())

    def _parse_value(self, value: Any) -> Any:
        """Return an argument with references in the place of node names."""
        if isinstance(value, list):
            parts = [self._parse_value(v) for v in value]
            return RefList(tuple(parts)) if any(isinstance(p, (Ref, RefList)) for p in parts) else parts
        if isinstance(value, int) and not isinstance(value, bool) and MAX_SIZE < abs(value) < UNBOUNDED:
            raise LoadError(f"an operator asks for a size of {value}. The file is refused.")
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node":
            return Ref(self.slots[content])
        if kind == "slice":
            return slice(*content)
        if kind in KINDS:
            self.follows = True
            return read_followed(kind, content).resolve(self.dtype)
        return float(content) if kind == "float" else _parse_torch_constant(kind, content)

    def _mark_last_reads(self, steps: list[Step]) -> list[Step]:
        """Note the last reader of each result, so that peak memory equals that of the original network."""
        last: dict[int, int] = {}
        for number, step in enumerate(steps):
            for index in find_reads(step):
                last[index] = number
        kept = set(_collect_refs(self.results or ()))
        freed: list[list[int]] = [[] for _ in steps]
        for index, number in last.items():
            if index not in kept:
                freed[number].append(index)
        return [Step(s.function, s.args, s.kwargs, s.index, tuple(d)) for s, d in zip(steps, freed, strict=True)]

    def __call__(self, find: Callable[[str], Any], *inputs: Any) -> list[Any]:
        """Return the results for flat inputs. ``find`` returns a tensor by name."""
        slots = self.start_values(find, inputs)
        gradients = torch.is_grad_enabled()
        # The end of a no_grad block of the network was recorded as "gradients on". If the caller has gradients off,
        # they must stay off, so the recorded switches are skipped.
        steps = self.steps if gradients else [step for step in self.steps if step.function is not SWITCH]
        fixed = self.fixed_results
        if fixed:
            steps = [
                replace(s, function=partial(_return_first, fixed[s.index])) if s.index in fixed else s for s in steps
            ]
        try:
            for step in steps:
                run_step(step, slots)
        except BaseException:
            autocast.leave_open_regions(slots)
            raise
        finally:
            set_gradients(gradients)
        return self.collect_results(slots)

    def finish(self, slots: list[Any], first: int = 0) -> list[Any]:
        """Run the steps from one on without gradients, and return the results. Switches of gradients do not count as steps."""
        try:
            with torch.no_grad():
                for step in [step for step in self.steps if step.function is not SWITCH][first:]:
                    run_step(step, slots)
        except BaseException:
            autocast.leave_open_regions(slots)
            raise
        return self.collect_results(slots)

    def collect_results(self, slots: list[Any]) -> list[Any]:
        """Return the results from the slots."""
        return [_resolve_refs(v, slots) for v in self.results or ()]

    @property
    def result_slots(self) -> list[int]:
        """The slots that make up the results."""
        return _collect_refs(self.results or ())

    def walk(
        self, find: Callable[[str], Any], batches: Sequence[Sequence[Any]], stops: Collection[Any]
    ) -> Iterator[CallSite]:
        """Run all batches in lockstep and pause before each call of an operator in ``stops``. The run ends at the last pause.

        A value that the caller writes into an argument at a pause is the value that the step reads.
        """
        runs = [self.start_values(find, inputs, all_reads=True) for inputs in batches]
        try:
            yield from self._walk_steps(runs, stops)
        finally:
            autocast.leave_open_regions(runs[0])

    def _walk_steps(self, runs: list[list[Any]], stops: Collection[Any]) -> Iterator[CallSite]:
        """Run the steps of `walk` on the slots of all batches."""
        here = self._find_single_readers()
        last = next((step for step in reversed(self.steps) if step.function in stops), None)
        for step in self.steps if last is not None else ():
            if step.function in stops:
                only_here = _name_parts(step.args, here)
                listed = {i: _name_parts(v.parts, here) for i, v in enumerate(step.args) if isinstance(v, RefList)}
                after = self._find_followers(step.index, {i for i in here if _is_vector(runs[0][i])})
                other_slot, shift = after.summand, after.shift
                summands = (
                    None if other_slot is None or runs[0][other_slot] is None else [slots[other_slot] for slots in runs]
                )
                shifted = None if shift is None else (here[shift], runs[0][shift])
                sizes = _resolve_sizes(after.sizes, runs)
                arguments = [[_resolve_refs(v, slots) for v in step.args] for slots in runs]
                keywords = [{k: _resolve_refs(v, slots) for k, v in step.kwargs} for slots in runs]
                with autocast.pause_regions(runs[0]):
                    yield CallSite(step.function, arguments, only_here, keywords, summands, listed, shifted, sizes)
            if step is last:  # its result would take memory for nothing: the logits of a language model most of all
                return
            shared = step.function in autocast.OPERATORS.values()  # one region for all batches
            for slots in runs[:1] if shared else runs:
                with torch.no_grad():
                    run_step(step, slots)

    def name_stops(self, stops: Collection[Any]) -> list[tuple[Callable[..., Any], tuple[str | None, ...]]]:
        """Return the operator and `CallSite.names` of every pause of `walk`, in order, without a run."""
        here = self._find_single_readers()
        return [(step.function, _name_parts(step.args, here)) for step in self.steps if step.function in stops]

    def _find_single_readers(self) -> dict[int, str]:
        """Return the names of the tensors that one step alone reads, by slot."""
        readers = Counter(index for step in self.steps for index in find_reads(step))
        return {index: name for index, name in self.reads if readers[index] == 1}

    def _find_followers(self, index: int, vectors: Collection[int]) -> Followers:
        """Follow a result through its only readers: a reshape, a vector that is added, dropout, a batch norm, up to an addition."""
        found, normed = Followers(), False
        while True:
            readers = [step for step in self.steps if index in find_reads(step)]
            if len(readers) != 1:
                return found
            step, function = readers[0], readers[0].function
            if function in ADDITIONS and not step.kwargs:
                others = [v.index for v in step.args if isinstance(v, Ref) and v.index != index]
                if normed or found.shift is not None or len(others) != 1 or others[0] not in vectors:
                    found.summand = others[0] if len(others) == 1 else None
                    return found
                found.shift = others[0]
            elif function in RESHAPES and found.sizes is None and not normed:
                found.sizes = step.args[1]
            elif function is torch.ops.aten.batch_norm.default and not normed:
                normed = True
            elif function is not torch.ops.aten.dropout.default or step.args[2] is not False:
                return found
            index = step.index

    def start_values(self, find: Callable[[str], Any], inputs: Sequence[Any], *, all_reads: bool = False) -> list[Any]:
        """Return the slots of a run, with inputs, layers and the tensors from ``find`` filled in.

        Parameters
        ----------
        find : callable ``(name) -> Tensor or Module``
        inputs : list
        all_reads : bool, default=False
            Fill in the tensors of layers too. A layer that was replaced may have none: these slots stay empty.
        """
        slots: list[Any] = [None] * self.n_slots
        for index, value in zip(self.inputs, inputs, strict=True):
            slots[index] = value
        for index, name in [*self.own_reads, *self.layers]:
            slots[index] = find(name)
        if torch.compiler.is_compiling():
            return slots
        if all_reads or self.has_checked or self._find_shapes(slots) not in self.measured:
            for index, name in self.layer_reads:
                slots[index] = _find_if_there(find, name)
        self._check_memory(slots)
        return slots

    def _find_shapes(self, slots: Sequence[Any]) -> Any:
        """Return shapes and dtypes of the inputs of a run."""
        return tuple((slots[i].shape, slots[i].dtype) if isinstance(slots[i], Tensor) else None for i in self.inputs)

    def _check_memory(self, slots: list[Any]) -> None:
        """Refuse a run that needs more memory than is free, once for each combination of shapes.

        A run on symbols, such as that of an export with a free batch, makes nothing.
        """
        if any(type(n) is not int for i in self.inputs if isinstance(slots[i], Tensor) for n in slots[i].shape):
            return
        shapes = self._find_shapes(slots)
        if shapes in self.measured:
            return
        # Shapes that ask for too much are refused in each run. They are known only once they have passed.
        if all(
            slots[index] is not None for index, _ in self.layer_reads
        ):  # else a layer was replaced by one of other tensors
            unknown = find_unknown_step(self.steps, slots, _resolve_refs)
            self.steps = [step if i < unknown else replace(step, checked=True) for i, step in enumerate(self.steps)]
            self.has_checked |= unknown < len(self.steps)
        self.measured.add(shapes)


def _return_first(result: Any, *_: Any) -> Any:
    """Return the result of a step that is fixed."""
    return result


def run_step(step: Step, slots: list[Any]) -> None:
    """Run one step on the slots and free the results that it reads last."""
    layer = step.layer
    if layer is None or step.checked:
        args = [_resolve_refs(v, slots) for v in step.args]
        kwargs = {k: _resolve_refs(v, slots) for k, v in step.kwargs}
        if step.checked:
            check_call(step.function, args, kwargs)
    if layer is not None:
        slots[step.index] = _call_layer(slots[layer.slot], [_resolve_refs(v, slots) for v in layer.inputs])
    else:
        if step.function in ARITHMETIC:
            check_operands(step.function, args)
        slots[step.index] = step.function(*args, **kwargs)
    for index in step.freed:
        slots[index] = None


def _call_layer(module: Callable[..., Any], inputs: list[Any]) -> Any:
    """Return what a layer makes of its inputs, in the form in which the operator returns it."""
    if len(inputs) == 1:
        return module(inputs[0])
    signal, state = inputs
    if not isinstance(state, list):  # of a GRU
        return module(signal, state)
    result, states = module(signal, tuple(state))
    return (result, *states)


def _find_if_there(find: Callable[[str], Any], name: str) -> Any:
    """Return the tensor of a layer, or None where the layer was replaced by one without it."""
    try:
        return find(name)
    except TraceError:
        return None


def _resolve_refs(value: Any, slots: list[Any]) -> Any:
    """Return a value with the contents of slots in the place of references."""
    kind = type(value)
    if kind is Ref:
        return slots[value.index]
    return [_resolve_refs(part, slots) for part in value.parts] if kind is RefList else value


def _resolve_sizes(sizes: Any, runs: Sequence[list[Any]]) -> list[list[int]] | None:
    """Return the sizes of a reshape in each run. One that is not known yet is -1, and the result is None if several are."""
    if sizes is None:
        return None
    resolved = [[-1 if n is None else n for n in _resolve_refs(sizes, slots)] for slots in runs]
    return resolved if all(size.count(-1) <= 1 for size in resolved) else None


def _is_vector(value: Any) -> bool:
    """Return True for a tensor of one dimension."""
    return isinstance(value, Tensor) and value.ndim == 1


def _name_parts(values: Sequence[Any], names: Mapping[int, str]) -> tuple[str | None, ...]:
    """Return for each value the name of the tensor that it refers to, or None."""
    return tuple(names.get(v.index) if isinstance(v, Ref) else None for v in values)


def find_reads(step: Step) -> list[int]:
    """Return the slots that a step reads."""
    reads = _collect_refs((*step.args, *(v for _, v in step.kwargs)))
    return reads if step.layer is None else [*reads, step.layer.slot]


def _collect_refs(values: Sequence[Any]) -> list[int]:
    """Return the slots in values, including nested ones."""
    out: list[int] = []
    for value in values:
        if isinstance(value, Ref):
            out.append(value.index)
        elif isinstance(value, RefList):
            out.extend(_collect_refs(value.parts))
    return out


def _check_name(name: str, names: Collection[str]) -> str:
    """Return the name of a tensor if the file holds it."""
    if name not in names:
        raise LoadError(f"a graph of the file reads {name[:60]!r}, which the file does not hold. The file is refused.")
    return name


def _are_builtin_arguments(function: Any, values: Sequence[Any]) -> bool:
    """Return True if the arguments of a builtin are of the kinds that netgraph writes."""
    if function is not check_decision:
        return all(isinstance(v, (Ref, int)) for v in values)
    return len(values) == 5 and isinstance(values[0], Ref) and values[2] in RELATIONS and isinstance(values[4], str)


def _refuse_products(values: Sequence[Any]) -> None:
    """Raise for a list of sizes, at any depth, with a product beyond any real network."""
    for value in values:
        parts = value.parts if isinstance(value, RefList) else value
        if isinstance(parts, (list, tuple)):
            sizes = [abs(p) for p in parts if isinstance(p, int) and 0 < abs(p) < UNBOUNDED]
            if math.prod(sizes) > MAX_SIZE:
                raise LoadError(f"an operator asks for {math.prod(sizes):,} numbers. The file is refused.")
            check_memory(math.prod(sizes), "an operator of the file")  # at least one byte for each
            _refuse_products(parts)


def _parse_torch_constant(kind: str, content: str) -> Any:
    """Return a dtype, layout or memory format by name."""
    constant = getattr(torch, content, None) if kind == "torch" else None
    if not isinstance(constant, (torch.dtype, torch.layout, torch.memory_format)):
        raise LoadError(f"{content!r} is no dtype or layout. The file is refused.")
    return constant


@cache
def _find_operator(operator: str) -> Any:
    """Return an operator of the allow-list by name."""
    kind, _, name = operator.partition(":")
    if operator in autocast.OPERATORS:
        return autocast.OPERATORS[operator]
    if kind == "builtin" and name in BUILTINS:
        return BUILTINS[name]
    load_rules()  # a package of rules may also define its operators
    parts = operator.split(".")
    packet = getattr(getattr(torch.ops, parts[0], None), parts[1], None) if len(parts) == 3 else None
    overload = getattr(packet, parts[2], None) if packet is not None else None
    if not isinstance(overload, OpOverload) or not _is_allowed(f"{parts[0]}.{parts[1]}", overload):
        raise LoadError(
            f"operator {operator[:80]!r} has no rule in netgraph, nor in an installed plug-in. The file is refused. An operator of "
            "your own needs the package that brings its rule."
        )
    return overload


def _is_allowed(name: str, overload: Any) -> bool:
    """Return True if an operator has a rule, reads a size, or is pointwise."""
    return name in EXTRA or find_operator_rule(overload) is not None
