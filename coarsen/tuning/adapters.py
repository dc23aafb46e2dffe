"""Low-rank adapters: in place of a weight W (out, in), two small matrices are trained, and their product is added to W at the end.

    layer(x) = W x + B A x        A (r, in) random, B (out, r) zero at first, W as it is
    W <- W + B A                  the network then opens and runs without adapters

Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022. The layers come from the library peft.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.tuning.losses import relative_square
from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import NetgraphError
from netgraph.optim.optimizers import find_optimizer
from netgraph.utils.seeds import check_torch_seed

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # subclasses may read their weights in ways of their own
MERGED = 1e-3  # largest relative difference of the outputs before and after adapters are added to the weights


@dataclass(frozen=True)
class AdapterPlan:
    """The layers of a network that get adapters.

    Parameters
    ----------
    ranks : dict of str to int
        Rank of each, by the path of the layer.
    trained : int
        Numbers in all adapters.
    others : int
        Parameters that would be trained without adapters.
    """

    ranks: Mapping[str, int]
    trained: int
    others: int

    def describe(self, optimizer: str) -> str:
        """Return in a sentence how many numbers are trained, and the memory that this saves."""
        copies = 1 + count_states(optimizer)
        few, all_ = (f"{4 * copies * n / 1e6:,.3g} MB" for n in (self.trained, self.others))
        layers = f"{len(self.ranks)} layer{'s' * (len(self.ranks) > 1)}"
        return (
            f"adapters on {layers} have {self.trained:,} numbers to train in place of {self.others:,} ({self.trained / self.others:.1%}). Their "
            f"gradients and the states of {optimizer} take {few} in place of {all_}"
        )


def plan_adapters(network: nn.Module, rank: int) -> AdapterPlan:
    """Choose the layers of a network that get adapters.

    These are linear layers and convolutions without groups, of PyTorch and of transformers, whose weights are trained and are no other
    parameter too.

    Parameters
    ----------
    network : torch.nn.Module
    rank : int
        Layers with fewer inputs or outputs get as many as these.

    Raises
    ------
    NetgraphError
        There is no such layer, or peft is missing.
    """
    _import_peft()
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    ranks, trained = {}, 0
    for name, module in network.named_modules():
        shape = _find_matrix(module)
        if name and shape is not None and module.weight.requires_grad and uses[id(module.weight)] == 1:
            n_in, n_out, window = shape
            ranks[name] = min(rank, n_in * window, n_out)
            trained += ranks[name] * (n_in * window + n_out)
    if not ranks:
        raise NetgraphError(
            f"adapters need linear layers or convolutions whose weights are trained and are not tied, and this {type(network).__name__} has "
            "none. Leave adapters out."
        )
    return AdapterPlan(ranks, trained, sum(p.numel() for p in network.parameters() if p.requires_grad))


def _find_matrix(module: nn.Module) -> tuple[int, int, int] | None:
    """Return inputs, outputs and positions of the window of a layer that can have adapters, or None."""
    layer: Any = module
    if type(module) is nn.Linear:
        return layer.in_features, layer.out_features, 1
    if type(module) in LAYERS and layer.groups == 1:
        return layer.in_channels, layer.out_channels, math.prod(layer.kernel_size)
    is_transposed = type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"
    return (layer.nx, layer.nf, 1) if is_transposed else None


def count_states(optimizer: str) -> int:
    """Return how many numbers an optimizer keeps for each parameter.

    Examples
    --------
    >>> from netgraph.coarsen.tuning.adapters import count_states
    >>> count_states("adamw"), count_states("sgd")
    (2, 1)
    """
    weight = nn.Parameter(torch.zeros(4, 4))
    weight.grad = torch.ones(4, 4)
    found = find_optimizer(optimizer)([{"params": [weight], "weight_decay": 0.0}], lr=0.1)
    found.step()
    return sum(isinstance(value, Tensor) and value.shape == weight.shape for value in found.state[weight].values())


@contextmanager
def adapters_in(
    network: nn.Module, plan: AdapterPlan | None, seed: int, answer: Callable[[], Sequence[Tensor]]
) -> Iterator[None]:
    """Give layers of a network adapters in a block, with all other parameters fixed, and add them to the weights at its end.

    Without a plan nothing happens. After an error in the block the weights are as they were before it.

    Parameters
    ----------
    network : torch.nn.Module
    plan : AdapterPlan or None
    seed : int
        Of the first numbers of adapters.
    answer : callable ``() -> outputs``
        Runs the network on some rows, to see that it computes the same once adapters are added.

    Raises
    ------
    NetgraphError
        The network computes something else then, because it reads a weight besides calling its layer.
    """
    if plan is None:
        yield
        return
    trained = [p for p in network.parameters() if p.requires_grad]
    wrapper = _wrap_layers(network, plan, seed)
    try:
        with _layers_called():
            yield
            expected = answer()
    except BaseException:
        wrapper.unload()
        raise
    else:
        before = [p.detach().clone() for p in trained]
        wrapper.merge_and_unload()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    pairs = [pair for pair in zip(answer(), expected, strict=True) if pair[0].is_floating_point()]
    error = max(float(relative_square(x, y)) for x, y in pairs) ** 0.5
    if not error <= MERGED:
        _set_back(trained, before)
        raise NetgraphError(
            f"adapters cannot be added to the weights of this {type(network).__name__}: its outputs then change by {error:.2g}, because it reads "
            "a weight without calling its layer. The network is as it was before. Leave adapters out."
        )


@contextmanager
def _layers_called() -> Iterator[None]:
    """Let transformer layers of PyTorch call their linear layers in a block. Their fused kernel reads the weights alone."""
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)


def _set_back(parameters: Sequence[nn.Parameter], numbers: Sequence[Tensor]) -> None:
    """Give parameters the numbers that they had."""
    with torch.no_grad():
        for parameter, former in zip(parameters, numbers, strict=True):
            parameter.copy_(former)


def _wrap_layers(network: nn.Module, plan: AdapterPlan, seed: int) -> Any:
    """Put adapters into a network, and return peft's model of it."""
    peft = _import_peft()
    names = {name: re.escape(name) for name in plan.ranks}
    ranks = {f"^{names[name]}": rank for name, rank in plan.ranks.items()}
    config = peft.LoraConfig(
        r=max(plan.ranks.values()), lora_alpha=max(plan.ranks.values()), rank_pattern=ranks, alpha_pattern=ranks,
        target_modules="|".join(names.values()), lora_dropout=0.0, bias="none",
    )  # fmt: skip
    devices = [p.device for p in network.parameters() if p.device.type == "cuda"][:1]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft then sets what fits the layer
        torch.manual_seed(check_torch_seed(seed))
        return peft.LoraModel(network, config, "default")


def _import_peft() -> Any:
    """Import peft, whose transformers import torchvision where it is there."""
    prepare_torchvision()
    return import_package("peft", "tuning by adapters")
