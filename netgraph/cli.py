"""The command line. Results on stdout, progress and messages on stderr.

Exit codes: 0 done, 1 a mistake that the message names, 2 wrong usage, 3 nothing can be merged, 4 an oracle failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph.errors import NetgraphError

app = typer.Typer(
    help="Turn a network into a graph of its units, merge units, and run the smaller network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str, typer.Argument(help="A file (.pt, .safetensors, .pt2) or torchvision:NAME, timm:NAME, hf:CONFIG.json.")
]
Arch = Annotated[
    str | None, typer.Option(help="What a state dict belongs to: package.module:factory, or a name as above.")
]
ArchArg = Annotated[list[str] | None, typer.Option(help="key=value for the factory; may be given again.")]
Input = Annotated[
    list[str] | None, typer.Option("--input", help="2x3x224x224, 2x16:int64 or ids=2x16:int64; may be given again.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Open files that can run the code that came with them.")]
CodeDir = Annotated[
    Path | None, typer.Option(help="Where --arch finds modules first; the working directory by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


def main() -> None:
    """Run the command line; a mistake the user can mend is one sentence and an exit code."""
    try:
        app()
    except NetgraphError as error:
        typer.echo(f"netgraph: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("netgraph: stopped", err=True)
        sys.exit(130)


def _open(
    model: str,
    arch: str | None,
    arch_arg: list[str] | None,
    inputs: list[str] | None,
    trust: bool,
    code_dir: Path | None,
) -> tuple[Any, Any]:
    from netgraph.examples import guess_input, parse_inputs
    from netgraph.loading import load_model, parse_arch_args

    example = parse_inputs(inputs) if inputs else None
    network = load_model(model, arch=arch, arch_args=parse_arch_args(arch_arg or []), trust=trust, code_dir=code_dir)
    if example is None:
        example, text = guess_input(network)
        typer.echo(f"netgraph: guessed {text}", err=True)
    return network, example


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """Show progress with time left on a terminal; say nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda axis, done, total: bar.update(task, completed=done, total=total)


@app.command()
def coarsen(
    model: Model,
    coarsener: Annotated[str, typer.Option(help="How units merge; `netgraph plugins` lists them.")] = "hem",
    levels: Annotated[int, typer.Option(help="Levels in all, the given network included.")] = 3,
    ratio: Annotated[float, typer.Option(help="Share of units that stay from one level to the next.")] = 0.5,
    axis_ratio: Annotated[list[str] | None, typer.Option(help="AXIS=RATIO for one axis; may be given again.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Axis to leave alone; may be given again.")] = None,
    round_to: Annotated[int, typer.Option(help="Multiple that numbers of units should have.")] = 1,
    affinity: Annotated[str, typer.Option(help="How alike units are; `netgraph plugins` lists them.")] = "cosine",
    budget: Annotated[
        str | None,
        typer.Option(help="parameters=0.5, flops=0.5 or error=0.05, spread over the axes; in place of --ratio."),
    ] = None,
    repair: Annotated[str, typer.Option(help="After merging: none, rescale, norms, ridge or tune.")] = "none",
    data: Annotated[
        str | None,
        typer.Option(
            help="Calibration data: digits, mnist, fashion-mnist, cifar10, imdb, a folder of pictures, a .npy or .pt."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Rows of calibration data.")] = 512,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write the coarsest network (.safetensors), or all levels (a folder *.hierarchy)."
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write a page or picture of the hierarchy; the suffix chooses (.html).")
    ] = None,
    arch: Arch = None,
    arch_arg: ArchArg = None,
    input_: Input = None,
    trust: Trust = False,
    code_dir: CodeDir = None,
    seed: Seed = 7619,
    json_: Json = False,
) -> None:
    """Coarsen a network and print its hierarchy."""
    from netgraph.coarsen.hierarchy import build_hierarchy
    from netgraph.viz.export import export as write

    ratios = {"*": ratio, **_pairs(axis_ratio or [])}
    _check_output(output)
    network, example = _open(model, arch, arch_arg, input_, trust, code_dir)
    inputs = None if data is None else _calibration(data, example, samples, seed)
    with _progress("coarsening") as progress:
        hierarchy = build_hierarchy(
            network, example, coarsener=coarsener, affinity=affinity, n_levels=levels, ratio=ratios, keep=keep or (),
            round_to=round_to, budget=budget, repair=repair, data=inputs, seed=seed, progress=progress,
        )  # fmt: skip
    _print_hierarchy(hierarchy, json_)
    if output is not None:
        _write_output(hierarchy, output)
    if export is not None:
        write(hierarchy, export)
        typer.echo(f"netgraph: wrote {export}", err=True)


def _calibration(source: str, example: Any, samples: int, seed: int) -> Any:
    import warnings

    from netgraph.models.calibration_data import calibration

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inputs = calibration(source, example=example, n=samples, seed=seed).inputs
    for warning in said:
        typer.echo(f"netgraph: {warning.message}", err=True)
    return inputs


def _pairs(texts: list[str]) -> dict[str, float]:
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


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in (".safetensors", ".hierarchy"):
        raise NetgraphError(
            f"--output {output} ends in {output.suffix or 'nothing'}; give NAME.safetensors for the coarsest network or NAME.hierarchy for all levels"
        )
    if not output.absolute().parent.is_dir():
        raise NetgraphError(f"--output {output}: the folder {output.absolute().parent} does not exist; make it first")


def _write_output(hierarchy: Any, output: Path) -> None:
    from netgraph.coarsen.saving import save

    save(hierarchy if output.suffix == ".hierarchy" else hierarchy.levels[-1].model, output)
    typer.echo(f"netgraph: wrote {output}", err=True)


def _print_hierarchy(hierarchy: Any, as_json: bool) -> None:
    from netgraph.coarsen.report import coverage, report, told

    if as_json:
        typer.echo(json.dumps(report(hierarchy), indent=1))
        return
    share, why = coverage(hierarchy)
    typer.echo(str(hierarchy))
    for i, level in enumerate(hierarchy.levels):
        for line in told(level):
            typer.echo(f"level {i}: {line}")
    typer.echo(f"{share:.1%} of the parameters have a merged dimension")
    for reason, part in why[:5]:
        typer.echo(f"  {part:.1%} kept: {reason}")
    asked = hierarchy.options["n_levels"]
    if len(hierarchy.levels) < asked:
        typer.echo(f"netgraph: {len(hierarchy.levels)} levels, not {asked}: below, nothing can be merged", err=True)


@app.command()
def inspect(
    model: Model, arch: Arch = None, arch_arg: ArchArg = None, input_: Input = None, trust: Trust = False,
    code_dir: CodeDir = None, json_: Json = False,
) -> None:  # fmt: skip
    """Print over which axis every dimension of every parameter runs, and which axes may merge."""
    from netgraph.tracing import trace

    network, example = _open(model, arch, arch_arg, input_, trust, code_dir)
    spec = trace(network, example)
    axes = [a for a in spec.axes.values() if a.kind != "index"]
    if json_:
        rows = [{"name": a.name, "size": a.size, "kind": a.kind, "kept": a.kept, "equal": a.equal} for a in axes]
        lines = dict(line.split(" ", 1) for line in str(spec).splitlines())
        typer.echo(json.dumps({"parameters": lines, "axes": rows, "untraced": list(spec.untraced)}, indent=1))
        return
    typer.echo(str(spec))
    typer.echo()
    for axis in axes:
        state = f"kept: {axis.kept}" if axis.kept else f"equal aggregates: {axis.equal}" if axis.equal else "free"
        typer.echo(f"{axis.name}  {axis.size} {axis.kind}s  {state}")
    if spec.untraced:
        typer.echo(f"never read in the run: {', '.join(spec.untraced)}")


@app.command()
def verify(
    model: Model, arch: Arch = None, arch_arg: ArchArg = None, input_: Input = None, trust: Trust = False,
    code_dir: CodeDir = None, seed: Seed = 7619, json_: Json = False,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that passes.")] = 1e-4,
) -> None:  # fmt: skip
    """Run the dead-unit and duplicate-unit oracles on every axis of a network."""
    from netgraph.coarsen.verify import verify as run
    from netgraph.tracing import trace

    network, example = _open(model, arch, arch_arg, input_, trust, code_dir)
    verdicts = run(network, trace(network, example), example, seed=seed)
    failed = [v for v in verdicts if v.error is not None and not v.error <= tolerance]
    if json_:
        typer.echo(
            json.dumps(
                [{"oracle": v.oracle, "axes": v.axes, "error": v.error, "note": v.note} for v in verdicts], indent=1
            )
        )
    for v in verdicts if not json_ else ():
        axes = v.axes[0] if len(v.axes) == 1 else f"all {len(v.axes)} axes at once"
        outcome = v.note if v.error is None else f"{v.error:.1e} {'ok' if v.error <= tolerance else 'WRONG'}"
        typer.echo(f"{v.oracle:<10} {axes}  {outcome}")
    if failed:
        typer.echo(
            f"netgraph: {len(failed)} oracles differ by more than {tolerance}; --keep those axes and report the network",
            err=True,
        )
        raise typer.Exit(4)


@app.command()
def plugins(json_: Json = False) -> None:
    """List coarseners, affinities, rules and exporters."""
    from netgraph.plugins import GROUPS, distribution, names

    table = {group: {name: distribution(group, name) for name in sorted(names(group))} for group in GROUPS}
    if json_:
        typer.echo(json.dumps(table, indent=1))
        return
    for group, found in table.items():
        typer.echo(group)
        for name, owner in found.items():
            typer.echo(f"  {name:<16} {owner}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("netgraph-demo"),
    seed: Seed = 7619,
    json_: Json = False,
) -> None:
    """Train a small network on scikit-learn's digits, coarsen it, and show the hierarchy."""
    import torch

    from netgraph.coarsen.hierarchy import build_hierarchy
    from netgraph.coarsen.saving import save
    from netgraph.models.datasets import load
    from netgraph.models.mlp import mlp
    from netgraph.models.training import evaluate, fit
    from netgraph.viz.export import export

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # so small a network works less than a second thread is waited for
    data = load("digits").flat()
    model = mlp()
    typer.echo(f"netgraph: training a network of three layers on {len(data.train):,} digits", err=True)
    fit(model, data, seed=seed)
    torch.save(model.state_dict(), folder / "model.pt")
    hierarchy = build_hierarchy(model, data.test.inputs[:2], n_levels=3, seed=seed)
    save(hierarchy.levels[1].model, folder / "small.safetensors")
    export(hierarchy, folder / "hierarchy.html")
    _print_hierarchy(hierarchy, json_)
    for i, level in enumerate(hierarchy.levels):
        typer.echo(f"level {i}: test accuracy {evaluate(level.model, data).accuracy:.1%}", err=json_)
    typer.echo(f"netgraph: wrote {folder}/model.pt, small.safetensors and hierarchy.html", err=True)
    typer.echo(f"netgraph: next, netgraph coarsen {folder}/model.pt --arch netgraph.models.mlp:mlp", err=True)
