"""The command line. Results on stdout, progress and messages on stderr.

Exit codes: 0 done, 1 a mistake that the message names, 2 wrong usage, 3 nothing can be merged, 4 an oracle failed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraph import exporting, featuring, fitting, picturing, reporting
from netgraph.building import (
    Arch,
    ArchArg,
    CodeDir,
    Input,
    InsideHeads,
    Model,
    Recipe,
    Seed,
    Trust,
    opened,
    progress,
    with_recipe,
)
from netgraph.compiling import told_once
from netgraph.destination import check_file, check_new_folder, make_folder
from netgraph.errors import NetgraphError
from netgraph.idle import check_opening, check_recipe, given, refuse
from netgraph.misuse import check_port, misused

app = typer.Typer(
    help="Turn a network into a graph of its units, merge units, and run the smaller network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line; a mistake the user can mend is one sentence and an exit code."""
    try:
        code = app(prog_name="netgraph", standalone_mode=False)
    except NetgraphError as error:
        typer.echo(f"netgraph: {error}", err=True)
        code = error.exit_code
    except typer.TyperException as error:
        typer.echo(misused(error, sys.argv[1:]), err=True)
        code = 2
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what is left in the old one cannot be written either
        typer.echo(
            f"netgraph: the system refuses to read or write ({error}); make room, or give another place", err=True
        )
        code = 1
    if code == 130:
        typer.echo("netgraph: stopped", err=True)
    sys.exit(code)


@app.command()
@with_recipe
def coarsen(
    context: typer.Context,
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the coarsest network (.safetensors), or all levels (a folder *.hierarchy).",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page, figure or graph of the hierarchy as well; the suffix chooses (.html)."
        ),
    ] = None,
    own_class: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the coarsest network in its own class, proven equal: NAME.pt, or a folder for transformers.",
        ),
    ] = None,
    json_: Json = False,
    *,
    recipe: Recipe,
) -> None:
    """Coarsen a network and print its hierarchy."""
    from netgraph.coarsen import ownclass
    from netgraph.viz.export import exporter

    typed = given(context)
    check_opening(typed, model, recipe.arch)
    check_recipe(typed, recipe, measured=True)
    _check_output(output)
    write = None if export is None else exporter(export)
    network, example = recipe.opened(model)
    if own_class is not None:
        ownclass.check_own(network, own_class)
    hierarchy = recipe.built(network, example)
    own = None if own_class is None else ownclass.own_class(hierarchy, example, seed=recipe.seed)
    _print_hierarchy(hierarchy, json_)
    if output is not None:
        _write_output(hierarchy, output)
    if own_class is not None and own is not None:
        ownclass.save_own(own, own_class)
        typer.echo(f"netgraph: wrote {own_class}, a {type(own).__name__}", err=True)
    if write is not None and export is not None:
        write(hierarchy, export)
        typer.echo(f"netgraph: wrote {export}", err=True)


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in (".safetensors", ".hierarchy"):
        raise NetgraphError(
            f"--output {output} ends in {output.suffix or 'nothing'}; give NAME.safetensors for the coarsest network or NAME.hierarchy for all levels"
        )
    if output.suffix == ".safetensors":
        check_file(output)
        return
    from netgraph.coarsen.saving import check_place

    check_new_folder(output)
    check_place(output)


def _write_output(hierarchy: Any, output: Path) -> None:
    from netgraph.coarsen.saving import save

    save(hierarchy if output.suffix == ".hierarchy" else hierarchy.levels[-1].model, output)
    typer.echo(f"netgraph: wrote {output}", err=True)


def _print_hierarchy(hierarchy: Any, as_json: bool) -> None:
    from netgraph.coarsen.report import coverage, missed, report, told, told_missed

    if as_json:
        typer.echo(json.dumps(report(hierarchy), indent=1))
        return
    share, why = coverage(hierarchy)
    typer.echo(str(hierarchy))
    for i, level in enumerate(hierarchy.levels):
        for line in [*told(level), *told_missed(missed(hierarchy, i))]:
            typer.echo(f"level {i}: {line}")
    typer.echo(f"{share:.1%} of the parameters have a merged dimension")
    for reason, part in why[:5]:
        typer.echo(f"  {part:.1%} kept: {reason}")
    _tell_short(hierarchy)


def _tell_short(hierarchy: Any) -> None:
    """Say on stderr what was asked for and could not be had: levels, and multiples of units."""
    from netgraph.coarsen.report import missing

    multiple = hierarchy.options["round_to"]
    if said := missing(hierarchy):
        typer.echo(f"netgraph: {said}", err=True)
    uneven = dict.fromkeys(
        name for level in hierarchy.levels for name, t in level.transfers.items() if t.n_coarse % multiple
    )
    if uneven:
        names = ", ".join(list(uneven)[:5]) + f" and {len(uneven) - 5} more" * (len(uneven) > 5)
        typer.echo(
            f"netgraph: no multiple of {multiple} units on {names}: too few units, or no divisor of theirs is one",
            err=True,
        )


@app.command(short_help="Print the axis of every dimension of every parameter.")
def inspect(
    context: typer.Context, model: Model, arch: Arch = None, arch_arg: ArchArg = None, input_: Input = None, trust: Trust = False,
    code_dir: CodeDir = None, json_: Json = False,
) -> None:  # fmt: skip
    """Print over which axis every dimension of every parameter runs, and which axes may merge."""
    from netgraph.tracing import trace

    check_opening(given(context), model, arch)
    network, example = opened(model, arch, arch_arg, input_, trust, code_dir)
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


@app.command(short_help="Run the dead-unit and duplicate-unit oracles.")
def verify(
    context: typer.Context, model: Model, arch: Arch = None, arch_arg: ArchArg = None, input_: Input = None, trust: Trust = False,
    code_dir: CodeDir = None, seed: Seed = 7619, json_: Json = False,
    tolerance: Annotated[float, typer.Option(metavar="ERROR", help="Largest relative error that passes.")] = 1e-4,
    inside_heads: InsideHeads = False,
) -> None:  # fmt: skip
    """Run the dead-unit and duplicate-unit oracles on every axis of a network."""
    from netgraph.coarsen.verify import verify as run
    from netgraph.tracing import trace

    if not 0 <= tolerance < float("inf"):
        raise NetgraphError(f"--tolerance {tolerance} is no relative error; give a number of 0 or more")
    check_opening(given(context), model, arch)
    network, example = opened(model, arch, arch_arg, input_, trust, code_dir, seed)
    with progress("oracles") as told:
        verdicts = run(network, trace(network, example, inside_heads=inside_heads), example, seed=seed, progress=told)
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


app.command(short_help="Write a page, a figure, a graph, or P and R of a hierarchy.")(exporting.export)
app.command(short_help="Draw feature maps of merged channels beside those of their aggregates.")(featuring.features)
app.command(short_help="Draw what heads attend to over the words of a text, fine against coarse.")(picturing.attention)
app.command(short_help="Train a network on real data, by FAS or plainly.")(fitting.train)
app.command(short_help="Compare training runs on one page, one sheet of figures, or as JSON.")(reporting.report)


@app.command(short_help="Train, coarsen and show a small network, in seconds.")
def demo(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")] = Path("netgraph-demo"),
    seed: Seed = 7619,
    json_: Json = False,
) -> None:
    """Train a small network on scikit-learn's digits, coarsen it, and show the hierarchy."""
    make_folder(folder)
    import torch

    from netgraph.coarsen.hierarchy import build_hierarchy
    from netgraph.coarsen.saving import save
    from netgraph.models.datasets import load
    from netgraph.models.mlp import mlp
    from netgraph.models.training import evaluate, fit
    from netgraph.viz.export import export

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # so small a network works less than a second thread is waited for
    data = load("digits").flat()
    model = mlp()
    typer.echo(f"netgraph: training a network of three layers on {len(data.train):,} digits", err=True)
    fit(model, data, seed=seed)
    torch.save(model.state_dict(), folder / "model.pt")
    with told_once():
        hierarchy = build_hierarchy(model, data.test.inputs[:2], n_levels=3, seed=seed)
    save(hierarchy.levels[1].model, folder / "small.safetensors")
    export(hierarchy, folder / "hierarchy.html")
    _print_hierarchy(hierarchy, json_)
    for i, level in enumerate(hierarchy.levels):
        typer.echo(f"level {i}: test accuracy {evaluate(level.model, data).accuracy:.1%}", err=json_)
    typer.echo(f"netgraph: wrote {folder}/model.pt, small.safetensors and hierarchy.html", err=True)
    typer.echo(f"netgraph: next, netgraph coarsen {folder}/model.pt --arch netgraph.models.mlp:mlp", err=True)


@app.command()
def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Where the page is served.")] = 5000,
) -> None:
    """Open MLflow's own page on the runs that training kept."""
    import subprocess
    import webbrowser

    from netgraph.fas.tracking import tracking_uri

    uri = tracking_uri()
    if uri.startswith(("http:", "https:")):
        refuse(given(context), ["port"], f"the runs are kept at {uri}, which has its own")
        typer.echo(f"netgraph: the runs are kept at {uri}", err=True)
        webbrowser.open(uri)
        return
    check_port(port)
    typer.echo(f"netgraph: http://127.0.0.1:{port} shows the runs of {uri}; Ctrl-C ends it", err=True)
    page = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
    raise typer.Exit(subprocess.call(page))


@app.command()
def plugins(json_: Json = False) -> None:
    """List coarseners, affinities, rules and exporters."""
    from netgraph.plugins import GROUPS, distribution, names

    table = {group: {name: distribution(group, name) for name in sorted(names(group))} for group in GROUPS}
    if json_:
        typer.echo(json.dumps(table, indent=1))
        return
    width = max(len(name) for found in table.values() for name in found)
    for group, found in table.items():
        typer.echo(group)
        for name, owner in found.items():
            typer.echo(f"  {name:<{width}} {owner}")
