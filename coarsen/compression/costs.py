"""What a network costs: parameters, FLOPs a sample, milliseconds, memory and bytes, measured side by side with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from netgraph.coarsen.compression.latency import Latency, has_rows, measure_latencies, resize_rows
from netgraph.coarsen.compression.peak_memory import count_bytes, measure_peak_memory
from netgraph.errors import NetgraphError

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
        For each batch that was measured, or for the example where its tensors have no rows in common.

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

    def name_cells(self) -> list[str]:
        """Return the heads of the columns that `format_cells` fills."""
        batches = [f"ms, batch {latency.batch}" for latency in self.latency]
        return ["parameters", "FLOPs/sample", *batches, "peak MB", "file MB"]

    def format_cells(self) -> list[str]:
        """Return the costs as cells of a table."""
        return [
            f"{self.parameters:,}",
            f"{self.flops:.3g}" if self.flops else "-",
            *(f"{one.median:.3g} ({one.low:.3g}-{one.high:.3g})" for one in self.latency),
            f"{self.memory / 1e6:.3g}",
            f"{self.size / 1e6:.3g}",
        ]


def describe_latency(costs: Costs) -> str:
    """Return a sentence on the milliseconds in a table of costs."""
    threads = costs.latency[0].threads
    return (
        f"Milliseconds are medians (first and ninth decile) on {threads} thread{'s' * (threads > 1)} of this machine."
    )


def measure_costs(
    networks: Sequence[nn.Module],
    example: Any,
    *,
    flops: Sequence[float] | None = None,
    batches: Sequence[int] = BATCHES,
) -> list[Costs]:
    """Measure what several networks cost, in turn and on the same inputs.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        Networks that take the same inputs.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    flops : sequence of float, optional
        FLOPs of each network for one sample, as they were traced.
    batches : sequence of int, default (1, 32)
        Rows for which milliseconds are measured. Inputs without common rows, as those of a graph, are taken as they are.

    Returns
    -------
    list of Costs
        One for each network.

    Raises
    ------
    NetgraphError
        There are no networks or no batches, other FLOPs than networks, or a network does not run on the inputs.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import measure_costs
    >>> wide, narrow = torch.nn.Linear(8, 32), torch.nn.Linear(8, 4)
    >>> [costs.parameters for costs in measure_costs([wide, narrow], torch.zeros(2, 8), batches=[1])]
    [288, 36]
    """
    if not networks or not batches or (flops is not None and len(flops) != len(networks)):
        raise NetgraphError(
            f"{len(networks)} networks, {len(batches)} batches and FLOPs of {len(networks) if flops is None else len(flops)} networks "
            "were given. Give one network and one batch or more, and as many FLOPs as networks."
        )
    rows = has_rows(example)
    columns = [
        measure_latencies(networks, inputs)
        for inputs in ([resize_rows(example, batch) for batch in batches] if rows else [example])
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
