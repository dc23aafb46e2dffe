"""Other examples than the user's, of other sizes along the free dimensions or with other numbers, and the recordings made on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.recording.operators.guards import list_decisions, make_same_decisions
from netgraph.recording.recorder import Recording, record_network
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
        yield from fill_example(example, fills, _find_shapes(spec, sizes))


def resize_alone(example: Any, spec: UnitSpec, fills: Sequence[Fill]) -> Iterator[Any]:
    """Yield examples in which one free axis has another size and all others that of the example."""
    for axis in _list_free(spec):
        size = spec.sizes[axis]
        for other in dict.fromkeys((_choose_unlike(size, ()), size + 1, 2 * size, 3 * size, max(size - 1, 1))):
            yield from fill_example(example, fills, _find_shapes(spec, {**spec.sizes, axis: other}))


def resize_apart(example: Any, spec: UnitSpec, fills: Sequence[Fill]) -> Iterator[Any]:
    """Yield examples in which the longer input is the shorter one, and in which both are equally long, where sizes of inputs are their own.

    A network may ask which input is longer, as ``min(len(x), len(y))`` does.
    """
    apart = sorted(_list_apart(spec), key=spec.sizes.__getitem__)
    if not apart:
        return
    others: list[int] = []
    for axis in apart:
        others.append(_choose_unlike(spec.sizes[axis], others))
    for sizes in (others[::-1], [max(others)] * len(apart)):
        yield from fill_example(
            example, fills, _find_shapes(spec, {**spec.sizes, **dict(zip(apart, sizes, strict=True))})
        )


def changes_alike(recording: Recording, spec: UnitSpec) -> bool:
    """Return True if the sizes of a second recording keep differences or ratios of the sizes of the example.

    The first of the other sizes do not. A network that refuses them may work out a number from the sizes of two inputs.
    """
    if len(_list_free(spec)) < 2:
        return False
    unlike = _find_shapes(spec, next(_list_other_sizes(spec)))
    return [list(shape) for shape in _list_shapes(recording)[: len(unlike)]] != unlike


def fill_example(example: Any, fills: Sequence[Fill], shapes: Sequence[Sequence[int]] | None = None) -> Iterator[Any]:
    """Yield the example with other numbers, once for each way to fill it. By default its shapes stay."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    shapes = [leaf.shape for leaf in leaves] if shapes is None else shapes
    for fill in fills:
        parts = [
            fill(leaf, tuple(shape)).requires_grad_(leaf.requires_grad)
            for leaf, shape in zip(leaves, shapes, strict=True)
        ]
        numbered = number_new_rows(leaves, parts) if fill is repeat_entries else None
        for filled in (parts,) if numbered is None else (numbered, parts):
            args, kwargs = unflatten_tree(structure, filled)
            yield kwargs if kwargs else args


def number_new_rows(leaves: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor] | None:
    """Return a longer example in which integers that number all rows of an input number its new rows too, or None without such.

    The last node of a graph has edges, and each atom an owner: a graph of another size is then one of the same kind.
    """
    numbered = list(parts)
    for i, (leaf, part) in enumerate(zip(leaves, parts, strict=True)):
        grown: dict[int, int] = {}
        for other, longer in zip(leaves, parts, strict=True):  # the first input with so many rows is that of the nodes
            if other is not leaf and other.ndim and longer.shape[0] > other.shape[0]:
                grown.setdefault(other.shape[0], longer.shape[0])
        n_rows = int(leaf.max()) + 1 if leaf.dtype in (torch.int32, torch.int64) and leaf.numel() else 0
        if n_rows in grown and part.ndim:
            numbered[i] = _put_last(part.clone(), torch.arange(n_rows, grown[n_rows]))
    return numbered if any(a is not b for a, b in zip(numbered, parts, strict=True)) else None


def _put_last(rows: Tensor, numbers: Tensor) -> Tensor:
    """Write numbers to the end of each row of integers in place, in columns of its own, so that no edge has two equal ends."""
    width = len(numbers)
    for i, row in enumerate(rows.reshape(-1, rows.shape[-1])):
        places = torch.arange(width) - width * (i + 1)
        row[places % len(row)] = numbers.to(row)
    return rows


def _list_other_sizes(spec: UnitSpec) -> Iterator[dict[str, int]]:
    """Yield sizes of all axes. The free ones get unlike sizes, whose halves and remainders are not those of the example.

    A network may refuse that: then they have one unit more, two more and so on, all have one more, each alone has, or all have twice and
    three times as many.
    """
    sizes = spec.sizes
    free = _list_free(spec)
    if not free:
        return
    others: dict[str, int] = {}
    for axis in free:
        others[axis] = _choose_unlike(sizes[axis], others.values())
    yield {**sizes, **others}
    for step in (1, 0) if len(free) > 1 else (0,):
        yield {**sizes, **{axis: sizes[axis] + 1 + step * i for i, axis in enumerate(free)}}
    for axis in free if len(free) > 1 else ():
        yield {**sizes, axis: sizes[axis] + 1}
    for times in (2, 3):
        yield {**sizes, **{axis: sizes[axis] * times for axis in free}}


def _list_free(spec: UnitSpec) -> list[str]:
    """Return the axes of inputs whose sizes are free."""
    return sorted(spec.dynamic & {axis for terms in spec.input_terms for term in terms for axis in term_axes(term)})


def _list_apart(spec: UnitSpec) -> list[str]:
    """Return the free axes that have another one in no input of theirs, but in other inputs."""
    free = _list_free(spec)
    inputs = {
        axis: {i for i, terms in enumerate(spec.input_terms) if any(axis in term_axes(term) for term in terms)}
        for axis in free
    }
    return [axis for axis in free if any(inputs[axis].isdisjoint(inputs[other]) for other in free)]


def _find_shapes(spec: UnitSpec, sizes: Mapping[str, int]) -> list[list[int]]:
    """Return the shapes of the inputs for sizes of all axes."""
    return [[term_size(term, sizes) for term in terms] for terms in spec.input_terms]


def _choose_unlike(size: int, taken: Collection[int]) -> int:
    """Return a larger size whose halves, thirds and quarters, and what they leave over, differ from those of a size."""
    other = 2 * size + 1
    while other in taken or any(other % k == size % k for k in (2, 3, 4)):
        other += 1
    return other


def detach_example(example: Any) -> Any:
    """Return an example whose inputs ask for no gradient."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    args, kwargs = unflatten_tree(structure, [leaf.detach() for leaf in leaves])
    return kwargs if kwargs else args


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


def repeat_least(leaf: Tensor, shape: Shape) -> Tensor:
    """Return the least entry of an input at all places, so that there is one kind of number and the largest is another one."""
    least = leaf.detach().flatten().sort()[0][:1]
    return least.expand(shape).clone() if len(least) else leaf.new_zeros(shape)


NUMBER_FILLS: tuple[Fill, ...] = (draw_numbers, draw_negated, draw_entries, repeat_entries)
COUNTED_FILLS: tuple[Fill, ...] = (
    draw_entries,
    repeat_least,
)  # for counts of kinds, which repeated rows leave as they are
GUARDED_FILLS: tuple[Fill, ...] = (repeat_entries, draw_entries)  # decisions on numbers are guards already


@dataclass
class OtherRecordings:
    """The second recordings of a network, under other conditions than the first ones. Each is made once.

    Parameters
    ----------
    model : torch.nn.Module
    first : dict of str to Recording
        The first recordings, by mode.
    before : callable, optional
        Map of the inputs, as `netgraph.trace` takes it.
    """

    model: nn.Module
    first: Mapping[str, Recording]
    before: Callable[[Tensor], Tensor] | None
    links: dict[int, Any] = field(default_factory=dict)  # what was found in a recording, by its id
    _made: list[tuple[str, torch.dtype | None, list[Tensor], Recording | None]] = field(default_factory=list)

    def record(self, mode: str, example: Any, dtype: torch.dtype | None = None) -> Recording | None:
        """Return a recording under other conditions, or None if the network does not run so, or decides otherwise."""
        leaves: list[Tensor] = []
        build_structure(normalize_example(example), leaves)
        for other_mode, other_dtype, other_leaves, made in self._made:
            if (mode, dtype) == (other_mode, other_dtype) and self._are_alike(mode, leaves, other_leaves):
                return made
        made = self._record(mode, example, dtype)
        self._made.append((mode, dtype, leaves, made))
        return made

    def find_resized(self, mode: str) -> Recording | None:
        """Return the first recording of a mode on an example of other sizes, or None."""
        sizes = _list_shapes(self.first[mode])
        made = (made for other, _, _, made in self._made if other == mode and made is not None)
        return next((recording for recording in made if _list_shapes(recording) != sizes), None)

    def compares_counts(self) -> bool:
        """Return True if a recording on another example compares a count with another number than the first one, such as that of the nodes."""
        made = ((mode, made) for mode, _, _, made in self._made if made is not None)
        return any(list_decisions(other.graph) != list_decisions(self.first[mode].graph) for mode, other in made)

    def _are_alike(self, mode: str, a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
        """Return True if two examples have the same shapes, and the same numbers where a recording reads them."""
        if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
            return False
        way = self.first[mode].way
        reads = way == "numbers" or way.endswith("real")
        return not reads or all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    def _record(self, mode: str, example: Any, dtype: torch.dtype | None) -> Recording | None:
        first = self.first[mode]
        try:
            second = record_network(
                self.model, example, training=mode == "train", before=self.before, seed=SEED, attributes=first.changed, way=first.way,
                dtype=dtype,
            )  # fmt: skip
        except Exception:  # the network itself may refuse other sizes or numbers, in many ways
            return None
        same_way = make_same_decisions(first.graph, second.graph)
        return second if same_way else None  # the coarse network refuses inputs with other decisions


def _list_shapes(recording: Recording) -> list[Any]:
    return [node.meta["val"].shape for node in recording.graph.nodes if node.op == "placeholder"]
