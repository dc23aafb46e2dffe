"""Options of the solver, in six small groups, and how text names them: ``gate.gap=0.05``, ``level.2.lr=3e-4``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

from netgraph.errors import NetgraphError

CYCLES = ("v", "w", "f", "full", "kaskade", "additive")
WORDS = {
    "tau.kind": ("none", "common", "several", "whole"),
    "split.kind": ("zero-sum", "everything", "none"),
    "tolerance.measure": ("gradient", "valid"),
}
LEAST = {  # outside of these bounds a number means nothing
    "smoothing.pre": 0, "smoothing.post": 0, "smoothing.coarse": 0, "smoothing.cycles": 0, "smoothing.accumulate": 1, "smoothing.ema": 0,
    "tau.batches": 1, "gate.tau": 0, "gate.kappa": 0, "gate.patience": 0, "gate.share": 0, "split.noise": 0,
    "split.gamma": 0, "split.norms": 0, "adapt.rematch": 0, "tolerance.rtol": 0, "tolerance.atol": 0, "tolerance.stol": 0,
    "tolerance.max_it": 0, "gate.blend": 0,
}  # fmt: skip
ABOVE = {"smoothing.clip": 0, "gate.search": 0, "tolerance.divtol": 0, "lr": 0}
BELOW = {"smoothing.ema": 1}
MOST = {"gate.blend": 1}


@dataclass(frozen=True)
class Smoothing:
    """What smoothing a level means. Steps are steps of the optimizer.

    Parameters
    ----------
    pre : int
        Before going down.
    post : int
        After coming up.
    coarse : int
        On the coarsest level of a cycle.
    cycles : int
        Cycles on a coarse level each time it is visited (PETSc's ``-snes_fas_cycles``); 0: what the cycle's name says, one in V
        and two in W; in F an F-cycle and then a V-cycle. The coarsest level has none, nor has ``additive``.
    clip : float, optional
        Largest norm of a gradient.
    accumulate : int
        Minibatches whose gradients are added up for one step.
    bf16 : bool
        Run products in bfloat16; parameters stay as they are.
    ema : float, optional
        Decay of a running mean of the finest parameters, handed back as ``Solution.mean``.
    mup : bool
        Scale each parameter's rate with the width of its level (Yang et al., arXiv:2203.03466, table 8).
    moments : bool
        Carry the optimizer's moments between levels; else each visit begins without.
    """

    pre: int = 4
    post: int = 4
    coarse: int = 8
    cycles: int = 0
    clip: float | None = None
    accumulate: int = 1
    bf16: bool = False
    ema: float | None = None
    mup: bool = False
    moments: bool = True


@dataclass(frozen=True)
class Tau:
    """The coarse right-hand side, tau = grad f_c(inject x) - restrict(grad f(x)).

    Parameters
    ----------
    kind : str
        ``none``; ``common``: one mean over a set of minibatches, which coarse smoothing goes through too; ``several``: one
        for each of them; ``whole``: one mean over all the data.
    batches : int
        Minibatches in the set.
    """

    kind: str = "common"
    batches: int = 4


@dataclass(frozen=True)
class Gate:
    """When a coarse step is taken, and when its correction is.

    Parameters
    ----------
    gap : float
        Go down only where f_c(inject x) - f(x) is at most this share of f(x).
    tau : float
        ... and |tau| is at most this share of |restrict grad f|.
    kappa : float
        ... and |restrict grad f| is at least this share of |grad f| (Wen and Goldfarb, SIAM J. Optim. 20(3), 2009, eq. 2.9).
    search : tuple of float
        Lengths that are tried for a correction, on the common minibatches; it is rejected where none lowers f. Empty:
        corrections are taken as they come.
    patience : int
        After so many refusals in a row a level rests; each further refusal doubles its rest, a success ends it. A correction
        of the finest level that earned less than smoothing would have is a refusal. 0: a level never rests.
    share : float
        Share of the run's cost that coarse steps of the finest level may lose against smoothing it; one that could cost more is not
        tried (`netgraph.fas.solver.adaptive`). ``inf``: nobody counts. Nor is counted for a problem of one minibatch.
    blend : float
        Above 0: no correction and no search, x becomes (1 - blend) x + blend prolong(y) (Zou et al., ICLR 2024); 1, the
        most, takes the coarse network as it is.
    """

    gap: float = 0.1
    tau: float = 1.0
    kappa: float = 0.1
    search: tuple[float, ...] = (1.0, 0.5, 0.25)
    patience: int = 2
    share: float = 0.01
    blend: float = 0.0


OWN: dict[str, type] = {"smoothing": Smoothing, "tau": Tau, "gate": Gate}  # what a level can have for itself


@dataclass(frozen=True)
class Split:
    """How copies are made to differ where a coarse network starts a finer one.

    Parameters
    ----------
    kind : str
        ``zero-sum``: noise on split weights that adds to zero over each aggregate; ``everything``; ``none``.
    noise : float
        Its size over the root mean square of the tensor it is added to.
    gamma : float
        Share of the fine start's own detail, x0 - prolong(inject x0), that is added.
    norms : int
        Minibatches that the statistics of batch norms are estimated anew on where a level starts; 0: they are prolonged.
    """

    kind: str = "zero-sum"
    noise: float = 1.0
    gamma: float = 0.0
    norms: int = 0


@dataclass(frozen=True)
class Adapt:
    """What may change while training.

    Parameters
    ----------
    rematch : int
        Match units again after so many cycles; 0: never.
    steer : bool
        Make coarse visits longer while they lower the loss more for each second than whole cycles do, and shorter else.
    """

    rematch: int = 0
    steer: bool = False


@dataclass(frozen=True)
class Tolerance:
    """When the solver calls a run converged, or diverged; nothing is measured unless one of the first four is set.

    Parameters
    ----------
    rtol : float
        Converged where the gradient's norm is below this share of the first one.
    atol : float
        Converged where the gradient's norm is below this number.
    stol : float
        Converged where a cycle moved x by less than this share of its length.
    max_it : int
        Cycles on the finest level after which the run ends, not converged; 0: as many as it has.
    divtol : float
        Diverged where the norm is above so many times the first.
    measure : str
        ``gradient``: the norm of the mean gradient over all minibatches; ``valid``: the loss on validation data in its place.
    """

    rtol: float = 0.0
    atol: float = 0.0
    stol: float = 0.0
    max_it: int = 0
    divtol: float = 1e4
    measure: str = "gradient"

    @property
    def is_set(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.rtol or self.atol or self.stol or self.max_it)


Group = TypeVar("Group", Smoothing, Tau, Gate)


@dataclass(frozen=True)
class Options:
    """All groups, and what single levels override.

    Parameters
    ----------
    levels : dict of int to dict of str to value
        By level, 0 being the finest: ``lr``, the fields of `Smoothing`, and of the step down from it ``gate.gap``,
        ``tau.batches`` and so on. Coarser levels take at most the minibatches of the finer level's set.

    Raises
    ------
    NetgraphError
        A word is none of those an option has, a number lies where it can mean nothing, or a level has no such option.
    """

    smoothing: Smoothing = field(default_factory=Smoothing)
    tau: Tau = field(default_factory=Tau)
    gate: Gate = field(default_factory=Gate)
    split: Split = field(default_factory=Split)
    adapt: Adapt = field(default_factory=Adapt)
    tolerance: Tolerance = field(default_factory=Tolerance)
    levels: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in (f.name for f in fields(self) if f.name != "levels"):
            for own, value in vars(getattr(self, group)).items():
                _check_value(f"{group}.{own}", value, f"{group}.{own}")
        for level, values in self.levels.items():
            for name, value in values.items():
                _check_level_option(level, name)
                _check_value(f"level.{level}.{name}", value, full_option_name(name))

    def smoothing_of(self, level: int) -> Smoothing:
        """Return the smoothing of one level."""
        return self._own("smoothing", self.smoothing, level)

    def tau_of(self, level: int) -> Tau:
        """Return the right-hand side of the level below one."""
        return self._own("tau", self.tau, level)

    def gate_of(self, level: int) -> Gate:
        """Return the gate between one level and the next."""
        return self._own("gate", self.gate, level)

    def _own(self, name: str, group: Group, level: int) -> Group:
        own = {full_option_name(name): value for name, value in self.levels.get(level, {}).items()}
        mine = {key.partition(".")[2]: v for key, v in own.items() if key.startswith(f"{name}.")}
        return replace(group, **mine)

    def lr_of(self, level: int, lr: float) -> float:
        """Return the largest rate of one level."""
        return float(self.levels.get(level, {}).get("lr", lr))


def full_option_name(name: str) -> str:
    """Return what a level's own option is called where it is everybody's: those of smoothing leave their group out."""
    return name if name == "lr" or "." in name else f"smoothing.{name}"


def _check_level_option(level: int, name: str) -> None:
    """Refuse what one level cannot have for itself."""
    group, _, own = full_option_name(name).partition(".")
    if name != "lr" and (group not in OWN or own not in {f.name for f in fields(OWN[group])}):
        raise NetgraphError(
            f"option level.{level}.{name} is unknown; a level has its own lr, {', '.join(f.name for f in fields(Smoothing))}, "
            "and what begins with gate. or tau."
        )
    if name == "ema" and level:
        raise NetgraphError(
            f"option level.{level}.ema would do nothing: the mean is the finest level's; give level.0.ema"
        )
    if name == "cycles" and not level:
        raise NetgraphError("option level.0.cycles would do nothing: those of the finest level are the run's length")


def _check_value(called: str, value: Any, name: str) -> None:
    """Refuse words and numbers that an option cannot have; a tuple's one by one."""
    if name in WORDS and value not in WORDS[name]:
        raise NetgraphError(f"{called} is {value!r}; there are {', '.join(WORDS[name])}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (bool, str)) or number is None:
            continue
        least, above, below, most = (bounds.get(name, number) for bounds in (LEAST, ABOVE, BELOW, MOST))
        if least <= number <= most and (name not in ABOVE or number > above) and (name not in BELOW or number < below):
            continue
        wanted = [f"of {LEAST[name]} or more"] if name in LEAST else []
        wanted += [f"above {ABOVE[name]}"] if name in ABOVE else []
        wanted += [f"below {BELOW[name]}"] if name in BELOW else []
        wanted += [f"of {MOST[name]} or less"] if name in MOST else []
        raise NetgraphError(f"option {called} is {number:g}; give a number {' and '.join(wanted)}".rstrip())


def parse_options(texts: Mapping[str, str]) -> Options:
    """Read options by their dotted names.

    Parameters
    ----------
    texts : dict of str to str
        Such as ``{"tau.kind": "whole", "level.2.lr": "3e-4"}``.

    Raises
    ------
    NetgraphError
        No option has that name, or the value is not of its kind, or lies where it can mean nothing.
    """
    groups = {f.name: getattr(Options(), f.name) for f in fields(Options) if f.name != "levels"}
    levels: dict[int, dict[str, Any]] = {}
    for name, text in texts.items():
        group, _, rest = name.partition(".")
        if group == "level":
            number, _, key = rest.partition(".")
            if not number.isdigit():
                raise NetgraphError(f"option {name!r} names no level; write level.2.lr for the third of them")
            _check_level_option(int(number), key)
            its, _, own = full_option_name(key).partition(".")
            shape = 1e-3 if its == "lr" else getattr(OWN[its](), own)
            levels.setdefault(int(number), {})[key] = _parse_value(name, text, shape)
        elif group in groups and hasattr(groups[group], rest):
            value = _parse_value(name, text, getattr(groups[group], rest))
            groups[group] = replace(groups[group], **{rest: value})
        else:
            raise NetgraphError(
                f"no option is called {name!r}; there are {', '.join(list_option_names())} and level.N.NAME"
            )
    return Options(**groups, levels=levels)


def list_option_names() -> list[str]:
    """Return the dotted names of all options."""
    groups = [(f.name, getattr(Options(), f.name)) for f in fields(Options) if f.name != "levels"]
    return [f"{group}.{f.name}" for group, value in groups for f in fields(value)]


def _parse_value(name: str, text: str, like: Any) -> Any:
    """Read a value of the kind that the default has; None stands for a number that may be left out."""
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(float(part) for part in text.split(",") if part)
        if like is None:
            return None if text == "none" else float(text)
        return type(like)(text)
    except (ValueError, KeyError):
        kind = "a number" if like is None else f"{type(like).__name__}"
        raise NetgraphError(f"option {name} is {text!r}, which is no {kind}; its default is {like}") from None


class OptionRow(NamedTuple):
    """One option: its dotted name, its default as text, and what it means."""

    name: str
    default: str
    meaning: str


def build_option_table() -> list[OptionRow]:
    """Return every option; one level's own are ``level.2.lr``, ``level.2.pre``, ``level.1.gate.gap``."""
    options = Options()
    groups = [(f.name, getattr(options, f.name)) for f in fields(Options) if f.name != "levels"]
    return [
        OptionRow(
            f"{group}.{f.name}", _format_value(getattr(value, f.name)), _parse_meanings(type(value)).get(f.name, "")
        )
        for group, value in groups
        for f in fields(value)
    ]


def _parse_meanings(group: type) -> dict[str, str]:
    """Return what the docstring says of each field."""
    parts = re.split(r"^    (\w+) : .*$", group.__doc__ or "", flags=re.M)[1:]
    return {name: " ".join(text.replace("``", "").split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
