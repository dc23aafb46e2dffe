"""Record a run that looks at numbers: meta tensors whose numbers are needed have companions with numbers.

The recorder of `netgraph.recording.meta_recorder` stops where a run asks for a number, or for a size that depends on numbers.
This one computes companions beside the meta tensors: first of tensors that depend on inputs, buffers and constants alone, which
are few, and then of all, if a size depends on activations. What a decision depends on says what becomes of it:

- inputs: it is recorded as a guard (`netgraph.recording.operators.guards`),
- constants, and buffers that the run does not write: the outcome is taken as it is,
- parameters or random numbers: it is refused, unless it asks whether all numbers are finite, which becomes a guard
  (`netgraph.recording.operators.finite_checks`), or whether any row chose an expert
  (`netgraph.recording.operators.idle_rows`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from netgraph.environment.torch_internals import identify_storage, no_python_dispatcher, read_schema, without_modes
from netgraph.errors import TraceError
from netgraph.recording.meta_recorder import MetaRecorder, map_tensors, record_on_meta, replace_devices, run_on_meta
from netgraph.recording.meta_shapes import META
from netgraph.recording.operators.expert_loops import LoopWatch
from netgraph.recording.operators.finite_checks import answer_if_finite
from netgraph.recording.operators.guards import COUNT, NUMBERS, OPPOSITES, GuardedCount, check_decision, read_decided
from netgraph.recording.operators.idle_rows import (
    LOOKUPS,
    NONEMPTY,
    ROWS,
    ask_for_rows,
    count_places,
    find_masks,
    give_rows,
)
from netgraph.recording.operators.passed_counts import list_counts, place_counts
from netgraph.rules.operator_call import PASSED_COUNTS
from netgraph.utils.source_location import format_location, is_user_file

ATEN = torch.ops.aten
INPUT, PARAMETER, RANDOM = "input", "parameter", "random"  # kinds of origins; a buffer stands by its name
SIZES = (ATEN.sym_size.int, ATEN.sym_numel.default, ATEN.sym_stride.int)
Counts = dict[int, set[str]]
COUNTS_OF_KINDS = frozenset(
    {
        ATEN._unique2.default,
        ATEN.unique_dim.default,
        ATEN.unique_consecutive.default,
        ATEN.bincount.default,
        ATEN.one_hot.default,
    }
)  # rows that are repeated leave the sizes of their results as they are
MAX_GUARDED = 1024  # numbers in one guard
REFUSED = {
    ATEN._pack_padded_sequence.default: "the network packs its rows with pack_padded_sequence{place}, and the lengths then decide how many "
    "rows each step has. A recording has one number of rows. Pass padded rows to the recurrent layer, without packing.",
}  # fmt: skip


class NeedsActivationsError(Exception):
    """A size depends on activations, so that companions of all tensors are needed."""


def record_with_numbers(
    run: Any, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, idle: bool = False
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Return the graph of a run and its constants, as `netgraph.recording.meta_recorder.record_on_meta` does.

    With ``idle`` every mask that depends on activations is false everywhere. By default it holds somewhere.

    Raises
    ------
    TraceError
        The run decides on activations, parameters or random numbers.
    MetaRecordingError
        The run cannot be recorded on meta tensors for another reason.
    """
    recorder = NumbersRecorder(everything=idle, idle=idle)
    try:
        recorded = record_on_meta(run, state, leaves, recorder)
    except NeedsActivationsError:
        recorder = NumbersRecorder(everything=True)
        recorded = record_on_meta(run, state, leaves, recorder)
    recorder.loops.refuse_early_ends()
    recorder.erase_needless_guards()
    return recorded


class NumbersRecorder(MetaRecorder):
    """The dispatch mode, with companions of some tensors, or of all with ``everything``."""

    def __init__(self, *, everything: bool, idle: bool = False) -> None:
        super().__init__()
        self.everything = everything
        self.idle = idle  # whether masks that depend on activations hold nowhere
        self.looks_up_rows = False  # whether the call that runs reads or writes where such a mask holds
        self.device = torch.device("cpu")  # of the companions
        self.numbers: dict[fx.Node, Tensor] = {}  # companions
        self.origins: dict[Any, set[str]] = {}  # by node, and by storage of a companion, because writes reach all views
        self.counts: dict[fx.Node, Counts] = {}  # sizes that depend on numbers, and on which kinds of them
        self.lost: set[int] = set()  # storages of companions into which unknown numbers were written
        self.written: set[str] = set()  # origins of the tensors that the run writes in place
        self.buffer_guards: list[tuple[fx.Node, set[str]]] = []
        self.latest: tuple[Any, set[str], Counts] = (None, set(), {})
        self.loops = LoopWatch()
        self.reads = ".item(), bool() or int()"  # how the run asks for numbers
        self.passed: list[int] = []  # whole numbers in the arguments of the network's call, if counts are among them

    # What tensors depend on, and their numbers

    def add_parameter(self, name: str, tensor: Tensor) -> Tensor:
        """Return the meta tensor of a parameter or buffer."""
        twin = super().add_parameter(name, tensor)
        is_parameter = isinstance(tensor, nn.Parameter)
        self._hold_leaf(twin, tensor, PARAMETER if is_parameter else name, known=self.everything or not is_parameter)
        return twin

    def add_input(self, number: int, tensor: Tensor) -> Tensor:
        """Return the meta tensor of an input."""
        twin = super().add_input(number, tensor)
        self._hold_leaf(twin, tensor, INPUT)
        return twin

    def _add_constant(self, tensor: Tensor) -> fx.Node:
        node = super()._add_constant(tensor)
        self._keep(node, tensor, set())
        return node

    def _add_empty(self, tensor: Tensor) -> fx.Node:
        node = super()._add_empty(tensor)
        with no_python_dispatcher():
            self._keep(node, torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device), set())
        return node

    def _hold_leaf(self, twin: Tensor, tensor: Tensor, origin: str, *, known: bool = True) -> None:
        """Note the origin of a leaf, and a copy of its numbers if they are known."""
        node = self.find_node(twin)
        self.origins[node], self.device = {origin}, tensor.device
        if known:
            with no_python_dispatcher(), torch.no_grad():
                self._keep(node, tensor.detach().clone(), {origin})

    def _keep(self, node: fx.Node, numbers: Tensor, origins: set[str]) -> None:
        """Note the companion of a node."""
        self.numbers[node] = numbers
        self.origins.setdefault(identify_storage(numbers), set()).update(origins)

    def find_origins(self, nodes: Sequence[fx.Node]) -> set[str]:
        """Return the kinds of leaves that nodes depend on."""
        keys = [*nodes, *(identify_storage(self.numbers[node]) for node in nodes if node in self.numbers)]
        return set().union(*(self.origins.get(key, ()) for key in keys))

    def find_numbers(self, node: fx.Node) -> Tensor | None:
        """Return the companion of a node, or None if its numbers are not known."""
        numbers = self.numbers.get(node)
        return None if numbers is None or identify_storage(numbers) in self.lost else numbers

    def find_node(self, tensor: Tensor) -> fx.Node:
        """Return the node that made a tensor, and note that it is read."""
        self.loops.read(tensor)
        return super().find_node(tensor)

    def find_made(self, tensor: Tensor) -> fx.Node | None:
        """Return the node that made a tensor, or None for a tensor that no operator of the run made."""
        known = self.nodes.get(id(tensor))
        return None if known is None else known[1]

    # One operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ATEN.unbind.int and (n := self.count_places(args[0])) is not None:
            with self:
                parts = torch.arange(n, device=args[0].device).view(-1, *args[0].shape[1:]).unbind()
            self.loops.watch_parts(parts, _describe_place())
            return parts
        return super().__torch_dispatch__(func, types, args, kwargs)

    def count_places(self, tensor: Tensor) -> int | None:
        """Return over how many places a loop may run if a tensor lists those of a mask of activations, else None."""
        node = self.find_made(tensor)
        n = None if node is None or PARAMETER not in self.find_origins([node]) else count_places(node)
        if n is not None:
            self.graph.assumed.append(_describe_place())
        return 0 if n is not None and self.idle else n

    @contextmanager
    def watch_reads(self) -> Iterator[None]:
        """Watch reads of sizes and of lists of numbers, which are no operators."""
        with _ReadMode(self):
            yield

    @contextmanager
    def pass_counts(self, args: Any, kwargs: Any) -> Iterator[None]:
        """Note the sizes that a call of the network passes on, which operators then get as plain numbers."""
        before, listed = self.passed, list_counts((args, kwargs))
        self.passed = listed if any(isinstance(n, GuardedCount) for n in listed) else []
        try:
            yield
        finally:
            self.passed = before

    def list_counts(self, node: fx.Node | None) -> Counts:
        """Return the sizes of a tensor that depend on numbers, for a run that reads them.

        What becomes of them in Python is not seen (sums, loops), so that examples with other numbers must show that nothing stays.
        """
        counts = {} if node is None else self.counts.get(node, {})
        self.graph.counts_kinds |= any(INPUT in deciding and PARAMETER not in deciding for deciding in counts.values())
        return counts

    def run_operator(self, function: Any, args: Any, kwargs: dict[str, Any], nodes: Any) -> Any:
        """Run an operator on meta tensors and on companions. Return meta tensors, or a number."""
        if function in REFUSED:
            raise TraceError(REFUSED[function].format(place=_describe_place()))
        operands = _list_nodes(nodes)
        origins = self.find_origins(operands)
        self.looks_up_rows = False
        if torch.Tag.nondeterministic_seeded in function.tags:
            origins.add(RANDOM)
        written = _list_written(function, nodes)
        computed = self._compute(function, nodes, operands, written)
        for node in written:
            self.written |= self.find_origins([node])
            for key in (node, *([identify_storage(self.numbers[node])] if node in self.numbers else [])):
                self.origins.setdefault(key, set()).update(origins)
        if _returns_number(function):
            answer = self._answer_if_finite(operands)
            if answer is not None:
                return answer
            if computed is None and not self.everything and operands and ask_for_rows(operands[0]) is not None:
                raise NeedsActivationsError(str(function))
            return self._refuse_unknown(operands) if computed is None else computed
        self.graph.counts_kinds |= function in COUNTS_OF_KINDS
        result, sizes = self._run_on_meta(function, args, kwargs, computed)
        deciding = self.find_origins(_list_places(function, nodes)) if function in LOOKUPS else origins
        counts = {size: set(deciding) for size in sizes}
        for node in operands:
            for size, read in self.counts.get(node, {}).items():
                counts.setdefault(size, set()).update(read)
        self.latest = computed, origins, counts
        return result

    def _compute(self, function: Any, nodes: Any, operands: list[fx.Node], written: list[fx.Node]) -> Any:
        """Return the result of an operator on companions, or None if one is missing."""
        numbers = {node: self.find_numbers(node) for node in operands}
        if any(value is None for value in numbers.values()):
            self.lost |= {identify_storage(self.numbers[node]) for node in written if node in self.numbers}
            return None
        self._give_rows(function, nodes, numbers)
        args, kwargs = replace_devices(fx.node.map_arg(nodes, lambda node: numbers[node]), self.device)
        with torch.no_grad(), no_python_dispatcher():
            result = function(*args, **kwargs)
            return result.clone() if function is ATEN.lift_fresh.default else result

    def _give_rows(self, function: Any, nodes: Any, numbers: dict[fx.Node, Any]) -> None:
        """Let the masks of a call that depend on activations hold somewhere, or nowhere in an idle run."""
        for mask in find_masks(function, nodes):
            origins = self.find_origins([mask])
            if PARAMETER in origins:
                self.looks_up_rows = True
                with torch.no_grad(), no_python_dispatcher():
                    numbers[mask] = give_rows(numbers[mask], idle=self.idle)
                self._keep(mask, numbers[mask], origins)

    def _run_on_meta(self, function: Any, args: Any, kwargs: dict[str, Any], computed: Any) -> tuple[Any, set[int]]:
        """Return the result on meta tensors, and the sizes in it that depend on numbers."""
        try:
            return run_on_meta(function, args, kwargs), set()
        except Exception as error:
            if (
                computed is not None and function is ATEN.narrow.Tensor
            ):  # numbers say where it starts, not how long it is
                return _make_meta(computed, needs_gradient=_needs_gradient((args, kwargs)))[0], set()
            if computed is not None:
                return _make_meta(computed, needs_gradient=_needs_gradient((args, kwargs)))
            if self.everything:
                raise
            raise NeedsActivationsError(str(function)) from error

    def add_result(self, node: fx.Node, result: Any) -> Any:
        """Bind the result of an operator to nodes, and note companions, origins and counts of its parts."""
        computed, origins, counts = self.latest
        super().add_result(node, result)
        if self.looks_up_rows:
            node.meta[ROWS] = True
        if self.passed and (places := place_counts(node, self.passed)):
            node.meta[PASSED_COUNTS] = places
        parts = [result] if isinstance(result, Tensor) else list(result or ())
        numbers = [computed] if isinstance(computed, Tensor) else list(computed or [None] * len(parts))
        for part, value in zip(parts, numbers, strict=True):
            if isinstance(part, Tensor):
                made = self.find_node(part)
                self.origins.setdefault(made, set()).update(origins)
                self.counts[made] = {size: read for size, read in counts.items() if size in part.shape}
                if isinstance(value, Tensor):
                    self._keep(made, value, origins)
        return result

    # Decisions

    def return_number(self, function: Any, nodes: Any, outcome: Any) -> Any:
        """Return a number that a run asks for, and note the decision that it may be part of."""
        operands = _list_nodes(nodes)
        if function in SIZES:  # read by a recorded network that is recorded again: sizes are rewritten, not guarded
            return outcome
        if (answer := self._answer_if_finite(operands)) is not None:
            place = f" on whether activations are finite{_describe_place()}"
            self.graph.call_function(check_decision, (operands[0], NUMBERS, "==", answer, place))
            return outcome
        asked = ask_for_rows(operands[0]) if operands and isinstance(outcome, bool) else None
        if asked is not None and PARAMETER in self.find_origins(operands):
            self.graph.assumed.append(_describe_place())
            return asked != self.idle
        if function is ATEN.is_nonzero.default:
            self.note_decision(operands[0], NUMBERS, "!=" if outcome else "==", 0)
        elif len(operands) == 1 and INPUT in self.find_origins(operands) and isinstance(outcome, float):
            raise TraceError(
                f"the network takes the number {outcome:.6g} out of its inputs{_describe_place()}. A recording would hold for inputs "
                "with this number only. Keep it a tensor: without .item() or float()."
            )
        else:
            for operand in operands:
                self.note_numbers(operand)
        return outcome

    def _answer_if_finite(self, operands: Sequence[fx.Node]) -> Any:
        """Return the answer of a question whether activations are finite, if they are, or None for other questions."""
        asks = len(operands) == 1 and self.find_origins(operands) & {PARAMETER, RANDOM}
        return answer_if_finite(operands[0]) if asks else None

    def note_numbers(self, node: fx.Node) -> Any:
        """Note a decision on all numbers of a tensor, and return them as plain numbers."""
        numbers = self.find_numbers(node)
        if numbers is None:
            self._refuse_unknown([node])
        assert numbers is not None
        with without_modes():
            bound = read_decided(numbers, NUMBERS)
        if INPUT in self.find_origins([node]) and (numbers.numel() > MAX_GUARDED or numbers.is_floating_point()):
            raise TraceError(
                f"the network takes {numbers.numel():,} numbers out of its inputs{_describe_place()}. A recording would hold for "
                "inputs with these numbers only. Keep them a tensor."
            )
        self.note_decision(node, NUMBERS, "==", bound)
        return bound

    def note_decision(self, node: fx.Node, reads: str | int, relation: str, bound: Any) -> None:
        """Record a decision as a guard where it depends on inputs, and refuse it where it depends on more."""
        origins = self._find_deciding(node, reads)
        expected = (OPPOSITES[relation] if self.idle else relation, bound)
        if PARAMETER in origins and reads != NUMBERS and expected in NONEMPTY:
            self.graph.assumed.append(_describe_place())
            return
        if origins & {PARAMETER, RANDOM}:
            self._refuse(origins)
        if origins:
            read = "the inputs" if INPUT in origins else ", ".join(sorted(origins))
            place = f" on {read}{_describe_place()}"
            guard = self.graph.call_function(check_decision, (node, reads, relation, bound, place))
            if INPUT not in origins:
                self.buffer_guards.append((guard, origins))

    def _find_deciding(self, node: fx.Node, reads: str | int) -> set[str]:
        """Return the kinds of leaves that a decision on numbers or sizes of a tensor depends on."""
        if reads == NUMBERS:
            return self.find_origins([node])
        counts = self.counts.get(node, {})
        read = counts.values() if reads == COUNT else [counts.get(node.meta["val"].shape[reads], set())]
        return set().union(*read)

    @contextmanager
    def name_read(self, reads: str) -> Iterator[None]:
        """Say in a block how the run asks for numbers."""
        before, self.reads = self.reads, reads
        try:
            yield
        finally:
            self.reads = before

    def erase_needless_guards(self) -> None:
        """Erase guards on buffers that the run does not write. Their outcome stays."""
        for guard, origins in self.buffer_guards:
            if not origins & self.written:
                self.graph.erase_node(guard)

    def _refuse_unknown(self, operands: Sequence[fx.Node]) -> None:
        """Refuse a decision on numbers that are not known, because they depend on parameters."""
        self._refuse(self.find_origins(operands))

    def _refuse(self, origins: set[str]) -> None:
        """Raise `TraceError` for a decision that no guard can hold."""
        if RANDOM in origins:
            raise TraceError(
                f"the network branches on random numbers{_describe_place()}. One recording would not hold for another draw. "
                "Turn it off: where it drops whole blocks, with layerdrop=0 or a rate of 0. Otherwise trace the parts before and after it."
            )
        what = "activations" if INPUT in origins else "parameters"
        raise TraceError(
            f"the network branches on numbers of its {what} ({self.reads} of a tensor){_describe_place()}. One recording "
            "would not hold for other inputs or weights. Trace the parts before and after that decision separately, or keep the "
            "number a tensor, if nothing is decided by it."
        )


class _ReadMode(TorchFunctionMode):
    """The function mode that sees reads of sizes and of lists of numbers."""

    def __init__(self, recorder: NumbersRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = READS.get(func)
        if read is not None and isinstance(args[0], Tensor) and args[0].device == META:
            return read(self.recorder, func, *args, **(kwargs or {}))
        with self.recorder.pass_counts(args, kwargs or {}):
            return func(*args, **(kwargs or {}))


def _read_shape(recorder: NumbersRecorder, function: Any, tensor: Tensor, dim: int | None = None) -> Any:
    """Return the shape or one size of a tensor. Sizes that depend on numbers are guarded where they are compared."""
    node, shape = recorder.find_made(tensor), function(tensor)
    counts = recorder.list_counts(node)
    sizes = [
        GuardedCount.of(n, _make_note(recorder, node, d), (node, d)) if node is not None and n in counts else n
        for d, n in enumerate(shape)
    ]
    return torch.Size(sizes) if dim is None else sizes[dim]


def _read_count(recorder: NumbersRecorder, function: Any, tensor: Tensor) -> int:
    """Return the number of entries of a tensor, guarded if it depends on numbers."""
    node, count = recorder.find_made(tensor), function(tensor)
    if node is None or not recorder.list_counts(node):
        return int(count)
    return GuardedCount.of(count, _make_note(recorder, node, COUNT), (node, COUNT))


def _read_list(recorder: NumbersRecorder, function: Any, tensor: Tensor) -> Any:
    """Return the numbers of a tensor as a list."""
    places = recorder.count_places(tensor)
    if places is not None:
        return recorder.loops.watch_list([_nest(n, tensor.ndim - 1) for n in range(places)], _describe_place())
    with recorder.name_read(".tolist()"):
        numbers = recorder.note_numbers(recorder.find_node(tensor))
    return _nest(_take_entry(numbers), tensor.ndim) if tensor.numel() == 1 else numbers


def _nest(number: Any, depth: int) -> Any:
    """Return a number inside lists of one entry."""
    return number if depth == 0 else [_nest(number, depth - 1)]


def _take_entry(numbers: Any) -> Any:
    """Return the one number in lists of one entry, or the number itself."""
    return _take_entry(numbers[0]) if isinstance(numbers, list) else numbers


def _read_array(recorder: NumbersRecorder, function: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return constants as a NumPy array. Other numbers would leave the recording there."""
    node = recorder.find_node(tensor)
    numbers = recorder.find_numbers(node)
    if numbers is None or recorder.find_origins([node]) & {INPUT, PARAMETER, RANDOM}:
        raise TraceError(
            f"the network hands tensors to NumPy{_describe_place()}, where no recording can follow them. Write that part with PyTorch."
        )
    recorder.note_numbers(node)
    with without_modes():
        return function(numbers, *args, **kwargs)


def _read_length(recorder: NumbersRecorder, function: Any, tensor: Tensor) -> int:
    """Return the length of a tensor. Python makes a plain number of it, and what the run decides on it is not seen."""
    counts = recorder.list_counts(recorder.find_made(tensor))
    if PARAMETER in counts.get(tensor.shape[0], ()):
        recorder.graph.assumed.append(_describe_place())
    return int(function(tensor))


def _write_number(recorder: NumbersRecorder, function: Any, tensor: Tensor, form: str) -> str:
    """Return the number of a tensor as text, such as a part of the name of an expert."""
    return function(tensor, form) if tensor.ndim else format(tensor.item(), form)


READS: dict[Any, Callable[..., Any]] = {
    Tensor.shape.__get__: _read_shape,  # type: ignore[attr-defined]
    Tensor.size: _read_shape,
    Tensor.numel: _read_count,
    Tensor.__len__: _read_length,
    Tensor.nelement: _read_count,
    Tensor.tolist: _read_list,
    Tensor.__format__: _write_number,
    Tensor.numpy: _read_array,
    Tensor.__array__: _read_array,
}


def _make_note(recorder: NumbersRecorder, node: fx.Node, reads: str | int) -> Callable[[str, int], None]:
    """Return a function that notes a comparison of a size, if the network itself makes it."""

    def note(relation: str, bound: int) -> None:
        frame = sys._getframe(3)  # the comparison, its operator and this function stand above
        if is_user_file(frame.f_code.co_filename):
            recorder.note_decision(node, reads, relation, bound)

    return note


def _describe_place() -> str:
    """Return `` of module at file:line`` of the innermost line of the user that is running."""
    frame, line, module, root = sys._getframe(1), "", None, None
    while frame is not None:
        if frame.f_code is check_decision.__code__:  # a guard of a recorded network that is recorded again
            _, _, place = frame.f_locals["place"].partition(" of ")
            return f" of {place}"
        if not line and is_user_file(frame.f_code.co_filename):
            line = format_location(frame.f_code.co_filename, frame.f_lineno)
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            module, root = module or owner, owner
        frame = frame.f_back  # type: ignore[assignment]
    if module is None or root is None:
        return line
    name = next((name for name, part in root.named_modules() if part is module), "")
    return f" of {name or type(module).__name__}{line}"


def _list_nodes(nodes: Any) -> list[fx.Node]:
    """Return the nodes in nested arguments."""
    found: list[fx.Node] = []
    fx.node.map_arg(nodes, found.append)
    return found


def _list_places(function: Any, nodes: Any) -> list[fx.Node]:
    """Return the masks and places by which a call looks entries up. They alone decide how many there are."""
    args, kwargs = nodes
    return _list_nodes(args[1] if len(args) > 1 else kwargs)


def _list_written(function: Any, nodes: Any) -> list[fx.Node]:
    """Return the nodes of the tensors that an operator writes in place."""
    args, kwargs = nodes
    bound = {**kwargs, **dict(zip((a.name for a in read_schema(function).arguments), args, strict=False))}
    return [
        node
        for argument in read_schema(function).arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for node in _list_nodes(bound.get(argument.name))
    ]


def _returns_number(function: Any) -> bool:
    """Return True if an operator returns no tensor but a number."""
    return bool(read_schema(function).returns) and not any(
        "Tensor" in str(r.type) for r in read_schema(function).returns
    )


def _needs_gradient(arguments: Any) -> bool:
    """Return True if the result of an operator on these arguments has a gradient."""
    found: list[bool] = []
    map_tensors(arguments, lambda tensor: found.append(tensor.requires_grad))
    return torch.is_grad_enabled() and any(found)


def _make_meta(computed: Any, *, needs_gradient: bool) -> tuple[Any, set[int]]:
    """Return meta tensors like the companions of a result, and all their sizes."""
    sizes: set[int] = set()

    def make(tensor: Tensor) -> Tensor:
        sizes.update(tensor.shape)
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        return made.requires_grad_(needs_gradient and tensor.is_floating_point())

    with no_python_dispatcher():
        return map_tensors(computed, make), sizes
