"""``netgraph compress``: make a trained network smaller until a target is met, and write it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.network_files import (
    check_class_output,
    check_compressed_output,
    check_spares_input,
    write_compressed,
)
from netgraph.cli.console.progress import show_progress
from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.console.tokenizer_file import write_tokenizer
from netgraph.cli.options.coarsen import Json, open_network
from netgraph.cli.options.command_options import After, with_options
from netgraph.cli.options.compress import CompressOptions, check_data, choose_metric, read_rows
from netgraph.cli.options.open_network import DataOptions, Model, OpenOptions, Tokenizer
from netgraph.cli.options.validation import (
    NEED_UNITS,
    check_affinity_option,
    check_open_options,
    reject_options,
    typed_options,
)
from netgraph.io.files.locks import lock_outputs
from netgraph.utils.choices import DATA_RUNGS

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.compression.pipeline import Tune
    from netgraph.coarsen.compression.result import Compressed
    from netgraph.models.data.calibration import CalibrationData
    from netgraph.models.data.row_splits import RowSplits

VALIDATION = 2000  # rows on which candidates are judged


@with_options
def compress_model(
    context: typer.Context,
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the recorded graph (.safetensors), the network in its own class (.pt), a folder with a card for the hub, or both "
            "levels (*.hierarchy).",
        ),
    ] = None,
    json_: Json = False,
    *,
    options: CompressOptions,
    data: Annotated[DataOptions, After("test_samples")],
    tokenizer: Annotated[Tokenizer, After("samples")] = None,
    opening: Annotated[OpenOptions, After("seed")],
) -> None:
    """Make a trained network smaller until a target is met, print what that costs and keeps, and write it."""
    typed = typed_options(context)
    check_open_options(typed, model, opening.arch)
    check_affinity_option(typed, options.coarsening.coarsener_name)
    if "channels" not in options.coarsening.steps[0]:  # the outputs judge blocks too
        reject_options(
            typed,
            [name for name in NEED_UNITS if name != "outputs"],
            f"--coarsen {options.coarsening.directions} merges no units",
        )
    options.check()
    if options.read_target().kind != "latency":
        reject_options(typed, ["latency_batch"], "the target is no latency")
    if options.coarsening.repair not in DATA_RUNGS:
        reject_options(typed, ["repaired_errors"], f"--repair {options.coarsening.repair} fits nothing to data")
    check_data(data.data)
    check_compressed_output(output)
    check_spares_input(model, output)
    context.with_resource(lock_outputs(output))
    network, example = open_network(model, options.coarsening, data, opening)
    check_class_output(network, output)
    if not options.tune_epochs:
        reject_options(typed, ["tune_samples"], "--tune-epochs is 0")
    if options.rounds == 1:
        reject_options(typed, ["round_schedule"], "--rounds is 1")
    n_train = max(data.samples, options.tune_samples) if options.tune_epochs else data.samples
    splits = read_rows(
        data.data, network, example, model=model, tokenizer=tokenizer, seed=options.coarsening.seed,
        counts=(n_train, VALIDATION, options.test_samples),
    )  # fmt: skip
    training = splits.calibration if options.tune_epochs else None
    if training is not None:
        splits = _choose_calibration(splits, data.samples, options.coarsening.seed)
    _describe_rows(splits, judges=not options.read_target().is_share)
    result = run_compression(network, example, options, splits, training)
    if json_:
        echo_json(_build_document(result, model, data, splits, output))
    else:
        echo_lines(result)
    if output is not None:
        write_compressed(result, output)
        write_tokenizer(model, output, path=tokenizer, tokenizer=splits.calibration.tokenizer)
    if not result.is_met:
        echo(
            f"netgraph: the target {result.target} is not met: the nearest network has {result.reached:.3g}. Give a weaker target.",
            err=True,
        )
        raise typer.Exit(3)


def run_compression(
    network: nn.Module, example: Any, options: CompressOptions, splits: RowSplits, training: CalibrationData | None
) -> Compressed:
    """Compress an open network, with progress on the terminal.

    Parameters
    ----------
    network : torch.nn.Module
    example : Tensor, tuple or dict
    options : CompressOptions
    splits : RowSplits
    training : CalibrationData or None
        Rows to train the compressed network on.
    """
    from netgraph.coarsen.compression.pipeline import compress
    from netgraph.coarsen.compression.training.rounds import compress_in_rounds

    target = options.read_target()
    with announce_compilation(), show_progress("measuring the error of each axis") as progress:
        call = partial(
            compress if options.rounds == 1 else compress_in_rounds, network, splits.calibration.inputs,
            targets=splits.calibration.targets, target=target, test=splits.test[:2],
            metric=choose_metric(options.metric, splits, target),
            example=example, options=options.coarsening, latency_batch=options.latency_batch,
            repaired_errors=options.repaired_errors, progress=progress,
        )  # fmt: skip
        tune = None if training is None else _make_tune(training, options, progress)
        if options.rounds == 1:
            return call(validation=splits.validation[:2], tune=tune)
        return call(rounds=options.rounds, schedule=options.round_schedule, tune=tune)


def _make_tune(training: CalibrationData, options: CompressOptions, progress: Callable[..., None]) -> Tune:
    """Return a function that trains a network on some rows towards their labels and the original."""
    from netgraph.coarsen.compression.training.fine_tuning import fine_tune

    def tune(network: nn.Module, original: nn.Module) -> None:
        fine_tune(
            network, original, *training[:2], epochs=options.tune_epochs, outputs=options.coarsening.outputs,
            seed=options.coarsening.seed, progress=partial(progress, label="tuning"),
        )  # fmt: skip

    return tune


def _choose_calibration(splits: RowSplits, samples: int, seed: int) -> RowSplits:
    """Return the rows with some of those for training as calibration, and print how many there are."""
    from netgraph.coarsen.compression.latency import count_rows
    from netgraph.coarsen.compression.pipeline import Rows, select_rows
    from netgraph.models.data.calibration import draw_rows

    train, (first, *others) = splits.calibration, splits.origin
    rows = draw_rows(count_rows(train.inputs), samples, seed)
    chosen = select_rows(Rows(train.inputs, train.targets), rows.tolist())
    echo(f"netgraph: {first} train", err=True)
    return splits._replace(
        calibration=train._replace(inputs=chosen.inputs, targets=chosen.targets),
        origin=(f"{len(rows):,} of them", others[0], others[1]),
    )


def _describe_rows(splits: RowSplits, *, judges: bool) -> None:
    """Print which rows are used for what."""
    calibration, validation, test = splits.origin
    judged = f"{validation} judge candidates, " if judges else ""
    echo(f"netgraph: {calibration} calibrate, {judged}{test} give the metric", err=True)


def _build_document(
    result: Compressed, model: str, data: DataOptions, splits: RowSplits, output: Path | None
) -> dict[str, Any]:
    """Return the result as data for JSON. Numbers that are not finite become null."""
    from netgraph.fas.monitoring.run_file import to_json_data

    rows = dict(zip(("calibration", "validation", "test"), splits.origin, strict=True))
    described = {"model": model, "data": data.data, "rows": rows, "output": None if output is None else str(output)}
    document: dict[str, Any] = to_json_data({**described, **result.document()})
    return document
