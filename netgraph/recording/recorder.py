"""Record the computation of a network as a graph of ATen operators, above autograd.

The network runs once on tensors that have shapes but no numbers, so a recording costs no arithmetic and no memory. Meta
tensors are tried first (`netgraph.recording.meta_recorder`). Fake tensors under ``make_fx`` are the second choice. A network
that looks at numbers (a boolean mask, an index of variable length) runs on real tensors. The sizes in the graph are the
integers of that run. `netgraph.tracing.tracer` finds the axis that each of them counts and replaces them for another size.
Training and evaluation are recorded separately, because dropout, batch norm and stochastic depth differ between them.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from netgraph.environment.torch_internals import FakeTensor
from netgraph.errors import TraceError, describe_error
from netgraph.recording.faithful_calls import (
    CallNotes,
    FaithfulCalls,
    NestedCalls,
    run_eagerly,
    skip_argument_checks,
    watch_functions,
)
from netgraph.recording.forward.cumulative_norm import mark_norms, read_counts, unmark_norms
from netgraph.recording.forward.expert_routing import batch_experts
from netgraph.recording.forward.followed_dtype import cast_tensors
from netgraph.recording.forward.inner_gradients import InnerGradientError, record_inner_gradients
from netgraph.recording.forward.segment_products import separate_products
from netgraph.recording.meta_recorder import record_on_meta
from netgraph.recording.node_graph import name_constant
from netgraph.recording.numbers_recorder import record_with_numbers
from netgraph.rules.operator_call import PASSED_COUNTS, bind_arguments
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import find_place, list_held_tensors, set_training_mode, swap_state
from netgraph.utils.preserved_state import Snapshot, is_in_state, preserve_attributes, seed_generator
from netgraph.utils.pytree import build_structure, list_dropped, list_tensors, normalize_example, unflatten_tree
from netgraph.utils.source_location import format_location, is_user_file

FunctionMode = Any  # a mode with `CallNotes` under the name notes
Attributes = list[tuple[dict[str, Any], str, Any]]  # the attributes of a module, a name and a value


@dataclass
class Recording:
    """One recorded run.

    Parameters
    ----------
    graph : torch.fx.Graph
        Inputs are placeholders in the order of the flattened example. Parameters are ``get_attr`` nodes.
        ``meta["val"]`` of every node is a tensor on the meta device or a value.
    constants : dict of str to Tensor
        Tensors of the run that come from no parameter, buffer or input.
    inputs, outputs : structure
        How the flat tensors nest in the arguments of the call and in its result.
    functions : dict of str to str
        Functions with a backward of their own that the run called, and the source lines of the first calls.
    gradients : str or None
        The source line where the run took a gradient itself.
    draws : tuple of str
        Random generators other than that of PyTorch that the run drew from.
    way : {"meta", "numbers", "fake", "real"}
        Whether the run had meta tensors, those with numbers where they are needed, fake tensors, or real ones.
    changed : list of (dict, str, value)
        Numbers, flags and texts that the run left in attributes of modules. They are restored.
    assumed : tuple of str
        Places where the run asked whether a mask of activations holds anywhere, one for each time. In the recording all of them do.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    inputs: Any
    outputs: Any
    functions: dict[str, str] = field(default_factory=dict)
    gradients: str | None = None
    draws: tuple[str, ...] = ()
    way: str = "meta"
    changed: Attributes = field(default_factory=list)
    assumed: tuple[str, ...] = ()


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by qualified name. A tied tensor appears once, under its first name."""
    state: dict[str, Tensor] = dict(model.named_parameters())
    state.update(model.named_buffers())
    return state


def find_tied_names(model: nn.Module) -> dict[str, str]:
    """Return each further name of a tied parameter or buffer, with the first name that traces use."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in pairs:
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def record_network(
    model: nn.Module,
    example: Any,
    *,
    training: bool,
    before: Callable[[Tensor], Tensor] | None = None,
    seed: int | None = None,
    attributes: Attributes | None = None,
    way: str | None = None,
    idle: bool = False,
    dtype: torch.dtype | None = None,
) -> Recording:
    """Record one run of a network in training or evaluation mode. The network itself stays unchanged.

    Parameters
    ----------
    model : nn.Module
    example : Tensor, tuple or dict
        Inputs of the run, as `netgraph.trace` takes them.
    training : bool
        Record the training mode if true, otherwise the evaluation mode.
    before : callable, optional
        Applied to every input tensor before the network sees it.
    seed : int, optional
        Seed of all random generators. By default they go on from where they are.
    attributes : list of (dict, str, value), optional
        Attributes of modules that are set before the run, such as ``changed`` of an earlier recording.
    way : {"meta", "numbers", "fake", "real"}, optional
        How to record. By default the ways are tried in this order.
    idle : bool, default False
        Record with numbers a run in which masks of activations hold nowhere, as if no row chose any expert.
    dtype : torch.dtype, optional
        Record the network, and inputs of its own precision, in this one.

    Returns
    -------
    Recording

    Raises
    ------
    TraceError
        The network fails on the example, or it branches on numbers.
    """
    with preserve_attributes(model) as snapshot:
        marks: dict[float, str] = {}

        def prepare() -> None:
            set_training_mode(model, training=training)
            for values, name, value in attributes or ():
                values[name] = value
            for generator, _ in snapshot.generators:
                if seed is not None:
                    seed_generator(generator, seed)
            marks.update(mark_norms(model))

        def begin_again() -> None:
            snapshot.restore()
            snapshot.empty_caches()
            prepare()

        prepare()
        try:
            recording = _record_run(model, example, before, begin_again, "numbers" if idle else way, idle, dtype)
            read_counts(recording.graph, marks)
        finally:
            unmark_norms(model, marks)
        recording.draws = _list_draws(snapshot) if seed is None else ()
        recording.changed = _list_changed_values(snapshot)
        return recording


def _list_draws(snapshot: Snapshot) -> tuple[str, ...]:
    """Return the random generators that a run drew from. The draws of those of PyTorch are recorded, and they are left out."""
    return tuple(
        "NumPy" if generator.__class__.__module__.startswith("numpy") or generator is np.random else "Python"
        for generator, state in snapshot.generators
        if not isinstance(generator, torch.Generator) and not is_in_state(generator, state)
    )


def _list_changed_values(snapshot: Snapshot) -> Attributes:
    """Return the plain values that a run has left in attributes."""
    return [
        (attributes, name, value)
        for attributes, before in snapshot.attributes
        for name, value in attributes.items()
        if value is not before.get(name) and type(value) in (int, float, bool, str) and name != "training"
    ]


def _record_run(
    model: nn.Module,
    example: Any,
    before: Callable[[Tensor], Tensor] | None,
    begin_again: Callable[[], None],
    way: str | None,
    idle: bool,
    dtype: torch.dtype | None,
) -> Recording:
    """Record the network in its current mode. ``begin_again`` removes the traces of a failed try."""
    args, kwargs = normalize_example(example)
    leaves: list[Tensor] = []
    inputs = build_structure((args, kwargs), leaves)
    leaves = [leaf.clone() if any(leaf is other for other in leaves[:i]) else leaf for i, leaf in enumerate(leaves)]
    state = named = named_state(model)
    if dtype is not None:
        state, leaves = cast_tensors(model, state, leaves, dtype, numbers=way != "meta")
    outputs: list[Any] = []
    notes: list[CallNotes] = []  # one for each try

    def run(state: dict[str, Tensor], leaves: list[Tensor], watch: FunctionMode) -> list[Tensor]:
        if notes:
            begin_again()
        notes.append(watch.notes)
        args, kwargs = unflatten_tree(inputs, leaves if before is None else [before(leaf) for leaf in leaves])
        with (
            swap_state(model, state, named),
            run_eagerly(),
            skip_argument_checks(),
            batch_experts(model),
            separate_products(),
            watch_functions(watch.notes),
            watch,
        ):
            slots = _list_slots(model)
            result = model(*args, **kwargs)
            _record_assignments(slots, {id(tensor): name for name, tensor in state.items()})
        flat: list[Tensor] = []
        outputs.append(build_structure(result, flat, drop_unknown=True))
        return flat

    graph, constants, way = _record_fastest(run, state, leaves, way, idle)
    _check_outputs(outputs[-1])
    erase_dead_nodes(graph)
    _name_tables(graph, model)
    assumed = tuple(getattr(graph, "assumed", ()))
    notes_of_run = notes[-1]
    return Recording(
        graph, constants, inputs, outputs[-1], notes_of_run.functions, notes_of_run.gradients, way=way, assumed=assumed
    )


def _name_tables(graph: fx.Graph, model: nn.Module) -> None:
    """Note for each constant that a module holds as an attribute, such as a fixed table of positions, the name of it."""
    placed = [node for node in graph.nodes if node.op == "get_attr" and "place" in node.meta]
    tables = {find_place(held[2]): name for name, held in list_held_tensors(model).items()} if placed else {}
    for node in placed:
        if node.meta["place"] in tables:
            node.meta["table"] = tables[node.meta["place"]]


def _list_slots(model: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """Return the places of parameters and buffers in all modules, with their tensors."""
    return [
        (slots, key, tensor)
        for module in model.modules()
        for slots in (module._parameters, module._buffers)
        for key, tensor in slots.items()
    ]


def _record_assignments(slots: list[tuple[dict[str, Any], str, Any]], names: Mapping[int, str]) -> None:
    """Record that a run has put another tensor in the place of a buffer, by writing its numbers into the buffer.

    A buffer of another shape is a cache for these inputs, and computed again by the recorded operators.
    """
    for values, key, old in slots:
        new = values.get(key)
        if new is old or not isinstance(old, Tensor) or not isinstance(new, Tensor):
            continue
        if isinstance(old, nn.Parameter) or isinstance(new, nn.Parameter):
            raise TraceError(
                f"the network puts another tensor in the place of its parameter {names.get(id(old), key)} while it runs. A "
                "recording keeps its parameters. Write into the parameter, as in parameter.copy_(value) under torch.no_grad()."
            )
        if old.shape == new.shape and old.dtype == new.dtype:
            old.detach().copy_(new.detach())


def _check_outputs(outputs: Any) -> None:
    """Raise if the answer of a network holds no tensors that a recording can give back."""
    if not list_tensors(outputs):
        classes = ", ".join(sorted({kind for _, kind in list_dropped(outputs)})) or "no tensor"
        raise TraceError(
            f"the network answers {classes}, and a recording gives back tensors. Return them in a tuple, a dict, a dataclass or a "
            "named tuple."
        )


def _record_fastest(
    run: Any, state: dict[str, Tensor], leaves: list[Tensor], way: str | None, idle: bool
) -> tuple[fx.Graph, dict[str, Tensor], str]:
    """Try meta tensors first, then meta tensors with numbers where they are needed, then ``make_fx``."""
    place = ""
    for name, record in (("meta", record_on_meta), ("numbers", partial(record_with_numbers, idle=idle))):
        try:
            if way in (None, name):
                with _isolate_recording():
                    return *record(run, state, leaves), name
        except InnerGradientError as error:
            way, place = "inner", str(error)
        except TraceError:  # what no recording can hold
            if name == "numbers" or way == name:
                raise
        except Exception:  # a slower way gives the better error message
            if way == name:
                raise

    def watched_run(state: dict[str, Tensor], leaves: list[Tensor]) -> list[Tensor]:
        results: list[Tensor] = run(state, leaves, FaithfulCalls(CallNotes()))
        return results

    if way not in ("inner", "inner real"):
        try:
            try_plainly = partial(_watch_plain_run, run, state, leaves)
            recorded, way = _record_with_make_fx(watched_run, state, leaves, way, try_plainly)
            return *_convert_leaves(recorded, list(state)), way
        except InnerGradientError as error:
            way, place = "inner", str(error)
    recorded, way = _record_inner(run, state, leaves, way, place)
    return *_convert_leaves(recorded, list(state)), way


def _record_inner(
    run: Any, state: dict[str, Tensor], leaves: list[Tensor], way: str, place: str
) -> tuple[fx.GraphModule, str]:
    """Record a run that takes gradients at a place, on fake tensors or, where it needs numbers, on real ones."""
    notes = CallNotes()
    notes.may_take_gradients = True

    def watched_run(state: dict[str, Tensor], leaves: list[Tensor]) -> list[Tensor]:
        results: list[Tensor] = run(state, leaves, FaithfulCalls(notes))
        return results

    if way == "inner":
        with contextlib.suppress(Exception), _isolate_recording():  # real tensors give the better error message
            recorded = record_inner_gradients(watched_run, state, leaves, "fake")
            _refuse_unknown_sizes(recorded)
            _refuse_fake_constants(recorded)
            return recorded, way
    try:
        with _isolate_recording():
            copies = _copy_tensors(state), [leaf.detach().clone() for leaf in leaves]
            return record_inner_gradients(watched_run, *copies, "real"), "inner real"
    except Exception as error:
        raise TraceError(
            f"the network takes a gradient or maps a function inside its forward{place}, and that cannot be recorded: "
            f"{str(error).splitlines()[0] if isinstance(error, TraceError) else describe_error(error)}. Write it with plain operators, or take "
            "that part out of forward."
        ) from error


def _copy_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that require gradients where the tensors do."""
    return {name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in state.items()}


def _record_with_make_fx(
    run: Any, state: dict[str, Tensor], leaves: list[Tensor], way: str | None, try_plainly: Callable[[], NestedCalls]
) -> tuple[fx.GraphModule, str]:
    """Record with ``make_fx`` on fake tensors, or on real ones where the run needs numbers."""
    try:
        if way == "real":
            raise TraceError("real tensors were asked for")
        with _isolate_recording():
            recorded = make_fx(run, pre_dispatch=True, tracing_mode="fake", record_stack_traces=True)(state, leaves)
        _refuse_unknown_sizes(recorded)
        _refuse_fake_constants(recorded)
        return recorded, "fake"
    except InnerGradientError:
        raise
    except Exception:  # the run may need numbers, and only a run on real tensors can tell
        if way == "fake":
            raise
        try:
            with _isolate_recording():
                real_state = {name: tensor.detach().clone() for name, tensor in state.items()}
                for name, tensor in state.items():
                    real_state[name].requires_grad_(tensor.requires_grad)
                copies = [copy.copy(leaf).detach().clone() for leaf in leaves]
                trace = make_fx(run, pre_dispatch=True, tracing_mode="real", record_stack_traces=True)
                return trace(real_state, copies), "real"
        except InnerGradientError:
            raise
        except Exception as real:
            raise TraceError(_explain_failure(real, try_plainly())) from real


def _refuse_unknown_sizes(recorded: fx.GraphModule) -> None:
    """Raise if a size is symbolic on fake tensors. A run on real tensors gives its value."""
    for node in recorded.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and any(not isinstance(n, int) for n in tensor.shape):
                raise TraceError(f"the shape of {node.name} depends on numbers")


def _refuse_fake_constants(recorded: fx.GraphModule) -> None:
    """Raise if a tensor without numbers has become a constant. A run on real tensors gives its numbers."""
    for node in recorded.graph.nodes:
        if node.op == "get_attr" and isinstance(getattr(recorded, str(node.target), None), FakeTensor):
            raise TraceError(f"{node.target} is a tensor whose origin was not recorded")


def _watch_plain_run(run: Any, state: dict[str, Tensor], leaves: list[Tensor]) -> NestedCalls:
    """Run a network without recording it, after its recording has failed, and note whether it runs and what it makes."""
    calls = NestedCalls(CallNotes())
    with contextlib.suppress(Exception), _isolate_recording():  # the network may fail in any way
        run(_copy_tensors(state), [copy.copy(leaf).detach().clone() for leaf in leaves], calls)
        calls.ends = True
    return calls


def _explain_failure(real: Exception, calls: NestedCalls) -> str:
    """Return the message of the error that a failed recording raises."""
    if calls.nested is not None:
        return (
            f"the network makes a nested tensor{calls.nested}, whose rows have lengths of their own, and a recording has one size for each "
            "dimension. Pad the rows and mask what was added, or take that part out of forward."
        )
    if isinstance(real, TraceError):
        return str(real)
    text = str(real).strip().split("\n")[0].rstrip(".") or type(real).__name__
    if "get value out of a tracing tensor" in str(real):
        where = _find_user_line(real)
        return (
            f"the network branches on numbers (.item(), bool() or int() of a tensor){where}. One recording would not "
            "hold for other inputs. Trace the parts before and after that decision separately."
        )
    if calls.ends:
        return (
            f"the network runs on the example, but not while it is recorded: {type(real).__name__}: {text}. Take that part out of forward, or "
            "trace the parts before and after it separately."
        )
    return (
        f"the network does not run on the example: {type(real).__name__}: {text}. Give an input that its forward takes."
    )


def _find_user_line(error: BaseException) -> str:
    """Return the innermost line of the traceback that belongs to the user, or an empty string."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if is_user_file(name):
            place = format_location(name, trace.tb_lineno)
        trace = trace.tb_next
    return place


@contextlib.contextmanager
def disable_fused_attention() -> Iterator[None]:
    """Turn off the fused inference kernels of nn.TransformerEncoder, which hide operators and write zeros at masked places."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _isolate_recording() -> Iterator[None]:
    """Record without warnings and without fused kernels, and restore the random state afterwards."""
    random = torch.get_rng_state()
    try:
        with (
            silence_logger("torch._subclasses.fake_tensor"),
            warnings.catch_warnings(),
            torch.enable_grad(),
            disable_fused_attention(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(random)


def _convert_leaves(recorded: fx.GraphModule, names: list[str]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Turn the placeholders of parameters into ``get_attr`` nodes and give constants their names."""
    graph = recorded.graph
    constants: dict[str, Tensor] = {}
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    for name, node in zip(names, holders, strict=False):
        node.op, node.target, node.args = "get_attr", name, ()
        node.meta["leaf"] = True
    for node in graph.nodes:
        if node.op == "get_attr" and not node.meta.get("leaf"):
            name = name_constant(str(node.target), names)
            constants[name] = getattr(recorded, str(node.target)).detach().clone()
            node.target = name
            node.meta.update(val=constants[name], constant=True)
    return graph, constants


def erase_dead_nodes(graph: fx.Graph) -> None:
    """Erase in place the nodes that have no users and no side effects.

    Unused random numbers stay if others are drawn after them, which would otherwise be other numbers than those of the network.
    So do tensors of which a later call reads the size alone.
    """
    draws_follow = False
    counted: set[str] = set()
    for node in reversed(list(graph.nodes)):
        draws = _draws_numbers(node)
        unused = not node.users and node.op not in ("placeholder", "output") and not has_side_effects(node)
        if unused and not (draws and draws_follow) and node.name not in counted:
            graph.erase_node(node)
        else:
            draws_follow |= draws
            counted |= {link.source for link in node.meta.get(PASSED_COUNTS, ())}


def _draws_numbers(node: fx.Node) -> bool:
    """Return True if a node draws random numbers. Dropout that is turned off draws none."""
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = bind_arguments(node)
    return given.get("train", given.get("training", True)) is not False and given.get("dropout_p") != 0


def has_side_effects(node: fx.Node) -> bool:
    """Return True if a node changes a tensor, a mode or the random state. Such a node must run even if it is unused."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable
