"""Short training of a coarse network towards the outputs of the fine one, on inputs without labels.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, here with the squared error of outputs::

    loss = |f_c(x) - f(x)|² / |f(x)|²         x is a mixture of two inputs (`netgraph.coarsen.tuning.batches`)

Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from netgraph.coarsen.tuning.batches import draw_batches
from netgraph.coarsen.tuning.loop import Descent, Pair, descend
from netgraph.coarsen.tuning.losses import Answer, knowledge_loss
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.seeds import make_generator

LR = 1e-3  # decays to 0 along a cosine


def tune_network(
    fine: GraphNetwork,
    coarse: GraphNetwork,
    data: Any,
    *,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    outputs: Sequence[str] = (),
) -> None:
    """Train a coarse network in place towards the outputs of a fine one, by Adam.

    Both networks are in evaluation mode: batch norm keeps its statistics, and dropout is off.

    Parameters
    ----------
    fine, coarse : GraphNetwork
    data : Tensor, tuple or dict
        Inputs, nested like the traced example.
    steps : int
    batch : int, default 64
    seed : int, default 0
        Order of the inputs and of their mixtures.
    outputs : sequence of str, default ()
        Names of the outputs to train towards. By default all.
    """

    def measure(answer: Answer, expected: Answer | None, _: Tensor | None) -> Tensor:
        assert expected is not None
        return knowledge_loss(answer.outputs, expected.outputs, temperature=None)

    batches = draw_batches(data, steps, batch, make_generator(seed), mix=True)
    descend(Pair(network=coarse, original=fine, outputs=outputs), batches, measure, steps, Descent(lr=LR, seed=seed))
