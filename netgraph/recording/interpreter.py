"""Run a document step by step. No code is made from a file: operators come from a list, everything else is data.

Names in the document are only ever looked up among the nodes before them and the tensors beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from netgraph.errors import LoadError
from netgraph.recording.serialize import BUILTINS
from netgraph.rules.registry import load_rules

EXTRA = {"aten.sym_size"}
LIMIT = 2**34  # no size, and no product of the sizes in one argument, of an honest network is larger
SWITCH = torch._C._set_grad_enabled
JOINS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
WHOLE = 2**62  # integers beyond mean "to the end" or "the least", and ask for nothing


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step."""

    index: int


@dataclass(frozen=True)
class RefList:
    """A list with slots in it."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Step:
    """One call: the function, its arguments, and the results that nothing later reads."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    index: int
    done: tuple[int, ...]


@dataclass(frozen=True)
class CallSite:
    """A halt before a call, on several batches.

    Parameters
    ----------
    function : operator
    arguments : list of list
        Positional arguments, for each batch.
    names : tuple of str or None
        For each argument the parameter or buffer that it is, if this call alone reads it.
    keywords : list of dict
        Named arguments, for each batch.
    beside : list, optional
        For each batch what the call's result, or that of the batch norm after it, is about to be added to, if that is there already.
    """

    function: Callable[..., Any]
    arguments: list[list[Any]]
    names: tuple[str | None, ...]
    keywords: list[dict[str, Any]]
    beside: list[Any] | None = None


class Interpreter:
    """A document, ready to run.

    Parameters
    ----------
    document : list
        What `netgraph.recording.serialize.serialize_graph` wrote.
    names : collection of str
        The tensors that it may read.

    Raises
    ------
    LoadError
        An operator, a name or a size is not one that netgraph writes.
    """

    def __init__(self, document: Sequence[Any], names: Collection[str]) -> None:
        self.slots: dict[str, int] = {}
        self.inputs: list[int] = []
        self.reads: list[tuple[int, str]] = []
        self.results: tuple[Any, ...] | None = None
        steps = []
        for name, what, args, kwargs in document:
            index = self.slots[name] = len(self.slots)
            kind, _, target = what.partition(":")
            if kind == "placeholder":
                self.inputs.append(index)
            elif kind == "get_attr":
                self.reads.append((index, _check_name(target, names)))
            elif kind == "output":
                self.results = tuple(self._value(v) for v in args[0])
            else:
                steps.append(self._step(what, args, kwargs, index))
        if self.results is None:
            raise LoadError("a graph of the file has no output; it is damaged or was not written by netgraph")
        self.steps = self._mark_last_reads(steps)

    def _step(self, what: str, args: Any, kwargs: Any, index: int) -> Step:
        values = tuple(self._value(v) for v in args)
        named = tuple((str(k), self._value(v)) for k, v in kwargs["dict"].items())
        function = _find_operator(what)
        if "split" not in what:  # the sizes of parts add up to what is there already
            _refuse_products((*values, *(v for _, v in named)))
        if function in BUILTINS.values() and (named or not all(isinstance(v, (Ref, int)) for v in values)):
            raise LoadError(f"{what} has other arguments than netgraph writes; the file is refused")
        return Step(function, values, named, index, ())

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            parts = [self._value(v) for v in value]
            return RefList(tuple(parts)) if any(isinstance(p, (Ref, RefList)) for p in parts) else parts
        if isinstance(value, int) and not isinstance(value, bool) and LIMIT < abs(value) < WHOLE:
            raise LoadError(f"an operator asks for a size of {value}; the file is refused")
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node":
            return Ref(self.slots[content])
        if kind == "slice":
            return slice(*content)
        return float(content) if kind == "float" else _parse_torch_constant(kind, content)

    def _mark_last_reads(self, steps: list[Step]) -> list[Step]:
        """Note after which step each result can go: memory is that of the network itself."""
        last: dict[int, int] = {}
        for number, step in enumerate(steps):
            for index in find_reads(step):
                last[index] = number
        kept = set(_collect_refs(self.results or ()))
        done: list[list[int]] = [[] for _ in steps]
        for index, number in last.items():
            if index not in kept:
                done[number].append(index)
        return [Step(s.function, s.args, s.kwargs, s.index, tuple(d)) for s, d in zip(steps, done, strict=True)]

    def __call__(self, find: Callable[[str], Any], *inputs: Any) -> list[Any]:
        """Return the results for flat inputs; ``find`` returns a tensor by name."""
        env = self.begun(find, inputs)
        gradients = torch.is_grad_enabled()
        # the end of a network's own no_grad was recorded as "on"; where the caller has them off they stay off
        steps = self.steps if gradients else [step for step in self.steps if step.function is not SWITCH]
        try:
            for step in steps:
                run_step(step, env)
        finally:
            torch._C._set_grad_enabled(gradients)
        return self.answered(env)

    def answered(self, env: list[Any]) -> list[Any]:
        """Return the results out of their places."""
        return [_resolve_refs(v, env) for v in self.results or ()]

    @property
    def answers(self) -> list[int]:
        """The places that results are made of."""
        return _collect_refs(self.results or ())

    def walk(
        self, find: Callable[[str], Any], batches: Sequence[Sequence[Any]], stops: Collection[Any]
    ) -> Iterator[CallSite]:
        """Run all batches side by side, one step after the other, and halt before each step of ``stops``.

        What the caller writes into a tensor at a halt is what the step reads.
        """
        envs = [self.begun(find, inputs) for inputs in batches]
        names = dict(self.reads)
        readers = Counter(index for step in self.steps for index in find_reads(step))
        for step in self.steps:
            if step.function in stops:
                slots = [v.index if isinstance(v, Ref) else -1 for v in step.args]
                once = tuple(names.get(i) if readers[i] == 1 else None for i in slots)
                other = self._find_summand(step.index)
                beside = None if other is None or envs[0][other] is None else [env[other] for env in envs]
                arguments = [[_resolve_refs(v, env) for v in step.args] for env in envs]
                named = [{k: _resolve_refs(v, env) for k, v in step.kwargs} for env in envs]
                yield CallSite(step.function, arguments, once, named, beside)
            for env in envs:
                with torch.no_grad():
                    run_step(step, env)

    def _find_summand(self, index: int) -> int | None:
        """Return the slot that a step's result, or that of the norm after it, is added to, if nothing else reads it."""
        for _ in range(2):
            after = [step for step in self.steps if index in find_reads(step)]
            if len(after) != 1:
                return None
            if after[0].function in JOINS and not after[0].kwargs:
                others = [v.index for v in after[0].args if isinstance(v, Ref) and v.index != index]
                return others[0] if len(others) == 1 else None
            if after[0].function is not torch.ops.aten.batch_norm.default:
                return None
            index = after[0].index
        return None

    def begun(self, find: Callable[[str], Any], inputs: Sequence[Any]) -> list[Any]:
        """Return a place for each result, filled with inputs and what ``find`` returns."""
        env: list[Any] = [None] * len(self.slots)
        for index, value in zip(self.inputs, inputs, strict=True):
            env[index] = value
        for index, name in self.reads:
            env[index] = find(name)
        return env


def run_step(step: Step, env: list[Any]) -> None:
    """Do one step in the places of results."""
    args = [_resolve_refs(v, env) for v in step.args]
    env[step.index] = step.function(*args, **{k: _resolve_refs(v, env) for k, v in step.kwargs})
    for index in step.done:
        env[index] = None


def _resolve_refs(value: Any, env: list[Any]) -> Any:
    kind = type(value)
    if kind is Ref:
        return env[value.index]
    return [_resolve_refs(part, env) for part in value.parts] if kind is RefList else value


def find_reads(step: Step) -> list[int]:
    """Return the places that a step reads."""
    return _collect_refs((*step.args, *(v for _, v in step.kwargs)))


def _collect_refs(values: Sequence[Any]) -> list[int]:
    """Return the slots in values, nested ones included."""
    out: list[int] = []
    for value in values:
        if isinstance(value, Ref):
            out.append(value.index)
        elif isinstance(value, RefList):
            out.extend(_collect_refs(value.parts))
    return out


def _check_name(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise LoadError(f"a graph of the file reads {name[:60]!r}, which the file does not hold; it is refused")
    return name


def _refuse_products(values: Sequence[Any]) -> None:
    """Refuse a list of sizes, at any depth, that multiply to more than an honest network holds."""
    for value in values:
        parts = value.parts if isinstance(value, RefList) else value
        if isinstance(parts, (list, tuple)):
            sizes = [abs(p) for p in parts if isinstance(p, int) and 0 < abs(p) < WHOLE]
            if math.prod(sizes) > LIMIT:
                raise LoadError(f"an operator asks for {math.prod(sizes):,} numbers; the file is refused")
            _refuse_products(parts)


def _parse_torch_constant(kind: str, content: str) -> Any:
    found = getattr(torch, content, None) if kind == "torch" else None
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise LoadError(f"{content!r} is no dtype or layout; the file is refused")
    return found


@cache
def _find_operator(what: str) -> Any:
    kind, _, name = what.partition(":")
    if kind == "builtin" and name in BUILTINS:
        return BUILTINS[name]
    parts = what.split(".")
    packet = getattr(getattr(torch.ops, parts[0], None), parts[1], None) if len(parts) == 3 else None
    overload = getattr(packet, parts[2], None) if packet is not None else None
    if not isinstance(overload, torch._ops.OpOverload) or not _is_allowed(f"{parts[0]}.{parts[1]}", overload):
        raise LoadError(f"operator {what[:80]!r} is not one that netgraph has a rule for; the file is refused")
    return overload


def _is_allowed(name: str, overload: torch._ops.OpOverload) -> bool:
    return name in load_rules() or name in EXTRA or torch.Tag.pointwise in overload.tags
