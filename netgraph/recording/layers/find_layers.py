"""Find the layers of a recorded network: the steps that compute what `torch.nn.Linear` and its like compute.

The graph alone decides. A layer stands at PATH if a step reads exactly the tensors PATH.weight, PATH.bias and so on, as the layer does, and
PATH holds no others. So a file that was saved by any version has its layers, and classes that are the user's own have them too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from netgraph.recording.layers.input_ranks import find_rank
from netgraph.recording.layers.layer_modules import build_layer
from netgraph.recording.layers.layer_operators import READERS, LayerUse, ReadCall

COUNT = "num_batches_tracked"
ADD, FACTOR = "aten.add_.Tensor", "builtin:cumulative_factor"


@dataclass(frozen=True)
class GraphLayers:
    """The layers that the steps of a recorded network call.

    Parameters
    ----------
    calls : dict of str to dict
        By mode and step, the path of the layer and the places of the arguments that it takes.
    skipped : frozenset of str
        Steps of the training graph that a layer takes over: a batch norm counts its batches itself.
    frozen : frozenset of str
        Paths of layers that stay in evaluation mode while the network trains.
    """

    calls: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Call:
    """A step that a layer may compute."""

    mode: str
    step: str
    use: LayerUse


def find_layers(
    graphs: Mapping[str, Sequence[Any]], tensors: Mapping[str, Tensor], ties: Mapping[str, str], ranks: Sequence[int]
) -> tuple[GraphLayers, dict[str, nn.Module]]:
    """Return the layers of a network.

    Parameters
    ----------
    graphs : dict of str to list
        Serialized graphs by mode.
    tensors : dict of str to Tensor
        Parameters and buffers by first name.
    ties : dict of str to str
        Each further name of a tied tensor, with its first name.
    ranks : list of int
        Numbers of dimensions of the inputs.

    Returns
    -------
    layers : GraphLayers
    modules : dict of str to Module
        By path, a layer without numbers.
    """
    readers = {mode: _GraphReader(graphs[mode], tensors, ranks) for mode in ("train", "eval") if mode in graphs}
    calls = [_Call(mode, step, use) for mode, reader in readers.items() for step, use in reader.list_uses()]
    chosen, modules = _assign_paths(calls, _Paths(tensors, ties))
    layers: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {mode: {} for mode in readers}
    skipped: set[str] = set()
    frozen: set[str] = set()
    for path, served in chosen.items():
        counting = _list_counting(readers.get("train"), f"{path}.{COUNT}", served)
        if counting is None or not _fits_modes(served):
            del modules[path]
            continue
        skipped.update(counting)
        if any(call.mode == "train" and call.use.training is False for call in served):
            frozen.add(path)
        for call in served:
            layers[call.mode][call.step] = (path, call.use.inputs)
    return GraphLayers(layers, frozenset(skipped), frozenset(frozen)), modules


def _assign_paths(calls: Sequence[_Call], paths: _Paths) -> tuple[dict[str, list[_Call]], dict[str, nn.Module]]:
    """Return the calls that the layer on each path serves, and the layers. A call that none can serve is left out."""
    chosen: dict[str, list[_Call]] = {}
    modules: dict[str, nn.Module] = {}
    for call in calls:
        for path in paths.list_paths(call.use):
            if path not in chosen:
                module = build_layer(call.use, paths.held[path]) if path not in paths.parents else None
                if module is None:
                    continue
                chosen[path], modules[path] = [], module
            if not chosen[path] or chosen[path][0].use.fits(call.use):
                chosen[path].append(call)
                break
    return chosen, modules


def _fits_modes(served: Sequence[_Call]) -> bool:
    """Return True if a layer in the mode of its network, or one that is always in evaluation mode, serves all calls."""
    flags = {mode: {call.use.training for call in served if call.mode == mode} for mode in ("train", "eval")}
    return len(flags["train"]) < 2 and True not in flags["eval"]


def _list_counting(reader: _GraphReader | None, count: str, served: Sequence[_Call]) -> list[str] | None:
    """Return the steps that count the batches of a norm in training, or None if they do it in another way than a layer."""
    steps = [call.step for call in served if call.mode == "train" and call.use.training]
    if reader is None or not any(call.mode == "train" for call in served):
        return []
    return reader.list_counting(count, steps) if steps or count in reader.shapes else []


class _Paths:
    """The paths of a network's tensors.

    Attributes
    ----------
    held : dict of str to dict
        By path, the tensors on it by the rest of their names.
    parents : set of str
        Paths on which other paths begin.
    """

    def __init__(self, tensors: Mapping[str, Tensor], ties: Mapping[str, str]) -> None:
        self.names: dict[str, list[str]] = {name: [name] for name in tensors}
        for name, first in ties.items():
            self.names[first].append(name)
        self.held: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for first, names in self.names.items():
            for name in names:
                path, _, leaf = name.rpartition(".")
                self.held[path][leaf] = tensors[first]
        self.parents = {path[:i] for path in self.held for i, mark in enumerate(path) if mark == "."} | {""}

    def list_paths(self, use: LayerUse) -> list[str]:
        """Return the paths under which all tensors of a layer have a name."""
        paths: list[list[str]] = []
        for leaf, tensor in use.tensors.items():
            paths.append([n.removesuffix(f".{leaf}") for n in self.names[tensor] if n.endswith(f".{leaf}")])
        return [path for path in paths[0] if all(path in others for others in paths)]


class _GraphReader:
    """A serialized graph, with what its steps read."""

    def __init__(self, graph: Sequence[Any], tensors: Mapping[str, Tensor], ranks: Sequence[int]) -> None:
        self.steps = {step[0]: step for step in graph}
        read = {name: step[1].partition(":")[2] for name, step in self.steps.items() if step[1].startswith("get_attr:")}
        self.tensors = {name: tensor for name, tensor in read.items() if tensor in tensors}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        inputs = [name for name, step in self.steps.items() if step[1].startswith("placeholder:")]
        self.rank = partial(find_rank, graph=self.steps, inputs=dict(zip(inputs, ranks, strict=False)))

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """By step, the steps that read it. Only a training graph with norms needs them."""
        readers: dict[str, list[str]] = defaultdict(list)
        for name, (_, _, args, kwargs) in self.steps.items():
            for node in _list_nodes([args, kwargs]):
                readers[node].append(name)
        return readers

    @cached_property
    def nodes(self) -> dict[str, list[str]]:
        """By tensor, the steps that fetch it."""
        nodes: dict[str, list[str]] = defaultdict(list)
        for node, name in self.tensors.items():
            nodes[name].append(node)
        return nodes

    def list_uses(self) -> Iterator[tuple[str, LayerUse]]:
        """Yield the steps that compute what a layer computes."""
        for name, (_, operator, args, kwargs) in self.steps.items():
            if operator in READERS and not kwargs["dict"]:
                use = READERS[operator](ReadCall(args, self.tensors, self.shapes, self.rank))
                if use is not None:
                    yield name, use

    def list_counting(self, count: str, norms: Sequence[str]) -> list[str] | None:
        """Return the steps that count batches for norms, or None if a layer would not count as they do."""
        readers = Counter(reader for node in self.nodes.get(count, ()) for reader in self.readers[node])
        added = [name for name in readers if self.steps[name][1] == ADD and self.steps[name][2][1] == 1]
        factors = [name for name in readers if self.steps[name][1] == FACTOR]
        momenta = {m.get("node") for norm in norms for m in self.steps[norm][2][6:7] if isinstance(m, dict)}
        expected = len(norms) if count in self.shapes else 0
        alone = not any(self.readers[name] for name in added) and all(
            reader in norms for name in factors for reader in self.readers[name]
        )
        counts = readers.total() == len(added) + len(factors) and len(added) == expected
        return [*added, *factors] if alone and counts and momenta == set(factors) else None


def _list_nodes(value: Any) -> Iterator[str]:
    """Yield the nodes in an argument."""
    if isinstance(value, list):
        for part in value:
            yield from _list_nodes(part)
    elif isinstance(value, dict):
        if "node" in value:
            yield value["node"]
        for part in value.values():
            yield from _list_nodes(part)
