"""The coarse network: the recorded graph written anew for fewer units, with parameters injected.

For a parameter with an outgoing and an incoming dimension the state goes down as ``W_c = R_out W P_in``: averaged
where units are made, added up where they are read.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.node_graph import NodeGraph
from netgraph.recording.serialize import serialize_graph
from netgraph.rules.operator_call import bind_arguments, schema_arguments
from netgraph.tracing.unit_spec import Factor, Plan, Rewrite, Term, UnitSpec, term_axes, term_size
from netgraph.utils.runtime import gc_paused

Transfers = Mapping[str, Transfer]


@gc_paused()
def coarse_network(
    model: nn.Module, spec: UnitSpec, transfers: Transfers, *, state: Mapping[str, Tensor] | None = None
) -> GraphNetwork:
    """Return the network with merged units.

    Parameters
    ----------
    model : torch.nn.Module
        The network that ``spec`` was traced from, or whose parameters have its names and shapes.
    spec : UnitSpec
    transfers : dict of str to Transfer
        For each axis that shrinks, from the traced network's units to the coarse ones.
    state : dict of str to Tensor, optional
        Coarse parameters, where they are known already; by default those of ``model`` are injected.

    Returns
    -------
    GraphNetwork
        In the mode of ``model``.
    """
    sizes = {**spec.sizes, **{axis: t.n_coarse for axis, t in transfers.items()}}
    graphs = {mode: serialize_graph(_rewrite_graph(plan, spec, sizes)) for mode, plan in spec.plans.items()}
    tensors = dict(inject(spec, transfers, traced_state(model)) if state is None else state)
    for plan in spec.plans.values():
        for node in plan.graph.nodes:
            if node.op == "get_attr" and str(node.target).startswith("constants."):
                tensors[str(node.target)] = node.meta["val"]
    network = GraphNetwork(
        graphs,
        tensors,
        parameters=frozenset(name for name, _ in model.named_parameters()),
        trainable=spec.trainable,
        ties=spec.ties,
        inputs=spec.inputs,
        outputs={mode: plan.outputs for mode, plan in spec.plans.items()},
        shapes=[[_fixed_size(term, spec) for term in terms] for terms in spec.input_terms],
    )
    return network.train(model.training)


def traced_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by first name, detached."""
    state = {name: p.detach() for name, p in model.named_parameters()}
    state.update({name: b.detach() for name, b in model.named_buffers()})
    return state


def _fixed_size(term: Term, spec: UnitSpec) -> int | None:
    return None if any(axis in spec.dynamic for axis in term_axes(term)) else term_size(term, spec.sizes)


def _rewrite_graph(plan: Plan, spec: UnitSpec, sizes: Mapping[str, int]) -> fx.Graph:
    """Copy a recorded graph with every size, factor and device written anew."""
    graph = NodeGraph()
    copies: dict[fx.Node, fx.Node] = {}
    by_name: dict[str, fx.Node] = {}
    device: fx.Node | None = None
    writer = _GraphRewriter(graph, plan, spec.sizes, sizes, by_name)
    for node in plan.graph.nodes:
        if device is None and node.op == "call_function":
            device = graph.placeholder("device")
        writer.device = device
        new = writer.copy(node, copies)
        copies[node] = by_name[node.name] = new
    if device is None:  # a network that returns its inputs
        with graph.inserting_before(next(iter(graph.nodes))):
            graph.placeholder("device")
    return graph


class _GraphRewriter:
    """Writes one node after the other for new sizes."""

    def __init__(
        self,
        graph: fx.Graph,
        plan: Plan,
        fine: Mapping[str, int],
        coarse: Mapping[str, int],
        by_name: dict[str, fx.Node],
    ) -> None:
        self.graph, self.plan, self.fine, self.coarse, self.by_name = graph, plan, fine, coarse, by_name
        self.device: fx.Node | None = None
        self.counts: dict[str, fx.Node] = {}

    def copy(self, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
        if node.op != "call_function":
            return self.graph.node_copy(node, lambda n: copies[n])
        target, arguments = self._arguments(node, copies)
        for factor in self.plan.factors.get(node.name, []):
            if factor.operand is not None:
                arguments = self._scaled_operand(arguments, factor)
        new = self.graph.call_function(target, *_split_arguments(target, _replace_devices(arguments, self.device)))
        for factor in self.plan.factors.get(node.name, []):
            if factor.operand is None:
                new = self._times(new, factor)
        return new

    def _arguments(self, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> tuple[Any, dict[str, Any]]:
        rewrites = self.plan.rewrites.get(node.name, [])
        if node.name in self.plan.retarget:
            target, arguments = self.plan.retarget[node.name]
        elif schema_arguments(node.target) is None:
            target, arguments = node.target, {"": (node.args, dict(node.kwargs))}
        else:
            target, arguments = node.target, bind_arguments(node)
        arguments = dict(fx.node.map_arg(dict(arguments), lambda n: copies[n]))
        for rewrite in rewrites:
            arguments[rewrite.argument] = self._value(rewrite, arguments.get(rewrite.argument))
        return target, arguments

    def _value(self, rewrite: Rewrite, old: Any) -> Any:
        if rewrite.compute is not None:
            return rewrite.compute(self._ratio(rewrite.terms[0] or ()))
        if rewrite.single:
            return self._size(rewrite.terms[0])  # type: ignore[arg-type]
        return [o if term is None else self._size(term) for o, term in zip(old, rewrite.terms, strict=True)]

    def _size(self, term: Term) -> Any:
        """Return a size, read from the input where a factor varies."""
        varying = [f for f in term if isinstance(f, str) and f in self.plan.sources]
        size: Any = term_size(tuple(f for f in term if f not in varying), self.coarse)
        for axis in varying:
            count = self._count(axis)
            size = (
                count if isinstance(size, int) and size == 1 else self.graph.call_function(operator.mul, (count, size))
            )
        return size

    def _count(self, axis: str) -> fx.Node:
        if axis not in self.counts:
            name, dim, rest = self.plan.sources[axis]
            node = self.graph.call_function(torch.ops.aten.sym_size.int, (self.by_name[name], dim))
            divisor = term_size(rest, self.coarse)
            self.counts[axis] = node if divisor == 1 else self.graph.call_function(operator.floordiv, (node, divisor))
        return self.counts[axis]

    def _ratio(self, term: Term) -> float:
        return term_size(term, self.fine) / max(term_size(term, self.coarse), 1)

    def _scaled_operand(self, arguments: dict[str, Any], factor: Factor) -> dict[str, Any]:
        if self._ratio(factor.term) == 1:
            return arguments
        operand = self.by_name[factor.operand]  # type: ignore[index]
        scaled = self._times(operand, factor)
        return fx.node.map_arg(arguments, lambda n: scaled if n is operand else n)

    def _times(self, node: fx.Node, factor: Factor) -> fx.Node:
        ratio = self._ratio(factor.term) ** factor.power
        return node if ratio == 1 else self.graph.call_function(torch.ops.aten.mul.Tensor, (node, ratio))


def _replace_devices(arguments: dict[str, Any], device: fx.Node | None) -> dict[str, Any]:
    """Constants are made where the parameters are."""
    return {k: device if isinstance(v, torch.device) else v for k, v in arguments.items()}


def _split_arguments(target: Any, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments, defaults left out."""
    if "" in arguments:
        return arguments[""]  # type: ignore[no-any-return]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in schema_arguments(target) or ():
        if argument.name not in arguments:
            continue
        if argument.kwarg_only:
            if not argument.has_default or arguments[argument.name] != argument.default:
                kwargs[argument.name] = arguments[argument.name]
        else:
            args.append(arguments[argument.name])
    return tuple(args), kwargs
