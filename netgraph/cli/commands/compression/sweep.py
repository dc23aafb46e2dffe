"""``netgraph sweep``: every combination of ratios, coarseners and repairs, judged and measured on one network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.progress import show_progress
from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.options.coarsen import Json, open_network
from netgraph.cli.options.command_options import After, with_options
from netgraph.cli.options.compress import check_data, choose_metric, read_rows
from netgraph.cli.options.open_network import DataOptions, Model, OpenOptions, Tokenizer
from netgraph.cli.options.sweep import SweepOptions
from netgraph.cli.options.validation import check_open_options, reject_options, typed_options
from netgraph.errors import NothingToMergeError
from netgraph.io.files.locks import lock_outputs

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.sweeps.result import Sweep
    from netgraph.models.data.row_splits import RowSplits


@with_options
def sweep_model(
    context: typer.Context,
    model: Model,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the table (.csv, .json, .tex), the picture (.svg, .png, .pdf) or a page with both (.html). Repeatable.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Write each row into this file as soon as it is measured, and do not measure again what it has.",
        ),
    ] = None,
    json_: Json = False,
    *,
    options: SweepOptions,
    data: Annotated[DataOptions, After("test_samples")],
    tokenizer: Annotated[Tokenizer, After("samples")] = None,
    opening: Annotated[OpenOptions, After("seed")],
) -> None:
    """Coarsen a network by every combination of ratios, coarseners and repairs, and tell what each result costs and keeps."""
    from netgraph.viz.reports.sweep_files import check_sweep_file, write_sweep

    typed = typed_options(context)
    check_open_options(typed, model, opening.arch)
    options.check()
    if len(options.read_lists()["coarseners"]) and not _reads_affinities(options):
        reject_options(typed, ["affinities"], "none of the coarseners reads affinities")
    check_data(data.data)
    for path in output or ():
        check_sweep_file(path)
    context.with_resource(lock_outputs(*(output or ()), resume))
    network, example = open_network(model, options.coarsening, data, opening)
    splits = read_rows(
        data.data, network, example, model=model, tokenizer=tokenizer, seed=options.coarsening.seed,
        counts=(data.samples, 1, options.test_samples),
    )  # fmt: skip
    calibration, _, test = splits.origin
    echo(f"netgraph: {calibration} calibrate, {test} give the metric", err=True)
    with _explain_stop(resume):
        result = run_sweep(network, example, options, splits, resume)
    _refuse_nothing(result)
    if json_:
        echo_json(_build_document(result, model, data, splits))
    else:
        echo_lines(result)
    for path in output or ():
        write_sweep(result, path)
        echo(f"netgraph: wrote {path}", err=True)


def run_sweep(
    network: nn.Module, example: Any, options: SweepOptions, splits: RowSplits, resume: Path | None = None
) -> Sweep:
    """Sweep an open network, with progress on the terminal.

    Parameters
    ----------
    network : torch.nn.Module
    example : Tensor, tuple or dict
    options : SweepOptions
    splits : RowSplits
    resume : path, optional
    """
    from netgraph.coarsen.sweeps.sweep import sweep

    with announce_compilation(), show_progress("sweeping") as progress:
        return sweep(
            network,
            splits.calibration.inputs,
            targets=splits.calibration.targets,
            **options.read_lists(),
            metric=choose_metric(options.metric, splits),
            test=splits.test[:2],
            example=example,
            options=options.coarsening,
            latency=not options.no_latency,
            repaired_errors=options.repaired_errors,
            resume=resume,
            progress=progress,
        )


def _reads_affinities(options: SweepOptions) -> bool:
    """Return True if one of the coarseners reads affinities."""
    from netgraph.coarsen.sweeps.combinations import list_combinations

    combinations, _, _ = list_combinations(**options.read_lists())
    return any(combination.affinity is not None for combination in combinations)


@contextmanager
def _explain_stop(resume: Path | None) -> Iterator[None]:
    """Say, where the user stops a sweep, that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if resume is not None and resume.is_file():
            echo(f"netgraph: {resume} has the rows so far. The same command goes on from there.", err=True)
        raise


def _refuse_nothing(result: Sweep) -> None:
    """Raise an error if no combination gave a network."""
    failed = [row for row in result.rows if row["reason"] is not None]
    if len(failed) == len(result.rows) - 1:
        reasons = list(dict.fromkeys(f"{row['coarsener']}: {row['reason']}" for row in failed))
        more = f" And {len(reasons) - 3} more reasons." if len(reasons) > 3 else ""
        raise NothingToMergeError(f"none of {len(failed)} combinations gave a network. {' '.join(reasons[:3])}{more}")


def _build_document(result: Sweep, model: str, data: DataOptions, splits: RowSplits) -> dict[str, Any]:
    """Return the result as data for JSON."""
    rows = dict(zip(("calibration", "test"), splits.origin[::2], strict=True))
    return {"model": model, "source": data.data, "origin": rows, **result.document()}
