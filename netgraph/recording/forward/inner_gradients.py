"""Gradients and maps inside a forward: `torch.autograd.grad`, `torch.vmap` and `torch.func`, recorded by what they compute.

Interatomic potentials answer forces, which are gradients of an energy, and ensembles map one function over many weights. Both work
below the operators that a recording usually takes down. Here ``make_fx`` takes down the operators of the backward pass and of the
map themselves. They are differentiable, so that a coarse network trains on forces too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from netgraph.environment.torch_internals import OpOverload, find_decompositions, inside_transform, set_gradients
from netgraph.errors import TraceError
from netgraph.rules.operator_call import operator_name
from netgraph.rules.registry import find_operator_rule
from netgraph.utils.source_location import find_calling_line

GRAD = torch.autograd.grad  # before anything watches it
ATEN = torch.ops.aten


class InnerGradientError(Exception):
    """The run takes a gradient, or maps a function, and has to be recorded by `record_inner_gradients`."""


_ALLOWED: list[bool] = []  # not empty while transforms may run


@contextmanager
def let_transforms_run() -> Iterator[None]:
    """Switch `refuse_inner_transform` off in a block."""
    _ALLOWED.append(True)
    try:
        yield
    finally:
        _ALLOWED.pop()


def refuse_inner_transform() -> None:
    """Raise `InnerGradientError` within a map or a gradient of ``torch.func``. It names the source line."""
    if inside_transform() and not _ALLOWED:
        raise InnerGradientError(find_calling_line())


def record_inner_gradients(
    run: Callable[..., Any], state: Any, leaves: Any, mode: Literal["fake", "real"]
) -> fx.GraphModule:
    """Return the graph of a run with the operators of the gradients and maps in it.

    Parameters
    ----------
    run : callable ``(state, leaves) -> list of Tensor``
    state, leaves : nested tensors
    mode : {"fake", "real"}

    Returns
    -------
    torch.fx.GraphModule

    Raises
    ------
    TraceError
        An operator has no rule.
    """

    def watched(state: Any, leaves: Any) -> Any:
        with WatchSwitches():
            return run(state, leaves)

    table = _list_decompositions()
    recorded = make_fx(watched, decomposition_table=table, tracing_mode=mode, record_stack_traces=True)(state, leaves)
    reconnect_saved_tensors(recorded.graph)
    missing = sorted({operator_name(n.target) for n in recorded.graph.nodes if _lacks_rule(n)})
    if missing:
        raise TraceError(f"the operators {', '.join(missing)} of it have no rule in netgraph")
    return recorded


def _lacks_rule(node: fx.Node) -> bool:
    """Return True for the call of an operator that the tracer would refuse."""
    return (
        node.op == "call_function" and isinstance(node.target, OpOverload) and find_operator_rule(node.target) is None
    )


@cache
def _list_decompositions() -> dict[Any, Callable[..., Any]]:
    """Return how backward operators without a rule are made of other operators."""
    return {
        overload: function
        for overload, function in find_decompositions().items()
        if isinstance(overload, OpOverload)
        and "_backward" in operator_name(overload)
        and find_operator_rule(overload) is None
    }


class WatchSwitches(TorchFunctionMode):
    """Takes down what ``make_fx`` does not see below autograd: switches of gradients, and tensors that the run detaches itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is set_gradients:
            _record_switch(bool(args[0]))
        if func in (Tensor.detach, torch.detach):
            return ATEN.alias.default(func(*args, **kwargs))  # `reconnect_saved_tensors` knows it by this
        if getattr(func, "__wrapped__", func) is not GRAD or kwargs.get("create_graph"):
            return func(*args, **kwargs)
        before = torch.is_grad_enabled()
        _record_switch(False)  # the results have no gradients of their own
        try:
            return func(*args, **kwargs)
        finally:
            _record_switch(before)


def _record_switch(mode: bool) -> None:
    """Add a switch of gradients to the graph of the running ``make_fx``."""
    recorder: Any = torch.fx.experimental.proxy_tensor.get_proxy_mode()
    if recorder is not None:
        recorder.tracer.create_node("call_function", set_gradients, (mode,), {})


def reconnect_saved_tensors(graph: fx.Graph) -> None:
    """Remove the ends of gradients at tensors that autograd kept for its backward pass. A second backward passes through them.

    Tensors that the network detaches itself stay detached.
    """
    own = {n.args[0] for n in graph.nodes if n.target is ATEN.alias.default and n.args[0].target is ATEN.detach.default}
    for node in list(graph.nodes):
        if (node.target is ATEN.detach.default and node not in own) or (
            node.target is ATEN.alias.default and node.args[0] in own
        ):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
