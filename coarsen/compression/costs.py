"""What a network costs: parameters, FLOPs a sample, milliseconds, memory and bytes, measured side by side with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from netgraph.coarsen.compression.latency import Latency, has_rows, measure_latencies, resize_rows
from netgraph.coarsen.compression.peak_memory import count_bytes, measure_peak_memory

BATCHES = (1, 32)  # rows for which milliseconds are told


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Parameters
    ----------
    parameters : int
        Numbers in all parameters.
    flops : float
        Of one sample, 0 where nobody has counted them.
    size : int
        Bytes of parameters and buffers.
    memory : int
        Bytes that tensors hold at the peak of a forward pass on one sample.
    latency : tuple of Latency
        For a batch of 1 and of 32 rows, or for the example where its tensors have no rows in common.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import measure_costs
    >>> costs = measure_costs([torch.nn.Linear(8, 4)], torch.zeros(2, 8))[0]
    >>> costs.parameters, costs.size, costs.memory, [latency.batch for latency in costs.latency]
    (36, 144, 192, [1, 32])
    """

    parameters: int
    flops: float
    size: int
    memory: int
    latency: tuple[Latency, ...]

    def document(self) -> dict[str, Any]:
        """Return the costs as plain data for JSON."""
        return asdict(self)


def measure_costs(networks: Sequence[nn.Module], example: Any, *, flops: Sequence[float] | None = None) -> list[Costs]:
    """Measure what several networks cost, in turn and on the same inputs.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        Networks that take the same inputs.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    flops : sequence of float, optional
        FLOPs of each network for one sample, as they were traced.

    Returns
    -------
    list of Costs
        One for each network.
    """
    rows = has_rows(example)
    columns = [
        measure_latencies(networks, inputs)
        for inputs in ([resize_rows(example, batch) for batch in BATCHES] if rows else [example])
    ]
    one = resize_rows(example, 1) if rows else example
    return [
        Costs(
            sum(p.numel() for p in network.parameters()),
            0.0 if flops is None else flops[i],
            count_bytes(network),
            measure_peak_memory(network, one),
            tuple(column[i] for column in columns),
        )
        for i, network in enumerate(networks)
    ]
