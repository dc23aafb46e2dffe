"""Trace a network into a `UnitSpec`: the axis that each dimension of each parameter runs over.

Every operator of the recorded graph has a small rule in `netgraph.rules`. The tracer walks the graph and calls the
rules. Inputs and outputs keep their units. An operator without a rule is refused by name.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from netgraph.environment.gc_pause import gc_paused
from netgraph.errors import TraceError
from netgraph.recording.forward.named_outputs import check_outputs, choose_outputs, list_results
from netgraph.recording.operators.finite_checks import find_checks
from netgraph.recording.operators.guards import check_decision
from netgraph.recording.operators.passed_counts import SizeLink
from netgraph.recording.recorder import Recording, find_tied_names, named_state, record_network
from netgraph.rules import index_space as sp
from netgraph.rules.operator_call import PASSED_COUNTS, Call, Spaces, TraceState, operator_name, shape_of
from netgraph.rules.registry import apply_rule, find_rule
from netgraph.tracing.other_examples import OtherRecordings
from netgraph.tracing.recordable import check_input_tensors, check_recordable
from netgraph.tracing.recording_check import SizeDifferenceError, check_recordings
from netgraph.tracing.size_links import Links, link_sizes
from netgraph.tracing.spec_builder import build_unit_spec
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree

ATEN = torch.ops.aten
SKIPPED = ("_enter_autocast", "_exit_autocast", "_set_grad_enabled", "cumulative_factor")


@gc_paused()
def trace(
    model: nn.Module,
    example: Any,
    *,
    before: Callable[[Tensor], Tensor] | None = None,
    inside_heads: bool = False,
    prove: bool = True,
    outputs: Sequence[str] = (),
) -> UnitSpec:
    """Trace a network on an example input.

    The network runs on meta tensors, once in training and once in evaluation mode. It stays unchanged.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    example : Tensor, tuple of arguments, or dict of keyword arguments
        Arguments of the network's forward. The first dimension of every tensor is the batch, and its size stays free.
        All other sizes are fixed to those of the example. A batch of one row is doubled.
    before : callable, optional
        A map of one tensor that is applied to every input and becomes part of the recorded network. Default: none.
    inside_heads : bool, default False
        Whether dimensions inside attention heads may merge, those of queries together with those of keys. By default
        heads merge as a whole.
    prove : bool, default True
        Record the network a second time under other conditions, and keep only what holds
        (`netgraph.tracing.recording_check`).
    outputs : sequence of str, default ()
        Names of the outputs that matter, such as ``logits`` (`netgraph.recording.forward.named_outputs`). The units of other outputs may merge,
        and these outputs then get smaller. By default all outputs matter.

    Returns
    -------
    UnitSpec
        The axes of the network, the terms of its parameters, and its recorded graphs.

    Raises
    ------
    TraceError
        The network does not run on the example, branches on numbers, or uses an operator without a rule.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> print(ng.trace(model, torch.zeros(2, 5)))
    0.weight (0, 0.in)  sums over 0.in
    0.bias (0)
    2.weight (2, 0)  sums over 0
    2.bias (2)
    """
    check_recordable(model)
    check_input_tensors(example, numbers=False)
    rows = double_single_row(example)
    recordings, rows, unrecorded = _record_modes(model, (rows, example), before)
    check_input_tensors(example, numbers=any(recording.way != "meta" for recording in recordings.values()))
    check_outputs((recording.outputs for recording in recordings.values()), outputs)
    spec = _trace_modes(model, recordings, unrecorded, inside_heads, outputs)
    if prove:
        spec = _check_with_links(model, rows, recordings, spec, before, inside_heads)
        if spec.one_size is not None and rows is not example:  # the size that is fixed is that of the example
            recordings, rows, unrecorded = _record_modes(model, (example,), before)
            single = _trace_modes(model, recordings, unrecorded, inside_heads, outputs)
            spec = replace(single, dynamic=frozenset(), one_size=spec.one_size, unrecorded=spec.unrecorded)
    return spec


def _check_with_links(
    model: nn.Module,
    example: Any,
    recordings: Mapping[str, Recording],
    spec: UnitSpec,
    before: Callable[[Tensor], Tensor] | None,
    inside_heads: bool,
) -> UnitSpec:
    """Return the spec as far as the recordings hold. If sizes stand in the way, they are first linked to the dimensions that they count."""
    others = OtherRecordings(model, recordings, before)
    with contextlib.suppress(TraceError, SizeDifferenceError):
        checked = check_recordings(others, example, spec, explain=False)
        if checked.one_size is None and not others.compares_counts():
            return checked
    links = link_sizes(others, example, spec)
    linked = None
    with contextlib.suppress(TraceError, SizeDifferenceError):
        if any(links.values()):
            linked = _trace_modes(model, recordings, spec.unrecorded, inside_heads, spec.outputs, links)
            return check_recordings(others, example, linked, explain=False)
    try:
        return check_recordings(others, example, spec)
    except TraceError:
        if linked is None:
            raise
        return check_recordings(others, example, linked)


def _trace_modes(
    model: nn.Module,
    recordings: Mapping[str, Recording],
    unrecorded: Mapping[str, str],
    inside_heads: bool,
    outputs: Sequence[str] = (),
    links: Mapping[str, Links] = MappingProxyType({}),
) -> UnitSpec:
    """Return the spec of the recordings of a network."""
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    spec = trace_recordings(
        recordings,
        named_state(model),
        find_tied_names(model),
        trainable,
        inside_heads=inside_heads,
        links=links,
        outputs=outputs,
    )
    return replace(spec, unrecorded=unrecorded) if unrecorded else spec


def trace_recordings(
    recordings: Mapping[str, Recording],
    state: Mapping[str, Tensor],
    ties: dict[str, str],
    trainable: frozenset[str],
    *,
    inside_heads: bool = False,
    links: Mapping[str, Links] = MappingProxyType({}),
    outputs: Sequence[str] = (),
) -> UnitSpec:
    """Return the `UnitSpec` of two recordings, one of each mode.

    Parameters
    ----------
    recordings : dict of str to Recording
        The recordings under ``"train"`` and ``"eval"``.
    state : dict of str to Tensor
        Parameters and buffers, as `netgraph.recording.recorder.named_state` names them.
    ties : dict of str to str
        Other names of tied tensors.
    trainable : frozenset of str
        Names of the parameters that require gradients.
    inside_heads : bool, default False
        Whether dimensions inside attention heads may merge.
    links : dict of str to dict, optional
        By mode, the sizes that count dimensions (`netgraph.tracing.size_links`).
    outputs : sequence of str, default ()
        Names of the outputs that matter. By default all of them do.

    Returns
    -------
    UnitSpec

    Raises
    ------
    TraceError
        An operator has no rule.
    """
    leaves = {name: [sp.new_space(n) for n in tensor.shape] for name, tensor in state.items()}
    inputs = _make_input_spaces(recordings["eval"])
    tables: dict[str, Spaces] = {}
    traces = {
        mode: _walk_graph(
            recording,
            leaves,
            inputs,
            state,
            TraceState(inside_heads=inside_heads, training=mode == "train", tables=tables, outputs=tuple(outputs)),
            links.get(mode, {}),
        )
        for mode, recording in recordings.items()
    }
    return build_unit_spec(recordings, traces, leaves, inputs, state, ties, trainable)


def _record_modes(
    model: nn.Module, examples: Sequence[Any], before: Callable[[Tensor], Tensor] | None = None
) -> tuple[dict[str, Recording], Any, dict[str, str]]:
    """Record both modes on the first example on which that works.

    Returns
    -------
    recordings : dict of str to Recording
        If only the evaluation mode can be recorded, it stands for both.
    example : Tensor, tuple or dict
        The example that was recorded.
    unrecorded : dict of str to str
        The reason why the training mode could not be recorded.
    """
    for last, example in enumerate(examples, 1 - len(examples)):
        recordings: dict[str, Recording] = {}
        try:
            for mode in ("eval", "train"):
                recordings[mode] = record_network(model, example, training=mode == "train", before=before)
            return recordings, example, {}
        except TraceError as error:
            if last < 0 and example is not examples[-1]:
                continue
            if "eval" not in recordings:
                raise
            return dict.fromkeys(("eval", "train"), recordings["eval"]), example, {"train": str(error)}
    raise AssertionError("there is no example")


def double_single_row(example: Any) -> Any:
    """Return an example with the row of every tensor repeated, or the example itself if a tensor has more rows."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    if not leaves or any(leaf.ndim == 0 or leaf.shape[0] != 1 for leaf in leaves):
        return example
    args, kwargs = unflatten_tree(structure, [torch.cat([leaf, leaf]) for leaf in leaves])
    return kwargs if kwargs else args


def _make_input_spaces(recording: Recording) -> list[Spaces]:
    """Return pinned spaces for the inputs. The size of one dimension of each is read from the input at run time."""
    spaces = []
    for i, node in enumerate(n for n in recording.graph.nodes if n.op == "placeholder"):
        dims = [sp.new_space(n, f"dimension {d} of input {i}") for d, n in enumerate(shape_of(node))]
        for atom in sp.iter_atoms(dims[_find_free_dim(node)]) if dims else ():
            atom.dynamic = True
        spaces.append(dims)
    return spaces


def _find_free_dim(node: fx.Node) -> int:
    """Return the free dimension of an input: the first one, or the second one of a list of edges (2, number of edges)."""
    value = node.meta["val"]
    if value.ndim != 2 or value.shape[0] != 2 or value.is_floating_point():
        return 0
    return 1 if _reads_ends(node) else 0


def _reads_ends(node: fx.Node) -> bool:
    """Return True if a run takes the two rows of a tensor apart, or of a choice of its columns, as the two ends of edges."""
    ends = {tuple(user.args[1:]) for user in node.users if user.target is ATEN.select.int}
    apart = any(user.target is ATEN.unbind.int and not any(user.args[1:]) for user in node.users)
    return apart or {(0, 0), (0, 1)} <= ends or any(_reads_ends(user) for user in node.users if _chooses_columns(user))


def _chooses_columns(node: fx.Node) -> bool:
    """Return True if a call keeps the rows of a matrix, and chooses among its columns or adds others."""
    if node.target is ATEN.cat.default:
        return node.args[1:] in ((1,), (-1,))
    places: Any = node.args[1] if node.target is ATEN.index.Tensor else ()
    return len(places) > 1 and places[0] is None


def _walk_graph(
    recording: Recording,
    leaves: dict[str, Spaces],
    inputs: list[Spaces],
    state: Mapping[str, Tensor],
    trace_state: TraceState,
    links: Links,
) -> TraceState:
    """Work out the spaces of every node in order, and return the filled trace state."""
    remaining_inputs = iter(inputs)
    by_name: dict[str, fx.Node] = {}
    checks = find_checks(recording.graph)
    for node in recording.graph.nodes:
        by_name[node.name] = node
        if node.op == "placeholder":
            trace_state.spaces[node] = next(remaining_inputs)
            trace_state.from_input.add(node)
            if trace_state.spaces[node]:
                dim = _find_free_dim(node)
                trace_state.sources.append((trace_state.spaces[node][dim], node, dim))
        elif node.op == "get_attr":
            _visit_parameter(node, trace_state, leaves, state)
        elif node in checks:
            trace_state.spaces[node] = (
                [] if node.target is check_decision else [sp.new_space(n) for n in shape_of(node)]
            )
        elif node.op == "call_function":
            _apply_rule(node, trace_state)
            for link in (*node.meta.get(PASSED_COUNTS, ()), *links.get(node.name, ())):
                _link_size(node, link, by_name[link.source], trace_state)
        elif node.op == "output":
            _pin_outputs(node, trace_state, choose_outputs(recording.outputs, trace_state.outputs))
    return trace_state


def _link_size(node: fx.Node, link: SizeLink, source: fx.Node, trace_state: TraceState) -> None:
    """State that a size of a call is that of a dimension of varying size."""
    spaces = trace_state.spaces[source]
    counted = [spaces[link.source_dim]] if link.source_dim is not None else spaces
    if not any(_varies(space) for space in counted):
        return
    call = Call(node, trace_state)
    if isinstance(link.place, str):
        if all(edit.argument != link.place for edit in trace_state.edits.get(node, ())):
            call.resize(link.place, _count_entries(counted), single=True)
    elif not _varies(trace_state.spaces[node][link.place]):
        call.unite(
            trace_state.spaces[node][link.place], counted[0] if link.source_dim is not None else _count_entries(counted)
        )


def _count_entries(spaces: Spaces) -> sp.Space:
    """Return a space of as many indices as a tensor has entries. Units count as in the network, because its own number has them all."""
    factors = [factor for space in spaces for factor in sp.resolve(space)]
    varying = tuple(factor for factor in factors if _varies((factor,)))
    rest = tuple(factor for factor in factors if not _varies((factor,)))
    return varying + sp.new_space(sp.size_of(rest), "it counts entries") if rest else varying


def _varies(space: sp.Space) -> bool:
    """Return True if the size of a space is read at run time."""
    return any(atom.dynamic for atom in sp.iter_atoms(space))


def _visit_parameter(
    node: fx.Node, trace_state: TraceState, leaves: dict[str, Spaces], state: Mapping[str, Tensor]
) -> None:
    """Give a parameter its spaces. Axes of integer tensors and of constants are pinned."""
    name = str(node.target)
    if name in leaves:
        trace_state.spaces[node] = leaves[name]
        trace_state.origins[node] = (name, [frozenset([d]) for d in range(len(leaves[name]))])
        if not (state[name].is_floating_point() or state[name].is_complex()):
            for space in leaves[name]:
                sp.pin(space, f"{name} holds {str(state[name].dtype).removeprefix('torch.')} numbers")
    elif (table := node.meta.get("table")) is not None and node.meta["val"].is_floating_point():
        made = [sp.new_space(n) for n in shape_of(node)]
        trace_state.spaces[node] = trace_state.tables.setdefault(table, made)
    else:
        trace_state.spaces[node] = [sp.new_space(n, "a constant tensor that no module holds") for n in shape_of(node)]


def _apply_rule(node: fx.Node, trace_state: TraceState) -> None:
    """Apply the rule of one call to the trace state."""
    if any(source in trace_state.from_input for source in node.all_input_nodes):
        trace_state.from_input.add(node)
    if node.target is operator.getitem:
        _visit_getitem(node, trace_state)
        return
    name = operator_name(node.target)
    if name.rsplit(".", 1)[-1] in SKIPPED:
        return
    if node.target is check_decision:
        _pin_decision(node, trace_state)
        return
    call = Call(node, trace_state)
    _refuse_loops_over_data(call)
    trace_state.spaces[node] = apply_rule(find_rule(node), call)
    call.pin_numbers()
    call.record_uses()


def _pin_decision(node: fx.Node, trace_state: TraceState) -> None:
    """Pin the axes of a tensor that a decision of the network reads."""
    operand, reads = node.args[:2]
    spaces = trace_state.spaces[operand]  # type: ignore[index]
    for space in [spaces[reads]] if isinstance(reads, int) else spaces:
        sp.pin(space, f"a decision reads it{node.args[4]}")


def _visit_getitem(node: fx.Node, trace_state: TraceState) -> None:
    """Give an item of a result with several tensors its spaces."""
    source, index = node.args
    trace_state.spaces[node] = trace_state.spaces[source][index]  # type: ignore[index]
    if source in trace_state.origins:
        trace_state.origins[node] = trace_state.origins[source]  # type: ignore[index]
    if (source, index) in trace_state.unit_numbers:
        trace_state.unit_numbers[node, None] = trace_state.unit_numbers[source, index]  # type: ignore[index]


def _refuse_loops_over_data(call: Call) -> None:
    """Raise `TraceError` for an unrolled loop over a dimension of variable length."""
    if call.name == "aten.unbind":
        spaces = call.spaces("self")
        if spaces and any(a.dynamic for a in sp.iter_atoms(spaces[call.dim("dim", len(spaces))])):
            raise TraceError(
                f"the network loops over a dimension of variable length{call.location()}, and the recording would hold "
                "for this length only. Write the loop as one operator, or trace its body by itself."
            )


def _pin_outputs(node: fx.Node, trace_state: TraceState, chosen: Mapping[str, int]) -> None:
    """Pin all dimensions of the outputs that matter, which are given by their names."""
    results = list_results(node)
    for name, i in chosen.items():
        if isinstance(results[i], fx.Node):
            for space in trace_state.spaces[results[i]]:
                sp.pin(space, f"a dimension of output {name or i}")
            if (results[i], None) in trace_state.unit_numbers:
                sp.pin(trace_state.unit_numbers[results[i], None], f"output {name or i} holds numbers of its units")
