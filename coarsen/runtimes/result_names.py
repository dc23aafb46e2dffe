"""Names of the inputs and results of an exported program: identifiers, without dots.

An input has the name of the forward's own argument, as `torch.export` gives it. A result has the path to it in the network's answer,
such as ``logits`` or ``hidden_states_2``, and ``output`` where the answer is one tensor.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.utils import _pytree

from netgraph.recording.forward.named_outputs import name_outputs
from netgraph.utils.pytree import build_structure


def flatten_tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a value in the order in which an exported program takes or returns them."""
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def name_inputs(program: Any, arguments: Any) -> list[str]:
    """Return the name of each tensor among the arguments of an exported program."""
    leaves = _pytree.tree_leaves(arguments)
    return [
        name for name, leaf in zip(program.graph_signature.user_inputs, leaves, strict=True) if isinstance(leaf, Tensor)
    ]


def name_results(answer: Any, taken: list[str]) -> list[str]:
    """Return a name for each tensor of an answer, in the order of `flatten_tensors`, that is none of the names taken."""
    leaves: list[Any] = []
    paths = {number: path for path, number in name_outputs(build_structure(answer, leaves, drop_unknown=True)).items()}
    by_tensor: dict[int, list[str]] = {}  # one tensor may be several outputs
    for number, leaf in enumerate(leaves):
        by_tensor.setdefault(id(leaf), []).append(paths[number])
    names: list[str] = []
    for i, tensor in enumerate(flatten_tensors(answer)):
        left = by_tensor.get(id(tensor))
        name = _make_identifier(left.pop(0) if left else str(i))
        while name in (*taken, *names):
            name += "_out" if name in taken else f"_{i}"
        names.append(name)
    return names


def _make_identifier(path: str) -> str:
    """Return a path such as ``states.0`` as an identifier."""
    name = re.sub(r"\W", "_", path, flags=re.ASCII)
    return name if name and not name[0].isdigit() else f"output_{name}".rstrip("_")
