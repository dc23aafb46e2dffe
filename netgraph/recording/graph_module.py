"""A recorded graph as a module that trains, evaluates, copies, saves and loads, with the state dict names of the network.

The graph is plain data: operators by name from an allow-list and arguments as JSON. No code is generated from it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from netgraph import __version__
from netgraph.errors import TraceError
from netgraph.hub_methods import HubMethods
from netgraph.recording.forward import autocast
from netgraph.recording.forward.call_signature import (
    NamedForward,
    RecordedCall,
    name_inputs,
    signature_from_data,
    signature_to_data,
)
from netgraph.recording.forward.cumulative_norm import cumulative_factor
from netgraph.recording.forward.followed_dtype import find_own_dtype, has_followed
from netgraph.recording.forward.size_relations import Relation, explain_broken_relation
from netgraph.recording.interpreter import CallSite, Interpreter
from netgraph.recording.layers.find_layers import GraphLayers, find_layers
from netgraph.recording.layers.layer_modules import place_layer, place_tensor
from netgraph.recording.serialize import NEW_BUILTINS
from netgraph.utils.pytree import (
    drop_classes,
    find_lost_classes,
    has_new_keys,
    normalize_example,
    restore_classes,
    unflatten_tree,
)

NEWEST_FORMAT = 2  # of documents that `network_from_document` reads


class GraphNetwork(nn.Module, HubMethods):
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
    signature : inspect.Signature, optional
        The arguments of the forward. By default they have the names of the example's keywords, and ``input_0`` and on.
    unrecorded : dict of str to str, optional
        By mode, the reason why it was not recorded. The network refuses to run in this mode.
    fixed : frozenset of str, optional
        Names in ``tensors`` of constants that keep their precision where the network is cast to another.
    relations : list of Relation, optional
        Which sizes of inputs follow one another (`netgraph.recording.forward.size_relations`).
    has_layers : bool, default True
        Hold parameters in layers of PyTorch. Without, the network computes the same and is built in about half the time.

    Examples
    --------
    >>> import inspect, torch
    >>> import netgraph as ng
    >>> from netgraph.models import mlp
    >>> hierarchy = ng.build_hierarchy(mlp((4, 6, 2)), torch.zeros(2, 4))
    >>> inspect.signature(hierarchy.levels[1].model)  # as the network's own
    <Signature (input)>
    """

    resolution_divisor = 1  # ratio of the finest resolution of a hierarchy to the one at which this network works

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
        signature: inspect.Signature | None = None,
        unrecorded: Mapping[str, str] | None = None,
        fixed: frozenset[str] = frozenset(),
        relations: Sequence[Relation] = (),
        has_layers: bool = True,
    ) -> None:
        super().__init__()
        self._graphs = dict(graphs)
        self._unrecorded = dict(unrecorded or {})
        self._ties = dict(ties)
        self._fixed = fixed
        self._relations = [[list(dimension) for dimension in relation] for relation in relations]
        self._inputs, self._outputs, self._shapes = inputs, dict(outputs), shapes
        self._set_signature(name_inputs(inputs) if signature is None else signature)
        for name, tensor in tensors.items():
            value: Any = tensor
            if name in parameters:
                value = nn.Parameter(tensor.detach(), requires_grad=name in trainable)
            place_tensor(self, name, value)
        for name, first in ties.items():
            place_tensor(self, name, _get_tensor(self, first))
        self.run_train: Callable[..., list[Any]] = Interpreter.__call__  # activation checkpointing replaces it
        self._names = frozenset(self.state_dict())
        self._layers = GraphLayers()
        if has_layers:
            self._make_layers()
        self._compile()

    def _compile(self) -> None:
        """Build the interpreters of all modes from the serialized graphs."""
        self._dtype = find_own_dtype(self.parameters())
        self._run = {mode: Interpreter(document, self._names, self._dtype) for mode, document in self._graphs.items()}
        self._follows = any(run.follows for run in self._run.values())
        for mode, run in self._run.items():
            run.call_layers(self._layers.calls.get(mode, {}), self._layers.skipped if mode == "train" else ())

    def _make_layers(self) -> None:
        """Hold parameters in layers of PyTorch where the graphs compute what these do."""
        tensors = {name: _get_tensor(self, name) for name in self._names if name not in self._ties}
        self._layers, modules = find_layers(self._graphs, tensors, self._ties, [len(shape) for shape in self._shapes])
        for path, module in modules.items():
            place_layer(self, path, module)
        self.train(self.training)

    def train(self, mode: bool = True) -> GraphNetwork:
        """Set the mode. Batch norms that the network keeps in evaluation mode stay in it."""
        super().train(mode)
        for path in self._layers.frozen:
            self.get_submodule(path).train(False)
        return self

    def steps(self, mode: str) -> Interpreter:
        """Return the interpreter of a mode, ``"train"`` or ``"eval"``, for the present precision of the parameters."""
        self._check_mode(mode)
        if self._follows and find_own_dtype(self.parameters()) != self._dtype:
            fixed = {name: run.fixed_results for name, run in self._run.items()}
            self._compile()
            for name, results in fixed.items():
                self._run[name].fixed_results = results
        return self._run[mode]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GraphNetwork:
        """Move or cast all tensors, as `nn.Module` does. Constants of a precision of their own are moved only."""
        kept = {name: _get_tensor(self, name) for name in self._fixed}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # it has no types in torch
        for name, constant in kept.items():
            moved = _get_tensor(self, name)
            if moved.dtype != constant.dtype:
                place_tensor(self, name, constant.to(moved.device))
        return self

    def _set_signature(self, signature: inspect.Signature) -> None:
        """Take calls with the arguments of a signature, and tell it to `inspect.signature`."""
        self._arguments = signature_to_data(signature)
        self._call = RecordedCall(signature, self._inputs)
        self._forward = GraphNetwork.__dict__["forward"].copy_for(signature)
        self.__signature__ = signature

    @NamedForward
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the recorded graph of the current mode, on arguments by position or by the names of the network's own forward."""
        if type(args) is not tuple or any(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values())):
            raise TraceError(
                "torch.fx.symbolic_trace cannot follow a recorded network, which is a graph already. Give it to torch.export.export, or make "
                "it a network of your own class by ng.own_class."
            )
        leaves = self._call.flatten(args, kwargs)
        self._check_shapes(leaves)
        mode = "train" if self.training else "eval"
        self._check_mode(mode)
        run = self.run_train if self.training else Interpreter.__call__
        results = run(self.steps(mode), partial(_get_tensor, self), *leaves, self._device(leaves))
        return unflatten_tree(self._outputs[mode], results)

    @property
    def fixed_results(self) -> dict[int, Any]:
        """Results of steps of the current mode that are taken as they are, while this network is recorded again."""
        return self.steps("train" if self.training else "eval").fixed_results

    def list_counts(self) -> list[tuple[int, str]]:
        """Return the steps of the current mode that read a count of batches, with the name of its buffer."""
        steps = self.steps("train" if self.training else "eval")
        names = dict(steps.reads)
        return [(s.index, names[s.args[0].index]) for s in steps.steps if s.function is cumulative_factor]

    def start_steps(self, mode: str, args: Any, kwargs: Any) -> tuple[Interpreter, list[Any]]:
        """Return the interpreter of a mode and its slots before the first step, for a run step by step."""
        leaves = self._call.flatten(args, kwargs)
        self._check_shapes(leaves)
        inputs = [*leaves, self._device(leaves)]
        return self.steps(mode), self.steps(mode).start_values(partial(_get_tensor, self), inputs, all_reads=True)

    def finish_steps(self, mode: str, slots: list[Any], first: int = 0) -> Any:
        """Return the outputs of a run step by step, after all steps from ``first`` on, without gradients."""
        return unflatten_tree(self._outputs[mode], self.steps(mode).finish(slots, first))

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
        leaves = [self._call.flatten(*normalize_example(batch)) for batch in batches]
        for batch in leaves:
            self._check_shapes(batch)
        inputs = [[*batch, self._device(batch)] for batch in leaves]
        with self.layers_in_mode(training=False):
            yield from self.steps("eval").walk(partial(_get_tensor, self), inputs, stops)

    @contextmanager
    def layers_in_mode(self, *, training: bool) -> Iterator[None]:
        """Set the layers to a mode in a block. A run step by step may be of another mode than the network is in."""
        before = [(module, module.training) for module in self.modules()]
        self.train(training)
        try:
            yield
        finally:
            for module, mode in before:
                module.training = mode

    def _device(self, leaves: list[Tensor]) -> torch.device:
        first = next(self.parameters(), None)
        return first.device if first is not None else leaves[0].device

    def _check_mode(self, mode: str) -> None:
        """Raise TraceError if a mode was not recorded."""
        if mode not in self._run and mode not in self._unrecorded:
            raise TraceError(
                f"this network has no graph for the mode {mode}. Save it again from the network that it came from."
            )
        if mode in self._unrecorded:
            here, other = ("training", "evaluation") if mode == "train" else ("evaluation", "training")
            raise TraceError(
                f"this network has no {here} mode, because the network's own could not be recorded: {self._unrecorded[mode].rstrip('.')}. Its "
                f"{other} mode runs."
            )

    def _check_shapes(self, leaves: list[Tensor]) -> None:
        """Raise TraceError if an input has another shape than the recording."""
        for i, (leaf, shape) in enumerate(zip(leaves, self._shapes, strict=True)):
            if leaf.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, leaf.shape, strict=True)):
                wanted = " x ".join("any" if n is None else str(n) for n in shape)
                raise TraceError(
                    f"input {self._call.name_of(i)} has shape {tuple(leaf.shape)}, but the network was traced for {wanted}. "
                    "Trace it again on an example of the new shape."
                )
        broken = explain_broken_relation(self._relations, [leaf.shape for leaf in leaves], self._call.name_of)
        if broken is not None:
            raise TraceError(f"{broken}. Trace it again on an example of these shapes.")

    def with_free_sizes(self) -> GraphNetwork:
        """Return the same network, with shared parameters, that accepts other input sizes where its operators do."""
        free = copy.copy(self)
        free._shapes = [[None] * len(shape) for shape in self._shapes]
        free._relations = []
        return free

    def with_dtypes(self, names: Mapping[str, str]) -> GraphNetwork:
        """Return the same network, with shared parameters, that names other dtypes in the arguments of its operators."""
        changed = copy.copy(self)
        changed._graphs = {mode: _rename_dtypes(document, names) for mode, document in self._graphs.items()}
        changed._compile()
        return changed

    def names_dtype(self, name: str) -> bool:
        """Return True if a dtype is an argument of an operator."""
        return any(document != _rename_dtypes(document, {name: ""}) for document in self._graphs.values())

    @property
    def fixed_constants(self) -> frozenset[str]:
        """Names of constants that keep their precision where the network is cast to another."""
        return self._fixed

    @property
    def input_shapes(self) -> list[list[int | None]]:
        """The required size of each dimension of each input, or None where any size works."""
        return self._shapes

    @property
    def input_names(self) -> list[str]:
        """The name of each input, in the order of `input_shapes`."""
        return [self._call.name_of(i) for i in range(len(self._shapes))]

    @property
    def size_relations(self) -> list[list[list[int]]]:
        """Which sizes of inputs follow one another (`netgraph.recording.forward.size_relations`)."""
        return self._relations

    @property
    def input_keywords(self) -> dict[str, Any]:
        """How the keyword inputs nest, by name."""
        return dict(self._inputs["tuple"][1]["dict"])

    def document(self) -> dict[str, Any]:
        """Return everything but the tensors as JSON data.

        Raises
        ------
        TraceError
            A layer was replaced by a module with other tensors, which no file of a graph can hold.
        """
        self._check_layers()
        parameters = [n for n, _ in self.named_parameters()]
        return {
            "format": self._find_format(),
            "version": __version__,
            "arguments": self._arguments,
            "graphs": self._graphs,
            "parameters": parameters,
            "buffers": [n for n, _ in self.named_buffers()],
            "trainable": [n for n, p in self.named_parameters() if p.requires_grad],
            "ties": self._ties,
            "inputs": drop_classes(self._inputs),
            "outputs": {mode: drop_classes(s) for mode, s in self._outputs.items()},
            "shapes": self._shapes,
            **({"unrecorded": self._unrecorded} if self._unrecorded else {}),
            **({"fixed": sorted(self._fixed)} if self._fixed else {}),
            **({"relations": self._relations} if self._relations else {}),
        }

    def _check_layers(self) -> None:
        """Raise TraceError if a layer was replaced or got other tensors."""
        changed = sorted(self._names.symmetric_difference(self.state_dict()))
        if changed:
            raise TraceError(
                f"this network cannot be written as a graph: its layers were replaced, and {changed[0]} "
                f"{'is gone' if changed[0] in self._names else 'is new'}. Save it by torch.save(network, path), or put the layers back."
            )

    def _find_format(self) -> int:
        """Return 2 if versions of netgraph that know only format 1 cannot run the document, else 1."""
        structures = [self._inputs, *self._outputs.values()]
        new = {*NEW_BUILTINS, *autocast.OPERATORS}
        news = any(step[1] in new for graph in self._graphs.values() for step in graph)
        news |= bool(self._fixed) or has_followed(list(self._graphs.values()))
        return 2 if news or any(has_new_keys(structure) for structure in structures) else 1

    def adopt_classes(self, outputs: Mapping[str, Any]) -> None:
        """Answer in the classes of a network that was traced again.

        Parameters
        ----------
        outputs : dict of str to structure
            How the results of that network nest, for each mode. A mode of other results stays as it is.
        """
        for mode, structure in outputs.items():
            if drop_classes(structure) == drop_classes(self._outputs.get(mode, structure)):
                self._outputs[mode] = structure

    @property
    def lost_classes(self) -> list[str]:
        """Names of the classes of the answer that a file named and that only the network's own code can make."""
        return sorted({name for structure in self._outputs.values() for name in find_lost_classes(structure)})

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers by first name, each once."""
        return {n: t for n, t in self.state_dict().items() if n not in self._ties}

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_run", "_dtype", "_follows", "_call", "_forward", "__signature__"):  # made again from the data
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name, empty in (
            ("_unrecorded", {}),
            ("_fixed", frozenset()),
            ("_relations", []),
            ("_names", frozenset(self.state_dict())),
        ):  # a pickle of an older version
            self.__dict__.setdefault(name, empty)
        self._set_signature(signature_from_data(self._arguments))
        if "_layers" not in state:
            self._make_layers()
        self._compile()

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.parameters())
        # other steps, such as get_attr:NAME, are no operators
        n_operators = sum(":" not in step[1] for step in self._graphs["eval"])
        return f"GraphNetwork({n_operators} operators, {n:,} parameters)"


def _rename_dtypes(value: Any, names: Mapping[str, str]) -> Any:
    """Return a serialized graph, or a part of it, with other names of dtypes."""
    if isinstance(value, list):
        return [_rename_dtypes(part, names) for part in value]
    if isinstance(value, dict):
        if value.keys() == {"torch"}:
            return {"torch": names.get(value["torch"], value["torch"])}
        return {key: _rename_dtypes(part, names) for key, part in value.items()}
    return value


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
    inputs, signature = restore_classes(document["inputs"]), document.get("arguments")
    return GraphNetwork(
        document["graphs"],
        {name: tensors[name] for name in order},
        parameters=frozenset(document["parameters"]),
        trainable=frozenset(document["trainable"]),
        ties=document["ties"],
        inputs=inputs,
        outputs={mode: restore_classes(structure) for mode, structure in document["outputs"].items()},
        shapes=document["shapes"],
        unrecorded=document.get("unrecorded"),
        fixed=frozenset(document.get("fixed", ())) & tensors.keys(),
        relations=document.get("relations", ()),
        signature=None if signature is None else signature_from_data(signature),
    ).eval()


def _get_tensor(module: nn.Module, name: str) -> Any:
    """Return the tensor, or the layer, under a dotted name.

    Raises
    ------
    TraceError
        A layer was replaced by a module that has no such tensor.
    """
    owner: Any = module
    for part in name.split("."):
        owner, found = getattr(owner, part, None), owner
    if not isinstance(owner, (Tensor, nn.Module)):
        raise TraceError(
            f"the recorded graph reads {name}, and the {type(found).__name__} there has no such tensor. Put a layer with this tensor there."
        )
    return owner
