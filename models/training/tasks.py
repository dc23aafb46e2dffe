"""Training tasks by name: an untrained network, data in its form, and the usual training settings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.environment.network_size import limit_size
from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import NetgraphError, describe_error
from netgraph.models.cnn import resnet20, resnet56, vgg, wide_resnet
from netgraph.models.data.augmentation import Augment, crop_and_flip, crop_flip_and_rotate, random_crop, random_rotation
from netgraph.models.data.datasets import Dataset
from netgraph.models.data.degradation import DEGRADATIONS, Degradation
from netgraph.models.fourier import fno
from netgraph.models.perceptron import mlp
from netgraph.models.restoration import ResidualNet, UNet
from netgraph.models.training.evaluation import Evaluation, ToLevel, evaluate
from netgraph.models.training.operators import OperatorQuality, evaluate_operator, mean_relative_error
from netgraph.models.training.restoration import RestorationQuality, evaluate_restoration
from netgraph.models.transformer import Decoder, Encoder
from netgraph.utils.choices import OPERATORS, TASKS
from netgraph.utils.seeds import check_torch_seed

CNNS: dict[str, Callable[..., nn.Module]] = {
    "cnn": resnet20, "resnet20": resnet20, "resnet56": resnet56, "vgg": vgg, "wide-resnet": wide_resnet,
}  # fmt: skip
RESTORERS: dict[str, Callable[..., nn.Module]] = {"residual": ResidualNet, "unet": UNet}
SOLVERS: dict[str, Callable[..., nn.Module]] = {**RESTORERS, "fno": fno}  # networks for an operator
MOST_TENSORS = 2**13  # of a network of this package. A ResNet of 1001 layers has 6,000.
NETWORKS = ("mlp", *CNNS, "transformer", *SOLVERS)
TORCHVISION = "torchvision:"
AUGMENTATIONS: dict[str, Augment | None] = {
    "none": None, "crop": random_crop, "crop-flip": crop_and_flip, "rotate": random_rotation, "crop-flip-rotate": crop_flip_and_rotate,
}  # fmt: skip


@dataclass(frozen=True)
class TrainingDefaults:
    """The usual training settings of a network on a data set.

    Parameters
    ----------
    epochs : float, default 10
        Passes over the training split.
    batch : int, default 128
        Rows of a minibatch.
    optimizer : str, default "adamw"
        Name of the optimizer.
    lr : float, default 2e-3
        Largest learning rate.
    weight_decay : float, default 0
        Weight decay.
    augment : str, default "none"
        Name of the augmentation.
    schedule : str, default "one-cycle"
        Name of the schedule of the learning rate.

    Examples
    --------
    >>> from netgraph.models import TrainingDefaults
    >>> TrainingDefaults().optimizer
    'adamw'
    """

    epochs: float = 10.0
    batch: int = 128
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.0
    augment: str = "none"
    schedule: str = "one-cycle"


@dataclass(frozen=True)
class Task:
    """An untrained network, data in the form that it takes, and the usual training settings.

    Parameters
    ----------
    name : str
        Name of the network.
    network : torch.nn.Module
        The network with random weights.
    data : Dataset
        The data set. ``network(data.ready(inputs))`` runs.
    defaults : TrainingDefaults
        Training settings to start from.
    degradation : Degradation, optional
        What is done to images before the network restores them.
    goal : str, default "classify"
        What the network learns (`make_task`).

    Examples
    --------
    >>> from netgraph.models import load_dataset, make_task
    >>> task = make_task("mlp", load_dataset("digits"))
    >>> task.example.shape, task.defaults.epochs
    (torch.Size([2, 64]), 30)
    """

    name: str
    network: nn.Module
    data: Dataset
    defaults: TrainingDefaults
    degradation: Degradation | None = None
    goal: str = "classify"

    @property
    def example(self) -> Tensor:
        """Two inputs in the form that the network takes."""
        inputs = self.data.ready(self.data.train.inputs[:2])
        return (
            inputs if self.degradation is None else self.degradation.degrade(inputs, torch.Generator().manual_seed(0))
        )

    @property
    def evaluation_batch(self) -> int:
        """Rows of a batch with outputs that fit in memory. A language model has one output per token of its vocabulary."""
        return 16 if isinstance(self.network, Decoder) else 512

    @property
    def answers_classes(self) -> bool:
        """False where the network answers an image or a solution."""
        return self.degradation is None and self.goal not in OPERATORS

    @property
    def restrict(self) -> Any:
        """How a minibatch gets the resolution of a coarse level, in the form that ``Problem(restrict=...)`` takes.

        Restored images say so themselves. A solution is averaged, and so are its inputs, by the network: the average of a field of
        two values holds their shares, and the average of coordinates is the middle of a coarse cell.
        """
        if self.degradation is not None:
            return self.degradation.restrict
        return "average" if self.goal in OPERATORS else None

    def make_loss(self, label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss: mean squared error for images, relative error in L2 for solutions, cross-entropy for the rest."""
        if self.goal in OPERATORS:
            return mean_relative_error
        return make_cross_entropy(label_smoothing) if self.degradation is None else _squared_error

    def evaluate(
        self, model: nn.Module, *, split: str = "test", metrics: Sequence[str] = (), to_level: ToLevel | None = None
    ) -> Evaluation | RestorationQuality | OperatorQuality:
        """Evaluate a network on one split.

        Parameters
        ----------
        model : torch.nn.Module
        split : str, default "test"
            ``train``, ``valid`` or ``test``.
        metrics : sequence of str, default ()
            Further metrics of a classifier (`evaluate`).
        to_level : callable, optional
            Takes a minibatch of images to the resolution of the network.
        """
        if self.goal in OPERATORS:
            return evaluate_operator(model, self.data, split=split, to_level=to_level)
        if self.degradation is not None:
            return evaluate_restoration(model, self.data, self.degradation, split=split, to_level=to_level)
        return evaluate(model, self.data, split=split, batch=self.evaluation_batch, metrics=metrics)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error in float32."""
    return functional.mse_loss(outputs.float(), targets)


def make_cross_entropy(label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Build a cross-entropy loss for classes, one-hot rows and next tokens.

    Parameters
    ----------
    label_smoothing : float, default 0
        Share of the probability that is spread over all classes.

    Returns
    -------
    callable ``(outputs, targets) -> Tensor``
        Outputs have shape (n, n_classes) and targets (n,) or one-hot (n, n_classes). For next tokens, outputs have shape
        (n, length, n_tokens) and targets (n, length).

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import make_cross_entropy
    >>> loss = make_cross_entropy()
    >>> loss(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    tensor(1.3863)
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        flat = targets if targets.is_floating_point() else targets.flatten()
        return functional.cross_entropy(outputs.flatten(0, -2).float(), flat, label_smoothing=label_smoothing)

    return loss


def make_task(
    name: str, data: Dataset, *, widths: Sequence[int] = (), goal: str = "classify", seed: int = 7619,
    options: Mapping[str, Any] = MappingProxyType({}), fixed_length: bool = True,
) -> Task:  # fmt: skip
    """Build an untrained network for a data set, and bring the data into its form.

    Parameters
    ----------
    name : str
        ``mlp``, ``cnn``, ``resnet20``, ``resnet56``, ``vgg``, ``wide-resnet``, ``transformer``, ``residual``, ``unet``, ``fno``
        or ``torchvision:NAME`` for a classifier of torchvision without trained weights.
    data : Dataset
        A data set from `load_dataset`.
    widths : sequence of int, default ()
        Hidden widths of an MLP. Other networks take one number, and all their widths follow from it. Empty: the usual widths.
    goal : str, default "classify"
        ``classify``, or ``lm`` for a language model that predicts the next token. ``residual`` and ``unet`` restore images:
        ``denoise``, ``inpaint``, ``deblur`` or ``super-resolution``. They and ``fno`` learn operators: ``darcy``, for the data of
        `load_darcy`.
    seed : int, default 7619
        Seed of the weights.
    options : mapping, default {}
        Further arguments of the network, such as ``{"norm": "post", "depth": 4}`` for a transformer.
    fixed_length : bool, default True
        Keep all texts at one length, which coarse networks need. Otherwise texts of similar length share a batch.

    Returns
    -------
    Task
        The network, the data and the usual training settings.

    Raises
    ------
    NetgraphError
        The network does not exist, does not fit the data or the widths, or has no such argument.

    Examples
    --------
    >>> from netgraph.models import load_dataset, make_task
    >>> task = make_task("mlp", load_dataset("digits"), widths=(32,))
    >>> task.network(task.example).shape
    torch.Size([2, 10])
    """
    _check_task(name, data, widths, goal)
    data = data.next_tokens() if goal == "lm" else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_torch_seed(seed))
        if name == "mlp":
            return _mlp_task(data, widths, options)
        if name == "transformer":
            return _transformer_task(data.fixed_length() if fixed_length else data, widths, goal, options)
        if name.startswith(TORCHVISION):
            return _torchvision_task(name, data, options)
        if goal in OPERATORS:
            return _operator_task(name, data, widths, goal, options)
        if name in RESTORERS:
            return _restoration_task(name, data, widths, goal, options)
        return _cnn_task(name, data, widths, options)


def _build_network(build: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    """Build a network, after a check that it has all the arguments that the user gave."""
    name, parameters = build.__name__, list(inspect.signature(build).parameters)[len(args) :]
    for option in options:
        if option not in parameters:
            raise NetgraphError(f"{name} has no argument {option!r}. It takes {', '.join(parameters)}.")
    try:
        with (
            limit_size(name, most=MOST_TENSORS, on_meta=True),
            torch.device("meta"),
        ):  # sizes alone, which take no memory
            build(*args, **options)
        return build(*args, **options)
    except NetgraphError:
        raise
    except Exception as error:  # any class: the arguments come from the user
        raise NetgraphError(
            f"building {name} fails ({describe_error(error)}). Check --widths and --network-arg (widths and options in Python)."
        ) from error


def _check_task(name: str, data: Dataset, widths: Sequence[int], goal: str) -> None:
    """Check that network, data, widths and goal fit one another."""
    if name not in NETWORKS and not name.startswith(TORCHVISION):
        raise NetgraphError(
            f"no network to train is called {name!r}. Choose one of {', '.join(NETWORKS)} or {TORCHVISION}NAME."
        )
    if goal not in TASKS:
        raise NetgraphError(f"no task is called {goal!r}. Choose one of {', '.join(TASKS)}.")
    networks = next(
        (table for goals, table in ((DEGRADATIONS, RESTORERS), (OPERATORS, SOLVERS)) if goal in goals), None
    )
    if name not in networks if networks else name in SOLVERS:
        fitting = f"Train {_join(networks)}" if networks else f"Choose {_join(_list_goals(name))}"
        raise NetgraphError(f"{name} is no network for the task {goal}. {fitting}.")
    if (goal in OPERATORS) != (data.name in OPERATORS):
        fitting = "Give the data of load_darcy" if goal in OPERATORS else "Choose the task darcy"
        raise NetgraphError(f"{data.name} are no data for the task {goal}. {fitting}.")
    is_text = data.padding is not None
    if is_text != (name == "transformer"):
        fitting = "imdb" if name == "transformer" else "digits, mnist, fashion-mnist or cifar10"
        raise NetgraphError(f"{name} cannot read {data.name}. Give --data {fitting}.")
    if goal == "lm" and name != "transformer":
        raise NetgraphError(f"{name} cannot predict tokens. Train a transformer, or leave the task at classify.")
    if any(width < 1 for width in widths):
        raise NetgraphError(f"widths must be at least 1, got {', '.join(map(str, widths))}.")
    if name.startswith(TORCHVISION) and widths:
        raise NetgraphError(
            f"{name} has the widths that torchvision gives it. Leave widths out, or give arguments of the network."
        )
    if name != "mlp" and len(widths) > 1:
        raise NetgraphError(f"all widths of {name} follow from one number, got {len(widths)} numbers. Give one.")


def _list_goals(name: str) -> list[str]:
    """Return the tasks of a network that answers images or solutions."""
    return [*(DEGRADATIONS if name in RESTORERS else ()), *OPERATORS]


def _join(words: Iterable[str]) -> str:
    """Return words as an enumeration with an "or"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _mlp_task(data: Dataset, widths: Sequence[int], options: Mapping[str, Any]) -> Task:
    """Return a perceptron on flat images."""
    small = data.name == "digits"
    hidden = tuple(widths) or ((128, 64) if small else (1024, 1024))
    flat = data.flat()
    network = _build_network(mlp, (flat.train.inputs.shape[1], *hidden, len(data.classes)), **options)
    return Task("mlp", network, flat, TrainingDefaults(epochs=30, batch=64) if small else TrainingDefaults())


def _cnn_task(name: str, data: Dataset, widths: Sequence[int], options: Mapping[str, Any]) -> Task:
    """Return a convolutional network on images."""
    _, channels, *sides = data.train.inputs.shape
    pools = options.get("pools", 5)
    if name == "vgg" and isinstance(pools, int) and min(sides).bit_length() <= pools:  # a side below 2**pools
        raise NetgraphError(
            f"vgg halves images {pools} times, and those of {data.name} are {sides[0]} × {sides[1]}. Give --data cifar10, fewer "
            "pools, or cnn."
        )
    sizes = {"n_classes": len(data.classes), "channels": channels, **({"width": widths[0]} if widths else {})}
    network = _build_network(CNNS[name], **{**sizes, **options})
    return Task(name, network, data, _image_defaults(data))


def _image_defaults(data: Dataset) -> TrainingDefaults:
    """Return the usual settings for images: SGD, and for CIFAR-10 crops and flips."""
    defaults = TrainingDefaults(epochs=30, optimizer="sgd", lr=0.2, weight_decay=5e-4)
    return replace(defaults, augment="crop-flip") if data.name == "cifar10" else defaults


def _restoration_task(name: str, data: Dataset, widths: Sequence[int], goal: str, options: Mapping[str, Any]) -> Task:
    """Return a network that restores images. Images are in [0, 1], and have no classes."""
    degradation, channels = DEGRADATIONS[goal], data.train.inputs.shape[1]
    sizes = {"channels": channels, "more_inputs": degradation.more_inputs, **({"width": widths[0]} if widths else {})}
    network = _build_network(RESTORERS[name], **{**sizes, **options})
    defaults = TrainingDefaults(epochs=2, batch=64, optimizer="adam", lr=2e-3, schedule="wsd")
    return Task(name, network, replace(data, classes=(), mean=(), std=()), defaults, degradation, goal)


def _operator_task(name: str, data: Dataset, widths: Sequence[int], goal: str, options: Mapping[str, Any]) -> Task:
    """Return a network from fields and coordinates to solutions."""
    n_in, n_out = data.train.inputs.shape[1], data.train.targets.shape[1]
    counts = {"inputs": n_in} if name == "fno" else {"more_inputs": n_in - n_out, "shortcut": False}
    sizes = {"channels": n_out, **counts, **({"width": widths[0]} if widths else {})}
    network = _build_network(SOLVERS[name], **{**sizes, **options})
    defaults = TrainingDefaults(epochs=20, batch=16, optimizer="adam", lr=2e-3)
    return Task(name, network, data, defaults, goal=goal)


def _torchvision_task(name: str, data: Dataset, options: Mapping[str, Any]) -> Task:
    """Return a classifier of torchvision for the data's classes, after one run on the data in training mode."""
    prepare_torchvision()
    import_package("torchvision", f"a network called {name}")
    from torchvision import models

    known = models.list_models(module=models)
    model_name = name.removeprefix(TORCHVISION)
    if model_name not in known:
        raise NetgraphError(f"torchvision has no classifier {model_name!r}. Choose one of {', '.join(known)}.")
    n_classes = len(data.classes)
    try:
        with limit_size(name, most=MOST_TENSORS):
            network = models.get_model(model_name, **{"weights": None, "num_classes": n_classes, **options})
        with torch.no_grad():
            outputs = copy.deepcopy(network).train()(data.ready(data.train.inputs[:2]))
    except NetgraphError:
        raise
    except Exception as error:  # any class: the arguments and the data come from the user
        sizes = " × ".join(map(str, data.train.inputs.shape[1:]))
        raise NetgraphError(
            f"{name} does not run on the images of {data.name}, {sizes} ({str(error)[:200]}). Give --data cifar10, arguments of "
            "the network that fit, or cnn."
        ) from error
    if not isinstance(outputs, Tensor) or outputs.shape != (2, n_classes):
        raise NetgraphError(
            f"{name} returns a {type(outputs).__name__} in training, and one number for each class is needed. Give arguments "
            "that leave further outputs out (aux_logits=False), or another network."
        )
    return Task(name, network, data, _image_defaults(data))


def _transformer_task(data: Dataset, widths: Sequence[int], goal: str, options: Mapping[str, Any]) -> Task:
    """Return an encoder that classifies texts, or a decoder that predicts next tokens."""
    n_tokens = int(max(data.train.inputs.max(), data.valid.inputs.max(), data.test.inputs.max())) + 1
    length = data.train.inputs.shape[1]
    sizes: dict[str, Any] = {"width": widths[0], "n_hidden": 2 * widths[0]} if widths else {}
    sizes = {"length": length, **sizes, **options}
    defaults = TrainingDefaults(epochs=5, batch=64, lr=1e-3)
    if goal == "lm":
        return Task("transformer", _build_network(Decoder, n_tokens, **sizes), data, replace(defaults, batch=16))
    network = _build_network(Encoder, n_tokens, len(data.classes), **sizes)
    return Task("transformer", network, data, defaults)
