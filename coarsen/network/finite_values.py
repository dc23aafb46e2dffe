"""Numbers that are not finite: in the weights of a network, in its outputs, and in merged weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import collect_tensors, fixed_seed
from netgraph.errors import NetgraphError
from netgraph.tracing.recordable import check_input_tensors
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import build_structure, count_common_rows, normalize_example


def find_nonfinite_outputs(model: nn.Module, example: Any) -> str | None:
    """Return a sentence if a network with its own weights answers an example with nothing that can be compared.

    The network runs in evaluation mode. Minus infinity is a number here: networks mask with it. A complex number counts as two.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.

    Returns
    -------
    str or None
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return None  # a network without numbers
    args, kwargs = normalize_example(example)
    with preserve_attributes(model), torch.no_grad(), fixed_seed(0):
        set_training_mode(model, training=False)
        outputs = collect_tensors(model(*args, **kwargs))
    numbers = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in outputs]
    numbers = [t for t in numbers if t.is_floating_point()]
    bad = [int((torch.isnan(t) | torch.isposinf(t)).sum()) for t in numbers]
    if not sum(bad):
        return None
    total = sum(t.numel() for t in numbers)
    names = list_nonfinite({**dict(model.named_parameters()), **dict(model.named_buffers())})
    cause = f" {names[0]} is not finite." if names else ""
    return f"{sum(bad):,} of {total:,} numbers of its outputs are not finite on this example.{cause}"


def check_rows(rows: Any, what: str) -> None:
    """Refuse inputs without rows, and inputs that hold NaN or infinity: what is measured on them would say nothing.

    Parameters
    ----------
    rows : Tensor, tuple or dict
        Inputs, nested like the example. Minus infinity may be a mask.
    what : str
        What the message calls them.

    Raises
    ------
    TraceError
        No network can be recorded on them: they are nested, sparse, quantised or without numbers.
    NetgraphError
    """
    check_input_tensors(rows)
    if count_common_rows(rows) == 0:
        raise NetgraphError(f"{what} have no rows. Give one or more.")
    leaves: list[Tensor] = []
    build_structure(normalize_example(rows), leaves)
    for leaf in leaves:
        if leaf.is_floating_point():
            bad = leaf.isnan() | leaf.isposinf()
            if bool(bad.any()):
                n = int(bad.flatten(1).any(1).sum()) if leaf.ndim > 1 else int(bad.sum())
                raise NetgraphError(
                    f"{what} hold numbers that are not finite, in {n:,} of {len(leaf) if leaf.ndim else 1:,} rows. Correct or remove these rows."
                )


def list_nonfinite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors with a number that is not finite."""
    return [
        name
        for name, tensor in state.items()
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() and not _is_finite(tensor)
    ]


def list_overflowed(coarse: Mapping[str, Tensor], fine: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that merging has made infinite, although those of the finer network are finite."""
    return [name for name in list_nonfinite(coarse) if name in fine and _is_finite(fine[name])]


def _is_finite(tensor: Tensor) -> bool:
    """Return True if all numbers are finite. Sums are finite only if all terms are, and they need no mask in memory."""
    total = tensor.detach().sum(dtype=torch.float64 if not tensor.is_complex() else torch.complex128)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())
