"""Hierarchy: a network and its coarser forms, level by level, with the transfers between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from netgraph import plugins
from netgraph.coarsen.budget import Budget, spread
from netgraph.coarsen.checks import Coarsener
from netgraph.coarsen.gap import Gap, Loss
from netgraph.coarsen.gauge import Turns, aligning, applied, lifted, rotatable, rotated
from netgraph.coarsen.judging import FunctionError, activations, batches_of, function_error, outputs
from netgraph.coarsen.network import coarse_network, traced_state
from netgraph.coarsen.repair import check_rung
from netgraph.coarsen.repair import repair as repaired
from netgraph.coarsen.transfer import Transfer
from netgraph.coarsen.verify import blame_example, verify_level
from netgraph.coarsen.way import Judge, Progress, Step, Way, coarseners_of
from netgraph.coarsen.weights import inject
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.notebook import table
from netgraph.program import GraphNetwork
from netgraph.spec import UnitSpec
from netgraph.structure import described
from netgraph.tracing import trace

ROWS = 256  # of calibration data, for the repair of networks that only judge


@dataclass
class Level:
    """One network of a hierarchy.

    Parameters
    ----------
    model : torch.nn.Module
        Level 0 is the network as given.
    spec : UnitSpec
        With this level's numbers of units.
    transfers : dict of str to Transfer
        From the next finer level's units to this one's; empty on level 0.
    seconds : float
        What making the level took.
    flops : int
        Operations of the products of one forward pass on the example.
    reasons : dict
        What was chosen by measured error, and what repair did: ``coarseners``, ``ratios``, ``curves``, ``repair``, ``error``.
    """

    model: nn.Module
    spec: UnitSpec
    transfers: dict[str, Transfer] = field(default_factory=dict)
    seconds: float = 0.0
    flops: int = 0
    reasons: dict[str, Any] = field(default_factory=dict)

    @property
    def n_units(self) -> int:
        """Units of all axes that may merge."""
        return sum(axis.size for axis in self.spec.axes.values() if axis.kind != "index" and axis.kept is None)

    @property
    def n_parameters(self) -> int:
        """Parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())


@dataclass
class Hierarchy:
    """Levels, finest first. Its text is the table that ``netgraph coarsen`` prints.

    Parameters
    ----------
    levels : list of Level
    options : dict
        How it was made.
    again : callable, optional
        Makes it again from the network's parameters of that time; None for one that was read from a file.
    """

    levels: list[Level]
    options: dict[str, Any] = field(default_factory=dict)
    again: Callable[[], Hierarchy] | None = field(default=None, compare=False)

    @property
    def operator_complexity(self) -> float:
        """Parameters of all levels over those of the finest (Stüben 2001, section 3.3)."""
        return sum(level.n_parameters for level in self.levels) / max(self.levels[0].n_parameters, 1)

    @property
    def grid_complexity(self) -> float:
        """Units of all levels over those of the finest."""
        return sum(level.n_units for level in self.levels) / max(self.levels[0].n_units, 1)

    def __str__(self) -> str:
        lines = [f"{'level':>5} {'units':>10} {'parameters':>14} {'FLOPs':>10} {'seconds':>8}"]
        for i, level in enumerate(self.levels):
            lines.append(
                f"{i:>5} {level.n_units:>10,} {level.n_parameters:>14,} {level.flops:>10.3g} {level.seconds:>8.2f}"
            )
        lines.append(f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same table for notebooks, and the axes."""
        head = ["level", "units", "parameters", "FLOPs", "seconds"]
        rows = [(i, x.n_units, x.n_parameters, float(x.flops), x.seconds) for i, x in enumerate(self.levels)]
        foot = f"operator complexity {self.operator_complexity:.3f}, grid complexity {self.grid_complexity:.3f}"
        merged = dict.fromkeys(name for level in self.levels for name in level.transfers)
        sizes = [(name, *(level.spec.axes[name].size for level in self.levels)) for name in merged]
        axes = table("Merged axes", ["axis", *(f"level {i}" for i in range(len(self.levels)))], sizes)
        return table("Hierarchy", head, rows, foot=foot) + axes


def build_hierarchy(
    model: nn.Module,
    example: Any,
    *,
    coarsener: str | Coarsener = "hem",
    affinity: str | Callable[..., Any] = "cosine",
    n_levels: int = 2,
    ratio: float | str | Mapping[str, float] = 0.5,
    loss: Loss | None = None,
    keep: Iterable[str] = (),
    round_to: int = 1,
    repair: str = "none",
    data: Any = None,
    budget: str | None = None,
    seed: int = 7619,
    spec: UnitSpec | None = None,
    progress: Progress | None = None,
) -> Hierarchy:
    """Coarsen a network level by level.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them; every coarse network is run on it, or on its first row, once.
    coarsener : str or callable
        An entry point of ``netgraph.coarseners``, or ``(graph, n_coarse, *, seed) -> aggregates``; ``"auto"`` tries several
        on each axis and takes the one with the smallest error (`netgraph.coarsen.way.AUTO`).
    affinity : str or callable
        An entry point of ``netgraph.affinities``, or ``(units, *, seed) -> csr`` (`netgraph.units.AxisUnits`).
    n_levels : int
        Levels in all, the given network included.
    ratio : float, dict of str to float, or str
        Units left of each axis from one level to the next; a dict gives it by axis, ``"*"`` for the others. ``"gap:0.05"``:
        as few as raise ``loss`` by at most that share from each level to the next (`netgraph.coarsen.gap`).
    loss : callable ``(network) -> float``, optional
    keep : iterable of str
        Axes to leave alone.
    round_to : int
        Multiple that numbers of units should have.
    repair : str
        ``none``, ``rescale``, ``norms``, ``ridge`` or ``tune`` (`netgraph.coarsen.repair`).
    data : Tensor, tuple or dict, optional
        Calibration inputs, nested as ``example``: for repair, for ``"auto"`` and budgets, which else judge by weights.
    budget : str, optional
        ``parameters=0.5``, ``flops=0.5``, ``units=0.5`` or ``error=0.05``: spread over the axes by their error curves in place of
        ``ratio``, from each level to the next.
    seed : int
    spec : UnitSpec, optional
        A trace at hand.
    progress : callable (axis, done, total), optional

    Returns
    -------
    Hierarchy

    Raises
    ------
    TraceError
        The network cannot be followed.
    NetgraphError
        A ratio outside (0, 1], fewer than two levels, an axis that does not exist, a repair or an affinity without its
        data, data that do not fit the network, a budget that cannot be met.
    NothingToMergeError
        No axis can be made smaller.
    """
    started = time.perf_counter()
    gap = Gap.parsed(ratio, loss) if isinstance(ratio, str) else None
    ratios = checked_ratios(0.5 if isinstance(ratio, str) else ratio, n_levels, round_to)
    check_rung(repair, data)
    limit = None if budget is None else Budget.parsed(budget)
    coarseners = coarseners_of(coarsener)
    weigh = plugins.load("netgraph.affinities", affinity) if isinstance(affinity, str) else affinity
    spec = spec or trace(model, example)
    keep = tuple(keep)
    kept = _checked_axes(spec, [*keep, *(axis for axis in ratios if axis != "*")], set(keep))
    way = Way(coarseners, weigh, ratios, kept, round_to, seed, progress)
    build = _Build(model, spec, example, way, limit, repair, _Data.of(model, data), gap)
    levels = [Level(model, spec, {}, time.perf_counter() - started, spec.flops)]
    while len(levels) < n_levels and (level := build.below(levels[-1])) is not None:
        levels.append(level)
    if len(levels) == 1:
        raise NothingToMergeError(_why_nothing(spec, way, budget, gap))
    name = coarsener if isinstance(coarsener, str) else next(iter(coarseners))
    options = {"coarsener": name, "n_levels": n_levels, "ratio": ratio, "round_to": round_to, "seed": seed}
    options |= {"repair": repair, "budget": budget, "keep": sorted(kept), "example": described(example)}
    again = partial(
        build_hierarchy, model, example, coarsener=coarsener, affinity=affinity, n_levels=n_levels, ratio=ratio, loss=loss,
        keep=keep, round_to=round_to, repair=repair, data=data, budget=budget, seed=seed, spec=spec,
    )  # fmt: skip
    return Hierarchy(levels, options, again)


def one_level(model: nn.Module, example: Any) -> Hierarchy:
    """Return the hierarchy of a network alone, for whoever trains it as it is.

    Raises
    ------
    TraceError
        The network cannot be followed.
    """
    started = time.perf_counter()
    spec = trace(model, example)
    level = Level(model, spec, {}, time.perf_counter() - started, spec.flops)
    return Hierarchy([level], {"n_levels": 1, "example": described(example)})


@dataclass(frozen=True)
class _Data:
    """Calibration data: whole, in batches, and what the finest network answers."""

    inputs: Any
    batches: list[Any]
    wanted: list[list[Tensor]]

    @classmethod
    def of(cls, model: nn.Module, data: Any) -> _Data | None:
        """Run the network on the data, which shows before work begins whether they fit."""
        if data is None:
            return None
        batches = batches_of(data, 64)
        try:
            return cls(data, batches, outputs(model, batches))
        except Exception as error:  # operators raise many kinds
            raise NetgraphError(
                f"the network does not run on the calibration data ({type(error).__name__}: {str(error)[:200]}); give "
                "inputs that nest as the example does"
            ) from error


@dataclass
class _Build:
    """Makes one level after the other; parameters go down unrepaired, and each level is repaired by itself."""

    model: nn.Module
    spec: UnitSpec
    example: Any
    way: Way
    budget: Budget | None
    rung: str
    data: _Data | None
    gap: Gap | None = None
    state: dict[str, Tensor] = field(init=False)
    turned: nn.Module = field(init=False)  # the network with merged heads in one basis (`netgraph.coarsen.gauge`)
    rotating: set[str] = field(init=False)
    whole: dict[str, Transfer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state, self.turned = traced_state(self.model), self.model
        axes = [axis.name for axis in self.spec.free if axis.name not in self.way.kept]
        self.rotating = rotatable(self.model, self.spec, self.example, axes, seed=self.way.seed)

    def below(self, level: Level) -> Level | None:
        """Return the next coarser level; None where nothing shrinks."""
        started = time.perf_counter()
        step = self.way.down(level.spec, self.state, self.whole, self._seen(level.spec))
        reasons: dict[str, Any] = {}
        judge = self._judge()
        if self.budget is not None:
            reasons["ratios"], reasons["curves"] = spread(step, self.budget, judge, self._judge(repair=True))
        if self.gap is not None:
            reasons["ratios"], reasons["gaps"] = self._within(self.gap, level, step, judge)
        transfers, chosen = step.transfers(judge, reasons.get("ratios", {}))
        if not transfers:
            return None
        whole = self.whole
        self.state, self.whole, coarse, turns = self._merged(level, transfers)
        try:
            verify_level(coarse, self.example)
        except NetgraphError:
            blame_example(self.model, self.example)
            raise
        self.turned = rotated(self.turned, self.spec, lifted(turns, self.spec, whole))
        if chosen:
            reasons["coarseners"] = chosen
        self._repair(coarse, reasons)
        here = self.spec.resized({axis: t.n_coarse for axis, t in self.whole.items()})
        return Level(coarse, here, transfers, time.perf_counter() - started, here.flops, reasons)

    def _merged(
        self, level: Level, transfers: Mapping[str, Transfer]
    ) -> tuple[dict[str, Tensor], dict[str, Transfer], GraphNetwork, list[Turns]]:
        """Return coarse parameters, the way to them, their network, and how heads were rotated before they merged."""
        rotating = {axis: t for axis, t in transfers.items() if axis in self.rotating}
        turns = aligning(level.spec, rotating, self.state)
        state = inject(level.spec, transfers, applied(turns, self.state))
        step = {a: self.whole[a].compose(t) if a in self.whole else t for a, t in transfers.items()}
        whole = {**self.whole, **step}
        return state, whole, coarse_network(self.model, self.spec, whole, state=state), turns

    def _within(
        self, gap: Gap, level: Level, step: Step, judge: Judge | None
    ) -> tuple[dict[str, float], dict[float, float]]:
        """Return the ratio of every axis that a bound on the loss allows, and the gaps that were measured."""

        def candidate(ratio: float) -> GraphNetwork | None:
            transfers, _ = step.transfers(judge, dict.fromkeys((a.name for a in step.axes), ratio), again=True)
            return self._merged(level, transfers)[2] if transfers else None

        ratio, gaps = gap.ratio(level.model, candidate)
        return dict.fromkeys((axis.name for axis in step.axes), ratio), gaps

    def _repair(self, coarse: GraphNetwork, reasons: dict[str, Any]) -> None:
        inputs = None if self.data is None else self.data.inputs
        done = repaired(self.turned, self.spec, self.whole, coarse, rung=self.rung, data=inputs, seed=self.way.seed)
        if self.rung != "none":
            reasons["repair"] = asdict(done)
        if self.data is not None:
            reasons["error"] = function_error(self.data.wanted, outputs(coarse, self.data.batches))

    def _judge(self, *, repair: bool = False) -> FunctionError | None:
        """Return what judges one axis on the first batch, or does so after repair on the last rows."""
        if self.data is None or (repair and self.rung not in ("norms", "ridge", "tune")):
            return None
        mend = partial(self._mend, batches_of(self.data.inputs, ROWS)[-1]) if repair else None
        return FunctionError(
            self.turned, self.spec, self.whole, self.data.batches[:1], self.data.wanted[:1], mend, self.rotating
        )

    def _mend(self, rows: Any, model: nn.Module, transfers: Mapping[str, Transfer], network: GraphNetwork) -> None:
        rung = "norms" if self.rung == "norms" else "ridge"
        repaired(model, self.spec, transfers, network, rung=rung, data=rows)

    def _seen(self, spec: UnitSpec) -> Callable[[], Mapping[str, Tensor]] | None:
        if self.data is None:
            return None
        batches = self.data.batches
        return cache(lambda: activations(coarse_network(self.turned, self.spec, self.whole).eval(), spec, batches))


def checked_ratios(ratio: float | Mapping[str, float], n_levels: int, round_to: int) -> dict[str, float]:
    """Return ratios by axis, ``"*"`` for the others; raise `NetgraphError` for what cannot be asked of any network."""
    ratios = {"*": 0.5, **ratio} if isinstance(ratio, Mapping) else {"*": ratio}
    for axis, value in ratios.items():
        if not 0 < value <= 1:
            of = "" if axis == "*" else f" of axis {axis!r}"
            raise NetgraphError(
                f"the ratio{of}, the share of units that stay, is {value}; give one above 0 and at most 1"
            )
    if n_levels < 2:
        raise NetgraphError(
            f"levels, the given network included, are {n_levels}, so that nothing would be coarsened; ask for 2 or more"
        )
    if round_to < 1:
        raise NetgraphError(f"round_to is {round_to}; give a multiple of 1 or more")
    return ratios


def _checked_axes(spec: UnitSpec, names: list[str], kept: set[str]) -> set[str]:
    for name in names:
        if name not in spec.axes:
            near = ", ".join(axis.name for axis in spec.free[:8])
            raise NetgraphError(
                f"no axis is named {name!r}; axes that may merge are {near or 'none'}: `netgraph inspect` lists all"
            )
        if name not in kept and spec.axes[name] not in spec.free:
            reason = spec.axes[name].kept or "it counts nothing that could merge"
            raise NetgraphError(f"axis {name!r} was given a ratio and is kept ({reason}); leave its ratio out")
    return kept


def _why_nothing(spec: UnitSpec, way: Way, budget: str | None, gap: Gap | None) -> str:
    if gap is not None and spec.free:
        return f"no ratio keeps the loss within a gap of {gap.limit}; allow a larger one, or train the network first"
    return way.why_nothing(spec, budget)
