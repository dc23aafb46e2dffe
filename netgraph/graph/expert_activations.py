"""Outputs of experts on calibration data, for affinities that compare activations.

A router sends each row to a few experts, so two experts are rarely seen on the same rows. Here every expert of a mixture works on all
rows that reach the mixture: the steps from the first look-up of its parameters to the last product run once for each
expert, with its number in the place of the router's choice. The outputs tell how alike two experts are, and the numbers that a product
sums up tell how alike two neurons inside an expert are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import Interpreter, Ref, RefList, Step, find_reads, run_step
from netgraph.recording.operators.lookups import INDEX, multiply_by_looked_up, multiply_looked_up
from netgraph.tracing.unit_spec import ExpertLayer, UnitSpec, term_axes, term_size
from netgraph.utils.pytree import normalize_example

NUMBERS = {INDEX: 1, multiply_by_looked_up: 2, multiply_looked_up: 1}  # places of the numbers of experts in a look-up
TABLES = {INDEX: 0, multiply_by_looked_up: 1, multiply_looked_up: 0}
SUMMED = {
    multiply_by_looked_up: (1, 0, 2),
    multiply_looked_up: (2, 2, 1),
}  # dimension of the table, the rows, and theirs


@dataclass(frozen=True)
class _Mixture:
    """The steps of a mixture of experts: the positions of its look-ups with the parameters that they read, and the last step."""

    layer: ExpertLayer
    lookups: dict[int, str]
    last: int


def collect_expert_activations(network: GraphNetwork, spec: UnitSpec, batch: Any, most: int) -> dict[str, Tensor]:
    """Return the activations of experts, and of the units inside them, on a batch.

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        Its spec, with the sizes of this network.
    batch : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    most : int
        At most so many numbers for each unit.

    Returns
    -------
    dict of str to Tensor of shape (n_units, samples)
        By axis. Axes that merge inside experts have a row for each pair of an expert and a unit.
    """
    args, kwargs = normalize_example(batch)
    interpreter, slots = network.start_steps("eval", args, kwargs)
    mixtures = {min(m.lookups): m for m in _find_mixtures(interpreter, spec)}
    activations: dict[str, Tensor] = {}
    with torch.no_grad(), network.layers_in_mode(training=False):
        for position, step in enumerate(interpreter.steps if mixtures else ()):
            if position in mixtures:
                activations.update(_run_experts(mixtures[position], interpreter, slots, spec, most))
            if position > max(m.last for m in mixtures.values()):
                break
            run_step(step, slots)
    return activations


def _find_mixtures(interpreter: Interpreter, spec: UnitSpec) -> list[_Mixture]:
    """Return the mixtures of a graph that look their experts up by number."""
    names = dict(interpreter.reads)
    mixtures = []
    for layer in spec.experts:
        lookups = {
            position: names[table.index]
            for position, step in enumerate(interpreter.steps)
            if isinstance(table := step.args[TABLES[step.function]] if step.function in TABLES else None, Ref)
            and names.get(table.index) in layer.parameters
        }
        if lookups:
            mixtures.append(_Mixture(layer, lookups, _find_last(interpreter.steps, max(lookups))))
    return mixtures


def _find_last(steps: Sequence[Step], position: int) -> int:
    """Return the position of the step that reads the last look-up, such as the addition of a bias, or of the look-up itself."""
    if steps[position].function is not INDEX:
        return position
    return next((i for i, step in enumerate(steps) if steps[position].index in find_reads(step)), position)


def _run_experts(
    mixture: _Mixture, interpreter: Interpreter, slots: list[Any], spec: UnitSpec, most: int
) -> dict[str, Tensor]:
    """Return the activations of a mixture, from one run for each of its experts."""
    outputs: list[Tensor] = []
    inside: dict[str, list[Tensor]] = {}
    n_experts = term_size(mixture.layer.units, spec.sizes)
    for expert in range(n_experts):
        own = list(slots)
        for position in range(min(mixture.lookups), mixture.last + 1):
            step = interpreter.steps[position]
            if position in mixture.lookups:
                step = _choose_expert(step, own, expert)
                for axis, rows in _list_summed(step, own, mixture.lookups[position], spec):
                    inside.setdefault(axis, []).append(_subsample(rows, most))
            run_step(step, own)
        outputs.append(_subsample(own[interpreter.steps[mixture.last].index].flatten(), most))
    found = {axis: torch.cat(parts) for axis, parts in inside.items() if len(parts) == n_experts}
    return {**found, **_split_experts(torch.stack(outputs), mixture.layer, spec)}


def _choose_expert(step: Step, slots: list[Any], expert: int) -> Step:
    """Return a look-up with the number of one expert in the place of those that were chosen."""
    place = NUMBERS[step.function]
    listed = step.args[place]
    reference = listed.parts[0] if isinstance(listed, RefList) else listed
    numbers = torch.full_like(slots[reference.index], expert)
    args = list(step.args)
    args[place] = [numbers] if isinstance(listed, RefList) else numbers
    return replace(step, args=tuple(args), layer=None)


def _list_summed(step: Step, slots: list[Any], name: str, spec: UnitSpec) -> list[tuple[str, Tensor]]:
    """Return the axes that a product with a looked-up matrix sums over, with the rows (n_units, samples) that it reads."""
    if step.function not in SUMMED:
        return []
    table_dim, place, dim = SUMMED[step.function]
    reference = step.args[place]
    (term,) = spec.parameters[name][table_dim : table_dim + 1]
    if len(term) != 1 or not isinstance(term[0], str) or term[0] not in spec.sums.get((name, table_dim), ()):
        return []
    return [(term[0], slots[reference.index].movedim(dim, 0).flatten(1))] if spec.axes[term[0]].within else []


def _split_experts(outputs: Tensor, layer: ExpertLayer, spec: UnitSpec) -> dict[str, Tensor]:
    """Return the outputs by axis. Experts in groups have one axis of groups and one of the experts in them."""
    if any(not isinstance(factor, str) for factor in layer.units):
        return {}
    axes = list(term_axes(layer.units))
    parted = outputs.unflatten(0, [spec.sizes[axis] for axis in axes])
    return {axis: parted.movedim(i, 0).flatten(1) for i, axis in enumerate(axes)}


def _subsample(tensor: Tensor, most: int) -> Tensor:
    """Return at most so many numbers along the last dimension, evenly spaced."""
    return tensor[..., :: -(-tensor.shape[-1] // most)].clone()
