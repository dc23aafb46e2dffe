"""How one option of the solver is declared: once, at its field, with the default, the unit, the meaning and the accepted values.

The checks, the parameter lists that ``help(Gate)`` shows, ``netgraph train --options`` and the table in ``docs/fas.md`` read that
declaration.
"""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any, NamedTuple, TypeVar


class SolverOption(NamedTuple):
    """Unit, meaning and accepted values of one option.

    Parameters
    ----------
    unit : str
        Unit of the number, empty for a flag or a word.
    meaning : str
    choices : tuple of str
        The accepted words, for an option that is a word.
    least, most : float
        Smallest and largest accepted number.
    above, below : float, optional
        Bounds that the number must not reach.
    """

    unit: str
    meaning: str
    choices: tuple[str, ...] = ()
    least: float = float("-inf")
    most: float = float("inf")
    above: float | None = None
    below: float | None = None

    def accepts(self, number: float) -> bool:
        """Return True if a number lies within the bounds. NaN never does."""
        above = self.above is None or number > self.above
        below = self.below is None or number < self.below
        return self.least <= number <= self.most and above and below

    def describe_bounds(self) -> str:
        """Return the bounds in words, such as ``of 0 or more and below 1``. Without bounds it is empty."""
        parts = [] if self.least == float("-inf") else [f"of {self.least:g} or more"]
        parts += [] if self.above is None else [f"above {self.above:g}"]
        parts += [] if self.below is None else [f"below {self.below:g}"]
        parts += [] if self.most == float("inf") else [f"of {self.most:g} or less"]
        return " and ".join(parts)


def declare_option(default: Any, unit: str, meaning: str, **accepted: Any) -> Any:
    """Declare an option at its field."""
    return field(default=default, metadata={"option": SolverOption(unit, meaning, **accepted)})


def format_value(value: Any) -> str:
    """Return a value as text, in the form that `parse_options` reads."""
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


GroupClass = TypeVar("GroupClass", bound=type)


def list_parameters(group: GroupClass) -> GroupClass:
    """Append the declared options to a class's docstring, as its numpydoc parameters."""
    lines = ["", "", "Parameters", "----------"]
    for declared in fields(group):
        info = read_declaration(declared)
        unit = f", {info.unit}" if info.unit else ""
        lines += [f"{declared.name} : {declared.type}{unit}, default {format_value(declared.default)}"]
        lines += [f"    {info.meaning}"]
    group.__doc__ = f"{group.__doc__}" + "\n".join(lines)
    return group


def read_declaration(declared: Field[Any]) -> SolverOption:
    """Return the declaration of a field."""
    info: SolverOption = declared.metadata["option"]
    return info
