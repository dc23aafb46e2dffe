"""Trace a network into a `UnitSpec`: which dimensions of which parameters run over the same units.

Every operator of the recorded graph has a small rule in `netgraph.rules`. This file walks the graph, calls the
rules, and writes down the outcome. Inputs and outputs keep their units; what no rule explains is refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from netgraph.errors import TraceError
from netgraph.recording.gc_pause import gc_paused
from netgraph.recording.recorder import Recording, find_tied_names, named_state, record_network
from netgraph.rules import index_space as sp
from netgraph.rules.operator_call import Call, Spaces, TraceState, operator_name, shape_of
from netgraph.rules.registry import find_rule
from netgraph.tracing.spec_builder import build_unit_spec
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree

SKIPPED = ("_enter_autocast", "_exit_autocast", "_set_grad_enabled")


@gc_paused()
def trace(
    model: nn.Module, example: Any, *, before: Callable[[Tensor], Tensor] | None = None, inside_heads: bool = False
) -> UnitSpec:
    """Trace a network on an example input.

    The network runs on shapes alone, once as in training and once as in evaluation, and is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple of arguments, or dict of keyword arguments
        What the network's forward takes. The first dimension of every tensor may differ later; other sizes
        are those of the example. Give two rows or more: a batch of one cannot be told from no batch.
    before : callable, optional
        What to do to every input first; it becomes part of the recorded network.
    inside_heads : bool
        Whether the numbers inside attention's heads may merge, those of queries with those of keys; else heads merge whole.

    Returns
    -------
    UnitSpec

    Raises
    ------
    TraceError
        The network does not run on the example, decides by numbers, or uses an operator that has no rule.
    """
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    captures = _record_modes(model, example, before)
    return trace_recordings(captures, named_state(model), find_tied_names(model), trainable, inside_heads=inside_heads)


def trace_recordings(
    captures: Mapping[str, Recording],
    state: Mapping[str, Tensor],
    ties: dict[str, str],
    trainable: frozenset[str],
    *,
    inside_heads: bool = False,
) -> UnitSpec:
    """Return the `UnitSpec` of two recordings, one of each mode.

    Parameters
    ----------
    captures : dict of str to Capture
        Of ``"train"`` and ``"eval"``.
    state : dict of str to Tensor
        Parameters and buffers, as `netgraph.recording.recorder.named_state` names them.
    ties : dict of str to str
        Other names of tied tensors.
    trainable : set of str
    inside_heads : bool

    Raises
    ------
    TraceError
        An operator has no rule.
    """
    leaves = {name: [sp.new_space(n) for n in tensor.shape] for name, tensor in state.items()}
    inputs = _make_input_spaces(captures["eval"])
    trails = {
        mode: _walk_graph(taken, leaves, inputs, state, TraceState(inside_heads=inside_heads))
        for mode, taken in captures.items()
    }
    return build_unit_spec(captures, trails, leaves, inputs, state, ties, trainable)


def _record_modes(
    model: nn.Module, example: Any, before: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Recording]:
    """Record both modes; an example of one row is doubled, because a batch of one cannot be told from none."""

    def both(rows: Any) -> dict[str, Recording]:
        return {
            mode: record_network(model, rows, training=mode == "train", before=before) for mode in ("eval", "train")
        }

    doubled = double_single_row(example)
    try:
        return both(doubled)
    except TraceError:
        if doubled is example:
            raise
        return both(example)


def double_single_row(example: Any) -> Any:
    """Return an example with every tensor given twice, if each has one row; else the example itself."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    if not leaves or any(leaf.ndim == 0 or leaf.shape[0] != 1 for leaf in leaves):
        return example
    args, kwargs = unflatten_tree(structure, [torch.cat([leaf, leaf]) for leaf in leaves])
    return kwargs if kwargs else args


def _make_input_spaces(taken: Recording) -> list[Spaces]:
    """Inputs keep their units; the first dimension is read from the input at run time."""
    spaces = []
    for i, node in enumerate(n for n in taken.graph.nodes if n.op == "placeholder"):
        dims = [sp.new_space(n, f"dimension {d} of input {i}") for d, n in enumerate(shape_of(node))]
        for atom in sp.iter_atoms(dims[0]) if dims else ():
            atom.dynamic = True
        spaces.append(dims)
    return spaces


def _walk_graph(
    taken: Recording, leaves: dict[str, Spaces], inputs: list[Spaces], state: Mapping[str, Tensor], trail: TraceState
) -> TraceState:
    given = iter(inputs)
    for node in taken.graph.nodes:
        if node.op == "placeholder":
            trail.spaces[node] = next(given)
            trail.from_input.add(node)
            if trail.spaces[node]:
                trail.sources.append((trail.spaces[node][0], node, 0))
        elif node.op == "get_attr":
            _visit_parameter(node, trail, leaves, state)
        elif node.op == "call_function":
            _apply_rule(node, trail)
        elif node.op == "output":
            _pin_output(node, trail)
    return trail


def _visit_parameter(node: fx.Node, trail: TraceState, leaves: dict[str, Spaces], state: Mapping[str, Tensor]) -> None:
    name = str(node.target)
    if name in leaves:
        trail.spaces[node] = leaves[name]
        trail.origins[node] = (name, [frozenset([d]) for d in range(len(leaves[name]))])
        if not state[name].is_floating_point():
            for space in leaves[name]:
                sp.pin(space, f"{name} holds {str(state[name].dtype).removeprefix('torch.')} numbers")
    else:
        trail.spaces[node] = [sp.new_space(n, "a constant tensor") for n in shape_of(node)]


def _apply_rule(node: fx.Node, trail: TraceState) -> None:
    if any(source in trail.from_input for source in node.all_input_nodes):
        trail.from_input.add(node)
    if node.target is operator.getitem:
        _visit_getitem(node, trail)
        return
    name = operator_name(node.target)
    if name.rsplit(".", 1)[-1] in SKIPPED:
        return
    call = Call(node, trail)
    _refuse_loops_over_data(call)
    trail.spaces[node] = find_rule(node)(call)
    call.record_uses()


def _visit_getitem(node: fx.Node, trail: TraceState) -> None:
    source, index = node.args
    trail.spaces[node] = trail.spaces[source][index]  # type: ignore[index]
    if source in trail.origins:
        trail.origins[node] = trail.origins[source]  # type: ignore[index]


def _refuse_loops_over_data(call: Call) -> None:
    """A loop over entries that numbers decided was unrolled for this example only."""
    if call.name == "aten.unbind":
        spaces = call.spaces("self")
        if spaces and any(a.dynamic for a in sp.iter_atoms(spaces[call.dim("dim", len(spaces))])):
            raise TraceError(
                f"the network loops over a dimension whose length the input decides{call.place()}, and the recording "
                "would hold for this length only; write the loop as one operator, or trace its body by itself"
            )


def _pin_output(node: fx.Node, trail: TraceState) -> None:
    results = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
    for i, result in enumerate(results):
        if isinstance(result, fx.Node):
            for space in trail.spaces[result]:
                sp.pin(space, f"a dimension of output {i}")
