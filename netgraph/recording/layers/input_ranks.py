"""The number of dimensions of a value in a serialized graph, where the operators before it show it.

The layers for one, two and three dimensions share one operator, ``batch_norm``, and differ only in the inputs that they take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

DIMENSIONS = re.compile(r"aten\.(?:conv|conv_transpose|\w*_pool)([123])d\.")  # with the batch, two more
SAME = re.compile(
    r"aten\.(?:batch|layer|group|instance|rms)_norm\.|aten\.\w*(?:relu|sigmoid|silu|gelu|tanh|dropout|swish|elu|mish)\w*\."
    r"|aten\.(?:add|sub|mul|div)_?\.(?:Tensor|Scalar)|aten\.(?:linear|contiguous|clone|pad|constant_pad_nd|transpose|softmax)\."
)
LISTED = re.compile(r"aten\.(?:view|reshape|permute)\.")  # argument 1 has an entry for each dimension


def find_rank(value: Any, graph: Mapping[str, Sequence[Any]], inputs: Mapping[str, int]) -> int | None:
    """Return the number of dimensions of a value.

    Parameters
    ----------
    value : object
        An argument in a serialized graph.
    graph : dict of str to list
        The steps of the graph, by name.
    inputs : dict of str to int
        Numbers of dimensions of the inputs, by the name of their step.

    Returns
    -------
    int or None
        None where the operators before the value do not show it.
    """
    while isinstance(value, dict) and "node" in value:
        name, operator, args, _ = graph[value["node"]]
        if name in inputs:
            return inputs[name]
        if dims := DIMENSIONS.match(operator):
            return int(dims[1]) + 2
        if LISTED.match(operator):
            return len(args[1])
        if operator == "aten.flatten.using_ints" and args[1:] in ([1], [1, -1]):
            return 2
        if operator.startswith("aten.cat."):
            value = args[0][0]
        elif SAME.match(operator):
            value = args[0]
        else:
            return None
    return None
