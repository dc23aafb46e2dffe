"""Record what a network computes, as a graph of ATen operators before autograd takes them apart.

The network runs once on tensors that have shapes and no numbers, so that recording costs no arithmetic and no memory:
on meta tensors (`netgraph.recording.meta_recorder`), or, where those do not do, on fake tensors under ``make_fx``; where the computation
looks at numbers (a boolean mask, an index of variable length) it runs on real ones. Sizes come out as the integers of
that run: `netgraph.tracing.tracer` works out which axis each of them counts, and writes them anew for another size. Training
and evaluation are two recordings, because dropout, batch norm and stochastic depth differ between them.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from netgraph.errors import TraceError
from netgraph.recording.meta_recorder import record_on_meta
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import set_training_mode, swap_state
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.source_location import format_location, is_user_file

KEPT = (dict, OrderedDict, list, set)  # what a module may fill in place


@dataclass
class Recording:
    """One recorded run.

    Parameters
    ----------
    graph : torch.fx.Graph
        Inputs are placeholders in the order of the flattened example, parameters are ``get_attr`` nodes.
        ``meta["val"]`` of every node is a tensor on the meta device or a value.
    constants : dict of str to Tensor
        Tensors that the run made out of nothing that is a parameter, a buffer or an input.
    inputs, outputs : structure
        How flat tensors nest in the call's arguments and in its result.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    inputs: Any
    outputs: Any


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by qualified name, each storage once: ties keep their first name."""
    state: dict[str, Tensor] = dict(model.named_parameters())
    state.update(model.named_buffers())
    return state


def find_tied_names(model: nn.Module) -> dict[str, str]:
    """Return the other names of tied parameters and buffers, and the name under which each is traced."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in pairs:
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def record_network(
    model: nn.Module, example: Any, *, training: bool, before: Callable[[Tensor], Tensor] | None = None
) -> Recording:
    """Record one run of a network in training or evaluation mode, ``before`` first; the network is left as it was.

    Raises
    ------
    TraceError
        The network fails on the example, or branches on numbers.
    """
    with preserve_attributes(model):
        set_training_mode(model, training=training)
        return _record_run(model, example, before)


@contextlib.contextmanager
def preserve_attributes(model: nn.Module) -> Iterator[None]:
    """Give every module back its mode, its slots and its attributes: a mask that it kept of this run has no numbers."""
    own = [(vars(module), dict(vars(module))) for module in model.modules()]
    held = [(value, copy.copy(value)) for _, before in own for value in before.values() if type(value) in KEPT]
    try:
        yield
    finally:
        for attributes, before in own:
            attributes.clear()
            attributes.update(before)
        for value, before in held:  # slots, and caches that a forward pass fills in place
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(before)


def _record_run(model: nn.Module, example: Any, before: Callable[[Tensor], Tensor] | None) -> Recording:
    args, kwargs = normalize_example(example)
    leaves: list[Tensor] = []
    inputs = build_structure((args, kwargs), leaves)
    state = named_state(model)
    outputs: list[Any] = []

    def run(state: dict[str, Tensor], leaves: list[Tensor]) -> list[Tensor]:
        args, kwargs = unflatten_tree(inputs, leaves if before is None else [before(leaf) for leaf in leaves])
        with swap_state(model, state):
            result = model(*args, **kwargs)
        flat: list[Tensor] = []
        outputs.append(build_structure(result, flat, drop_unknown=True))
        return flat

    graph, constants = _record_fastest(run, state, leaves)
    erase_dead_nodes(graph)
    return Recording(graph, constants, inputs, outputs[-1])


def _record_fastest(run: Any, state: dict[str, Tensor], leaves: list[Tensor]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Try the ways of recording, quickest first."""
    with contextlib.suppress(Exception), _isolate_recording():  # whatever it was, the next way says it better
        return record_on_meta(run, state, leaves)
    return _convert_leaves(_record_with_make_fx(run, state, leaves), list(state))


def _record_with_make_fx(run: Any, state: dict[str, Tensor], leaves: list[Tensor]) -> fx.GraphModule:
    try:
        with _isolate_recording():
            recorded = make_fx(run, pre_dispatch=True, tracing_mode="fake", record_stack_traces=True)(state, leaves)
        _refuse_unknown_sizes(recorded)
        return recorded
    except Exception as fake:  # numbers may be needed: only a run that has them can tell
        try:
            with _isolate_recording():
                owned = {name: tensor.detach().clone() for name, tensor in state.items()}
                for name, tensor in state.items():
                    owned[name].requires_grad_(tensor.requires_grad)
                copies = [copy.copy(leaf).detach().clone() for leaf in leaves]
                return make_fx(run, pre_dispatch=True, tracing_mode="real", record_stack_traces=True)(owned, copies)
        except Exception as real:
            raise TraceError(_explain_failure(fake, real)) from real


def _refuse_unknown_sizes(recorded: fx.GraphModule) -> None:
    """A size that only numbers decide is a symbol on fake tensors; a run on real ones gives it."""
    for node in recorded.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and any(not isinstance(n, int) for n in tensor.shape):
                raise TraceError(f"the shape of {node.name} depends on numbers")


def _explain_failure(fake: Exception, real: Exception) -> str:
    text = str(real).strip().split("\n")[0] or type(real).__name__
    if "get value out of a tracing tensor" in str(real):
        where = _find_user_line(real)
        return (
            f"the network branches on numbers (.item(), bool() or int() of a tensor){where}, so one recording "
            "would not hold for other inputs; trace the parts before and after that decision, each by itself"
        )
    return (
        f"the network does not run on the example: {type(real).__name__}: {text}; give an input that its forward takes"
    )


def _find_user_line(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if is_user_file(name):
            place = format_location(name, trace.tb_lineno)
        trace = trace.tb_next
    return place


@contextlib.contextmanager
def disable_fused_attention() -> Iterator[None]:
    """Turn off the fused inference kernels of nn.TransformerEncoder: they hide the operators, and zero what is masked."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _isolate_recording() -> Iterator[None]:
    """Trace without warnings and fused kernels, and leave every switch as it was."""
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
    """Turn parameter placeholders into ``get_attr`` nodes, name constants, and drop what nothing uses."""
    graph = recorded.graph
    constants: dict[str, Tensor] = {}
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    for name, node in zip(names, holders, strict=False):
        node.op, node.target, node.args = "get_attr", name, ()
        node.meta["leaf"] = True
    for node in graph.nodes:
        if node.op == "get_attr" and not node.meta.get("leaf"):
            name = f"constants.{node.target}"
            constants[name] = getattr(recorded, str(node.target)).detach().clone()
            node.target = name
            node.meta["val"] = constants[name]
    return graph, constants


def erase_dead_nodes(graph: fx.Graph) -> None:
    """Erase in place what nothing reads."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not has_side_effects(node):
            graph.erase_node(node)


def has_side_effects(node: fx.Node) -> bool:
    """Tell whether a node changes a tensor, a mode or the random state, so that it must run even if unused."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable
