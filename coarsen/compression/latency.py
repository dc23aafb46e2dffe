"""Milliseconds of a forward pass on this machine: medians and spreads of warm runs, several networks in turn.

Networks that are compared run alternately, so that another program on the machine slows all of them. Clocks, threads and batches
are part of a measurement. FLOPs are never called speed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.oracles import check_example
from netgraph.environment.gc_pause import gc_paused
from netgraph.environment.memory import check_memory
from netgraph.errors import NetgraphError
from netgraph.tracing.recordable import check_input_tensors
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.pytree import build_structure, count_common_rows, normalize_example, unflatten_tree

WARM_RUNS = 3
RUNS = (7, 400)  # least and most
SECONDS = 0.6  # of each network at most, once it is warm
SETTLED = 0.15  # seconds after which a network may be left whose median is known
ERROR = 0.005  # relative standard error of a median that is known
CHECKED = 8  # runs between two looks at the errors
REPEATS = 3  # measurements that tell how far one may be off


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass.

    Parameters
    ----------
    median, low, high : float
        Milliseconds: the median, the first and the ninth decile of the runs.
    runs : int
        Number of runs that were timed.
    batch : int
        Rows of the input.
    threads : int
        Threads of PyTorch.

    Examples
    --------
    >>> from netgraph.coarsen import Latency
    >>> print(Latency(1.25, 1.2, 1.4, runs=100, batch=1, threads=2))
    1.25 ms (1.2-1.4)
    """

    median: float
    low: float
    high: float
    runs: int
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g}-{self.high:.3g})"


def compare_latencies(before: Latency, after: Latency) -> float:
    """Return the share of the time that is left, by the first deciles.

    Other programs on the machine only add to a time, and where they are busy more than half of the runs may be hit. The fastest runs
    tell what the networks themselves take, as the documentation of Python's ``timeit`` says.
    """
    return after.low / before.low


def measure_share(before: nn.Module, after: nn.Module, example: Any) -> tuple[float, float]:
    """Measure the share of the time that is left several times.

    Returns
    -------
    share : float
        The median of the measurements.
    spread : float
        The difference of the largest and the smallest, relative to it.
    """
    seconds = SECONDS / 2  # each is shorter than one alone, which makes the spread rather too large than too small
    pairs = [measure_latencies([before, after], example, seconds=seconds) for _ in range(REPEATS)]
    shares = [compare_latencies(*pair) for pair in pairs]
    share = statistics.median(shares)
    return share, (max(shares) - min(shares)) / share


def measure_latency(network: nn.Module, example: Any, *, batch: int | None = None, seconds: float = SECONDS) -> Latency:
    """Measure the milliseconds of a forward pass in evaluation mode, without gradients.

    Parameters
    ----------
    network : torch.nn.Module
        The network, which is left in its mode.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    batch : int, optional
        Rows of the input: those of the example are repeated or cut. By default those of the example.
    seconds : float, default 0.6
        How long to measure at most. At least 7 runs are made, after 3 that warm up. A quarter of the time is enough where the standard
        error of the median is then half a percent or less.

    Returns
    -------
    Latency

    Raises
    ------
    NetgraphError
        The batch is below 1, the inputs have no common rows, the seconds are not positive, or the network does not run.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import measure_latency
    >>> latency = measure_latency(torch.nn.Linear(8, 8), torch.zeros(4, 8), batch=2, seconds=0.01)
    >>> latency.batch, latency.low <= latency.median <= latency.high
    (2, True)
    """
    return measure_latencies([network], example, batch=batch, seconds=seconds)[0]


@gc_paused()
def measure_latencies(
    networks: Sequence[nn.Module], example: Any, *, batch: int | None = None, seconds: float = SECONDS
) -> list[Latency]:
    """Measure several networks in turn on the same inputs. The parameters are those of `measure_latency`."""
    if not 0 < seconds < float("inf"):
        raise NetgraphError(f"seconds is {seconds}. Give a positive number of seconds to measure for.")
    inputs = example if batch is None else resize_rows(example, batch)
    args, kwargs = normalize_example(inputs)
    modes = [network.training for network in networks]
    times: list[list[float]] = [[] for _ in networks]
    try:
        for network in networks:
            set_training_mode(network, training=False)
        with torch.inference_mode():
            for network in networks:
                check_example(network, inputs)
                for _ in range(WARM_RUNS):
                    network(*args, **kwargs)
            while not _is_enough(times, seconds):
                for network, taken in zip(networks, times, strict=True):
                    taken.append(_time_run(network, args, kwargs))
    finally:
        for network, mode in zip(networks, modes, strict=True):
            set_training_mode(network, training=mode)
    rows = count_rows(example) if batch is None else batch
    return [_summarize(taken, rows) for taken in times]


def _time_run(network: nn.Module, args: Any, kwargs: Any) -> float:
    """Return the milliseconds of one run. A GPU is waited for."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    started = time.perf_counter()
    network(*args, **kwargs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - started)


def _is_enough(times: list[list[float]], seconds: float) -> bool:
    """Return True if every network has run long or often enough, or if all medians are known."""
    n, shortest = len(times[0]), min(map(sum, times))
    if n < RUNS[0]:
        return False
    if n >= RUNS[1] or shortest >= 1e3 * seconds:
        return True
    return n % CHECKED == 0 and shortest >= 1e3 * min(SETTLED, seconds) and max(map(_estimate_error, times)) <= ERROR


def _estimate_error(taken: list[float]) -> float:
    """Return the relative standard error of the median: 1.25 standard deviations, read from the outer deciles, by the root of n."""
    deciles = statistics.quantiles(taken, n=10, method="inclusive")
    return 1.25 * (deciles[-1] - deciles[0]) / (2.56 * math.sqrt(len(taken)) * statistics.median(taken))


def _summarize(taken: list[float], rows: int) -> Latency:
    """Return the median and the outer deciles of the runs."""
    deciles = statistics.quantiles(taken, n=10, method="inclusive")
    return Latency(statistics.median(taken), deciles[0], deciles[-1], len(taken), rows, torch.get_num_threads())


def count_rows(example: Any) -> int:
    """Return the rows of an example, 1 where its tensors have no common rows."""
    n = count_common_rows(example)
    return 1 if n is None else n


def has_rows(example: Any) -> bool:
    """Return True if the tensors of an example have rows in common, so that a batch may have another size."""
    return bool(count_common_rows(example))


def resize_rows(example: Any, n: int) -> Any:
    """Return an example with n rows, repeated or cut.

    Raises
    ------
    NetgraphError
        n is below 1, there is no memory for n rows, or the tensors have no common rows, as those of a graph.
    """
    check_input_tensors(example)
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    if n < 1:
        raise NetgraphError(f"a batch of {n} rows was asked for. Give 1 or more.")
    if not has_rows(example):
        raise NetgraphError("the inputs have no rows in common, as those of a graph. Leave batch out.")
    check_memory(sum(leaf[:1].nbytes for leaf in leaves) * n, f"a batch of {n:,} rows")
    parts = [leaf.repeat(-(-n // len(leaf)), *[1] * (leaf.ndim - 1))[:n].clone() for leaf in leaves]
    args, kwargs = unflatten_tree(structure, parts)
    return kwargs or args
