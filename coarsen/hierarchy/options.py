"""CoarsenOptions: how a network is coarsened, one field an option.

`netgraph.build_hierarchy` takes the fields as keywords. The command line makes its options from them, and
`Hierarchy.options` holds the object, which files keep as plain data. Nothing here imports PyTorch, because
``netgraph --help`` reads these fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from netgraph.errors import NetgraphError
from netgraph.plugins import name_function
from netgraph.utils.choices import BUDGETS, DEPTH_BY, DIRECTIONS, IMPORTANCES, RUNGS
from netgraph.utils.options import Flag, check_options, declare_option, document_options, list_options
from netgraph.utils.text import is_index


def parse_ratio(text: str | float) -> float:
    """Read a share of units.

    Raises
    ------
    NetgraphError
        The text is no number, or a bound on the gap, which needs a loss.
    """
    if str(text).startswith("gap:"):
        raise NetgraphError(
            "a bound on the gap needs a loss to measure, which only `netgraph train` has. Give a share such as 0.5, or "
            f"--budget error={str(text).removeprefix('gap:')}"
        )
    try:
        return float(text)
    except ValueError:
        raise NetgraphError("this is no number between 0 and 1") from None


def parse_ratio_or_gap(text: str | float) -> float | str:
    """Read a share of units, or ``gap:0.05``, a bound on the rise of the loss."""
    bound = str(text).removeprefix("gap:")
    if bound == str(text):
        return parse_ratio(text)
    try:
        if 0 <= float(bound) < float("inf"):
            return str(text)
    except ValueError:
        pass
    raise NetgraphError("this is no number between 0 and 1, and no bound such as gap:0.05")


def parse_axis_ratios(texts: Iterable[str]) -> dict[str, float]:
    """Read ``AXIS=RATIO``, one text an axis.

    Raises
    ------
    NetgraphError
        A text is not of this form, or an axis is named twice.
    """
    ratios: dict[str, float] = {}
    for text in texts:
        axis, equals, value = text.rpartition("=")
        try:
            ratio = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise NetgraphError(f"--axis-ratio {text!r} is not AXIS=RATIO, as in layer1.0.conv1=0.25.")
        if axis in ratios:
            raise NetgraphError(f"--axis-ratio gives {axis} two ratios. Give each axis one.")
        ratios[axis] = ratio
    return ratios


def parse_fixed_units(texts: Iterable[str] | None) -> dict[str, list[int]] | None:
    """Read ``AXIS=UNITS``, where units are numbers with commas between them. Without a text return None.

    Raises
    ------
    NetgraphError
        A text is not of this form.
    """
    fixed: dict[str, list[int]] = {}
    for text in texts or ():
        axis, _, units = text.rpartition("=")
        if not axis or not all(is_index(unit) for unit in units.split(",")):
            raise NetgraphError(f"--fix {text!r} is not AXIS=UNITS, as in layer1.0.conv1=0,5,7.")
        fixed.setdefault(axis, []).extend(int(unit) for unit in units.split(","))
    return fixed or None


def _join_ratios(ratio: float, axis_ratios: Iterable[str] | None) -> dict[str, float]:
    return {"*": ratio, **parse_axis_ratios(axis_ratios or ())}


# Checks: each raises a NetgraphError that names the value and the remedy.


def _check_directions(value: Any, options: CoarsenOptions) -> None:
    from netgraph.coarsen.directions.parse import parse_directions

    parse_directions(value, max(options.n_levels, 2))


def _check_depth_by(value: str, options: CoarsenOptions) -> None:
    from netgraph.coarsen.directions.depth import check_depth_by

    check_depth_by(value)


def _check_blocks(value: int | None, options: CoarsenOptions) -> None:
    if value is None:
        return
    if value < 0:
        raise NetgraphError(f"blocks (--blocks) is {value}. Give 0 or more.")
    if not any("depth" in step for step in options.steps):
        raise NetgraphError(
            f"blocks (--blocks) says how many blocks stay, but {options.directions!r} merges none. Leave it out, or add depth."
        )


def _check_coarsener(value: Any, options: CoarsenOptions) -> None:
    from netgraph.coarsen.hierarchy.merge_plan import load_coarseners

    load_coarseners(value)


def _check_affinity(value: Any, options: CoarsenOptions) -> None:
    from netgraph.plugins import check_callable, load_plugin

    check_callable(
        "netgraph.affinities", load_plugin("netgraph.affinities", value) if isinstance(value, str) else value
    )


def _check_importance(value: str, options: CoarsenOptions) -> None:
    from netgraph.coarsen.matching.unit_importance import check_importance

    check_importance(value, data=())  # the name alone; build_hierarchy knows the data
    if value != "none":
        _check_merges_units(options, "an importance weighs units that merge")


def _check_n_levels(value: int, options: CoarsenOptions) -> None:
    if value < 2:
        raise NetgraphError(f"n_levels (--levels) is {value}. Give 2 or more. The network itself counts as one.")


def _check_ratio(value: Any, options: CoarsenOptions) -> None:
    if isinstance(value, str):
        _check_merges_units(options)
        return
    for axis, ratio in options.ratios.items():
        if not 0 < ratio <= 1:
            of = "" if axis == "*" else f" of axis {axis!r}"
            raise NetgraphError(
                f"the ratio{of}, the share of units that stay, is {ratio}. Give one above 0 and at most 1."
            )


def _check_budget(value: str | None, options: CoarsenOptions) -> None:
    if value is not None:
        from netgraph.coarsen.hierarchy.budget import Budget

        _check_merges_units(options)
        Budget.parse(value)


def _check_merges_units(options: CoarsenOptions, told: str = "a gap or a budget chooses how many units merge") -> None:
    if not any("channels" in step for step in options.steps):
        raise NetgraphError(f"{told}, but {options.directions!r} merges no units. Leave it out, or add channels.")


def _check_keep(value: Any, options: CoarsenOptions) -> None:
    if not all(isinstance(axis, str) for axis in value):
        raise NetgraphError(f"keep is {value!r}. Give names of axes, which `netgraph inspect` lists.")


def _check_outputs(value: Any, options: CoarsenOptions) -> None:
    if not all(isinstance(name, str) for name in value):
        raise NetgraphError(f"outputs is {value!r}. Give names of outputs, such as logits.")


def _check_fixed(value: Any, options: CoarsenOptions) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise NetgraphError(f"fixed is {value!r}. Give a dict from the name of an axis to numbers of its units.")


def _check_round_to(value: int, options: CoarsenOptions) -> None:
    if value < 1:
        raise NetgraphError(f"round_to is {value}. Give a multiple of 1 or more.")


def _check_inside_heads(value: Any, options: CoarsenOptions) -> None:
    if value not in (True, False):
        raise NetgraphError(f"inside_heads is {value!r}. Give True or False.")


def _check_prove(value: Any, options: CoarsenOptions) -> None:
    if value not in (True, False):
        raise NetgraphError(f"prove is {value!r}. Give True or False.")


def _check_repair(value: str, options: CoarsenOptions) -> None:
    from netgraph.coarsen.repair.pipeline import check_rung

    check_rung(value, data=())  # the name alone; build_hierarchy knows the data


def _check_quality(value: int | None, options: CoarsenOptions) -> None:
    if value is not None and value < 0:
        raise NetgraphError(f"quality, a number of eigenvalues to compare, is {value}. Give 0 or more.")


def check_seed(value: int, options: Any) -> None:
    """Refuse a seed that NumPy and scikit-learn do not take."""
    if not 0 <= value < 2**32:
        raise NetgraphError("a seed is a whole number from 0 on and below 2^32")


@document_options
@dataclass(frozen=True, kw_only=True)
class CoarsenOptions:
    """How a network is coarsened.

    The fields are keywords of `netgraph.build_hierarchy` and options of ``netgraph coarsen``. An option is written
    here once, with its default, its help text and its check.

    Parameters
    ----------
    **options

    Examples
    --------
    >>> from netgraph.coarsen import CoarsenOptions
    >>> options = CoarsenOptions(n_levels=3, directions="channels+space,depth")
    >>> options.check()
    >>> options.to_plain()["directions"]
    ['channels+space', 'depth']
    >>> CoarsenOptions(ratio=1.5).check()
    Traceback (most recent call last):
    netgraph.errors.NetgraphError: the ratio, the share of units that stay, is 1.5. Give one above 0 and at most 1.
    """

    directions: str | Sequence[str] = declare_option(
        "channels",
        help="Directions that become smaller: channels, space, depth. A + joins directions in one step, a comma begins the next step.",
        doc="Directions that become smaller from level to level: ``channels`` (units of every kind), ``space`` (resolution) or "
        "``depth`` (alike residual blocks). A + joins directions within a step: ``'channels+space,depth'`` has two steps. "
        "A sequence has one text for each step. The last step repeats (`netgraph.coarsen.directions.parse`).",
        check=_check_directions, plain=lambda options: options._plain_directions(),
        name="coarsen", type=str, metavar="DIRECTIONS", words=DIRECTIONS,
    )  # fmt: skip
    depth_by: str = declare_option(
        "split",
        help="How one merged block becomes several: split gives each an equal part of its effect, copy gives each the whole block.",
        doc="How a coarse block becomes several again: ``split``, in steps that add up to its own, or ``copy``, each as it "
        "is (`netgraph.coarsen.directions.depth`).",
        check=_check_depth_by,
        plain=lambda options: options.depth_by if any("depth" in step for step in options.steps) else None,
        metavar="NAME", words=DEPTH_BY,
    )  # fmt: skip
    blocks: int | None = declare_option(
        None,
        help="Blocks of each chain that stay in a step of depth, in place of --ratio. 0 leaves all of them out.",
        doc="Number of blocks of each chain of alike residual blocks that stay in a step of ``depth``, in place of ``ratio``. "
        "0 leaves all of them out: the chain passes its input on.",
        check=_check_blocks, plain=lambda options: options.blocks, saved="always",
        metavar="N", minimum=0,
    )  # fmt: skip
    coarsener: str | Callable[..., Any] = declare_option(
        "hem",
        help="Method that merges units: a name that `netgraph plugins` lists, or auto, which takes the best of several on each axis.",
        doc="An entry point of ``netgraph.coarseners``, or a function ``(graph, n_coarse, *, seed) -> aggregates``. "
        "``'auto'`` tries several on each axis and takes the one of the smallest error.",
        check=_check_coarsener, plain=lambda options: options.coarsener_name, saved="always",
        type=str, metavar="NAME", plugins="netgraph.coarseners", words=("auto",),
    )  # fmt: skip
    n_levels: int = declare_option(
        2,
        help="Number of levels. The given network counts as one.",
        check=_check_n_levels, saved="always",
        name="levels", typed_default=3, metavar="N",
    )  # fmt: skip
    ratio: float | str | Mapping[str, float] = declare_option(
        0.5,
        help="Share of units that stay from one level to the next.",
        doc="Share of units of each axis, and of blocks of each chain, that stay from one level to the next. A dict has one "
        "by axis or chain, which has the name of its first block, and ``'*'`` for the others. ``'gap:0.05'`` keeps as few units as raise ``loss`` by at most that share from "
        "each level to the next (`netgraph.coarsen.hierarchy.loss_gap`).",
        check=_check_ratio, join=_join_ratios, saved="always",
        type=float, metavar="SHARE", parse=parse_ratio,
        also=(Flag("axis_ratio", "Share for one axis, or for one chain by its first block (repeatable).", list[str] | None, metavar="AXIS=RATIO"),),
    )  # fmt: skip
    keep: Iterable[str] = declare_option(
        (),
        help="Axis that stays as it is (repeatable).",
        doc="Axes that stay as they are.",
        check=_check_keep, join=lambda axes: tuple(axes or ()), plain=lambda options: sorted(set(options.keep)), saved="always",
        type=list[str] | None, typed_default=None, metavar="AXIS",
    )  # fmt: skip
    outputs: Iterable[str] = declare_option(
        (),
        help="Output that matters, by name, as logits (repeatable). The units of other outputs may merge. By default all matter.",
        doc="Names of the outputs that matter, such as ``logits``. The units of other outputs may merge, and these outputs then get "
        "smaller. By default all outputs matter (`netgraph.recording.forward.named_outputs`).",
        check=_check_outputs, join=lambda names: tuple(names or ()), plain=lambda options: list(options.outputs),
        type=list[str] | None, typed_default=None, metavar="NAME",
    )  # fmt: skip
    fixed: Mapping[str, Sequence[int]] | None = declare_option(
        None,
        help="Units of an axis that stay alone, as 0,5,7 (repeatable).",
        doc="By axis, units that stay alone on every level while others merge.",
        check=_check_fixed, join=parse_fixed_units, plain=lambda options: options._plain_fixed(),
        name="fix", type=list[str] | None, metavar="AXIS=UNITS",
    )  # fmt: skip
    round_to: int = declare_option(
        1,
        help="Multiple that numbers of units should have.",
        check=_check_round_to, saved="always",
        metavar="N",
    )  # fmt: skip
    inside_heads: bool = declare_option(
        False,
        help="Merge the dimensions inside attention heads too. By default heads merge whole.",
        doc="Merge the dimensions inside attention heads too, those of queries with those of keys. By default heads merge whole.",
        check=_check_inside_heads,
    )  # fmt: skip
    affinity: str | Callable[..., Any] = declare_option(
        "cosine",
        help="Measure of how alike units are. `netgraph plugins` lists the names.",
        doc="An entry point of ``netgraph.affinities``, or a function ``(units, *, seed) -> csr`` "
        "(`netgraph.graph.axis_units.AxisUnits`). A coarsener whose attribute ``ignores_edges`` is True does not read it.",
        check=_check_affinity, plain=lambda options: options.affinity_name, saved="always",
        type=str, metavar="NAME", plugins="netgraph.affinities",
    )  # fmt: skip
    importance: str = declare_option(
        "none",
        help="What units count by in the means of merged ones, and what magnitude prunes by: none (all alike), magnitude, activation, taylor, fisher or surgeon.",
        doc="How important units are: ``none``, ``magnitude``, ``activation``, ``taylor``, ``fisher`` or ``surgeon`` "
        "(`netgraph.coarsen.matching.unit_importance`). Units weigh by it in the means of their aggregates, and the coarsener "
        "``magnitude`` keeps the most important ones. All but the first two need data.",
        check=_check_importance, plain=lambda options: None if options.importance == "none" else options.importance,
        metavar="NAME", words=IMPORTANCES,
    )  # fmt: skip
    budget: str | None = declare_option(
        None,
        help="parameters=, flops= or units=0.5, or error=0.05, spread over the axes. It replaces --ratio.",
        doc="``parameters=0.5``, ``flops=0.5``, ``units=0.5`` or ``error=0.05``: spread over the axes by their error curves, "
        "from each level to the next. It replaces ``ratio``.",
        check=_check_budget, saved="always",
        metavar="KIND=SHARE", words=tuple(f"{kind}=" for kind in BUDGETS),
    )  # fmt: skip
    repair: str = declare_option(
        "none",
        help="Repair after merging: none, rescale, norms, ridge or tune.",
        doc="Repair after merging: ``none``, ``rescale``, ``norms``, ``ridge`` or ``tune`` (`netgraph.coarsen.repair.pipeline`).",
        check=_check_repair, saved="always",
        metavar="RUNG", words=RUNGS,
    )  # fmt: skip
    quality: int | None = declare_option(
        None,
        help="Measure cut, balance, modularity and error of each axis, and compare N eigenvalues (0: none).",
        doc="Measure the cost of merging each axis, and compare this number of eigenvalues (`netgraph.quality`). The figures "
        "are in ``level.reasons``.",
        check=_check_quality, saved="never",  # it measures a hierarchy and does not change it
        metavar="N", minimum=0,
    )  # fmt: skip
    prove: bool = declare_option(
        True,
        help="Leave out the proof that the recording holds for other inputs.",
        doc="Prove that the recording holds: record the network a second time under other conditions, and compare small networks by "
        "numbers (`netgraph.coarsen.network.recording_proof`). Without it the report says that nothing was proven.",
        check=_check_prove, join=lambda leave_out: not leave_out, saved="always",
        name="no_prove", type=bool, typed_default=False,
    )  # fmt: skip
    seed: int = declare_option(
        7619,
        help="Seed of everything random, new weights included.",
        doc="Seed of everything random.",
        check=check_seed, check_early=True, saved="always",
        metavar="N",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(self.keep))
        object.__setattr__(self, "outputs", (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs))

    def check(self) -> None:
        """Check all values, as far as that needs no network.

        Raises
        ------
        NetgraphError
            An option has a value that it cannot have, or two options contradict one another.
        """
        check_options(self)

    @property
    def steps(self) -> tuple[frozenset[str], ...]:
        """The directions of every step from one level to the next."""
        from netgraph.coarsen.directions.parse import parse_directions

        return parse_directions(self.directions, max(self.n_levels, 2))

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio of every axis that has its own, and under ``"*"`` that of the others."""
        if isinstance(self.ratio, str):  # a bound on the gap chooses them
            return {"*": 0.5}
        return {"*": 0.5, **self.ratio} if isinstance(self.ratio, Mapping) else {"*": self.ratio}

    @property
    def coarsener_name(self) -> str:
        """Name of the coarsener, also of one that was given as a function."""
        return _name_option(self.coarsener)

    @property
    def affinity_name(self) -> str:
        """Name of the affinity, also of one that was given as a function."""
        return _name_option(self.affinity)

    def _plain_directions(self) -> list[str] | None:
        """Return one text a step, None where every step merges channels alone."""
        if all(step == {"channels"} for step in self.steps):
            return None
        return ["+".join(name for name in DIRECTIONS if name in step) for step in self.steps]

    def _plain_fixed(self) -> dict[str, list[int]]:
        return {axis: sorted({*map(int, units)}) for axis, units in (self.fixed or {}).items() if len(units)}

    def to_plain(self) -> dict[str, Any]:
        """Return the options as plain data, for hierarchy files and ``--json``."""
        plain: dict[str, Any] = {}
        for field, info in list_options(type(self)):
            value = getattr(self, field.name) if info.plain is None else info.plain(self)
            if info.saved == "always" or (info.saved == "set" and value):
                plain[field.name] = value
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> CoarsenOptions:
        """Return the options that `to_plain` wrote. An option that an older file lacks has its default."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in plain.items() if name in names})


def _name_option(value: str | Callable[..., Any]) -> str:
    return value if isinstance(value, str) else name_function(value)
