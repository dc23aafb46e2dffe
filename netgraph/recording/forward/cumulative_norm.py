"""Batch norms without momentum: their running averages are means over all batches, so that each batch weighs 1 / (batches so far).

PyTorch reads the count as a number while it runs, and a recording would keep that number. For the time of a recording each such norm
gets a momentum of its own that is no real one. In the graph the count takes its place, which `cumulative_factor` reads in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

UNIT = 2.0**-1000  # the first norm gets this as momentum, the second twice as much, and so on


def cumulative_factor(count: Tensor) -> float:
    """Return the weight of the newest batch in a mean over ``count`` batches."""
    return 1.0 / float(count)


def mark_norms(model: nn.Module) -> dict[float, str]:
    """Give each batch norm that trains without momentum a momentum of its own.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode in which it will be recorded.

    Returns
    -------
    dict of float to str
        By momentum, the name of the buffer that counts the batches.
    """
    marks: dict[float, str] = {}
    for name, module in model.named_modules():
        counts = isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        if counts and module.momentum is None and module.num_batches_tracked is not None:
            module.momentum = UNIT * (len(marks) + 1)
            marks[module.momentum] = f"{name}.num_batches_tracked".removeprefix(".")
        elif hasattr(type(module), "list_counts"):  # a recorded network, whose steps call `cumulative_factor`
            for place, count in module.list_counts():
                mark = UNIT * (len(marks) + 1)
                module.fixed_results[place] = mark
                marks[mark] = f"{name}.{count}".removeprefix(".")
    return marks


def unmark_norms(model: nn.Module, marks: Mapping[float, str]) -> None:
    """Take the momenta of `mark_norms` away again."""
    for module in model.modules() if marks else ():
        if isinstance(module, _BatchNorm) and module.momentum in marks:
            module.momentum = None
        elif hasattr(type(module), "list_counts"):
            fixed: Any = module.fixed_results
            fixed.clear()


def read_counts(graph: fx.Graph, marks: Mapping[float, str]) -> None:
    """Put the count of batches in the places of the momenta of `mark_norms`, in a recorded graph."""
    if not marks:
        return
    counts = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
    for node in list(graph.nodes):
        found = [arg for arg in node.args if type(arg) is float and arg in marks]
        if node.op == "call_function" and found:
            with graph.inserting_before(node):
                factor = graph.call_function(cumulative_factor, (counts[marks[found[0]]],))
            factor.meta["val"] = 1.0
            node.args = tuple(factor if arg is found[0] else arg for arg in node.args)
