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
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from netgraph.errors import TraceError
from netgraph.recording.forward.expert_routing import batch_experts
from netgraph.recording.meta_recorder import record_on_meta
from netgraph.recording.numbers_recorder import record_with_numbers
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import set_training_mode, swap_state
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.source_location import format_location, is_user_file

CONTAINERS = (dict, OrderedDict, list, set)  # containers that a module may fill in place


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
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    inputs: Any
    outputs: Any


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
    model: nn.Module, example: Any, *, training: bool, before: Callable[[Tensor], Tensor] | None = None
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

    Returns
    -------
    Recording

    Raises
    ------
    TraceError
        The network fails on the example, or it branches on numbers.
    """
    with preserve_attributes(model):
        set_training_mode(model, training=training)
        return _record_run(model, example, before)


@contextlib.contextmanager
def preserve_attributes(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of every module afterwards, because tensors cached during a recording have no numbers."""
    attributes_before = [(vars(module), dict(vars(module))) for module in model.modules()]
    contents_before = [
        (value, copy.copy(value))
        for _, before in attributes_before
        for value in before.values()
        if type(value) in CONTAINERS
    ]
    try:
        yield
    finally:
        for attributes, before in attributes_before:
            attributes.clear()
            attributes.update(before)
        for value, before in contents_before:  # buffers, hooks and caches that a forward pass fills in place
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(before)


def _record_run(model: nn.Module, example: Any, before: Callable[[Tensor], Tensor] | None) -> Recording:
    """Record the network in its current mode."""
    args, kwargs = normalize_example(example)
    leaves: list[Tensor] = []
    inputs = build_structure((args, kwargs), leaves)
    state = named_state(model)
    outputs: list[Any] = []

    def run(state: dict[str, Tensor], leaves: list[Tensor]) -> list[Tensor]:
        args, kwargs = unflatten_tree(inputs, leaves if before is None else [before(leaf) for leaf in leaves])
        with swap_state(model, state), batch_experts(model):
            result = model(*args, **kwargs)
        flat: list[Tensor] = []
        outputs.append(build_structure(result, flat, drop_unknown=True))
        return flat

    graph, constants = _record_fastest(run, state, leaves)
    erase_dead_nodes(graph)
    return Recording(graph, constants, inputs, outputs[-1])


def _record_fastest(run: Any, state: dict[str, Tensor], leaves: list[Tensor]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Try meta tensors first, then the slower ways."""
    with contextlib.suppress(Exception), _isolate_recording():  # a slower way gives the better error message
        return record_on_meta(run, state, leaves)
    try:
        with _isolate_recording():
            return record_with_numbers(run, state, leaves)
    except TraceError:  # a decision that no recording can hold
        raise
    except Exception:  # make_fx may follow the run, and its error message tells more
        return _convert_leaves(_record_with_make_fx(run, state, leaves), list(state))


def _record_with_make_fx(run: Any, state: dict[str, Tensor], leaves: list[Tensor]) -> fx.GraphModule:
    """Record with ``make_fx`` on fake tensors, or on real ones where the run needs numbers."""
    try:
        with _isolate_recording():
            recorded = make_fx(run, pre_dispatch=True, tracing_mode="fake", record_stack_traces=True)(state, leaves)
        _refuse_unknown_sizes(recorded)
        return recorded
    except Exception as fake:  # the run may need numbers, and only a run on real tensors can tell
        try:
            with _isolate_recording():
                real_state = {name: tensor.detach().clone() for name, tensor in state.items()}
                for name, tensor in state.items():
                    real_state[name].requires_grad_(tensor.requires_grad)
                copies = [copy.copy(leaf).detach().clone() for leaf in leaves]
                return make_fx(run, pre_dispatch=True, tracing_mode="real", record_stack_traces=True)(
                    real_state, copies
                )
        except Exception as real:
            raise TraceError(_explain_failure(fake, real)) from real


def _refuse_unknown_sizes(recorded: fx.GraphModule) -> None:
    """Raise if a size is symbolic on fake tensors. A run on real tensors gives its value."""
    for node in recorded.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and any(not isinstance(n, int) for n in tensor.shape):
                raise TraceError(f"the shape of {node.name} depends on numbers")


def _explain_failure(fake: Exception, real: Exception) -> str:
    """Return the message of the error that a failed recording raises."""
    text = str(real).strip().split("\n")[0] or type(real).__name__
    if "get value out of a tracing tensor" in str(real):
        where = _find_user_line(real)
        return (
            f"the network branches on numbers (.item(), bool() or int() of a tensor){where}. One recording would not "
            "hold for other inputs. Trace the parts before and after that decision separately."
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
            name = f"constants.{node.target}"
            constants[name] = getattr(recorded, str(node.target)).detach().clone()
            node.target = name
            node.meta["val"] = constants[name]
    return graph, constants


def erase_dead_nodes(graph: fx.Graph) -> None:
    """Erase in place the nodes that have no users and no side effects."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not has_side_effects(node):
            graph.erase_node(node)


def has_side_effects(node: fx.Node) -> bool:
    """Return True if a node changes a tensor, a mode or the random state. Such a node must run even if it is unused."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable
