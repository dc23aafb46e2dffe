"""Options that would do nothing in the company they are given in: refused by name before work begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from netgraph import plugins
from netgraph.errors import NetgraphError

READ_DATA = ("norms", "ridge", "tune")
ALONE = (
    "levels",
    "ratio",
    "round_to",
    "coarsen",
    "depth_by",
    "inside_heads",
    "coarsener",
    "affinity",
    "cycle",
    "share",
    "schedule_per_level",
)  # what one level has no use for
COARSER = (
    "tau.",
    "gate.",
    "smoothing.pre",
    "smoothing.post",
    "smoothing.cycles",
)  # what the coarsest level has no use for
LACKS = {
    "coarse steps": ("kaskade",),
    "cycles on coarse levels": ("kaskade", "additive"),
    "levels that start from coarser ones": ("v", "w", "f", "additive"),
}
UNITS = (
    "inside_heads",
    "coarsener",
    "affinity",
    "axis_ratio",
    "keep",
    "fix",
    "round_to",
    "budget",
)  # what merges units alone
OPENING = {"model", "out", "output", "json_"}


def typed_options(context: typer.Context) -> dict[str, str]:
    """Return what the user typed of a command's options: their names, and how they are written."""
    written = {p.name: max(p.opts, key=len) for p in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: written[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def reject_options(typed: Mapping[str, str], names: Iterable[str], why: str) -> None:
    """Raise where one of these options was typed, and ``why`` says what leaves it without effect.

    Raises
    ------
    NetgraphError
    """
    found = [typed[name] for name in names if name in typed]
    if found:
        many = "them" if len(found) > 1 else "it"
        raise NetgraphError(f"{', '.join(found)} would have no effect: {why}; leave {many} out")


def check_open_options(typed: Mapping[str, str], model: str, arch: str | None) -> None:
    """Refuse options of opening that this source does not ask for; options of files are judged where files are opened."""
    from netgraph.io.load import is_network_name
    from netgraph.io.model_zoo import ZOOS

    owns_code = arch is not None and arch.partition(":")[0] not in ZOOS
    if not owns_code and "trust" not in typed:
        reject_options(
            typed, ["code_dir"], "neither --arch package.module:factory nor a file with --trust looks for modules"
        )
    if is_network_name(model):
        reject_options(typed, ["trust"], f"{model} is the name of a network, and no file is opened")
    elif Path(model).suffix == ".safetensors":
        reject_options(typed, ["trust"], f"{model} is opened without running code")


def check_coarsen_options(typed: Mapping[str, str], recipe: Any, *, measured: bool) -> None:
    """Refuse options of a recipe that others make idle.

    Parameters
    ----------
    typed : dict of str to str
        As `typed_options` returns it.
    recipe : netgraph.cli.options.coarsen.CoarsenOptions
    measured : bool
        Whether the error on calibration data is told in any case.
    """
    check_direction_options(typed, recipe.coarsen)
    if recipe.quality is None:  # the cut is measured in affinities, whatever chose the aggregates
        check_affinity_option(typed, recipe.coarsener)
    axes = [text.rpartition("=")[0] for text in recipe.axis_ratio or ()]
    twice = [axis for axis in axes if axes.count(axis) > 1]
    if twice:
        raise NetgraphError(f"--axis-ratio gives {twice[0]} two ratios; give each axis one")
    both = [axis for axis in axes if axis in (recipe.keep or ())]
    if both:
        raise NetgraphError(
            f"--keep {both[0]} leaves alone what --axis-ratio {both[0]} is to merge; give one of the two"
        )
    if recipe.budget is not None:
        reject_options(
            typed, ["ratio", "axis_ratio"], "--budget spreads what may stay over the axes, in place of ratios"
        )
    if "*" in axes:
        reject_options(typed, ["ratio"], "--axis-ratio *=RATIO is the ratio of all other axes")
    if recipe.data is None:
        reject_options(typed, ["samples"], "it counts rows of calibration data, and there are none without --data")
    reads = recipe.repair in READ_DATA or recipe.coarsener == "auto" or recipe.budget or "affinity" in typed
    if not reads and not measured:
        reject_options(
            typed,
            ["data"],
            "neither a --repair (norms, ridge, tune), --coarsener auto, --budget nor --affinity reads it",
        )


def check_saved_hierarchy(typed: Mapping[str, str], model: str) -> None:
    """Refuse all options of a recipe for a hierarchy that is already made."""
    reject_options(
        typed, [name for name in typed if name not in OPENING], f"{model} is a hierarchy that is already made"
    )


def check_train_options(typed: Mapping[str, str], settings: Any, lasting: Any) -> None:
    """Refuse options of training that others make idle.

    Parameters
    ----------
    typed : dict of str to str
    settings : netgraph.cli.options.train.TrainOptions
    lasting : netgraph.cli.options.run.RunOptions
    """
    if lasting.checkpoints is None:
        reject_options(typed, ["every", "keep_last"], "no checkpoints are kept without --checkpoints FOLDER")
    if settings.plain:  # a control: the same words with --plain behind them
        found = [typed[name] for name in ALONE if name in typed]
        if found:
            typer.echo(f"netgraph: --plain trains the finest level alone, without {', '.join(found)}", err=True)
        return
    if settings.levels == 1:
        reject_options(typed, [name for name in ALONE if name != "levels"], "--levels 1 is the network alone")
    if settings.cycle not in ("kaskade", "full"):
        reject_options(
            typed, ["share"], f"only the cycles kaskade and full have turns to share, and this is {settings.cycle}"
        )
    check_direction_options(typed, settings.coarsen)
    check_affinity_option(typed, settings.coarsener)
    _check_solver_options(settings)


def check_direction_options(typed: Mapping[str, str], coarsen: str) -> None:
    """Refuse options of merging units, or of ratios, where no level is coarsened in their direction."""
    directions = set(coarsen.replace("+", ",").split(","))
    if "channels" not in directions:
        reject_options(typed, UNITS, f"--coarsen {coarsen} merges no units")
    if "depth" not in directions:
        reject_options(typed, ["depth_by"], f"--coarsen {coarsen} merges no blocks")
    if directions == {"space"}:
        reject_options(typed, ["ratio"], "--coarsen space halves the resolution from level to level")


def check_affinity_option(typed: Mapping[str, str], coarsener: str) -> None:
    """Refuse an affinity for a coarsener that says, by its attribute ``ignores_edges``, that it reads none."""
    if "affinity" in typed and coarsener != "auto":
        merge = plugins.load_plugin("netgraph.coarseners", coarsener)
        if getattr(merge, "ignores_edges", False):
            reject_options(typed, ["affinity"], f"the coarsener {coarsener} reads no affinities")


def check_data_options(typed: Mapping[str, str], data: str) -> None:
    """Refuse options of reading that a data set has no use for."""
    if data == "digits":
        reject_options(typed, ["data_root", "download"], "digits ship with scikit-learn")
    if data != "imdb":
        reject_options(typed, ["length", "tokenizer"], f"{data} is no text")


def _check_solver_options(settings: Any) -> None:
    """Refuse options of the solver for levels that are not there, or for what the cycle does not do."""
    from netgraph.fas.options import full_option_name

    n_levels = settings.levels
    cycle = "a single level" if n_levels == 1 else f"the cycle {settings.cycle}"
    for text in settings.option or ():
        name = text.partition("=")[0]
        group, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if group == "level" and number.isdigit() and int(number) >= n_levels:
            raise NetgraphError(
                f"--option {name} is for level {number}, and there are {n_levels}, numbered from 0; name one of them"
            )
        own = full_option_name(rest.partition(".")[2]) if group == "level" else name
        if group == "level" and int(number) == n_levels - 1 and own.startswith(COARSER):
            raise NetgraphError(
                f"--option {name} is about going on to a coarser level, and level {number} is the coarsest; name a finer one"
            )
        what = _find_subject(own)
        if what and (n_levels == 1 or settings.cycle in LACKS[what]):
            raise NetgraphError(f"--option {name} is about {what}, which {cycle} does not have; leave it out")


def _find_subject(name: str) -> str | None:
    """Return what an option is about, where not every cycle has it."""
    if name.startswith(("tau.", "gate.")) or name in ("smoothing.pre", "smoothing.post", "smoothing.coarse"):
        return "coarse steps"
    if name == "smoothing.cycles":
        return "cycles on coarse levels"
    return "levels that start from coarser ones" if name.startswith("split.") else None
