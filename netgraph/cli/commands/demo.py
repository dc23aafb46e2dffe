"""``netgraph demo``: train, coarsen and show a small network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.output import print_hierarchy
from netgraph.cli.console.terminal import echo
from netgraph.cli.options.coarsen import Json, Seed
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.locks import lock_folders
from netgraph.io.files.pickles import save_pickle


def run_demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")] = Path("netgraph-demo"),
    seed: Seed = 7619,
    json_: Json = False,
) -> None:
    """Train a small network on scikit-learn's digits, coarsen it, and show the hierarchy."""
    context.with_resource(lock_folders(folder))
    import torch

    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
    from netgraph.coarsen.hierarchy.serialize import save
    from netgraph.models.data.datasets import load_dataset
    from netgraph.models.perceptron import mlp
    from netgraph.models.training.evaluation import evaluate
    from netgraph.models.training.trainer import fit
    from netgraph.viz.exporters import export

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # a second thread costs this small network more than it saves
    data = load_dataset("digits").flat()
    model = mlp()
    echo(f"netgraph: training a network of three layers on {len(data.train):,} digits", err=True)
    fit(model, data, seed=seed)
    write_atomically(partial(save_pickle, model.state_dict()), folder / "model.pt")
    with announce_compilation():
        hierarchy = build_hierarchy(model, data.test.inputs[:2], n_levels=3, seed=seed)
    save(hierarchy.levels[1].model, folder / "small.safetensors")
    export(hierarchy, folder / "hierarchy.html")
    print_hierarchy(hierarchy, json_)
    for i, level in enumerate(hierarchy.levels):
        echo(f"level {i}: test accuracy {evaluate(level.model, data).accuracy:.1%}", err=json_)
    echo(f"netgraph: wrote {folder}/model.pt, small.safetensors and hierarchy.html", err=True)
    echo(f"netgraph: next, netgraph coarsen {folder}/model.pt --arch netgraph.models:mlp", err=True)
