"""What every command shares that opens a network or builds a hierarchy: options, and what they mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.progress import show_progress
from netgraph.cli.options.completion import (
    BUDGETS,
    DATA_SETS,
    DEPTH_BY,
    DIRECTIONS,
    RUNGS,
    ZOOS,
    complete_plugins,
    complete_words,
)
from netgraph.cli.options.open_network import open_network, read_calibration_data
from netgraph.errors import NetgraphError

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_words(ZOOS),
        help="A file (.pt, .safetensors, .pt2) or torchvision:NAME, timm:NAME, hf:FOLDER, hf:CONFIG.json.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FACTORY", help="What a state dict belongs to: package.module:factory, or a name as above."
    ),
]
ArchArg = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the factory; may be given again.")]
Input = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SIZES", help="2x3x224x224, 2x16:int64 or ids=2x16:int64; may be given again."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Open files that can run the code that came with them.")]
CodeDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where --arch finds modules first; the working directory by default."),
]


def _check_seed(value: int) -> int:
    if not 0 <= value < 2**32:  # what NumPy and scikit-learn take
        raise typer.BadParameter("a seed is a whole number from 0 on and below 2^32")
    return value


Seed = Annotated[
    int, typer.Option(metavar="N", callback=_check_seed, help="Seed of everything random, new weights included.")
]
Coarsen = Annotated[
    str,
    typer.Option(
        metavar="DIRECTIONS", autocompletion=complete_words(DIRECTIONS),
        help="What becomes smaller: channels, space, depth; + joins them within a level, commas go from level to level.",
    ),
]  # fmt: skip
DepthBy = Annotated[
    str,
    typer.Option(
        metavar="NAME", autocompletion=complete_words(DEPTH_BY),
        help="How merged blocks become several again: split, in steps that add up to theirs, or copy, each as it is.",
    ),
]  # fmt: skip
Coarsener = Annotated[
    str,
    typer.Option(
        metavar="NAME", autocompletion=complete_plugins("netgraph.coarseners", "auto"),
        help="How units merge; `netgraph plugins` lists them; auto takes the best of several on each axis.",
    ),
]  # fmt: skip
Affinity = Annotated[
    str,
    typer.Option(
        metavar="NAME", autocompletion=complete_plugins("netgraph.affinities"),
        help="How alike units are; `netgraph plugins` lists them.",
    ),
]  # fmt: skip
Levels = Annotated[int, typer.Option(metavar="N", help="Levels in all, the given network included.")]


def parse_ratio_or_gap(text: str | float) -> float | str:
    """Read a share of units, or ``gap:0.05``, which bounds what the loss rises by."""
    bound = str(text).removeprefix("gap:")
    if bound == str(text):
        return _parse_ratio(text)
    try:
        if float(bound) >= 0:
            return str(text)
    except ValueError:
        pass
    raise typer.BadParameter("this is no number between 0 and 1, nor gap:0.05")


def _parse_ratio(text: str | float) -> float:
    if str(text).startswith("gap:"):
        raise typer.BadParameter(
            "a bound on the gap needs a loss to measure, which only `netgraph train` has; give a share such as 0.5, or "
            f"--budget error={str(text).removeprefix('gap:')}"
        )
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter("this is no number between 0 and 1") from None


Ratio = Annotated[
    float,
    typer.Option(metavar="SHARE", parser=_parse_ratio, help="Share of units that stay from one level to the next."),
]
InsideHeads = Annotated[
    bool, typer.Option("--inside-heads", help="Merge the numbers inside attention's heads too; else heads merge whole.")
]
RoundTo = Annotated[int, typer.Option(metavar="N", help="Multiple that numbers of units should have.")]


@dataclass(frozen=True)
class CoarsenOptions:
    """How a command was asked to build its hierarchy; each field is an option."""

    coarsen: Coarsen = "channels"
    depth_by: DepthBy = "split"
    coarsener: Coarsener = "hem"
    levels: Levels = 3
    ratio: Ratio = 0.5
    axis_ratio: Annotated[
        list[str] | None, typer.Option(metavar="AXIS=RATIO", help="Of one axis; may be given again.")
    ] = None
    keep: Annotated[list[str] | None, typer.Option(metavar="AXIS", help="Axis to leave alone; may be given again.")] = (
        None
    )
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=UNITS", help="Units of an axis to leave alone, as 0,5,7; may be given again."),
    ] = None
    round_to: RoundTo = 1
    inside_heads: InsideHeads = False
    affinity: Affinity = "cosine"
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=SHARE",
            autocompletion=complete_words(BUDGETS),
            help="parameters=, flops= or units=0.5, or error=0.05, spread over the axes; in place of --ratio.",
        ),
    ] = None
    repair: Annotated[
        str,
        typer.Option(
            metavar="RUNG",
            autocompletion=complete_words(RUNGS),
            help="After merging: none, rescale, norms, ridge or tune.",
        ),
    ] = "none"
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            autocompletion=complete_words(DATA_SETS),
            help="Calibration data: digits, mnist, fashion-mnist, cifar10, imdb, a folder of pictures, a .npy or .pt.",
        ),
    ] = None
    samples: Annotated[int, typer.Option(metavar="N", help="Rows of calibration data.")] = 512
    quality: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Measure each axis' cut, balance, modularity and error, and compare N eigenvalues (0: none).",
        ),
    ] = None
    arch: Arch = None
    arch_arg: ArchArg = None
    input_: Input = None
    trust: Trust = False
    code_dir: CodeDir = None
    seed: Seed = 7619

    def hierarchy(self, model: str) -> Any:
        """Open a network and coarsen it."""
        return self.built(*self.opened(model))

    def opened(self, model: str) -> tuple[Any, Any]:
        """Return a network and an example of its inputs."""
        self.check()
        return open_network(model, self.arch, self.arch_arg, self.input_, self.trust, self.code_dir, self.seed)

    def check(self) -> None:
        """Refuse what no network could be asked, before one is opened."""
        from netgraph import plugins
        from netgraph.coarsen.directions.depth import check_depth_by
        from netgraph.coarsen.directions.parse import parse_directions
        from netgraph.coarsen.hierarchy.budget import Budget
        from netgraph.coarsen.hierarchy.hierarchy import check_ratios
        from netgraph.coarsen.hierarchy.merge_plan import load_coarseners
        from netgraph.coarsen.repair.pipeline import check_rung

        check_ratios({"*": self.ratio, **_parse_axis_ratios(self.axis_ratio or [])}, self.levels, self.round_to)
        _parse_fixed_units(self.fix or [])
        parse_directions(self.coarsen, self.levels)
        check_depth_by(self.depth_by)
        check_rung(self.repair, self.data)
        load_coarseners(self.coarsener)
        plugins.load_plugin("netgraph.affinities", self.affinity)
        if self.budget is not None:
            Budget.parsed(self.budget)

    def calibrated(self, example: Any, tokenizer: Any = None) -> Any:
        """Return the rows of calibration data that were asked for, None where none were."""
        return (
            None if self.data is None else read_calibration_data(self.data, example, self.samples, self.seed, tokenizer)
        )

    def built(self, network: Any, example: Any, inputs: Any = None) -> Any:
        """Coarsen a network that is open, on the inputs at hand or on calibration data that were asked for."""
        from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy

        ratios = {"*": self.ratio, **_parse_axis_ratios(self.axis_ratio or [])}
        if inputs is None and self.data is not None:
            inputs = self.calibrated(example).inputs
        with announce_compilation(), show_progress("coarsening") as told:
            return build_hierarchy(
                network, example, directions=self.coarsen, depth_by=self.depth_by, coarsener=self.coarsener,
                affinity=self.affinity, n_levels=self.levels, ratio=ratios, keep=self.keep or (), fixed=_parse_fixed_units(self.fix or []),
                round_to=self.round_to, budget=self.budget, repair=self.repair, data=inputs, quality=self.quality,
                inside_heads=self.inside_heads,
                seed=self.seed, progress=told,
            )  # fmt: skip


def with_options(kind: type, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command every field of a dataclass as an option; it is called with one of them in their place."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        names = {f.name for f in fields(kind)}

        @wraps(command)
        def called(**options: Any) -> Any:
            own = {k: v for k, v in options.items() if k not in names}
            return command(**own, **{name: kind(**{k: options[k] for k in names})})

        hints = {**get_type_hints(command, include_extras=True), **get_type_hints(kind, include_extras=True)}
        own = [p for p in inspect.signature(command).parameters.values() if p.name != name]
        shown = [*own, *inspect.signature(kind).parameters.values()]
        shown = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in shown]
        called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # where typer looks for options
        called.__annotations__ = hints
        return called

    return decorated


with_coarsen_options = with_options(CoarsenOptions, "recipe")


def _parse_axis_ratios(texts: list[str]) -> dict[str, float]:
    out = {}
    for text in texts:
        axis, equals, value = text.rpartition("=")
        try:
            out[axis] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise NetgraphError(f"--axis-ratio {text!r} is not AXIS=RATIO, as in layer1.0.conv1=0.25")
    return out


def _parse_fixed_units(texts: list[str]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for text in texts:
        axis, _, units = text.rpartition("=")
        if not axis or not all(unit.isdecimal() for unit in units.split(",")):
            raise NetgraphError(f"--fix {text!r} is not AXIS=UNITS, as in layer1.0.conv1=0,5,7")
        out.setdefault(axis, []).extend(int(unit) for unit in units.split(","))
    return out


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
