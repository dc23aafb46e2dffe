"""Maps inside a forward: the operators that ``torch.vmap`` becomes, in the place of its call.

Masks of transformers and ensembles map a function over rows or weights. While a network is recorded, each such call is first taken
down by itself, as operators on whole batches, and these then run in its place. The rest of the network is recorded as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx.experimental.proxy_tensor import make_fx

from netgraph.environment.torch_internals import inside_transform, replace_map, without_dispatch_modes
from netgraph.recording.forward.inner_gradients import (
    WatchSwitches,
    let_transforms_run,
    reconnect_saved_tensors,
)
from netgraph.utils.pytree import build_structure, unflatten_tree


@contextmanager
def record_maps() -> Iterator[None]:
    """Run the operators of each map in the place of the map, in a block that a dispatch mode records."""
    with replace_map(_run_operators):
        yield


def _run_operators(original: Callable[..., Any], function: Any, *settings: Any, **kwargs: Any) -> Any:
    """Call a map by its operators. ``settings`` are those of the map, and then the arguments of the function.

    A map within another transform is part of that transform.
    """
    if inside_transform():
        return original(function, *settings, **kwargs)
    leaves: list[Any] = []
    structure = build_structure({"settings": tuple(settings[4:]), "keywords": kwargs}, leaves)
    results: list[Any] = []

    def call(*leaves: Any) -> list[Any]:
        given = unflatten_tree(structure, list(leaves))
        flat: list[Any] = []
        with WatchSwitches():
            result = original(function, *settings[:4], *given["settings"], **given["keywords"])
        results.append(build_structure(result, flat))
        return flat

    with let_transforms_run(), without_dispatch_modes():
        recorded = make_fx(call, tracing_mode="real")(*leaves)
    reconnect_saved_tensors(recorded.graph)
    recorded.recompile()
    return unflatten_tree(results[-1], recorded(*leaves))
