"""Search the numbers from which a class builds a network of given shapes. Networks are built on meta tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Values = dict[str, Any]


@dataclass
class ShapeSearch:
    """Searches numbers whose network has the shapes of a coarse one.

    Parameters
    ----------
    build : callable ``(values) -> torch.nn.Module``
        Builds a network from numbers, on meta tensors.
    names : sequence of str
        Parameters and buffers that are compared.
    state : dict of str to Tensor
        Coarse parameters and buffers.
    options : dict of str to list
        For each number the values that it may have, the most likely first.
    fine : dict of str to object
        The numbers of the fine network, which may be more than those of ``options``.
    """

    build: Callable[[Values], nn.Module]
    names: Sequence[str]
    state: Mapping[str, Tensor]
    options: Mapping[str, list[Any]]
    fine: Mapping[str, Any]
    first_misfit: str = ""
    known: dict[tuple[str, ...], float] = field(default_factory=dict)

    def iterate_values(self) -> Iterator[Values]:
        """Yield numbers, the most likely first. If those do not fit, they are first changed one by one until they do."""
        fitting = None
        likely = {name: choices[0] for name, choices in self.options.items()}
        for values in (likely, {name: self.fine[name] for name in self.options}):
            fitting = fitting or self._change_one_by_one(values)
        choices = dict(self.options)
        if fitting is not None:  # numbers that no shape shows may still have other values
            choices = {
                name: [v for v in listed if v == fitting[name] or self._fits_too(fitting, name, v)]
                for name, listed in self.options.items()
            }
        for chosen in itertools.product(*choices.values()):
            yield dict(zip(choices, chosen, strict=True))

    def measure_misfit(self, values: Values) -> float:
        """Return how far the shapes of a network of these numbers are from those of the coarse one: 0 if they fit."""
        key = tuple(repr(values[name]) for name in self.options)
        if key not in self.known:
            self.known[key] = self._build_and_compare(values)
        return self.known[key]

    def _build_and_compare(self, values: Values) -> float:
        try:
            network = self.build(values)
        except Exception as error:  # configs and constructors check themselves
            self.first_misfit = self.first_misfit or f"{type(error).__name__}: {str(error)[:120]}"
            return math.inf
        shapes = {name: t.shape for name, t in (*network.named_buffers(), *network.state_dict().items())}
        distance = 0.0
        for name in self.names:
            if name in self.state and shapes.get(name) != self.state[name].shape:
                here, there = self.state[name].shape, shapes.get(name, ())
                self.first_misfit = self.first_misfit or f"{name} is {tuple(there)} there and {tuple(here)} here"
                distance += _measure_distance(here, there)
        extra = [name for name, _ in network.named_parameters() if name in self.names and name not in self.state]
        if extra:  # blocks that the coarse network lacks
            self.first_misfit = self.first_misfit or f"{extra[0]} is there and not here"
        return distance + len(extra)

    def _fits_too(self, fitting: Values, name: str, value: Any) -> bool:
        """Return True if fitting numbers fit with another value of one of them."""
        return not self.measure_misfit({**fitting, name: value})

    def _change_one_by_one(self, values: Values) -> Values | None:
        """Return numbers that fit, found by changes that each bring the shapes nearer, or None."""
        nearest, last = self.measure_misfit(values), math.inf
        while 0 < nearest < last:
            last = nearest
            for name, listed in self.options.items():
                for value in listed:
                    distance = self.measure_misfit({**values, name: value})
                    if distance < nearest:
                        values, nearest = {**values, name: value}, distance
        return None if nearest else values


def _measure_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the sum of |log(m / n)| over the sizes of two shapes, and more for shapes of different length."""
    if len(a) != len(b):
        return 100.0
    return sum(abs(math.log(max(m, 1) / max(n, 1))) for m, n in zip(a, b, strict=True))
