"""All groups of options together, and the values that single levels have in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from netgraph.errors import NetgraphError
from netgraph.fas.options.declaration import SolverOption, read_declaration
from netgraph.fas.options.groups import Adapt, Estimate, Gate, Smoothing, Split, Tau, Tolerance

GROUPS: dict[str, type] = {
    "smoothing": Smoothing,
    "tau": Tau,
    "gate": Gate,
    "split": Split,
    "adapt": Adapt,
    "tolerance": Tolerance,
    "estimate": Estimate,
}
LEVEL_GROUPS = ("smoothing", "estimate", "tau", "gate")  # a level can have values of its own for these
LEVEL_LR = SolverOption("", "Largest learning rate of the level.", above=0)
Group = TypeVar("Group", Smoothing, Estimate, Tau, Gate)


@dataclass(frozen=True)
class Options:
    """Options of a solver: seven groups, and the values that single levels have in their place.

    Parameters
    ----------
    smoothing : Smoothing
        Optimizer steps on each level.
    tau : Tau
        The coarse right-hand side.
    gate : Gate
        Conditions for taking a coarse step.
    split : Split
        How new units and blocks begin when a coarse network starts a finer one.
    adapt : Adapt
        Changes of levels and cycles during training.
    tolerance : Tolerance
        Tests for convergence and divergence.
    estimate : Estimate
        The gradient of a step.
    levels : dict of int to dict of str to value, default empty
        Values by level, where 0 is the finest: ``lr``, the fields of `Smoothing`, and for the step down from the level
        ``gate.gap``, ``tau.batches`` and the other fields of `Gate`, `Tau` and `Estimate`. The set of a coarser level has at most the
        minibatches of the finer level's set.

    Raises
    ------
    NetgraphError
        A word is none of the choices, a number is out of bounds, or a level has no such option.

    Examples
    --------
    >>> from netgraph.fas import Gate, Options
    >>> options = Options(gate=Gate(gap=0.05), levels={2: {"lr": 3e-4, "pre": 7}})
    >>> options.smoothing_of(0).pre, options.smoothing_of(2).pre
    (4, 7)
    >>> options.lr_of(0, 1e-3), options.lr_of(2, 1e-3)
    (0.001, 0.0003)
    >>> Options(gate=Gate(blend=2))
    Traceback (most recent call last):
    netgraph.errors.NetgraphError: option gate.blend is 2. Give a number of 0 or more and of 1 or less.
    """

    smoothing: Smoothing = field(default_factory=Smoothing)
    tau: Tau = field(default_factory=Tau)
    gate: Gate = field(default_factory=Gate)
    split: Split = field(default_factory=Split)
    adapt: Adapt = field(default_factory=Adapt)
    tolerance: Tolerance = field(default_factory=Tolerance)
    estimate: Estimate = field(default_factory=Estimate)
    levels: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, info in iterate_options():
            group, _, option = name.partition(".")
            _check_value(name, getattr(getattr(self, group), option), info)
        for level, values in self.levels.items():
            for name, value in values.items():
                _check_value(f"level.{level}.{name}", value, find_level_option(level, name)[0])

    def smoothing_of(self, level: int) -> Smoothing:
        """Return the smoothing of one level."""
        return self._override("smoothing", self.smoothing, level)

    def estimate_of(self, level: int) -> Estimate:
        """Return how the gradient of one level is estimated."""
        return self._override("estimate", self.estimate, level)

    def tau_of(self, level: int) -> Tau:
        """Return how the right-hand side of the next coarser level is formed."""
        return self._override("tau", self.tau, level)

    def gate_of(self, level: int) -> Gate:
        """Return the gate between one level and the next coarser one."""
        return self._override("gate", self.gate, level)

    def lr_of(self, level: int, lr: float) -> float:
        """Return the largest learning rate of one level, which is ``lr`` unless the level has its own."""
        return float(self.levels.get(level, {}).get("lr", lr))

    def _override(self, group_name: str, group: Group, level: int) -> Group:
        """Return a group with the values of one level in it."""
        full_names = {full_option_name(name): value for name, value in self.levels.get(level, {}).items()}
        values = {name.partition(".")[2]: v for name, v in full_names.items() if name.startswith(f"{group_name}.")}
        return replace(group, **values)


def full_option_name(name: str) -> str:
    """Return the full name of a level's option: ``pre`` stands for ``smoothing.pre``.

    Examples
    --------
    >>> full_option_name("pre"), full_option_name("gate.gap"), full_option_name("lr")
    ('smoothing.pre', 'gate.gap', 'lr')
    """
    return name if name == "lr" or "." in name else f"smoothing.{name}"


def iterate_options() -> Iterator[tuple[str, SolverOption]]:
    """Yield the dotted name and the declaration of every option."""
    for group_name, group in GROUPS.items():
        for declared in fields(group):
            yield f"{group_name}.{declared.name}", read_declaration(declared)


def find_level_option(level: int, name: str) -> tuple[SolverOption, Any]:
    """Return the declaration and the default of an option that one level can have."""
    if name == "lr":
        return LEVEL_LR, 1e-3
    group_name, _, option = full_option_name(name).partition(".")
    declared = {f.name: f for f in fields(GROUPS[group_name])} if group_name in LEVEL_GROUPS else {}
    if option not in declared:
        names = ", ".join(f.name for f in fields(Smoothing))
        raise NetgraphError(
            f"no option is called level.{level}.{name}. A level can have its own lr, {names}, estimate.NAME, gate.NAME and "
            "tau.NAME."
        )
    if option == "ema" and level:
        raise NetgraphError(
            f"option level.{level}.ema has no effect. The running mean belongs to the finest level: give level.0.ema."
        )
    if option == "cycles" and not level:
        raise NetgraphError(
            "option level.0.cycles has no effect. The length of the run is the number of cycles on the finest level."
        )
    return read_declaration(declared[option]), declared[option].default


def _check_value(name: str, value: Any, info: SolverOption) -> None:
    """Refuse a word that is no choice, and a number or a tuple with a number that is out of bounds."""
    if info.choices and value not in info.choices:
        raise NetgraphError(f"option {name} is {value!r}. Choose one of {', '.join(info.choices)}.")
    for number in value if isinstance(value, tuple) else (value,):
        is_number = not isinstance(number, (bool, str)) and number is not None
        if is_number and not info.accepts(number):
            raise NetgraphError(f"option {name} is {number:g}. Give a number {info.describe_bounds()}".rstrip() + ".")
