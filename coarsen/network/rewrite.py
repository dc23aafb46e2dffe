"""The coarse network: the recorded graph rewritten for fewer units, with injected parameters.

A parameter with an outgoing and an incoming dimension becomes ``W_c = R_out W P_in``. It is averaged over the units that it
makes and added up over the units that it reads.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from netgraph.coarsen.network.input_relations import relate_input_sizes
from netgraph.coarsen.network.recorded_constants import Names, collect_constants, rename_constants
from netgraph.coarsen.transfer.nested_transfer import count_coarse, count_merged
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.environment.gc_pause import gc_paused
from netgraph.recording.forward.autocast import follow_device
from netgraph.recording.forward.call_signature import read_signature
from netgraph.recording.forward.followed_dtype import DtypeLinks, OwnDtype
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.node_graph import NodeGraph, is_constant
from netgraph.recording.serialize import serialize_graph
from netgraph.rules.operator_call import bind_arguments, schema_arguments
from netgraph.tracing.unit_spec import Factor, Join, Plan, Rewrite, Term, UnitSpec, term_axes, term_size

Transfers = Mapping[str, Transfer]


@gc_paused()
def coarse_network(
    model: nn.Module,
    spec: UnitSpec,
    transfers: Transfers,
    *,
    state: Mapping[str, Tensor] | None = None,
    has_layers: bool = True,
) -> GraphNetwork:
    """Return the network with merged units.

    Parameters
    ----------
    model : torch.nn.Module
        The network that ``spec`` was traced from, or one with the same names and shapes of parameters.
    spec : UnitSpec
        Trace of the network.
    transfers : dict of str to Transfer
        For each axis that shrinks, from the units of the traced network to the coarse ones.
    state : dict of str to Tensor, optional
        Coarse parameters, if they are known already. By default those of ``model`` are injected.
    has_layers : bool, default True
        Hold parameters in layers of PyTorch. A network that is run once and thrown away is built faster without.

    Returns
    -------
    GraphNetwork
        In the mode (training or evaluation) of ``model``.

    Raises
    ------
    NetgraphError
        A transfer does not fit the axes of the network.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> spec = ng.trace(model, torch.zeros(1, 4))
    >>> [axis.name for axis in spec.free]
    ['0']
    >>> coarse = ng.coarse_network(model, spec, {"0": ng.Transfer(np.array([0, 0, 1, 1, 2, 2]))})
    >>> [tuple(p.shape) for p in coarse.parameters()]
    [(3, 4), (3,), (2, 3), (2,)]
    """
    sizes = spec.with_sizes(count_coarse(spec, transfers)).sizes
    merged = count_merged(spec, transfers)
    kind = next((p.device.type for p in model.parameters()), "cpu")
    names, constants = collect_constants(spec, transfers)
    graphs = {
        mode: serialize_graph(rename_constants(_rewrite_graph(plan, merged, sizes, kind), names[mode]))
        for mode, plan in spec.plans.items()
    }
    tensors = dict(inject(spec, transfers, traced_state(model)) if state is None else state) | constants
    network = GraphNetwork(
        graphs,
        tensors,
        parameters=frozenset(name for name, _ in model.named_parameters()),
        trainable=spec.trainable,
        ties=spec.ties,
        inputs=spec.inputs,
        outputs={mode: plan.outputs for mode, plan in spec.plans.items()},
        shapes=[[_fixed_size(term, spec) for term in terms] for terms in spec.input_terms],
        unrecorded=spec.unrecorded,
        fixed=_list_fixed(model, spec, names),
        relations=relate_input_sizes(spec),
        signature=read_signature(model, spec.inputs),
        has_layers=has_layers,
    )
    return network.train(model.training)


def traced_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by their first name, detached."""
    state = {name: p.detach() for name, p in model.named_parameters()}
    state.update({name: b.detach() for name, b in model.named_buffers()})
    return state


def _list_fixed(model: nn.Module, spec: UnitSpec, names: Names) -> frozenset[str]:
    """Return the constants that keep their precision, those of a recorded network that was traced again included."""
    known: frozenset[str] = getattr(model, "fixed_constants", frozenset())
    fixed = {mode: plan.dtypes.fixed for mode, plan in spec.plans.items() if plan.dtypes}
    return known.union(names[mode].get(name, name) for mode, constants in fixed.items() for name in constants)


def _fixed_size(term: Term, spec: UnitSpec) -> int | None:
    """Return the size of an input dimension, or None for one that may vary."""
    return None if any(axis in spec.dynamic for axis in term_axes(term)) else term_size(term, spec.sizes)


def _rewrite_graph(plan: Plan, merged: Mapping[str, int], sizes: Mapping[str, int], recorded_device: str) -> fx.Graph:
    """Copy a recorded graph with new sizes, factors and devices.

    The copy takes its device as one more input, in front of the first call. A recorded graph names a fixed device where it makes
    a constant, and this input takes its place.
    """
    graph = NodeGraph()
    copies: dict[fx.Node, fx.Node] = {}
    by_name: dict[str, fx.Node] = {}
    device: fx.Node | None = None
    writer = _GraphRewriter(graph, plan, merged, sizes, by_name, recorded_device)
    for node in plan.graph.nodes:
        if device is None and (node.op == "call_function" or writer.is_limit(node)):
            device = graph.placeholder("device")
        writer.device = device
        new = writer.copy_node(node, copies)
        copies[node] = by_name[node.name] = new
    if device is None:  # a network that returns its inputs
        with graph.inserting_before(next(iter(graph.nodes))):
            graph.placeholder("device")
    return graph


class _GraphRewriter:
    """Copies nodes one after the other for new sizes.

    A recorded call holds sizes as plain numbers, and a sum or a mean over units depends on how many there are. The `Plan` of a
    trace lists both: ``rewrites`` are arguments that are sizes, ``factors`` are powers of fine / coarse size by which a
    result or an operand is multiplied. An axis that varies with the input has no number. Its size is read from the
    input that ``sources`` names.
    """

    def __init__(
        self,
        graph: fx.Graph,
        plan: Plan,
        fine: Mapping[str, int],
        coarse: Mapping[str, int],
        by_name: dict[str, fx.Node],
        recorded_device: str,
    ) -> None:
        self.graph, self.plan, self.fine, self.coarse, self.by_name = graph, plan, fine, coarse, by_name
        self.recorded_device = recorded_device
        self.dtypes = plan.dtypes or DtypeLinks()
        self.device: fx.Node | None = None
        self.counts: dict[str, fx.Node] = {}

    def copy_node(self, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
        """Copy a node, with its arguments and factors for the new sizes."""
        if self.is_limit(node):
            return self._fill_with_limit(node)
        if node.op != "call_function":
            return self.graph.node_copy(node, lambda n: copies[n])
        target, arguments = self._new_arguments(node, copies)
        for factor in self.plan.factors.get(node.name, []):
            if factor.operand is not None:
                arguments = self._scale_operand(arguments, factor)
        new = self.graph.call_function(target, *_split_arguments(target, _replace_devices(arguments, self.device)))
        for factor in self.plan.factors.get(node.name, []):
            if factor.operand is None:
                new = self._multiply(new, factor)
        return new

    def is_limit(self, node: fx.Node) -> bool:
        """Return True for a constant that holds a limit of the network's precision everywhere."""
        return is_constant(node) and str(node.target) in self.dtypes.constants

    def _fill_with_limit(self, node: fx.Node) -> fx.Node:
        """Return a call that makes such a constant in the precision of the run."""
        limit = self.dtypes.constants[str(node.target)]
        shape = list(node.meta["val"].shape)
        keywords: dict[str, Any] = {"dtype": OwnDtype(limit.recorded), "device": self.device}
        return self.graph.call_function(torch.ops.aten.full.default, cast("Any", (shape, limit)), keywords)

    def _new_arguments(self, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> tuple[Any, dict[str, Any]]:
        """Return the operator and its arguments for the new sizes."""
        rewrites = self.plan.rewrites.get(node.name, [])
        if node.name in self.plan.retarget:
            target, arguments = self.plan.retarget[node.name]
        elif schema_arguments(node.target) is None:
            target, arguments = node.target, {"": (node.args, dict(node.kwargs))}
        else:
            target, arguments = node.target, bind_arguments(node)
        arguments = dict(fx.node.map_arg(dict(arguments), lambda n: copies[n]))
        arguments = follow_device(node, arguments, self.recorded_device, self.device)
        arguments.update(self.dtypes.arguments.get(node.name, {}))
        if "" in arguments:  # a plain function, whose arguments are named by their places
            args, keywords = arguments[""]
            named = {int(r.argument): self._new_argument(r, args[int(r.argument)]) for r in rewrites}
            return target, {"": (tuple(named.get(i, a) for i, a in enumerate(args)), keywords)}
        for rewrite in rewrites:
            arguments[rewrite.argument] = self._new_argument(rewrite, arguments.get(rewrite.argument))
        return target, arguments

    def _new_argument(self, rewrite: Rewrite, old: Any) -> Any:
        """Return the new value of one argument that depends on sizes."""
        if rewrite.compute is not None:
            return rewrite.compute(self._size_ratio(rewrite.terms[0] or ()))
        if rewrite.single:
            (term,) = rewrite.terms
            assert term is not None, "a single size has a term"
            size = self._new_size(term)
            return self._combine(operator.mul, size, 1.0, neutral=None) if type(old) is float else size  # arange(8.0)
        return [o if term is None else self._new_size(term) for o, term in zip(old, rewrite.terms, strict=True)]

    def _new_size(self, term: Term) -> int | fx.Node:
        """Return a size. It is read from the input if a factor varies."""
        size: int | fx.Node = 1
        for factor in term:
            size = self._combine(operator.mul, size, self._factor_size(factor), neutral=1)
        return size

    def _factor_size(self, factor: str | Join) -> int | fx.Node:
        """Return the size of one factor of a term. That of parts laid end to end is their sum."""
        if isinstance(factor, str):
            return self._read_count(factor) if factor in self.plan.sources else self.coarse[factor]
        size: int | fx.Node = 0
        for part in factor:
            size = self._combine(operator.add, size, self._new_size(part), neutral=0)
        return size

    def _combine(self, operation: Any, a: Any, b: Any, *, neutral: int | None) -> Any:
        """Return the sum or product of two sizes, as a number where both are."""
        if isinstance(a, int | float) and isinstance(b, int | float):
            return operation(a, b)
        if isinstance(b, int | float):
            a, b = b, a
        return b if a == neutral else self.graph.call_function(operation, (b, a))

    def _read_count(self, axis: str) -> fx.Node:
        """Return the node that holds the number of units of a varying axis."""
        if axis not in self.counts:
            name, dim, other_factors = self.plan.sources[axis]
            node = self.graph.call_function(torch.ops.aten.sym_size.int, (self.by_name[name], dim))
            divisor = term_size(other_factors, self.coarse)
            self.counts[axis] = node if divisor == 1 else self.graph.call_function(operator.floordiv, (node, divisor))
        return self.counts[axis]

    def _size_ratio(self, term: Term) -> float:
        """Return the fine size of a term divided by its coarse size."""
        return term_size(term, self.fine) / max(term_size(term, self.coarse), 1)

    def _scale_operand(self, arguments: dict[str, Any], factor: Factor) -> dict[str, Any]:
        """Multiply one operand of a call by a factor."""
        if self._size_ratio(factor.term) == 1:
            return arguments
        operand = self.by_name[factor.operand]  # type: ignore[index]
        scaled = self._multiply(operand, factor)
        return fx.node.map_arg(arguments, lambda n: scaled if n is operand else n)

    def _multiply(self, node: fx.Node, factor: Factor) -> fx.Node:
        """Multiply a result by a factor, unless the factor is 1."""
        ratio = self._size_ratio(factor.term) ** factor.power
        return node if ratio == 1 else self.graph.call_function(torch.ops.aten.mul.Tensor, (node, ratio))


def _replace_devices(arguments: dict[str, Any], device: fx.Node | None) -> dict[str, Any]:
    """Replace fixed devices by the device of the parameters."""
    return {k: device if isinstance(v, torch.device) else v for k, v in arguments.items()}


def _split_arguments(target: Any, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments, without those that equal their default."""
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
