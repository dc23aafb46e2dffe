"""Calls that a recording of operators would lose, taken down as operators that do the same, or noted.

An operator graph holds what the dispatcher sees. It does not see an assignment to ``.data``, the backward of an
``autograd.Function``, or a block that ``torch.utils.checkpoint`` runs without gradients. `FaithfulCalls` watches these calls while
a network is recorded.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from netgraph.environment.torch_internals import PREDISPATCH_FUNCTIONS, identify_storage, set_gradients
from netgraph.errors import TraceError
from netgraph.recording.forward.inner_gradients import InnerGradientError, refuse_inner_transform
from netgraph.utils.source_location import find_calling_line

SET_GRADIENTS = set_gradients


class CallNotes:
    """What a run did that operators alone do not show.

    Attributes
    ----------
    functions : dict of str to str
        Subclasses of ``torch.autograd.Function`` whose backward a recording replaces by that of its operators: the name and
        the source line of the first call. So are hooks on tensors, and reentrant checkpoints of inputs without gradients, which give
        their parameters none.
    gradients : str or None
        The source line of the first gradient that the run itself took.
    inside_function : int
        How many such functions run at this moment.
    """

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}
        self.gradients: str | None = None
        self.inside_function = 0
        self.may_take_gradients = False  # else `InnerGradientError` asks for a recorder that can

    def handle(self, function: Any, args: Any) -> Callable[[], Any] | None:
        """Return the stand-in for a function of PyTorch, or None to call the function itself."""
        if function is HOOK:
            self.functions.setdefault(HOOK_NAME, find_calling_line())
        if function is SET_GRADIENTS:
            return _do_nothing if self.inside_function else None
        if function == READ_DATA:
            return lambda: args[0].detach()
        if function == WRITE_DATA:
            return lambda: _assign_data(args[0], args[1])
        return None


def _do_nothing() -> None:
    """Stand for a switch of gradients inside a function with a backward of its own, where gradients are off anyway."""


READ_DATA, WRITE_DATA = Tensor.data.__get__, Tensor.data.__set__  # type: ignore[attr-defined]
HOOK, HOOK_NAME = Tensor.register_hook, "register_hook"
CHECKPOINT_NAME = "torch.utils.checkpoint"
HANDLED = {SET_GRADIENTS, READ_DATA, WRITE_DATA, HOOK}


class FaithfulCalls(TorchFunctionMode):
    """The function mode that hands watched calls to `CallNotes`, for recorders without a mode of their own."""

    def __init__(self, notes: CallNotes) -> None:
        super().__init__()
        self.notes = notes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            not self.notes.may_take_gradients and func not in PREDISPATCH_FUNCTIONS
        ):  # a map must be left after a refusal
            refuse_inner_transform()
        replacement = self.notes.handle(func, args) if func in HANDLED else None
        return func(*args, **(kwargs or {})) if replacement is None else replacement()


class NestedCalls(FaithfulCalls):
    """Also notes the first nested tensor of a run, by the line of its call, and whether the run came to its end."""

    nested: str | None = None
    ends = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.nested is None and isinstance(result, Tensor) and result.is_nested:
            self.nested = find_calling_line()
        return result


def _assign_data(tensor: Tensor, value: Tensor) -> None:
    """Write the numbers of a value into a tensor. An assignment to ``.data`` means that for a parameter."""
    if tensor.shape != value.shape or tensor.dtype != value.dtype:
        raise TraceError(
            f"the network assigns .data of another shape or type{find_calling_line()}: {tuple(value.shape)} in place of "
            f"{tuple(tensor.shape)}. A recording has tensors of fixed shapes. Make the new tensor a value of its own."
        )
    if not _share_numbers(tensor, value):
        tensor.detach().copy_(value.detach())


def _share_numbers(a: Tensor, b: Tensor) -> bool:
    """Return True if two tensors view the same numbers in the same order."""
    return (
        identify_storage(a) == identify_storage(b)
        and a.storage_offset() == b.storage_offset()
        and a.stride() == b.stride()
    )


@contextlib.contextmanager
def _run_scripts_anew() -> Iterator[None]:
    """Run scripted functions without what PyTorch has made of them.

    After some calls with a gradient, TorchScript runs a function as one piece with a backward of its own, inside of which gradients are
    off. A copy of its graph has no such piece yet, and makes the calls of the function itself.
    """
    kind: Any = torch.jit.ScriptFunction
    call = kind.__call__

    def call_copy(function: Any, *args: Any, **kwargs: Any) -> Any:
        return call(torch._C._create_function_from_graph(function.name, function.graph.copy()), *args, **kwargs)

    kind.__call__ = call_copy
    try:
        yield
    finally:
        kind.__call__ = call


@contextlib.contextmanager
def watch_functions(notes: CallNotes) -> Iterator[None]:
    """Note functions with a backward of their own, and gradients that a run takes, while a network is recorded.

    A block under the reentrant ``torch.utils.checkpoint`` is run as the plain call, which has the same outputs and gradients.
    """
    apply: Any = vars(torch.autograd.Function)["apply"]  # the class method itself, not bound to the base class
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def watched_apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is CheckpointFunction:
            if not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
                notes.functions.setdefault(CHECKPOINT_NAME, find_calling_line())
            return args[0](*args[2:])  # the function, a flag, and the arguments of the function
        if not cls.__module__.startswith("torch."):
            notes.functions.setdefault(cls.__name__, find_calling_line())
        notes.inside_function += 1
        try:
            return apply.__func__(cls, *args, **kwargs)
        finally:
            notes.inside_function -= 1

    def note_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            notes.gradients = notes.gradients or find_calling_line() or " "
            if function is backward:
                raise TraceError(
                    f"the network calls backward(){find_calling_line()} in its forward, which changes gradients outside of the "
                    "recording. Take the gradient with torch.autograd.grad, or take that part out of forward."
                )
            if not notes.may_take_gradients:
                raise InnerGradientError(notes.gradients.rstrip())
            return function(*args, **kwargs)

        return noted

    torch.autograd.Function.apply = classmethod(watched_apply)  # type: ignore[assignment]
    torch.autograd.grad, torch.autograd.backward = note_gradient(grad), note_gradient(backward)
    try:
        with _switch_gradients_off_for_inference(), _run_scripts_anew():
            yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]
        torch.autograd.grad, torch.autograd.backward = grad, backward


@contextlib.contextmanager
def _switch_gradients_off_for_inference() -> Iterator[None]:
    """Make ``torch.inference_mode`` a ``torch.no_grad`` in a block, which a recording can hold."""
    inference: Any = torch.inference_mode
    enter, leave = inference.__enter__, inference.__exit__

    def switch_off(mode: Any) -> None:
        mode.switched = torch.set_grad_enabled(False) if mode.mode else contextlib.nullcontext()
        mode.switched.__enter__()

    inference.__enter__, inference.__exit__ = switch_off, lambda mode, *error: mode.switched.__exit__(*error)
    try:
        yield
    finally:
        inference.__enter__, inference.__exit__ = enter, leave


@contextlib.contextmanager
def skip_argument_checks() -> Iterator[None]:
    """Make distributions without looking at the numbers of their arguments in a block. The checks only raise."""
    checked = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checked)


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Run functions and modules under ``torch.compile`` as plain Python in a block, and those of TorchScript without their own backward."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # public, but not in __all__
        if dynamo is None or not hasattr(torch.compiler, "set_stance"):  # nothing is compiled
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield
