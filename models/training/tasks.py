"""What ``netgraph train`` can train: a network by name, the data made to fit it, and how one usually trains it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.errors import NetgraphError
from netgraph.models.cnn import resnet20, resnet56, vgg, wide_resnet
from netgraph.models.data.augmentation import Augment, crop_and_flip, crop_flip_and_rotate, random_crop, random_rotation
from netgraph.models.data.datasets import Dataset
from netgraph.models.perceptron import mlp
from netgraph.models.transformer import Decoder, Encoder
from netgraph.utils.torchvision_compat import prepare_torchvision

CNNS: dict[str, Callable[..., nn.Module]] = {
    "cnn": resnet20, "resnet20": resnet20, "resnet56": resnet56, "vgg": vgg, "wide-resnet": wide_resnet,
}  # fmt: skip
NETWORKS = ("mlp", *CNNS, "transformer")
TORCHVISION = "torchvision:"
AUGMENTATIONS: dict[str, Augment | None] = {
    "none": None, "crop": random_crop, "crop-flip": crop_and_flip, "rotate": random_rotation, "crop-flip-rotate": crop_flip_and_rotate,
}  # fmt: skip


@dataclass(frozen=True)
class TrainingDefaults:
    """How a network is usually trained on a data set."""

    epochs: float = 10.0
    batch: int = 128
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.0
    augment: str = "none"


@dataclass(frozen=True)
class Task:
    """A network that has not been trained yet, and its data.

    Parameters
    ----------
    name : str
    network : torch.nn.Module
    data : Dataset
        Such that ``network(data.ready(inputs))`` runs.
    habits : Habits
    """

    name: str
    network: nn.Module
    data: Dataset
    habits: TrainingDefaults

    @property
    def example(self) -> Tensor:
        """Two inputs, as the network takes them."""
        return self.data.ready(self.data.train.inputs[:2])

    @property
    def evaluation_batch(self) -> int:
        """Rows of a batch whose outputs fit in memory: a language model's are its vocabulary for each token."""
        return 16 if isinstance(self.network, Decoder) else 512


def make_cross_entropy(label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of outputs (n, classes) and targets (n,), one-hot (n, classes) or, for next tokens, (n, length)."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets if targets.is_floating_point() else targets.flatten()
        return functional.cross_entropy(outputs.flatten(0, -2).float(), wanted, label_smoothing=label_smoothing)

    return loss


def make_task(
    name: str, data: Dataset, *, widths: Sequence[int] = (), goal: str = "classify", seed: int = 7619,
    options: Mapping[str, Any] = MappingProxyType({}), whole: bool = True,
) -> Task:  # fmt: skip
    """Return a network with random weights and the data that fit it.

    Parameters
    ----------
    name : str
        One of `NETWORKS`, or ``torchvision:NAME``: one of its classifiers, without trained weights.
    data : Dataset
        As `netgraph.models.data.datasets.load_dataset` gives it.
    widths : sequence of int
        Of an MLP, its hidden layers'; of the others one number, from which all widths follow. Empty: the usual ones.
    goal : str
        ``classify``, or ``lm``: predict the next token.
    seed : int
        Of the weights.
    options : dict
        More of the network's own arguments, such as ``{"norm": "post", "depth": 4}`` of a transformer.
    whole : bool
        Give texts one length, which coarse networks need; else those of like length share a batch.

    Raises
    ------
    NetgraphError
        No network has that name, the data or widths are not of its kind, or it has no such argument.
    """
    _check_task(name, data, widths, goal)
    data = data.next_tokens() if goal == "lm" else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mlp":
            return _mlp_task(data, widths, options)
        if name == "transformer":
            return _transformer_task(data.whole() if whole else data, widths, goal, options)
        if name.startswith(TORCHVISION):
            return _torchvision_task(name, data, options)
        return _cnn_task(name, data, widths, options)


def _build_network(make: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    """Return a network; an argument that it does not have is the user's mistake."""
    taken = inspect.signature(make).parameters
    for name in options:
        if name not in taken:
            raise NetgraphError(f"{make.__name__} has no argument {name!r}; it takes {', '.join(taken)}")
    return make(*args, **options)


def _check_task(name: str, data: Dataset, widths: Sequence[int], goal: str) -> None:
    if name not in NETWORKS and not name.startswith(TORCHVISION):
        raise NetgraphError(
            f"no network to train is called {name!r}; there are {', '.join(NETWORKS)} and {TORCHVISION}NAME"
        )
    if goal not in ("classify", "lm"):
        raise NetgraphError(f"no task is called {goal!r}; there are classify and lm")
    is_text = data.padding is not None
    if is_text != (name == "transformer"):
        fitting = "imdb" if name == "transformer" else "digits, mnist, fashion-mnist or cifar10"
        raise NetgraphError(f"{name} does not read {data.name}; give --data {fitting}")
    if goal == "lm" and name != "transformer":
        raise NetgraphError(f"{name} predicts no tokens; train a transformer, or leave the task at classify")
    if any(width < 1 for width in widths):
        raise NetgraphError(f"widths are {', '.join(map(str, widths))}; give numbers of 1 or more")
    if name.startswith(TORCHVISION) and widths:
        raise NetgraphError(
            f"{name} has the widths that torchvision gives it; leave widths out, or give its own arguments"
        )
    if name != "mlp" and len(widths) > 1:
        raise NetgraphError(f"the widths of {name} follow from one number, and {len(widths)} are given; give one")


def _mlp_task(data: Dataset, widths: Sequence[int], options: Mapping[str, Any]) -> Task:
    small = data.name == "digits"
    hidden = tuple(widths) or ((128, 64) if small else (1024, 1024))
    flat = data.flat()
    network = _build_network(mlp, (flat.train.inputs.shape[1], *hidden, len(data.classes)), **options)
    return Task("mlp", network, flat, TrainingDefaults(epochs=30, batch=64) if small else TrainingDefaults())


def _cnn_task(name: str, data: Dataset, widths: Sequence[int], options: Mapping[str, Any]) -> Task:
    _, channels, *sides = data.train.inputs.shape
    pools = options.get("pools", 5)
    if name == "vgg" and min(sides) < 2**pools:
        raise NetgraphError(
            f"vgg halves images {pools} times, and those of {data.name} are {sides[0]} × {sides[1]}; give --data cifar10, fewer "
            "pools, or cnn"
        )
    sizes = {"n_classes": len(data.classes), "channels": channels, **({"width": widths[0]} if widths else {})}
    network = _build_network(CNNS[name], **{**sizes, **options})
    return Task(name, network, data, _image_defaults(data))


def _image_defaults(data: Dataset) -> TrainingDefaults:
    habits = TrainingDefaults(epochs=30, optimizer="sgd", lr=0.2, weight_decay=5e-4)
    return replace(habits, augment="crop-flip") if data.name == "cifar10" else habits


def _torchvision_task(name: str, data: Dataset, options: Mapping[str, Any]) -> Task:
    """Return a classifier of torchvision for the data's classes, run once on it in training mode."""
    prepare_torchvision()
    from torchvision import models

    known = models.list_models(module=models)
    own = name.removeprefix(TORCHVISION)
    if own not in known:
        raise NetgraphError(f"torchvision has no classifier called {own!r}; there are {', '.join(known)}")
    n_classes = len(data.classes)
    try:
        network = models.get_model(own, **{"weights": None, "num_classes": n_classes, **options})
        with torch.no_grad():
            answers = copy.deepcopy(network).train()(data.ready(data.train.inputs[:2]))
    except Exception as error:  # anything: the arguments are the user's, and so are the data
        sizes = " × ".join(map(str, data.train.inputs.shape[1:]))
        raise NetgraphError(
            f"{name} does not run on the images of {data.name}, {sizes} ({str(error)[:200]}); give --data cifar10, arguments of the "
            "network that fit, or cnn"
        ) from error
    if not isinstance(answers, Tensor) or answers.shape != (2, n_classes):
        raise NetgraphError(
            f"{name} answers a {type(answers).__name__} in training, where one number for each class is wanted; give arguments of "
            "the network that leave the others out (aux_logits=False), or another network"
        )
    return Task(name, network, data, _image_defaults(data))


def _transformer_task(data: Dataset, widths: Sequence[int], goal: str, options: Mapping[str, Any]) -> Task:
    n_tokens = int(max(data.train.inputs.max(), data.valid.inputs.max(), data.test.inputs.max())) + 1
    length = data.train.inputs.shape[1]
    sizes: dict[str, Any] = {"width": widths[0], "n_hidden": 2 * widths[0]} if widths else {}
    sizes = {"length": length, **sizes, **options}
    habits = TrainingDefaults(epochs=5, batch=64, lr=1e-3)
    if goal == "lm":
        return Task("transformer", _build_network(Decoder, n_tokens, **sizes), data, replace(habits, batch=16))
    network = _build_network(Encoder, n_tokens, len(data.classes), **sizes)
    return Task("transformer", network, data, habits)
