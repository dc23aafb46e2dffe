"""The networks that `merging.py` merges, trained once on one thread and stored in a folder.

    .venv/bin/python benchmarks/coarsening/trained.py --folder nets --network resnet20 --seeds 3

The data sets are read from the folder NETGRAPH_DATA. Weights are written after every epoch as NAME-SEED.part, and as NAME-SEED.pt
when training is complete. An interrupted training continues with the remaining epochs, on a cosine schedule. Products are in bfloat16
if the processor supports it. ``--epochs`` makes training shorter or longer than the recipes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from netgraph.models.cnn import resnet20, vgg
from netgraph.models.data.augmentation import crop_and_flip
from netgraph.models.data.datasets import Dataset, load_dataset
from netgraph.models.perceptron import mlp
from netgraph.models.training.evaluation import evaluate
from netgraph.models.training.precision import supports_bf16
from netgraph.models.training.trainer import fit
from netgraph.models.transformer import Encoder

BF16 = supports_bf16()
IMAGES = {"batch": 128, "optimizer": "sgd", "weight_decay": 5e-4, "augment": crop_and_flip, "bf16": BF16}


class Recipe(NamedTuple):
    """How a network is built and trained.

    Parameters
    ----------
    data : str
        Name of the data set.
    make : callable
        Builds the untrained network.
    options : dict
        Options of `netgraph.models.fit`.
    """

    data: str
    make: Callable[[], nn.Module]
    options: dict[str, Any]


RECIPES = {
    "mlp": Recipe("mnist", partial(mlp, (784, 256, 256, 10)), {"epochs": 12, "batch": 128}),
    "resnet20": Recipe("cifar10", resnet20, {**IMAGES, "epochs": 16, "lr": 0.3}),
    "vgg": Recipe("cifar10", partial(vgg, width=32), {**IMAGES, "epochs": 8, "lr": 0.1}),
    "transformer": Recipe(
        "imdb", partial(Encoder, width=64, n_hidden=256), {"epochs": 3, "lr": 1e-3, "weight_decay": 0.01, "bf16": BF16}
    ),
}


@cache
def load_data(name: str) -> Dataset:
    """Return the data set of a network, in the form that it takes."""
    data = load_dataset(RECIPES[name].data)
    return data.flat() if name == "mlp" else data


def load_trained(name: str, seed: int, folder: Path, *, epochs: int | None = None) -> nn.Module:
    """Return a trained network in evaluation mode. Train it first if the folder lacks it.

    Parameters
    ----------
    name : str
        A name of `RECIPES`.
    seed : int
        Seed of the first weights and of the order of the data.
    folder : path
        Folder of trained networks.
    epochs : int, optional
        Epochs in all. By default those of the recipe.
    """
    path = folder / f"{name}-{seed}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _train_network(name, seed, path, epochs or RECIPES[name].options["epochs"])
    model = RECIPES[name].make()
    model.load_state_dict(torch.load(path, weights_only=True)["weights"])
    return model.eval()


def _train_network(name: str, seed: int, path: Path, epochs: int) -> None:
    recipe, part, started = RECIPES[name], path.with_suffix(".part"), time.process_time()
    torch.manual_seed(seed)
    model, done = recipe.make(), 0
    if part.exists():
        checkpoint = torch.load(part, weights_only=True)
        model.load_state_dict(checkpoint["weights"])
        done = checkpoint["epochs"]
    if recipe.data == "cifar10":
        model = model.to(memory_format=torch.channels_last)

    def report(epoch: int, loss: float) -> None:
        torch.save({"weights": model.state_dict(), "epochs": done + epoch + 1}, part)
        seconds = time.process_time() - started
        print(f"{name} {seed}: epoch {done + epoch + 1}, loss {loss:.3f}, {seconds:.0f} s", flush=True)

    options = {**recipe.options, "epochs": epochs - done} | ({"schedule": "cosine"} if done else {})
    fit(model, load_data(name), seed=seed + done, report=report, **options)
    part.rename(path)


def main() -> None:
    """Train the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--network", choices=RECIPES, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.network or RECIPES:
        for seed in range(options.seeds):
            model = load_trained(name, seed, options.folder, epochs=options.epochs)
            print(f"{name} {seed}: test accuracy {evaluate(model, load_data(name)).accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
