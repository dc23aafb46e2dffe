"""A recorded graph as a module that trains, evaluates, copies, saves and loads, with the state dict names of the network.

The graph is plain data: operators by name from an allow-list and arguments as JSON. No code is generated from it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import TraceError
from netgraph.recording.interpreter import CallSite, Interpreter
from netgraph.utils.pytree import drop_classes, flatten_tree, normalize_example, unflatten_tree


class GraphNetwork(nn.Module):
    """A network as its recorded operators.

    Parameters
    ----------
    graphs : dict of str to list
        Serialized graphs of the modes ``"train"`` and ``"eval"`` (`netgraph.recording.serialize`).
    tensors : dict of str to Tensor
        Parameters and buffers by qualified name.
    parameters : set of str
        Names in ``tensors`` that are parameters.
    trainable : set of str
        Names in ``parameters`` that require gradients.
    ties : dict of str to str
        Each further name of a tied tensor, with its first name.
    inputs : structure
        How the inputs nest.
    outputs : dict of str to structure
        How the results nest, for each mode.
    shapes : list of list
        For each input and dimension the required size, or None where any size works.
    """

    def __init__(
        self,
        graphs: Mapping[str, list[Any]],
        tensors: Mapping[str, Tensor],
        *,
        parameters: frozenset[str],
        trainable: frozenset[str],
        ties: Mapping[str, str],
        inputs: Any,
        outputs: Mapping[str, Any],
        shapes: list[list[int | None]],
    ) -> None:
        super().__init__()
        self._graphs = dict(graphs)
        self._ties = dict(ties)
        self._inputs, self._outputs, self._shapes = inputs, dict(outputs), shapes
        for name, tensor in tensors.items():
            value: Any = tensor
            if name in parameters:
                value = nn.Parameter(tensor.detach(), requires_grad=name in trainable)
            _set_tensor(self, name, value)
        for name, first in ties.items():
            _set_tensor(self, name, _get_tensor(self, first))
        self.run_train: Callable[..., list[Any]] = Interpreter.__call__  # activation checkpointing replaces it
        self._compile()

    def _compile(self) -> None:
        """Build the interpreters of all modes from the serialized graphs."""
        names = frozenset(self.state_dict())
        self._run = {mode: Interpreter(document, names) for mode, document in self._graphs.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the recorded graph of the current mode on inputs that nest as the example did."""
        leaves = flatten_tree(self._inputs, (args, kwargs))
        self._check_shapes(leaves)
        mode = "train" if self.training else "eval"
        run = self.run_train if self.training else Interpreter.__call__
        results = run(self._run[mode], partial(_get_tensor, self), *leaves, self._device(leaves))
        return unflatten_tree(self._outputs[mode], results)

    def steps(self, mode: str) -> Interpreter:
        """Return the interpreter of a mode, ``"train"`` or ``"eval"``."""
        return self._run[mode]

    def walk(self, batches: Sequence[Any], stops: Collection[Any]) -> Iterator[CallSite]:
        """Run the evaluation graph on several batches in lockstep and pause before certain operators.

        Parameters
        ----------
        batches : list
            Each in the form in which `netgraph.trace` takes an example.
        stops : collection of torch operators
            The run pauses before every call of these.

        Yields
        ------
        CallSite
            The arguments of the call for each batch.
        """
        leaves = [flatten_tree(self._inputs, normalize_example(batch)) for batch in batches]
        for batch in leaves:
            self._check_shapes(batch)
        inputs = [[*batch, self._device(batch)] for batch in leaves]
        yield from self._run["eval"].walk(partial(_get_tensor, self), inputs, stops)

    def _device(self, leaves: list[Tensor]) -> torch.device:
        first = next(self.parameters(), None)
        return first.device if first is not None else leaves[0].device

    def _check_shapes(self, leaves: list[Tensor]) -> None:
        """Raise TraceError if an input has another shape than the recording."""
        for i, (leaf, shape) in enumerate(zip(leaves, self._shapes, strict=True)):
            if leaf.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, leaf.shape, strict=True)):
                wanted = " x ".join("any" if n is None else str(n) for n in shape)
                raise TraceError(
                    f"input {i} has shape {tuple(leaf.shape)}, but the network was traced for {wanted}. "
                    "Trace it again on an example of the new shape."
                )

    def with_free_sizes(self) -> GraphNetwork:
        """Return the same network, with shared parameters, that accepts other input sizes where its operators do."""
        free = copy.copy(self)
        free._shapes = [[None] * len(shape) for shape in self._shapes]
        return free

    @property
    def input_shapes(self) -> list[list[int | None]]:
        """The required size of each dimension of each input, or None where any size works."""
        return self._shapes

    @property
    def input_keywords(self) -> dict[str, Any]:
        """How the keyword inputs nest, by name."""
        return dict(self._inputs["tuple"][1]["dict"])

    def document(self) -> dict[str, Any]:
        """Return everything but the tensors as JSON data."""
        parameters = [n for n, _ in self.named_parameters()]
        return {
            "format": 1,
            "graphs": self._graphs,
            "parameters": parameters,
            "buffers": [n for n, _ in self.named_buffers()],
            "trainable": [n for n, p in self.named_parameters() if p.requires_grad],
            "ties": self._ties,
            "inputs": drop_classes(self._inputs),
            "outputs": {mode: drop_classes(s) for mode, s in self._outputs.items()},
            "shapes": self._shapes,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers by first name, each once."""
        return {n: t for n, t in self.state_dict().items() if n not in self._ties}

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_run", None)  # compiled again from the serialized graphs
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.parameters())
        return f"GraphNetwork({len(self._graphs['eval'])} operators, {n:,} parameters)"


def network_from_document(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GraphNetwork:
    """Build the network that `GraphNetwork.document` and `GraphNetwork.tensors` describe, in evaluation mode.

    Parameters
    ----------
    document : dict
        Everything but the tensors, as `GraphNetwork.document` returns it.
    tensors : dict of str to Tensor
        Parameters and buffers by first name.

    Returns
    -------
    GraphNetwork

    Raises
    ------
    LoadError
        An operator is not on the allow-list, or a tensor is missing.
    """
    order = dict.fromkeys(
        [*document["parameters"], *document.get("buffers", ()), *tensors]
    )  # axes get their names in this order
    return GraphNetwork(
        document["graphs"],
        {name: tensors[name] for name in order},
        parameters=frozenset(document["parameters"]),
        trainable=frozenset(document["trainable"]),
        ties=document["ties"],
        inputs=document["inputs"],
        outputs=document["outputs"],
        shapes=document["shapes"],
    ).eval()


def _set_tensor(module: nn.Module, name: str, value: Any) -> None:
    """Register a parameter or buffer under a dotted name and create the modules on its path."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    if isinstance(value, nn.Parameter):
        module.register_parameter(last, value)
    else:
        module.register_buffer(last, value)


def _get_tensor(module: nn.Module, name: str) -> Any:
    """Return the attribute under a dotted name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module
