"""Other examples than the user's: of other sizes along the free dimensions, and with other numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from netgraph.tracing.unit_spec import UnitSpec, term_axes, term_size
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree

Shape = tuple[int, ...]
Fill = Callable[[Tensor, Shape], Tensor]
SEED = 20_011


def resize_example(example: Any, spec: UnitSpec, fills: Sequence[Fill]) -> Iterator[Any]:
    """Yield examples of other sizes along the free dimensions of a network's inputs.

    Parameters
    ----------
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    spec : UnitSpec
        Trace of the network. It says which dimensions are free, and which have one size.
    fills : sequence of callable
        Each fills the inputs in its own way.
    """
    for sizes in _list_other_sizes(spec):
        yield from fill_example(example, fills, [[term_size(t, sizes) for t in terms] for terms in spec.input_terms])


def fill_example(example: Any, fills: Sequence[Fill], shapes: Sequence[Sequence[int]] | None = None) -> Iterator[Any]:
    """Yield the example with other numbers, once for each way to fill it. By default its shapes stay."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    shapes = [leaf.shape for leaf in leaves] if shapes is None else shapes
    for fill in fills:
        parts = [fill(leaf, tuple(shape)) for leaf, shape in zip(leaves, shapes, strict=True)]
        args, kwargs = unflatten_tree(structure, parts)
        yield kwargs if kwargs else args


def _list_other_sizes(spec: UnitSpec) -> Iterator[dict[str, int]]:
    """Yield sizes of all axes. The free ones have one unit more, all and then each alone, or twice and three times as many."""
    sizes = spec.sizes
    read = {axis for terms in spec.input_terms for term in terms for axis in term_axes(term)}
    free = sorted(spec.dynamic & read)
    if not free:
        return
    yield {**sizes, **{axis: sizes[axis] + 1 for axis in free}}
    for axis in free if len(free) > 1 else ():
        yield {**sizes, axis: sizes[axis] + 1}
    for times in (2, 3):
        yield {**sizes, **{axis: sizes[axis] * times for axis in free}}


def make_empty(leaf: Tensor, shape: Shape) -> Tensor:
    """Return a tensor of a shape without numbers, laid out like an input."""
    outermost = leaf.ndim > 0 and leaf.stride(0) == max(leaf.stride()) and shape[1:] == tuple(leaf.shape[1:])
    if outermost:
        return torch.empty_strided(shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return leaf.new_empty(shape)


def draw_numbers(leaf: Tensor, shape: Shape) -> Tensor:
    """Return normal numbers of the size of an input's numbers, or entries of an integer input in another order."""
    if not leaf.is_floating_point():
        return draw_entries(leaf, shape)
    scale = float(leaf.detach().double().pow(2).mean().sqrt()) if leaf.numel() else 0.0
    return (torch.randn(shape, generator=torch.Generator().manual_seed(SEED)) * (scale or 1.0)).to(leaf)


def draw_negated(leaf: Tensor, shape: Shape) -> Tensor:
    """Return the numbers of `draw_numbers` with the other sign."""
    numbers = draw_numbers(leaf, shape)
    return -numbers if leaf.is_floating_point() else numbers.flip(-1) if numbers.ndim else numbers


def draw_entries(leaf: Tensor, shape: Shape) -> Tensor:
    """Return entries of an input, drawn at random."""
    if not leaf.numel():
        return leaf.new_zeros(shape)
    places = torch.randint(leaf.numel(), shape, generator=torch.Generator().manual_seed(SEED))
    return leaf.detach().flatten()[places.to(leaf.device)]


def repeat_entries(leaf: Tensor, shape: Shape) -> Tensor:
    """Return the numbers of an input, repeated to a shape. A mask stays as true as it is, and lengths stay those of the example."""
    numbers = leaf.detach()
    for dim, size in enumerate(shape):
        places = torch.arange(size, device=leaf.device) % max(leaf.shape[dim], 1)
        numbers = numbers.index_select(dim, places)
    return numbers.clone()


NUMBER_FILLS: tuple[Fill, ...] = (draw_numbers, draw_negated, draw_entries, repeat_entries)
GUARDED_FILLS: tuple[Fill, ...] = (repeat_entries, draw_entries)  # decisions on numbers are guards already
