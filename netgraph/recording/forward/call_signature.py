"""Arguments of a forward, by name: read from a network, written as data, and bound to the arguments of a recording.

A recorded network is called as the network itself: by position or by keyword. Arguments that the example gave are inputs of the recording. All
others had their defaults when it was made, and keep them.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from netgraph.errors import TraceError
from netgraph.utils.pytree import (
    Structure,
    build_structure,
    drop_classes,
    flatten_tree,
    is_same_value,
    list_tensors,
    unflatten_tree,
)

Parameter = inspect.Parameter
KINDS = {
    kind.name.lower(): kind
    for kind in (
        Parameter.POSITIONAL_ONLY,
        Parameter.POSITIONAL_OR_KEYWORD,
        Parameter.VAR_POSITIONAL,
        Parameter.KEYWORD_ONLY,
    )
}
UNSAVED = type("UnsavedDefault", (), {"__repr__": lambda self: "..."})()  # a default that a file cannot hold


def read_signature(model: nn.Module, inputs: Structure) -> inspect.Signature:
    """Return the arguments of a network's forward, without annotations.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : structure
        The arguments of the example. Names behind ``**`` become arguments, and a forward that does not take the example (a hook may
        change it) gets the names ``input_0`` and on.

    Returns
    -------
    inspect.Signature

    Examples
    --------
    >>> import torch
    >>> from netgraph.recording.forward.call_signature import read_signature
    >>> read_signature(torch.nn.Linear(2, 3), {"tuple": [{"tuple": [{"tensor": 0}]}, {"dict": {}}]})
    <Signature (input)>
    """
    args, kwargs = _split_inputs(inputs)
    try:
        declared = inspect.signature(model.forward)
        used = declared.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return name_inputs(inputs)
    parameters: list[Parameter] = []
    for p in declared.parameters.values():
        if p.kind is Parameter.VAR_KEYWORD:
            parameters += [Parameter(name, Parameter.KEYWORD_ONLY) for name in used.get(p.name, ())]
        elif p.kind is not Parameter.VAR_POSITIONAL or p.name in used:
            parameters.append(Parameter(p.name, p.kind, default=p.default))
    return inspect.Signature(parameters)


def name_inputs(inputs: Structure) -> inspect.Signature:
    """Return the signature of a call whose positional arguments have no names: ``input_0`` and on."""
    args, kwargs = _split_inputs(inputs)
    numbered = [Parameter(f"input_{i}", Parameter.POSITIONAL_OR_KEYWORD) for i in range(len(args))]
    return inspect.Signature([*numbered, *(Parameter(name, Parameter.KEYWORD_ONLY) for name in kwargs)])


def _split_inputs(inputs: Structure) -> tuple[list[Structure], dict[str, Structure]]:
    """Return the structures of the positional and of the keyword arguments of an example."""
    positional, named = inputs["tuple"]
    return list(positional["tuple"]), dict(named["dict"])


def signature_to_data(signature: inspect.Signature) -> list[dict[str, Any]]:
    """Return a signature as JSON data."""
    rows = []
    for p in signature.parameters.values():
        row: dict[str, Any] = {"name": p.name, "kind": p.kind.name.lower()}
        if p.default is not Parameter.empty:
            row["default"] = _write_default(p.default)
        rows.append(row)
    return rows


def _write_default(default: Any) -> Any:
    """Return a default as data, or None for one that is no plain value."""
    leaves: list[Any] = []
    try:
        structure = drop_classes(build_structure(default, leaves))
    except TraceError:
        return None
    return None if leaves else structure


def signature_from_data(rows: Sequence[Mapping[str, Any]]) -> inspect.Signature:
    """Return the signature that `signature_to_data` wrote."""
    parameters = []
    for row in rows:
        default = Parameter.empty
        if "default" in row:
            default = UNSAVED if row["default"] is None else unflatten_tree(row["default"], [])
        parameters.append(Parameter(row["name"], KINDS[row["kind"]], default=default))
    return inspect.Signature(parameters)


class RecordedCall:
    """A call of a recorded network: its signature, and the structures of the arguments that are inputs of the recording.

    Parameters
    ----------
    signature : inspect.Signature
    inputs : structure
        The arguments of the example.
    """

    def __init__(self, signature: inspect.Signature, inputs: Structure) -> None:
        args, kwargs = _split_inputs(inputs)
        self.signature, self.recorded = signature, signature.bind(*args, **kwargs).arguments
        order = [number for part in self.recorded.values() for number in list_tensors(_as_structure(part))]
        self.places = [order.index(i) for i in range(len(order))]
        self.names = [name for name, part in self.recorded.items() for _ in list_tensors(_as_structure(part))]

    def name_of(self, number: int) -> str:
        """Return the name of the argument that holds an input tensor."""
        return self.names[self.places[number]]

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the input tensors of a call, in the order of the recording.

        Raises
        ------
        TraceError
            An argument is missing, unknown, or another plain value than in the recording.
        """
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TraceError(f"the network takes {self.signature}, and this call does not fit: {error}") from None
        for name in bound.keys() - self.recorded.keys():
            self._check_default(name, bound[name])
        leaves: list[Tensor] = []
        for name, part in self.recorded.items():
            structure = _as_structure(part)
            if name not in bound and not _is_default(structure, self.signature.parameters[name].default):
                raise TraceError(f"the argument {name} is missing. The network was traced with it. Give it.")
            value = bound[name] if name in bound else self.signature.parameters[name].default
            leaves += flatten_tree(structure, value, name)
        return [leaves[place] for place in self.places]

    def _check_default(self, name: str, value: Any) -> None:
        """Raise unless the value of an argument that the example left out is its default."""
        default = self.signature.parameters[name].default
        if value is not default and not is_same_value(value, default):
            shown = f"a {type(value).__name__}" if isinstance(value, Tensor) else repr(value)
            raise TraceError(
                f"{name} is {shown}, but the example left {name} out, so the network was traced with {default!r}. "
                f"Trace it again on an example that gives {name}."
            )


def _as_structure(part: Any) -> Structure:
    """Return the structure of an argument. The parts behind ``*`` are bound as a tuple."""
    return {"tuple": list(part)} if isinstance(part, tuple) else part


def _is_default(structure: Structure, default: Any) -> bool:
    """Return True if an argument of the example was a plain value that is the default as well."""
    return "value" in structure and default is not Parameter.empty and is_same_value(default, structure["value"])


class NamedForward:
    """A method whose signature each instance tells by itself, as PyTorch's exporters and trainers read it.

    An instance keeps its own copy of the function under ``_forward``, with a ``__signature__``.
    """

    def __init__(self, function: Any) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, network: Any, owner: Any = None) -> Any:
        return self.function if network is None else network._forward.__get__(network)

    def copy_for(self, signature: inspect.Signature) -> Any:
        """Return the function with a signature, to be kept by an instance."""
        f = self.function
        function = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        first = Parameter("self", Parameter.POSITIONAL_ONLY)
        function.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])  # type: ignore[attr-defined]
        return function
