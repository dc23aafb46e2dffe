"""The outputs of a network by name, and the choice of those that matter.

The name of an output is the path to it in the network's result, such as ``logits``, ``hidden_states.2`` or ``0``. A shorter path
names all outputs below it. A single tensor has no name. Where no name is given, all outputs matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from netgraph.errors import TraceError
from netgraph.utils.pytree import Structure, build_structure, list_parts


def name_outputs(structure: Structure, path: str = "") -> dict[str, int]:
    """Return the names of all tensors in a result, with their numbers in the order of the recording."""
    if "tensor" in structure:
        return {path: structure["tensor"]}
    names: dict[str, int] = {}
    for key, part in list_parts(structure):
        names |= name_outputs(part, f"{path}.{key}" if path else str(key))
    return names


def choose_outputs(structure: Structure, chosen: Sequence[str]) -> dict[str, int]:
    """Return the outputs that matter. A mode that has none of them, as it answers otherwise, keeps all of its outputs."""
    names = name_outputs(structure)
    found = {name: i for name, i in names.items() if any(_covers(path, name) for path in chosen)}
    return found or names


def _covers(path: str, name: str) -> bool:
    """Return True if a path names an output."""
    return name == path or name.startswith(f"{path}.")


def check_outputs(structures: Iterable[Structure], chosen: Sequence[str]) -> None:
    """Refuse names of outputs that the network has in no mode.

    Raises
    ------
    TraceError
    """
    names = list(dict.fromkeys(name for structure in structures for name in name_outputs(structure) if name))
    for path in chosen:
        if not any(_covers(path, name) for name in names):
            raise TraceError(
                f"no output is named {path!r}. "
                + (
                    f"The outputs are {', '.join(names)}."
                    if names
                    else "The network returns one tensor, which matters."
                )
            )


def collect_chosen(value: Any, chosen: Sequence[str] = ()) -> list[Tensor]:
    """Return the tensors of a result that matter, in the order of a recording.

    Parameters
    ----------
    value : object
        What a network returned.
    chosen : sequence of str, default ()
        Names of the outputs that matter. Without a name all of them do.
    """
    leaves: list[Tensor] = []
    structure = build_structure(value, leaves, drop_unknown=True)
    if not chosen:
        return leaves
    return [leaves[i] for i in sorted(set(choose_outputs(structure, chosen).values()))]


def list_others(structure: Structure, chosen: Sequence[str]) -> Mapping[str, int]:
    """Return the outputs that do not matter."""
    kept = choose_outputs(structure, chosen)
    return {name: i for name, i in name_outputs(structure).items() if name not in kept}


def list_results(node: fx.Node) -> list[Any]:
    """Return the results that the last node of a recorded graph returns, by their numbers."""
    return list(node.args[0]) if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
