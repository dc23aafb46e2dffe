"""The form of a network's document, checked before the network runs: a file may hold any JSON under a right digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.io.bundle import read_bundle
from netgraph.recording.graph_module import NEWEST_FORMAT, GraphNetwork, network_from_document

MODES = {"train", "eval"}
DEEPEST = 64  # levels of nesting in inputs and outputs, and of modules
MODULES = 2**17  # a network has one for each level of the names of its tensors


def read_network(path: Path) -> GraphNetwork:
    """Return the network in a file of netgraph.

    Raises
    ------
    LoadError
        The file is damaged, was not written by netgraph, has a newer format, or holds something else.
    """
    tensors, document = read_bundle(path, newest=NEWEST_FORMAT)
    try:
        check_tensor_names([*tensors, *document["parameters"], *document.get("buffers", ()), *document["ties"]])
        network = network_from_document(document, tensors)
        check_network_document(document)
        return network
    except NetgraphError:
        raise
    except Exception as error:  # the digest is right and the form is wrong
        raise LoadError(
            f"{path} is no network of this version of netgraph ({describe_error(error)}). Save it again with this version."
        ) from error


def check_network_document(document: Mapping[str, Any]) -> None:
    """Refuse a document that would fail when its network runs.

    Parameters
    ----------
    document : dict
        As `GraphNetwork.document` returns it.

    Raises
    ------
    ValueError
        The document has another form. The message says where.
    """
    graphs, outputs, shapes = document["graphs"], document["outputs"], document["shapes"]
    if not isinstance(graphs, dict) or not graphs or not set(graphs) <= MODES:
        raise ValueError(f"its graphs are {graphs!s:.40}, and not those of the modes train and eval")
    if not isinstance(outputs, dict) or not set(graphs) <= set(outputs):
        raise ValueError("its outputs are not those of its modes")
    for mode, steps in graphs.items():
        _check_structure(outputs[mode], _count_results(steps), f"outputs of {mode}")
    if not isinstance(shapes, list) or not all(_is_shape(shape) for shape in shapes):
        raise ValueError("its shapes are not lists of sizes")
    _check_structure(document["inputs"], len(shapes), "inputs")
    relations = document.get("relations", [])
    if not isinstance(relations, list) or not all(_is_relation(relation, shapes) for relation in relations):
        raise ValueError("its relations are not lists of dimensions of inputs")


def check_tensor_names(names: Iterable[str]) -> None:
    """Refuse names that make more modules than a network has, before the first is made.

    Parameters
    ----------
    names : iterable of str
        Dotted names of parameters and buffers.

    Raises
    ------
    ValueError
    """
    modules: set[str] = set()
    for name in names:
        if name.count(".") > DEEPEST:
            raise ValueError(f"a tensor of it lies {name.count('.'):,} modules deep, at most {DEEPEST} are built")
        parent = name.rpartition(".")[0]
        while parent and parent not in modules:
            modules.add(parent)
            parent = parent.rpartition(".")[0]
        if len(modules) > MODULES:
            raise ValueError(f"its names ask for more than {MODULES:,} modules")


def _count_results(steps: Any) -> int:
    """Return the number of tensors that a graph returns."""
    if not isinstance(steps, list) or not steps:
        raise ValueError("a graph of it has no steps")
    _, target, args, _ = steps[-1]
    if target != "output:output" or not isinstance(args, list) or not isinstance(args[0], list):
        raise ValueError("a graph of it does not end in its outputs")
    return len(args[0])


def _is_shape(shape: Any) -> bool:
    """Return True for a list of sizes, where None is a free one."""
    return isinstance(shape, list) and all(n is None or (type(n) is int and n >= 0) for n in shape)


def _is_relation(relation: Any, shapes: list[Any]) -> bool:
    """Return True for a list of dimensions of inputs, each with a start and a step above 0."""
    return isinstance(relation, list) and all(
        isinstance(part, list)
        and len(part) == 4
        and all(type(n) is int and n >= 0 for n in part)
        and part[0] < len(shapes)
        and part[1] < len(shapes[part[0]])
        and part[3] > 0
        for part in relation
    )


def _check_structure(structure: Any, n_tensors: int, where: str, depth: int = 0) -> None:
    """Refuse a structure that names a tensor that is not there, or that is no structure."""
    if not isinstance(structure, dict) or depth > DEEPEST:
        raise ValueError(f"its {where} are no structure")
    if "tensor" in structure:
        number = structure["tensor"]
        if type(number) is not int or not 0 <= number < n_tensors:
            raise ValueError(f"its {where} have the tensor {number!r:.20} of {n_tensors}")
    for kind in ("list", "tuple"):
        for part in structure.get(kind) or ():
            _check_structure(part, n_tensors, where, depth + 1)
    for part in (structure.get("dict") or {}).values():
        _check_structure(part, n_tensors, where, depth + 1)
    for _, part in structure.get("items") or ():
        _check_structure(part, n_tensors, where, depth + 1)
