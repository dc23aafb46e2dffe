"""The contract of a rule: `check_rule` tries it on a small network around one call of its operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import collect_tensors
from netgraph.coarsen.network.rule_proof import Trial, try_axes
from netgraph.environment.torch_internals import OpOverload
from netgraph.errors import NetgraphError, TraceError, describe_error
from netgraph.rules.operator_call import Rule, operator_name
from netgraph.rules.registry import use_rules
from netgraph.tracing.tracer import trace
from netgraph.tracing.unit_spec import UnitSpec, term_axes

INPUTS, OUTPUTS = 3, 2  # columns of the inputs and outputs of the small network


def check_rule(rule: Rule, operator: Any, *operands: Any, **arguments: Any) -> None:
    """Check that a rule describes an operator.

    A small network is built around one call of the operator. Tensors of real numbers become activations whose first dimension is
    the batch, and an `torch.nn.Parameter` becomes a parameter. All other arguments are passed as they are. The network is
    traced with the rule. Wherever the rule lets units merge, the coarse network must then keep these rules:

    - It runs.
    - It returns the outputs of the network if the merged units are equal, and also without a unit whose weights are zero.

    A rule that keeps all units always passes.

    Parameters
    ----------
    rule : callable ``(call) -> spaces``
        ``call`` is a `netgraph.rules.Call`.
    operator : operator of ``torch.ops``
        Such as ``torch.ops.mylib.swish`` or ``torch.ops.aten.cumsum.default``.
    *operands : object
        Its arguments. Give dimensions of different sizes, and try each way to call the operator.
    **arguments : object
        Its arguments by name.

    Raises
    ------
    TraceError
        A rule is broken, or the network cannot be traced. The message names the operator and the dimensions.
    NetgraphError
        The operator is not one of ``torch.ops``, is composed of others, or returns no real numbers.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> def elementwise(call):
    ...     return call.spaces("self")
    >>> ng.check_rule(elementwise, torch.ops.aten.tanh, torch.randn(2, 6))
    >>> ng.check_rule(elementwise, torch.ops.aten.flip, torch.randn(2, 6), [1])
    Traceback (most recent call last):
        ...
    netgraph.errors.TraceError: the rule of aten.flip is wrong in dimension 1 of operand 0 and dimension 1 of ...
    """
    name = _name_operator(operator)
    network = _CallNetwork(operator, operands, arguments)
    example = network.draw_inputs()
    with use_rules({name: rule}):
        spec = trace(network, example)
        trial = try_axes(network, spec, example, spec.free, seed=0)  # only operators with a rule run
    if not spec.foreign_rules:
        parts = sorted({operator_name(node.target) for node in spec.plans["eval"].graph.nodes if callable(node.target)})
        raise NetgraphError(f"a recording has no call of {name}, but of {', '.join(parts)}. Give rules of these.")
    if trial.problem is not None:
        raise TraceError(f"the rule of {name} is wrong in {_locate(network, spec, trial)}: {trial.problem}.")
    if spec.free and not trial.conclusive:
        raise NetgraphError(
            f"{name} shows nothing: its results are not finite, or the same for other numbers. Give other operands."
        )


class _CallNetwork(nn.Module):
    """A network around one call: linear maps make its operands, and others read its results."""

    def __init__(self, operator: Any, operands: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.operator = operator
        self.leaves: list[Tensor] = []
        self.operands, self.arguments = operands, arguments
        _replace_tensors((operands, arguments), self.leaves.append)
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, nn.Parameter):
                self.register_parameter(f"operand{i}", nn.Parameter(leaf.detach().clone()))
            elif _is_activation(leaf):
                self.register_parameter(f"operand{i}", nn.Parameter(_draw((*leaf.shape[1:], INPUTS), i)))
        for i, result in enumerate(self._try_call()):
            if _is_activation(result):
                self.register_parameter(f"result{i}", nn.Parameter(_draw((OUTPUTS, *result.shape[1:]), 100 + i)))

    def _call(self, leaves: Iterable[Tensor]) -> Any:
        """Call the operator with other tensors."""
        remaining = iter(leaves)
        args, kwargs = _replace_tensors((self.operands, self.arguments), lambda _: next(remaining))
        return self.operator(*args, **kwargs)

    def _try_call(self) -> list[Tensor]:
        """Return the results of the call as it is given."""
        try:
            results = collect_tensors(self._call(leaf.detach() for leaf in self.leaves))
        except Exception as error:  # operators raise many kinds
            raise NetgraphError(
                f"{self.operator} does not run on these operands ({describe_error(error)}). Give others."
            ) from error
        if not any(result.is_floating_point() for result in results):
            raise NetgraphError(f"{self.operator} returns no real numbers, which the check compares.")
        return results

    def draw_inputs(self) -> tuple[Tensor, ...]:
        """Return inputs: numbers for each activation, and all other tensors as they were given."""
        return tuple(
            _draw((leaf.shape[0], INPUTS), 200 + i) if _is_activation(leaf) else leaf
            for i, leaf in enumerate(self.leaves)
            if not isinstance(leaf, nn.Parameter)
        )

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Make the operands, call the operator, and read its results."""
        remaining = iter(inputs)
        operands = (
            getattr(self, f"operand{i}") if isinstance(leaf, nn.Parameter) else self._make_operand(i, next(remaining))
            for i, leaf in enumerate(self.leaves)
        )
        results = enumerate(collect_tensors(self._call(operands)))
        outputs = [self._read_result(i, result) for i, result in results if result.is_floating_point()]
        return [*outputs, *inputs[:1]] if inputs else outputs

    def _make_operand(self, i: int, numbers: Tensor) -> Tensor:
        """Return an activation of the shape and in the range of an operand."""
        leaf = self.leaves[i]
        if not _is_activation(leaf):
            return numbers
        weight: Tensor = getattr(self, f"operand{i}")
        made: Tensor = nn.functional.linear(numbers, weight.flatten(0, -2)).unflatten(1, weight.shape[:-1])
        if bool((leaf > 0).all()):
            return torch.sigmoid(made) if bool((leaf < 1).all()) else nn.functional.softplus(made)
        return made

    def _read_result(self, i: int, result: Tensor) -> Tensor:
        """Return a few sums over a result."""
        weight: Tensor | None = getattr(self, f"result{i}", None)
        return result if weight is None else nn.functional.linear(result.flatten(1), weight.flatten(1))


def _replace_tensors(value: Any, replace: Callable[[Tensor], Any]) -> Any:
    """Return nested arguments with other tensors."""
    if isinstance(value, Tensor):
        return replace(value)
    if isinstance(value, (list, tuple)):
        return [_replace_tensors(part, replace) for part in value]
    return {k: _replace_tensors(v, replace) for k, v in value.items()} if isinstance(value, Mapping) else value


def _is_activation(leaf: Tensor) -> bool:
    """Return True for real numbers in rows."""
    return leaf.is_floating_point() and leaf.ndim > 1


def _draw(shape: Sequence[int], seed: int) -> Tensor:
    """Return random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _name_operator(operator: Any) -> str:
    """Return the name of an operator as tables of rules have it."""
    overloads = getattr(operator, "overloads", None)
    overload = getattr(operator, overloads()[0]) if callable(overloads) else operator
    if not isinstance(overload, OpOverload):
        raise NetgraphError(f"{operator!r} is no operator of torch.ops. Give one, such as torch.ops.mylib.swish.")
    return operator_name(overload)


def _locate(network: _CallNetwork, spec: UnitSpec, trial: Trial) -> str:
    """Return the dimensions of operands and results that run over the wrong axes."""
    places = []
    for name, terms in spec.parameters.items():
        kind = "operand" if name.startswith("operand") else "result"
        number = int(name.removeprefix(kind))
        batch = kind == "operand" and not isinstance(network.leaves[number], nn.Parameter)  # its weights have no batch
        for dim, term in enumerate(terms, 1 if batch else 0):
            if set(term_axes(term)) & set(trial.axes):
                places.append(f"dimension {dim} of {kind} {number}")
    return " and ".join(places)
