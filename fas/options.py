"""Options of the solver: seven groups, one field for each option, and a table made from the fields.

An option is declared once, at its field: the default, the unit, the meaning and the values that it accepts. The checks, the
parameter lists that ``help(Gate)`` shows, ``netgraph train --options`` and the table in ``docs/fas.md`` read that declaration.
As text an option is called ``group.name``, such as ``gate.gap=0.05``, and for a single level ``level.2.lr=3e-4``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

from netgraph.errors import NetgraphError
from netgraph.utils.text import is_index

# How one option is declared


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


def _option(default: Any, unit: str, meaning: str, **accepted: Any) -> Any:
    """Declare an option at its field."""
    return field(default=default, metadata={"option": SolverOption(unit, meaning, **accepted)})


def format_value(value: Any) -> str:
    """Return a value as text, in the form that `parse_options` reads."""
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


GroupClass = TypeVar("GroupClass", bound=type)


def _list_parameters(group: GroupClass) -> GroupClass:
    """Append the declared options to a class's docstring, as its numpydoc parameters."""
    lines = ["", "", "Parameters", "----------"]
    for declared in fields(group):
        info = _info(declared)
        unit = f", {info.unit}" if info.unit else ""
        lines += [f"{declared.name} : {declared.type}{unit}, default {format_value(declared.default)}"]
        lines += [f"    {info.meaning}"]
    group.__doc__ = f"{group.__doc__}" + "\n".join(lines)
    return group


def _info(declared: Field[Any]) -> SolverOption:
    info: SolverOption = declared.metadata["option"]
    return info


# The groups


@_list_parameters
@dataclass(frozen=True)
class Smoothing:
    """Optimizer steps on each level."""

    pre: int = _option(4, "optimizer steps", "Steps on a level before going down.", least=0)
    post: int = _option(4, "optimizer steps", "Steps on a level after coming up.", least=0)
    coarse: int = _option(8, "optimizer steps", "Steps on the coarsest level of a cycle.", least=0)
    cycles: int = _option(
        0,
        "cycles",
        "Cycles on a coarse level at each visit (PETSc: -snes_fas_cycles). 0 takes the number that belongs to the cycle: one in "
        "V, two in W, and in F an F-cycle followed by a V-cycle. It has no effect on the coarsest level or in additive cycles.",
        least=0,
    )
    clip: float | None = _option(
        None, "gradient norm", "Largest norm of a gradient. A longer one is scaled down to it.", above=0
    )
    accumulate: int = _option(1, "minibatches", "Minibatches that the gradient of one step is the mean over.", least=1)
    bf16: bool = _option(False, "", "Run matrix products in bfloat16. Parameters keep their type.")
    ema: float | None = _option(
        None,
        "decay per step",
        "Decay of a running mean of the finest network's parameters. Solution.mean holds the mean.",
        least=0,
        below=1,
    )
    mup: bool = _option(
        False,
        "",
        "Scale the learning rate of each parameter with the width of its level (Yang et al., arXiv:2203.03466, table 8).",
    )
    rewarm: int = _option(
        0,
        "optimizer steps",
        "Steps over which the rate climbs again from zero when a coarse network has started the level (nested iteration). 0 goes "
        "on with the rate of the schedule.",
        least=0,
    )
    moments: bool = _option(
        True, "", "Carry the optimizer's moments between levels. If false, each visit begins without moments."
    )


@_list_parameters
@dataclass(frozen=True)
class Tau:
    """The coarse right-hand side, tau = grad f_c(inject x) - restrict(grad f(x))."""

    kind: str = _option(
        "common",
        "",
        "none: no correction. common: one mean over a set of minibatches, which coarse smoothing takes too. several: one "
        "correction for each minibatch of the set. whole: one mean over all the data.",
        choices=("none", "common", "several", "whole"),
    )
    batches: int = _option(4, "minibatches", "Minibatches in the set.", least=1)


@_list_parameters
@dataclass(frozen=True)
class Gate:
    """Conditions for taking a coarse step, and for accepting its correction."""

    gap: float = _option(
        0.1, "share of |f(x)|", "Go down only if f_c(inject x) - f(x) is at most this share of |f(x)|."
    )
    tau: float = _option(
        1.0,
        "share of |restrict grad f|",
        "Go down only if |tau| is at most this share of |restrict grad f|.",
        least=0,
    )
    kappa: float = _option(
        0.1,
        "share of |grad f|",
        "Go down only if |restrict grad f| is at least this share of |grad f| (Wen and Goldfarb, SIAM J. Optim. 20(3), 2009, "
        "eq. 2.9).",
        least=0,
    )
    search: tuple[float, ...] = _option(
        (1.0, 0.5, 0.25),
        "lengths",
        "Lengths of a correction, tried in this order on the common minibatches. The first that lowers f is taken. If none "
        "does, the correction is rejected. With no lengths, every correction is accepted at length 1.",
        above=0,
    )
    patience: int = _option(
        2,
        "refusals",
        "Refusals in a row after which a level rests. Each further refusal doubles the rest, and a success ends it. A "
        "correction of the finest level that earned less than smoothing counts as a refusal. With 0 a level never rests.",
        least=0,
    )
    share: float = _option(
        0.01,
        "share of the run's FLOPs",
        "Cost that coarse steps of the finest level may lose compared with smoothing it. A step that could exceed this share is "
        "not tried. inf disables this limit. It does not apply to problems with a single minibatch.",
        least=0,
    )
    blend: float = _option(
        0.0,
        "share of y",
        "Above 0, x becomes (1 - blend) x + blend prolong(y), without correction or line search (Zou et al., ICLR 2024). 1 "
        "takes the coarse network as it is.",
        least=0,
        most=1,
    )

    @classmethod
    def open(cls, **options: Any) -> Gate:
        """Return a gate that is open: every cycle goes down, at any cost, and the line search alone judges the correction.

        Parameters
        ----------
        **options
            Options of the gate that differ.

        Examples
        --------
        >>> from netgraph.fas import Gate
        >>> Gate.open().share, Gate.open(search=()).search
        (inf, ())
        """
        return cls(**{**OPEN_GATE, **options})


# Values of the gate with which every cycle goes down.
OPEN_GATE: dict[str, Any] = {
    "gap": float("inf"), "tau": float("inf"), "kappa": 0.0, "share": float("inf"), "patience": 0,
}  # fmt: skip


@_list_parameters
@dataclass(frozen=True)
class Split:
    """How the new units and blocks of a finer level begin when a coarse network starts it."""

    kind: str = _option(
        "zero-sum",
        "",
        "zero-sum: noise on split weights, which adds up to zero over each aggregate. everything: noise on all weights. none: "
        "no noise. zero: no noise, and new units have outgoing weights of zero in place of a share.",
        choices=("zero-sum", "everything", "none", "zero"),
    )
    noise: float = _option(
        1.0,
        "root mean squares",
        "Size of the noise, as a multiple of the root mean square of the tensor that it is added to.",
        least=0,
    )
    blocks: str = _option(
        "prolonged",
        "",
        "How new blocks begin. prolonged: as the hierarchy's depth_by says. copied: each is the whole coarse block. zero: a copy "
        "whose last projections are zero, which keeps the function (Wu et al., ACL 2024). random: with the first weights of the "
        "fine network. The first block of an aggregate is the coarse block itself in the last three.",
        choices=("prolonged", "copied", "zero", "random"),
    )
    moments: str = _option(
        "kept",
        "",
        "Moments of the optimizer when a level starts. kept: prolonged. reset: none. asymmetric: none for new blocks and units alone.",
        choices=("kept", "reset", "asymmetric"),
    )
    rewarm: int = _option(
        0,
        "optimizer steps",
        "Steps over which the updates of new units and blocks grow from zero when a level starts: of N, step i = 1 .. N takes i / N of "
        "them. Old units and blocks take whole updates. With 0 all do.",
        least=0,
    )
    gamma: float = _option(
        0.0,
        "share of the detail",
        "Share of the fine level's own detail, x0 - prolong(inject x0), that is added.",
        least=0,
    )
    norms: int = _option(
        0,
        "minibatches",
        "Minibatches on which the statistics of batch norms are estimated again when a level starts. With 0 the coarse "
        "statistics are prolonged.",
        least=0,
    )


@_list_parameters
@dataclass(frozen=True)
class Adapt:
    """Changes of levels and cycles during training."""

    rematch: int = _option(0, "cycles", "Cycles after which units are matched again. With 0 they never are.", least=0)
    steer: bool = _option(
        False,
        "",
        "Lengthen coarse visits while they lower the loss more per second than whole cycles do, and shorten them otherwise.",
    )


@_list_parameters
@dataclass(frozen=True)
class Tolerance:
    """Tests for convergence and divergence. Nothing is measured unless one of the first four is set."""

    rtol: float = _option(
        0.0,
        "share of the first norm",
        "The run has converged if the gradient norm is below this share of the first.",
        least=0,
    )
    atol: float = _option(
        0.0, "gradient norm", "The run has converged if the gradient norm is below this number.", least=0
    )
    stol: float = _option(
        0.0, "share of |x|", "The run has converged if a cycle moved x by less than this share of its length.", least=0
    )
    max_it: int = _option(
        0,
        "cycles",
        "Cycles on the finest level after which the run ends without convergence. 0 sets no limit.",
        least=0,
    )
    divtol: float = _option(
        1e4, "first norms", "The run has diverged if the gradient norm is above this multiple of the first.", above=0
    )
    measure: str = _option(
        "gradient",
        "",
        "gradient: the norm of the mean gradient over all minibatches. valid: the loss on validation data in its place.",
        choices=("gradient", "valid"),
    )

    @property
    def is_set(self) -> bool:
        """Whether the run is to be measured."""
        return bool(self.rtol or self.atol or self.stol or self.max_it)


@_list_parameters
@dataclass(frozen=True)
class Estimate:
    """The gradient of a step: that of a minibatch, or an estimate from a level and its coarser ones."""

    kind: str = _option(
        "minibatch",
        "",
        "minibatch: the gradient of a minibatch. multilevel: the coarse gradient of many samples, and the difference of two levels on "
        "fewer (Giles, Oper. Res. 56, 2008). multifidelity: the same with shared samples and coefficients (Peherstorfer et al., "
        "SIAM J. Sci. Comput. 38, 2016). The expectation is that of the level's own gradient. Without a coarser level all are the first.",
        choices=("minibatch", "multilevel", "multifidelity"),
    )
    cost: float = _option(
        1.0,
        "share of a plain step",
        "Operations of an estimate, as a share of those of a plain step. Samples of each level are chosen for the least variance.",
        above=0,
        most=1,
    )
    every: int = _option(100, "optimizer steps", "Steps after which variances are measured again.", least=1)
    pilot: int = _option(32, "samples", "Samples on which variances are measured, one by one.", least=2)


# All groups together, and the values of single levels

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
        for name, info in _iterate_options():
            group, _, option = name.partition(".")
            _check_value(name, getattr(getattr(self, group), option), info)
        for level, values in self.levels.items():
            for name, value in values.items():
                _check_value(f"level.{level}.{name}", value, _find_level_option(level, name)[0])

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


def _iterate_options() -> Iterator[tuple[str, SolverOption]]:
    """Yield the dotted name and the declaration of every option."""
    for group_name, group in GROUPS.items():
        for declared in fields(group):
            yield f"{group_name}.{declared.name}", _info(declared)


def _find_level_option(level: int, name: str) -> tuple[SolverOption, Any]:
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
    return _info(declared[option]), declared[option].default


def _check_value(name: str, value: Any, info: SolverOption) -> None:
    """Refuse a word that is no choice, and a number or a tuple with a number that is out of bounds."""
    if info.choices and value not in info.choices:
        raise NetgraphError(f"option {name} is {value!r}. Choose one of {', '.join(info.choices)}.")
    for number in value if isinstance(value, tuple) else (value,):
        is_number = not isinstance(number, (bool, str)) and number is not None
        if is_number and not info.accepts(number):
            raise NetgraphError(f"option {name} is {number:g}. Give a number {info.describe_bounds()}".rstrip() + ".")


# Options as text


def parse_options(texts: Mapping[str, str]) -> Options:
    """Read options from text by their dotted names.

    Parameters
    ----------
    texts : dict of str to str
        Values by dotted name, such as ``{"tau.kind": "whole", "level.2.lr": "3e-4"}``.

    Returns
    -------
    Options

    Raises
    ------
    NetgraphError
        No option has that name, or the value has another type or is out of bounds.

    Examples
    --------
    >>> from netgraph.fas import parse_options
    >>> options = parse_options({"gate.search": "1,0.5", "level.1.pre": "7"})
    >>> options.gate.search, options.smoothing_of(1).pre
    ((1.0, 0.5), 7)
    """
    groups: dict[str, Any] = {name: group() for name, group in GROUPS.items()}
    levels: dict[int, dict[str, Any]] = {}
    for name, text in texts.items():
        group, _, rest = name.partition(".")
        if group == "level":
            number, _, option = rest.partition(".")
            if not is_index(number):
                raise NetgraphError(f"option {name!r} names no level. Write level.2.lr for the third level.")
            default = _find_level_option(int(number), option)[1]
            levels.setdefault(int(number), {})[option] = _parse_value(name, text, default)
        elif name in list_option_names():
            value = _parse_value(name, text, getattr(groups[group], rest))
            groups[group] = replace(groups[group], **{rest: value})
        else:
            raise NetgraphError(
                f"no option is called {name!r}. There are {', '.join(list_option_names())} and level.N.NAME."
            )
    return Options(**groups, levels=levels)


def _parse_value(name: str, text: str, default: Any) -> Any:
    """Read a value of the type of the default. A default of None stands for an optional number."""
    read, kind = _reader_of(default)
    try:
        return read(text)
    except (ValueError, KeyError):
        raise NetgraphError(
            f"option {name} is {text!r}, which is not {kind}. Its default is {format_value(default)}."
        ) from None


def _reader_of(default: Any) -> tuple[Callable[[str], Any], str]:
    """Return a function that reads values of the type of the default, and the type in words."""
    if isinstance(default, bool):
        return lambda text: {"true": True, "false": False, "1": True, "0": False}[text.lower()], "true or false"
    if isinstance(default, tuple):
        return lambda text: tuple(float(part) for part in text.split(",") if part), "a list of numbers with commas"
    if default is None:
        return lambda text: None if text == "none" else float(text), "a number or none"
    kinds = {int: "a whole number", float: "a number", str: "a word"}
    return type(default), kinds[type(default)]


# The table


class OptionRow(NamedTuple):
    """One row of the table: dotted name, default as text, unit and meaning."""

    name: str
    default: str
    unit: str
    meaning: str


def list_option_names() -> list[str]:
    """Return the dotted names of all options."""
    return [name for name, _ in _iterate_options()]


def build_option_table() -> list[OptionRow]:
    """Return the table of options that ``netgraph train --options`` prints.

    Returns
    -------
    rows : list of OptionRow
        One row of name, default, unit and meaning for each option, and a last one for the options of single levels.

    Examples
    --------
    >>> from netgraph.fas import build_option_table
    >>> print(*build_option_table()[0], sep=" | ")
    smoothing.pre | 4 | optimizer steps | Steps on a level before going down.
    """
    rows = [
        OptionRow(f"{group_name}.{f.name}", format_value(f.default), _info(f).unit, _info(f).meaning)
        for group_name, group in GROUPS.items()
        for f in fields(group)
    ]
    of_levels = "For one level, where 0 is the finest: lr, pre and the rest of smoothing, estimate.NAME, gate.NAME and tau.NAME."
    return [*rows, OptionRow("level.N.NAME", "", "", of_levels)]


def format_option_table() -> str:
    """Return the table in Markdown, as it stands in ``docs/fas.md``."""
    lines = ["| option | default | unit | meaning |", "|---|---|---|---|"]
    for name, default, unit, meaning in build_option_table():
        cells = (f"`{name}`", f"`{default}`" if default else "", unit, meaning)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)
