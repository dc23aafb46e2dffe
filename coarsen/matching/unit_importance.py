"""The importance of units: what a network loses without each of them, estimated before anything merges.

``magnitude``    |w|², the squared length of the incoming weights. Li et al., "Pruning filters for efficient ConvNets", ICLR 2017.
``activation``   the mean square of the activations.
``taylor``       the mean over minibatches of (sum of |g_s w_s|)² over all parameters s that make or read the unit, g their gradients: the first
                 order of Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, squared as there. The absolute
                 values inside the sum, over the whole group, are those of ``GroupTaylorImportance`` of torch-pruning.
``fisher``       the mean over minibatches of (sum of g_s w_s)², with signs, which is the group contribution of Molchanov et al. In a layer
                 that is linear in the unit each sum is the derivative by a gate on it, and its mean square is the diagonal of the Fisher
                 matrix. Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; for coupled layers Liu et
                 al., "Group Fisher pruning for practical network compression", ICML 2021.
``surgeon``      what the layers that read the units lose without the unit and without all units that matter less, once their weights
                 are refitted (`netgraph.coarsen.matching.unit_surgery`).

Calibration data need no labels: the loss of ``taylor`` and ``fisher`` is a random projection of the outputs, e · f(x) with e ~ N(0, I). Over e, the
mean square of its derivative by a gate is the squared length of the derivative of f: the change of the outputs that the gate makes to first
order, which is what a function error measures. Squares of gradients belong to single examples. As e is independent for each row, products of
two rows vanish in the mean, and a minibatch estimates the sum over its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netgraph.coarsen.matching.outer_units import restrict_to_units
from netgraph.coarsen.matching.unit_surgery import measure_surgery
from netgraph.errors import NetgraphError
from netgraph.graph.activations import collect_activations
from netgraph.graph.axis_units import AxisUnits, Measure
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.recording.forward.named_outputs import collect_chosen
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.choices import DATA_IMPORTANCES, IMPORTANCES
from netgraph.utils.pytree import normalize_example, split_rows
from netgraph.utils.seeds import make_generator

ROWS = 16  # of a minibatch
MOST = 64  # minibatches


def check_importance(kind: str, data: Any) -> None:
    """Refuse an importance that does not exist, or one that needs calibration data and has none.

    Raises
    ------
    NetgraphError
    """
    if kind not in IMPORTANCES:
        raise NetgraphError(f"no importance is called {kind!r}. Choose one of {', '.join(IMPORTANCES)}.")
    if data is None and kind in DATA_IMPORTANCES:
        raise NetgraphError(f"importance {kind!r} needs calibration data. Give some, or choose magnitude or none.")


def measure_importance(units: AxisUnits, kind: str) -> NDArray[np.float64] | None:
    """Return the importance of each unit of an axis, (n,), or None for the kind ``none``.

    Parameters
    ----------
    units : AxisUnits
    kind : {"none", "magnitude", "activation", "taylor", "fisher", "surgeon"}

    Raises
    ------
    NetgraphError
        There are no calibration data, no layer reads the units, the outputs have no gradient, or a number is not finite.
    """
    if kind == "none":
        return None
    values: NDArray[np.float64]
    if kind == "magnitude":
        values = np.square(np.asarray(units.incoming, dtype=np.float64)).sum(1)
    else:
        check_importance(kind, units.seen)
        assert units.seen is not None
        measured = units.seen(MEASURES[kind]).get(units.axis)
        if measured is None:
            raise NetgraphError(
                f"importance {kind!r} looks at the inputs of layers, and no linear layer or convolution reads the units of axis {units.axis!r}. "
                "Keep the axis, or choose taylor or fisher."
            )
        # pairs of an outer and an inner unit count together where units merge alike in all outer units
        values = measured.double().cpu().numpy().reshape(-1, units.spec.axes[units.axis].size).sum(0)
    if not np.isfinite(values).all():
        unit = int((~np.isfinite(values)).argmax())
        raise NetgraphError(
            f"importance {kind!r} of unit {unit} of axis {units.axis!r} is {values[unit]}. Repair the network, or choose another one."
        )
    return values


def measure_activations(network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return the mean square of the activations of each unit, by axis."""
    return {axis: rows.double().square().mean(1) for axis, rows in collect_activations(network, spec, batches).items()}


def measure_gates(
    network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any], *, absolute: bool
) -> dict[str, Tensor]:
    """Return the mean square of the sum of gradient times weight over the parameters of each unit, by axis.

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        Its spec, with the sizes of this network.
    batches : sequence
        Inputs.
    absolute : bool
        Add up absolute values.

    Returns
    -------
    dict of str to Tensor of shape (n,)
        Axes that merge inside outer units have an entry for each pair of an outer and an inner unit.
    """
    axes = [axis.name for axis in spec.axes.values() if axis.kept is None or axis.fewest]
    totals, n, generator = dict.fromkeys(axes, torch.zeros(())), 0, make_generator(0)
    for batch in _list_minibatches(batches):
        products = _multiply_by_gradients(network, spec, batch, generator)
        if absolute:
            products = {name: product.abs() for name, product in products.items()}
        for axis in axes:
            totals[axis] = totals[axis] + _sum_by_unit(spec, products, axis).square()
        n += 1
    return {axis: total / n for axis, total in totals.items()}


MEASURES: dict[str, Measure] = {  # each is one object, because measures of a level are kept by identity
    "activation": measure_activations,
    "taylor": partial(measure_gates, absolute=True),
    "fisher": partial(measure_gates, absolute=False),
    "surgeon": measure_surgery,
}


def _list_minibatches(batches: Sequence[Any]) -> Iterator[Any]:
    """Yield minibatches of a few rows, at most `MOST`. Inputs without rows in common stay whole."""
    n = 0
    for batch in batches:
        for part in split_rows(batch, ROWS):
            if n == MOST:
                return
            yield part
            n += 1


def _multiply_by_gradients(
    network: GraphNetwork, spec: UnitSpec, batch: Any, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return each parameter times its gradient, for a random projection of the outputs."""
    args, kwargs = normalize_example(batch)
    parameters = {name: p for name, p in network.named_parameters() if p.is_floating_point() or p.is_complex()}
    # cuDNN differentiates no recurrent layer in evaluation mode
    with _gradients_of(parameters.values()), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        outputs = [t for t in collect_chosen(network(*args, **kwargs), spec.outputs) if t.requires_grad]
        outputs = [torch.view_as_real(t) if t.is_complex() else t for t in outputs]
        if not outputs:
            raise NetgraphError(
                "importances taylor and fisher need gradients, and the outputs of the network have none. Choose activation or magnitude."
            )
        cotangents = [torch.randn(t.shape, generator=generator).to(t) for t in outputs]
        gradients = torch.autograd.grad(outputs, list(parameters.values()), cotangents, allow_unused=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    return {name: _multiply_widely(p.detach(), gradient) for (name, p), gradient in pairs if gradient is not None}


def _multiply_widely(p: Tensor, gradient: Tensor) -> Tensor:
    """Return a parameter times its gradient. Products of half precision would underflow in it."""
    wide = torch.promote_types(p.dtype, torch.float32)
    product = p.to(wide) * gradient.to(wide).conj()
    return product.real if product.is_complex() else product


@contextmanager
def _gradients_of(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters have gradients in a block, those too that the user has frozen."""
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)


def _sum_by_unit(spec: UnitSpec, products: Mapping[str, Tensor], axis: str) -> Tensor:
    """Return the sums of all entries that belong to each unit of an axis, (n,), or (n_outer · n,) for a nested axis."""
    outer = spec.axes[axis].within
    if outer is None:
        return _sum_rows(spec, products, axis)
    inner_spec, parts = restrict_to_units(spec, products, axis, outer)
    return torch.cat([_sum_rows(inner_spec, part, axis) for part in parts])


def _sum_rows(spec: UnitSpec, products: Mapping[str, Tensor], axis: str) -> Tensor:
    sums = torch.zeros(spec.axes[axis].size, dtype=torch.float64)
    for name, dim in spec.readers(axis):
        if name in products:
            for rows in iter_unit_rows(products[name], dim, spec.parameters[name][dim], axis, spec.sizes):
                sums = sums + rows.sum(1, dtype=torch.float64).to(sums)
    return sums
