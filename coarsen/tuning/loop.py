"""The loop that trains a small network on minibatches, towards a loss that may ask for the outputs of its original."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from netgraph.coarsen.tuning.batches import Batch
from netgraph.coarsen.tuning.layer_outputs import LayerOutputs
from netgraph.coarsen.tuning.losses import Answer
from netgraph.errors import NetgraphError, describe_error
from netgraph.optim.optimizers import find_optimizer, group_by_decay
from netgraph.optim.schedules import find_schedule
from netgraph.recording.forward.named_outputs import collect_chosen
from netgraph.utils.module_state import in_mode
from netgraph.utils.pytree import build_structure, unflatten_tree
from netgraph.utils.seeds import check_torch_seed

Measure = Callable[[Answer, Answer | None, Tensor | None], Tensor]
CHECK_EVERY = 16  # steps between two looks at the loss, for which a GPU must be waited for


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a network goes down its loss. Fields are those of `netgraph.coarsen.tuning.options.TuneOptions`."""

    optimizer: str = "adam"
    lr: float
    schedule: str = "cosine"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    bf16: bool = False
    training: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A network and its original, and what is compared of them.

    Parameters
    ----------
    network : torch.nn.Module
    original : torch.nn.Module or None
    outputs : collection of str, default ()
        Names of the outputs that matter. By default all.
    layers : collection of str, default ()
        Weights of the layers whose outputs are compared.
    """

    network: nn.Module
    original: nn.Module | None
    outputs: Sequence[str] = ()
    layers: Collection[str] = ()

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return find_device(self.network)

    @contextmanager
    def prepared(self, *, training: bool) -> Iterator[None]:
        """Put the network in a mode and the original in evaluation mode, and every module back in its own afterwards."""
        with in_mode(self.network, training=training):
            if self.original is None:
                yield
            else:
                with in_mode(self.original, training=False):
                    yield

    def measure(self, batch: Batch, loss: Measure, *, bf16: bool = False) -> Tensor:
        """Return the loss of a minibatch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            expected = None
            if self.original is not None:
                with torch.no_grad():
                    expected = self.answer(self.original, batch)
            actual = self.answer(self.network, batch)
        targets = None if batch.targets is None else batch.targets.to(self.device)
        return loss(actual, expected, targets)

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """Run a network on its own device, and return its answer on that of the small one."""
        args, kwargs = move_tensors((batch.args, batch.kwargs), find_device(network))
        collector = LayerOutputs(network, self.layers)
        try:
            with collector if self.layers else nullcontext():
                result = network(*args, **kwargs)
        except NetgraphError:
            raise
        except Exception as error:  # a network may fail in any way
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in _list_tensors((args, kwargs)))
            raise NetgraphError(
                f"a {type(network).__name__} does not run on inputs of {shapes}: {describe_error(error)}. Give inputs that the network and its "
                "original take."
            ) from error
        outputs = [output.to(self.device) for output in collect_chosen(result, self.outputs)]
        return Answer(outputs, {name: torch.cat(parts).to(self.device) for name, parts in collector.outputs.items()})


def descend(
    pair: Pair,
    batches: Iterable[Batch],
    loss: Measure,
    steps: int,
    descent: Descent,
    *,
    further: Sequence[nn.Parameter] = (),
    progress: Callable[[Any, int, int], None] | None = None,
) -> list[float]:
    """Train a network in place, and return the loss of every step.

    Modules are afterwards in the mode that they had, and torch's global generators in their states. If the loss becomes infinite or not
    a number, all weights are set back.

    Parameters
    ----------
    pair : Pair
    batches : iterable of Batch
        One for each step.
    loss : callable ``(answer, answer of the original, targets) -> Tensor``
    steps : int
    descent : Descent
    further : sequence of torch.nn.Parameter, default ()
        Parameters of the loss that are trained too.
    progress : callable ``(loss, done, total)``, optional

    Raises
    ------
    NetgraphError
        The network has no parameter to train, or the loss is not finite.
    """
    weights = [p for p in pair.network.parameters() if p.requires_grad]
    if not weights:
        raise NetgraphError("the network has no parameter to train. Give one with parameters that require gradients.")
    groups = group_by_decay([*weights, *further], descent.weight_decay)
    optimizer = find_optimizer(descent.optimizer)(groups, lr=descent.lr)
    schedule = find_schedule(descent.schedule)(optimizer, descent.lr, steps)
    warm = round(descent.warmup * steps)
    losses, before = torch.zeros(steps, device=pair.device), _copy_state(pair.network)
    with pair.prepared(training=descent.training), _seeded(descent.seed, pair.device):
        for step, batch in enumerate(batches):
            value = pair.measure(batch, loss, bf16=descent.bf16)
            _go_back(optimizer, value)
            if descent.clip is not None:
                nn.utils.clip_grad_norm_(weights, descent.clip)
            _take_step(optimizer, min(1.0, (step + 1) / (warm + 1)))
            schedule.step()
            losses[step] = value.detach()
            if step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
                _check_finite(losses[: step + 1], pair.network, before, descent.lr)
            if progress is not None:
                progress("tuning", step + 1, steps)
        optimizer.zero_grad()
    return [float(value) for value in losses]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from, and set them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(check_torch_seed(seed))
        yield


def _go_back(optimizer: Optimizer, loss: Tensor) -> None:
    """Compute the gradients of a loss."""
    if not loss.requires_grad:
        raise NetgraphError(
            "the loss does not depend on a parameter that is trained. Choose other outputs or losses, or let parameters require gradients."
        )
    optimizer.zero_grad()
    loss.backward()


def _take_step(optimizer: Optimizer, share: float) -> None:
    """Take a step with a share of the learning rate, which schedules compute from the rate before it."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= share
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _copy_state(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return parameters and buffers, each with a copy of its numbers."""
    return [(tensor, tensor.detach().clone()) for tensor in (*network.parameters(), *network.buffers())]


def _check_finite(losses: Tensor, network: nn.Module, before: Sequence[tuple[Tensor, Tensor]], lr: float) -> None:
    """Raise an error if a loss or a weight is not finite, and set all weights back."""
    wrong = (~losses.isfinite()).nonzero().flatten()
    if not len(wrong) and all(bool(p.isfinite().all()) for p in network.parameters()):
        return
    with torch.no_grad():
        for tensor, numbers in before:
            tensor.copy_(numbers)
    step = int(wrong[0]) + 1 if len(wrong) else len(losses)
    raise NetgraphError(
        f"the loss or a weight is not finite from step {step} on, and the network is as it was before. Give a smaller lr than {lr:g}, or data "
        "without such numbers."
    )


def find_device(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters, the CPU if it has none."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _list_tensors(value: Any) -> list[Tensor]:
    leaves: list[Tensor] = []
    build_structure(value, leaves)
    return leaves


def move_tensors(value: Any, device: torch.device) -> Any:
    """Return nested tensors on a device."""
    leaves: list[Tensor] = []
    structure = build_structure(value, leaves)
    return unflatten_tree(structure, [leaf.to(device) for leaf in leaves])
