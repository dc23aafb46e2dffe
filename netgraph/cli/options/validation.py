"""Reject options that have no effect in combination with the others, before work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer

from netgraph import plugins
from netgraph.cli.console.terminal import echo
from netgraph.cli.options.open_network import DataOptions
from netgraph.cli.options.run import RunOptions
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.errors import NetgraphError
from netgraph.fas.solver.train_options import TrainOptions
from netgraph.utils.choices import DATA_IMPORTANCES, DATA_RUNGS, OPERATORS, ZOOS
from netgraph.utils.text import is_index

# Options of training that a single level does not use.
NEED_LEVELS = (
    "levels", "ratio", "round_to", "coarsen", "depth_by", "blocks", "inside_heads", "coarsener", "affinity", "cycle", "share",
    "schedule_per_level", "always", "switch",
)  # fmt: skip
# Options that ``--auto`` chooses.
CHOSEN_BY_AUTO = (
    "levels", "coarsen", "cycle", "share", "schedule", "schedule_per_level", "plain", "epochs", "always", "ratio", "recompute", "switch",
)  # fmt: skip
# Options that only steps in the direction "channels" use.
NEED_UNITS = ("inside_heads", "coarsener", "affinity", "keep", "outputs", "fix", "round_to", "budget", "importance")
# Options of a command about its file, which a saved hierarchy needs too.
FILE_OPTIONS = {"model", "out", "output", "json_"}
# Options of the solver about the step to a coarser level, about gradients from it or a start by it, which the coarsest level does not have.
COARSE_STEP = ("tau.", "gate.", "estimate.", "smoothing.pre", "smoothing.post", "smoothing.cycles", "smoothing.rewarm")
# Cycles that lack a part of the solver.
CYCLES_WITHOUT = {
    "coarse steps": ("kaskade",),
    "cycles on coarse levels": ("kaskade", "additive"),
    "levels that start from coarser ones": ("v", "w", "f", "additive"),
    "gradients from coarser levels": ("additive",),
}


def typed_options(context: typer.Context) -> dict[str, str]:
    """Return the options that the user typed: the name of each parameter and its spelling on the command line."""
    spellings = {p.name: max(p.opts, key=len) for p in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: spellings[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def reject_options(typed: Mapping[str, str], names: Iterable[str], reason: str) -> None:
    """Raise an error if one of these options was typed.

    Parameters
    ----------
    typed : dict of str to str
        As `typed_options` returns it.
    names : iterable of str
    reason : str
        Why the options have no effect.

    Raises
    ------
    NetgraphError
    """
    idle = [typed[name] for name in names if name in typed]
    if idle:
        raise NetgraphError(
            f"{', '.join(idle)} would have no effect: {reason}. Leave {'them' if len(idle) > 1 else 'it'} out."
        )


def check_open_options(typed: Mapping[str, str], model: str, arch: str | None) -> None:
    """Reject options of opening that the source of a network does not use. `load_model` checks those of files."""
    from netgraph.io.load import is_network_name
    from netgraph.io.trained_weights import names_trained_weights

    has_factory = arch is not None and arch.partition(":")[0] not in ZOOS
    if not has_factory and typed.keys().isdisjoint(("trust", "rules")):
        reject_options(
            typed, ["code_dir"], "only --arch package.module:factory, --rules and files with --trust look for modules"
        )
    if not any(names_trained_weights(name) for name in (model, arch or "")):
        reject_options(typed, ["download"], f"{model} names no weights to fetch, as torchvision:NAME@WEIGHTS does")
    if is_network_name(model):
        reject_options(typed, ["trust"], f"{model} is the name of a network, and no file is opened")
    elif Path(model).suffix == ".safetensors" or os.path.isdir(model):
        reject_options(typed, ["trust"], f"{model} is opened without running code")


def check_coarsen_options(
    context: typer.Context, options: CoarsenOptions, data: DataOptions, *, reads_data: bool
) -> None:
    """Reject options of coarsening that others make idle.

    Parameters
    ----------
    context : typer.Context
    options : CoarsenOptions
    data : DataOptions
    reads_data : bool
        Whether the command reads calibration data in any case.

    Raises
    ------
    NetgraphError
    """
    typed = typed_options(context)
    check_direction_options(typed, str(options.directions))
    if options.quality is None:  # the quality of aggregates is measured in affinities, whatever chose them
        check_affinity_option(typed, options.coarsener_name)
    axes = [text.rpartition("=")[0] for text in context.params["axis_ratio"] or ()]
    contradicted = [axis for axis in axes if axis in options.keep]
    if contradicted:
        axis = contradicted[0]
        raise NetgraphError(
            f"--keep {axis} contradicts --axis-ratio {axis}, which merges its units. Give one of the two."
        )
    if options.budget is not None:
        reject_options(typed, ["ratio", "axis_ratio"], "--budget replaces the ratios of all axes")
    if "*" in axes:
        reject_options(typed, ["ratio"], "--axis-ratio *=RATIO is the ratio of all other axes")
    _check_data_option(typed, options, data, reads_data=reads_data)


def _check_data_option(
    typed: Mapping[str, str], options: CoarsenOptions, data: DataOptions, *, reads_data: bool
) -> None:
    if data.data is None:
        reject_options(typed, ["samples"], "it counts rows of calibration data, and there are none without --data")
    measured = options.repair in DATA_RUNGS or options.importance in DATA_IMPORTANCES
    used = measured or options.coarsener == "auto" or options.budget or "affinity" in typed
    if not used and not reads_data:
        reject_options(
            typed,
            ["data"],
            "only --repair (norms, ridge, tune), --importance, --coarsener auto, --budget and --affinity read it",
        )


def check_saved_hierarchy(typed: Mapping[str, str], model: str) -> None:
    """Reject all options of coarsening for a hierarchy that was saved."""
    reject_options(
        typed, [name for name in typed if name not in FILE_OPTIONS], f"{model} is a hierarchy that is already made"
    )


def check_train_options(typed: Mapping[str, str], options: TrainOptions, run: RunOptions) -> None:
    """Reject options of training that others make idle.

    Parameters
    ----------
    typed : dict of str to str
        As `typed_options` returns it.
    options : TrainOptions
    run : RunOptions

    Raises
    ------
    NetgraphError
    """
    if run.checkpoints is None:
        reject_options(typed, ["every", "keep_last"], "no checkpoints are kept without --checkpoints FOLDER")
    if options.auto is not None:
        reject_options(typed, CHOSEN_BY_AUTO, "--auto chooses directions, levels and steps")
        if run.resume:
            raise NetgraphError(
                "a run of --auto goes on with the options that it printed. Give those in place of --auto."
            )
    if options.plain:  # a control run: the same command line with --plain behind it
        idle = [typed[name] for name in NEED_LEVELS if name in typed]
        if idle:
            echo(f"netgraph: --plain trains the finest level alone and ignores {', '.join(idle)}", err=True)
        return
    if options.coarsening.n_levels == 1:
        reject_options(typed, [name for name in NEED_LEVELS if name != "levels"], "--levels 1 is the network alone")
    if options.cycle == "kaskade":
        reject_options(typed, ["always"], "the cycle kaskade takes no coarse steps")
    if options.cycle not in ("kaskade", "full"):
        reject_options(
            typed, ["share"], f"only the cycles kaskade and full have turns to share, and this is {options.cycle}"
        )
    if options.switch == "plateau":
        _check_switch(options)
    check_direction_options(typed, str(options.coarsening.directions))
    check_affinity_option(typed, options.coarsening.coarsener_name)
    _check_solver_options(options)


def _check_switch(options: TrainOptions) -> None:
    """Refuse a switch by rule in a cycle without turns of levels, or under a rate that never stays."""
    if options.cycle != "kaskade":
        raise NetgraphError(
            f"--switch plateau leaves a level for the next finer one, and --cycle {options.cycle} returns. Take kaskade."
        )
    if options.schedule not in (None, "wsd", "constant") or options.schedule_per_level:
        raise NetgraphError(
            "--switch plateau needs a rate that stays on all coarse levels. Take --schedule wsd or constant."
        )


def check_direction_options(typed: Mapping[str, str], directions: str) -> None:
    """Reject options of a direction in which no level is coarsened."""
    words = set(directions.replace("+", ",").split(","))
    if "channels" not in words:
        reject_options(typed, NEED_UNITS, f"--coarsen {directions} merges no units")
    if "depth" not in words:
        reject_options(typed, ["depth_by", "blocks"], f"--coarsen {directions} merges no blocks")
    if words == {"depth"} and "blocks" in typed:
        reject_options(typed, ["ratio"], "--blocks says how many blocks stay")
    if words == {"space"}:
        reject_options(typed, ["ratio", "axis_ratio"], "--coarsen space halves the resolution from level to level")


def check_affinity_option(typed: Mapping[str, str], coarsener: str) -> None:
    """Reject an affinity for a coarsener that reads none, which its attribute ``ignores_edges`` says."""
    if "affinity" in typed and coarsener != "auto":
        merge = plugins.load_plugin("netgraph.coarseners", coarsener)
        if getattr(merge, "ignores_edges", False):
            reject_options(typed, ["affinity"], f"the coarsener {coarsener} reads no affinities")


def check_data_options(typed: Mapping[str, str], data: str) -> None:
    """Reject options of reading that a data set does not use."""
    if data == "digits":
        reject_options(typed, ["data_root", "download"], "digits ship with scikit-learn")
    if data in OPERATORS:
        reject_options(typed, ["data_root", "download"], f"the solutions of {data} are computed here")
    else:
        reject_options(typed, ["grid"], f"{data} is no equation on a grid")
    if data != "imdb":
        reject_options(typed, ["length", "tokenizer"], f"{data} is no text")


def _check_solver_options(options: TrainOptions) -> None:
    """Reject options of the solver for a level or a part that the run does not have."""
    from netgraph.fas.options.all_options import full_option_name

    n_levels = options.coarsening.n_levels
    cycle = "a single level" if n_levels == 1 else f"the cycle {options.cycle}"
    for text in options.option or ():
        name = text.partition("=")[0]
        group, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        level = (
            int(number) if group == "level" and is_index(number) else None
        )  # other words are refused when they are read
        if level is not None and level >= n_levels:
            raise NetgraphError(
                f"--option {name} is for level {number}, and there are {n_levels}, numbered from 0. Name one of them."
            )
        full_name = full_option_name(rest.partition(".")[2]) if group == "level" else name
        if level == n_levels - 1 and full_name.startswith(COARSE_STEP):
            raise NetgraphError(
                f"--option {name} is about a coarser level, and level {number} is the coarsest. Name a finer one."
            )
        subject = _find_subject(full_name)
        if subject and (n_levels == 1 or options.cycle in CYCLES_WITHOUT[subject]):
            raise NetgraphError(f"--option {name} is about {subject}, which {cycle} does not have. Leave it out.")
        merged = frozenset().union(*options.coarsening.steps)
        if name == "split.blocks" and "depth" not in merged:
            raise NetgraphError(
                f"--option {name} is about new blocks, and --coarsen {options.coarsening.directions} merges none. Leave it out, or add depth."
            )
        if name == "split.rewarm" and not merged & {"channels", "depth"}:
            raise NetgraphError(
                f"--option {name} is about new units and blocks, and --coarsen {options.coarsening.directions} merges none. Leave it out, or "
                "add channels or depth."
            )


def _find_subject(name: str) -> str | None:
    """Return the part of the solver that an option is about, or None if every cycle has that part."""
    if name.startswith(("tau.", "gate.")) or name in ("smoothing.pre", "smoothing.post", "smoothing.coarse"):
        return "coarse steps"
    if name == "smoothing.cycles":
        return "cycles on coarse levels"
    if name.startswith("estimate."):
        return "gradients from coarser levels"
    return "levels that start from coarser ones" if name.startswith(("split.", "smoothing.rewarm")) else None
