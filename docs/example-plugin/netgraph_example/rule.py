"""An operator of PyTorch, a network that calls it, and the rule that tells netgraph what the operator does to units.

The entry point in ``pyproject.toml`` names the table `RULES`, from names of operators to rules.
"""

from typing import Any

import torch
from torch import Tensor, nn

from netgraph.rules import Call, Spaces


@torch.library.custom_op("netgraph_example::gate", mutates_args=())
def gate(x: Tensor, by: Tensor) -> Tensor:
    """Return ``x * sigmoid(by)``, one gate for each unit."""
    return x * torch.sigmoid(by)


@gate.register_fake
def _(x: Tensor, by: Tensor) -> Tensor:
    """Return an empty result: netgraph records shapes, not numbers."""
    return torch.empty_like(x)


def _save_operands(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    """Keep what the backward pass needs."""
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of both operands. Coarse networks train with them."""
    x, by = ctx.saved_tensors
    share = torch.sigmoid(by)
    return gradient * share, gradient * x * share * (1 - share)


gate.register_autograd(_differentiate, setup_context=_save_operands)


class GatedNetwork(nn.Module):
    """Eight units and their gates.

    Examples
    --------
    >>> GatedNetwork()(torch.zeros(2, 5)).shape
    torch.Size([2, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self.units, self.gates, self.read = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Read the gated units."""
        answers: Tensor = self.read(gate(self.units(x), self.gates(x)))
        return answers


def gate_rule(call: Call) -> Spaces:
    """State that the units of both operands correspond one to one, and that the result runs over the same units."""
    x, by = call.spaces("x"), call.spaces("by")
    for one, other in zip(x, by, strict=True):
        call.unite(one, other)
    return x


RULES = {"netgraph_example.gate": gate_rule}
