"""Record a run on meta tensors, which have shapes and no numbers: one graph node for each dispatched operator.

This is the fast way of `netgraph.recording.recorder`, several times faster than fake tensors under ``make_fx``. It follows runs
that are plain chains of operators. It raises `MetaRecordingError` where a run looks at a number, uses a tensor of unknown
origin, or calls an operator without shapes for meta tensors. The recorder then takes a slower way.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from netgraph.environment.torch_internals import (
    AUTOCAST_SWITCHES,
    PREDISPATCH_FUNCTIONS,
    RECORDS_ON_META,
    DispatchMode,
    FunctionMode,
    below_autograd,
    enable_python_dispatcher,
    enter_autocast,
    identify_storage,
    no_python_dispatcher,
    quick_dispatch,
    read_schema,
    set_gradients,
)
from netgraph.recording.faithful_calls import HANDLED, CallNotes
from netgraph.recording.forward.inner_gradients import refuse_inner_transform
from netgraph.recording.forward.inner_maps import record_maps
from netgraph.recording.known_results import run_remembered
from netgraph.recording.meta_shapes import META, infer_result
from netgraph.recording.node_graph import NodeGraph, name_constant
from netgraph.recording.operators.composites import may_decompose
from netgraph.recording.operators.literals import MAKERS, make_literal
from netgraph.utils.module_state import find_place
from netgraph.utils.source_location import is_user_file

ATEN = torch.ops.aten
NUMBERLESS = (torch.ops.prim.device.default, ATEN._has_compatible_shallow_copy_type.default)  # ask what a tensor is
CASTS = frozenset(
    {ATEN.to.dtype, ATEN.to.dtype_layout, ATEN.to.device, ATEN.to.other, ATEN.type_as.default}
)  # they return their input where there is nothing to do
PLACES = (Tensor.__getitem__, Tensor.__setitem__)
SWITCHES = {set_gradients} | AUTOCAST_SWITCHES


class MetaRecordingError(Exception):
    """This run cannot be recorded on meta tensors. Another way of recording may work."""


def record_on_meta(
    run: Callable[[dict[str, Tensor], list[Tensor], _SwitchMode], Sequence[Tensor]],
    state: Mapping[str, Tensor],
    leaves: Sequence[Tensor],
    recorder: MetaRecorder | None = None,
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Return the graph of ``run(state, leaves)`` and the constants in it.

    Parameters
    ----------
    run : callable
        Takes the parameters by name, the inputs, and the function mode in which it runs. Returns the tensors of the result.
    state : dict of str to Tensor
        Parameters and buffers, which become ``get_attr`` nodes.
    leaves : list of Tensor
        Inputs, which become placeholders.
    recorder : MetaRecorder, optional
        A new recorder of another kind.

    Returns
    -------
    graph : torch.fx.Graph
        ``meta["val"]`` of every node is a meta tensor, a list of them, or None.
    constants : dict of str to Tensor
        By the names of their ``get_attr`` nodes, ``constants.0`` and on.

    Raises
    ------
    MetaRecordingError
        The run is more than a chain of operators with known shapes.
    """
    if not RECORDS_ON_META:
        raise MetaRecordingError("this version of PyTorch lacks the modes that see every operator")
    recorder = MetaRecorder() if recorder is None else recorder
    twins = {name: recorder.add_parameter(name, tensor) for name, tensor in state.items()}
    inputs = [recorder.add_input(i, leaf) for i, leaf in enumerate(leaves)]
    switches = _SwitchMode(recorder.graph)
    with quick_dispatch(type(recorder)), enable_python_dispatcher(), recorder, recorder.watch_reads(), record_maps():
        results = run(twins, inputs, switches)
    if switches.casts:
        raise MetaRecordingError("an autocast region gives results other dtypes, which meta tensors do not show")
    recorder.graph.output([recorder.find_node(result) for result in results])
    return recorder.graph, recorder.constants


class _SwitchMode(FunctionMode):  # type: ignore[misc]
    """A function mode that records switches of gradients and autocast, and passes every other call on at minimal cost."""

    def __init__(self, graph: NodeGraph) -> None:
        super().__init__(graph)
        self.notes = CallNotes()
        self.casts = False  # whether autocast was switched on

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PREDISPATCH_FUNCTIONS:
            return func(*args, **(kwargs or {}))
        refuse_inner_transform()
        if func in HANDLED:
            replacement = self.notes.handle(func, args)
            if replacement is not None:
                return replacement()
        if func in MAKERS and (made := make_literal(func, args, kwargs or {})) is not None:
            return made
        if func in PLACES and holds_places(args[1]):
            args = (args[0], make_places(args[1]), *args[2:])
        self.casts |= bool(func is enter_autocast and args[2])
        if func in SWITCHES:
            return super().__torch_function__(func, types, args, kwargs)
        return func(*args, **kwargs) if kwargs else func(*args)


class MetaRecorder(DispatchMode):  # type: ignore[misc]
    """The dispatch mode of a recording on meta tensors. Only the class of PyTorch may stand before autograd."""

    def __init__(self) -> None:
        super().__init__(None, "fake", pre_dispatch=True)
        self.graph = NodeGraph()
        self.constants: dict[str, Tensor] = {}
        self.taken: set[str] = set()  # names of parameters and buffers
        self.nodes: dict[int, tuple[Tensor, fx.Node]] = {}  # by id, with the tensor kept alive because ids are reused
        self.twins: dict[int, Tensor] = {}  # constants on the meta device, by id
        self.made: dict[
            Any, fx.Node
        ] = {}  # nodes that fill new tensors, by storage, because PyTorch passes on shallow copies of their results

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the check would double the cost of every call

    def add_parameter(self, name: str, tensor: Tensor) -> Tensor:
        self.taken.add(name)
        return self._add_leaf(self.graph.create_node("get_attr", name), tensor)

    def add_input(self, number: int, tensor: Tensor) -> Tensor:
        return self._add_leaf(self.graph.placeholder(f"input_{number}"), tensor)

    def _add_leaf(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """Return a meta tensor like a parameter or input, bound to its node."""
        if type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer) or tensor.layout != torch.strided:
            raise MetaRecordingError(f"{node.target} is a {type(tensor).__name__}")
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        twin.requires_grad_(tensor.requires_grad)
        self._register_tensor(twin, node)
        return twin

    def _register_tensor(self, tensor: Tensor, node: fx.Node) -> None:
        """Remember which node made a meta tensor."""
        with no_python_dispatcher():
            node.meta["val"] = tensor.detach()
        if node.op == "call_function" and (not node.all_input_nodes or _fills_like_input(node.target)):
            self.made[_storage_key(tensor)] = node
        self.nodes[id(tensor)] = (tensor, node)

    def find_node(self, tensor: Tensor) -> fx.Node:
        """Return the node that made a tensor. A plain tensor of unknown origin becomes a constant."""
        known = self.nodes.get(id(tensor))
        if known is not None:
            return known[1]
        if tensor.device == META and (node := self.made.get(_storage_key(tensor))) is not None:
            self.nodes[id(tensor)] = (tensor, node)
            return node
        if tensor.device == META and tensor.numel() == 0 and type(tensor) is Tensor:
            return self._add_empty(tensor)
        if tensor.device == META or type(tensor) not in (Tensor, torch.nn.Parameter):
            raise MetaRecordingError(f"the origin of a {type(tensor).__name__} was not recorded")
        return self._add_constant(tensor)

    def _add_empty(self, tensor: Tensor) -> fx.Node:
        """Add a call that makes a tensor without numbers, such as ``torch.tensor([])`` on the device of an input."""
        arguments: dict[str, Any] = {"dtype": tensor.dtype, "device": META}
        node = self.graph.call_function(ATEN.empty.memory_format, (list(tensor.shape),), arguments)
        self._register_tensor(tensor, node)
        return node

    def _add_constant(self, tensor: Tensor) -> fx.Node:
        """Add a ``get_attr`` node for a tensor with numbers, and make its twin on the meta device."""
        name = name_constant(len(self.constants), self.taken)
        self.constants[name] = tensor.detach().clone()
        node = self.graph.create_node("get_attr", name)
        node.meta.update(val=self.constants[name], constant=True, place=find_place(tensor))
        self.nodes[id(tensor)] = (tensor, node)
        self.twins[id(tensor)] = tensor.to(META)
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in NUMBERLESS:
            with no_python_dispatcher():
                return func(*args, **kwargs)
        if may_decompose(func):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        arguments = map_tensors((args, kwargs), self.find_node)
        args, kwargs = self._replace_constants(func, args, kwargs) if self.twins else (args, kwargs)
        result = self.run_operator(func, args, kwargs, arguments)
        if not isinstance(result, (Tensor, list, tuple)) and result is not None:
            return self.return_number(func, arguments, result)
        if func in CASTS and result is args[0]:  # no cast in this precision, and one in another
            result = _view_anew(result)
        if func is ATEN.lift_fresh.default:
            func = ATEN.lift_fresh_copy.default  # a later write must not change the constant
        return self.add_result(self.graph.call_function(func, *arguments), result)

    def run_operator(self, func: Any, args: Any, kwargs: dict[str, Any], nodes: Any) -> Any:
        """Return the result of an operator on meta tensors. ``nodes`` are its arguments with nodes in place of tensors."""
        return run_on_meta(func, args, kwargs)

    def return_number(self, func: Any, nodes: Any, result: Any) -> Any:
        """Refuse to return a number, which a meta tensor does not have."""
        raise MetaRecordingError(f"{func} looks at numbers")

    def watch_reads(self) -> AbstractContextManager[None]:
        """Return a context in which the run reads sizes and numbers."""
        return nullcontext()

    def _replace_constants(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Replace constants in the arguments of an operator by their twins on the meta device."""
        constants: list[Tensor] = []

        def twin(tensor: Tensor) -> Tensor:
            if id(tensor) in self.twins:
                constants.append(tensor)
            return self.twins.get(id(tensor), tensor)

        swapped = map_tensors((args, kwargs), twin)
        if constants and read_schema(func).is_mutable:
            raise MetaRecordingError(f"{func} may write to a constant")
        return swapped

    def add_result(self, node: fx.Node, result: Any) -> Any:
        """Bind the result of an operator to its node, one ``getitem`` node for each part of a tuple."""
        node.meta["stack_trace"] = _format_user_line()
        if isinstance(result, Tensor):
            self._register_tensor(result, node)
        elif result is not None:
            node.meta["val"] = [t.detach() if isinstance(t, Tensor) else t for t in result]
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._register_tensor(part, self.graph.call_function(operator.getitem, (node, i)))
        return result


def run_on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on meta tensors. Tensors that it creates are on the meta device too."""
    args, kwargs = replace_devices((tuple(args), kwargs), META)
    with no_python_dispatcher():  # Python decompositions are slow and not needed for shapes
        return run_remembered(func, args, kwargs, partial(_infer_or_run, func, args, kwargs))


def _infer_or_run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return the result of an operator on meta tensors by a rule, or by PyTorch where there is none."""
    result = infer_result(func, args, kwargs)
    if result is not None:
        return result
    with below_autograd() if read_schema(func).is_mutable else nullcontext():  # autograd would refuse a write to a leaf
        return func(*args, **kwargs)


def _view_anew(tensor: Tensor) -> Tensor:
    """Return a tensor of its own with the same numbers, so that later reads of the first one are not taken for reads of this one."""
    with no_python_dispatcher():
        view: Tensor = ATEN.alias.default(tensor)
    return view


def replace_devices(arguments: Any, device: torch.device) -> Any:
    """Replace every device among the arguments of an operator, given by place or by name."""
    args, kwargs = arguments
    args = tuple(device if isinstance(v, torch.device) else v for v in args)
    return args, {k: device if isinstance(v, torch.device) else v for k, v in kwargs.items()}


def map_tensors(value: Any, swap: Callable[[Tensor], Any]) -> Any:
    """Replace every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return swap(value)
    kind = type(value)
    if kind is tuple or kind is list:
        parts = [swap(part) if isinstance(part, Tensor) else map_tensors(part, swap) for part in value]
        return parts if kind is list else tuple(parts)
    return {k: map_tensors(v, swap) for k, v in value.items()} if kind is dict else value


def holds_places(index: Any) -> bool:
    """Return True if an index of a tensor has a list of numbers. PyTorch would make it a tensor without numbers."""
    parts = index if type(index) is tuple else (index,)
    return any(_is_list_of_numbers(part) for part in parts)


def make_places(index: Any) -> Any:
    """Return an index with tensors in the place of lists of numbers."""
    if type(index) is tuple:
        return tuple(make_places(part) for part in index)
    return torch.tensor(index) if _is_list_of_numbers(index) else index


def _is_list_of_numbers(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return type(value) in (list, range) and len(value) > 0 and all(type(part) in (int, bool) for part in value)


@cache
def _fills_like_input(function: Any) -> bool:
    """Return True if an operator fills a new tensor and reads no number of its input, as ``ones_like`` and ``new_zeros`` do."""
    name = str(function).partition(".")[2]
    return name.startswith("new_") or "_like." in name


def _storage_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that two tensors share if they view the same part of a storage."""
    return (identify_storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _format_user_line() -> str:
    """Return the innermost frame of the user, outside PyTorch and netgraph, in the format of a traceback."""
    frame = sys._getframe(2)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
        frame = frame.f_back  # type: ignore[assignment]
    return ""
