"""Run networks that begin with the same steps as another one, from where they differ.

The error of an axis is measured at several sizes. All steps before its first layer make the same results each time. They run once, and
what later steps read stays for the next axes, whose first layers mostly come later.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from netgraph.recording.forward.autocast import OPERATORS as AUTOCAST
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import SWITCH, Interpreter, Step, find_reads, run_step
from netgraph.utils.pytree import normalize_example

KEPT = 2**29  # most bytes that are kept between two runs


class SharedSteps:
    """The first steps of a network on some batches, for networks that share them.

    Parameters
    ----------
    base : GraphNetwork
        A network without layers.
    batches : sequence
        Each in the form in which `netgraph.trace` takes an example.
    """

    def __init__(self, base: GraphNetwork, batches: Sequence[Any]) -> None:
        self.base, self.batches = base, batches
        self.done = 0  # steps that the base has taken
        self.runs: list[list[Any]] = []  # its slots, by batch

    def iterate_results(self, network: GraphNetwork) -> Iterator[Any]:
        """Yield the outputs of a network for each batch, in evaluation mode and without gradients.

        Parameters
        ----------
        network : GraphNetwork
            A network without layers, which may differ from the base in parameters and in steps.
        """
        interpreter = network.steps("eval")
        n_shared = count_shared_steps(self.base, network)
        self._advance(n_shared)
        interpreter.measured.update(self.base.steps("eval").measured)  # the base needs as much memory, which was there
        for batch, run in zip(self.batches, self.runs or [[]] * len(self.batches), strict=True):
            with torch.no_grad():
                slots = _start(network, batch)
                if run:
                    _take_results(interpreter, slots, run, n_shared)
                yield network.finish_steps("eval", slots, n_shared if run else 0)

    def _advance(self, n_steps: int) -> None:
        """Let the base take steps up to a number, from the start if it is beyond. Nothing is kept where it would be too much."""
        if n_steps < self.done or not self.runs:
            self.done, self.runs = 0, [_start(self.base, batch) for batch in self.batches] if n_steps else []
        steps = _list_steps(self.base.steps("eval"))[self.done : n_steps]
        with torch.no_grad():
            for slots in self.runs:
                for step in steps:
                    run_step(step, slots)
        self.done = n_steps if self.runs else 0
        if sum(_count_bytes(self.base.steps("eval"), slots) for slots in self.runs) > KEPT:
            self.done, self.runs = 0, []


def count_shared_steps(base: GraphNetwork, other: GraphNetwork) -> int:
    """Return how many steps two networks share at the beginning of their evaluation graphs.

    Parameters
    ----------
    base, other : GraphNetwork
        Networks without layers.
    """
    first, second = base.steps("eval"), other.steps("eval")
    tensors, others = base.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    here = dict(first.reads)
    changed = {i for i, name in second.reads if here.get(i) != name or not _is_same(tensors, others, name)}
    number = 0
    for number, (one, two) in enumerate(zip(_list_steps(first), _list_steps(second), strict=False)):
        if (
            _describe(one) != _describe(two)
            or two.function in AUTOCAST.values()
            or changed.intersection(find_reads(two))
        ):
            return number
    return number


def _describe(step: Step) -> tuple[Any, ...]:
    """Return what a step does, and which results are read last by it."""
    return step.function, step.args, step.kwargs, step.index, step.freed


def _is_same(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], name: str) -> bool:
    """Return True if two networks hold equal numbers under a name."""
    a, b = tensors.get(name), others.get(name)
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def _list_steps(interpreter: Interpreter) -> list[Step]:
    """Return the steps of a run without gradients, which switches nothing."""
    return [step for step in interpreter.steps if step.function is not SWITCH]


def _start(network: GraphNetwork, batch: Any) -> list[Any]:
    """Return the slots before the first step."""
    args, kwargs = normalize_example(batch)
    return network.start_steps("eval", args, kwargs)[1]


def _take_results(interpreter: Interpreter, slots: list[Any], run: Sequence[Any], n_steps: int) -> None:
    """Put the results of the first steps into the slots of another run.

    They are copied, as a step may write into what it reads. One copy of all of them keeps views of one tensor views of one.
    """
    taken = _list_steps(interpreter)[:n_steps]
    for index, value in copy.deepcopy({step.index: run[step.index] for step in taken}).items():
        slots[index] = value
    for step in taken:
        for index in step.freed:
            slots[index] = None


def _count_bytes(interpreter: Interpreter, slots: Sequence[Any]) -> int:
    """Return the bytes of the results in the slots."""
    results = [slots[step.index] for step in interpreter.steps]
    return sum(value.nbytes for value in results if isinstance(value, Tensor))
