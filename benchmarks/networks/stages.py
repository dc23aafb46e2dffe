"""Claim: the way from module to coarse network takes no longer than torch-pruning, and this is where its time goes.

Each network runs in its own process, after the warm-up of `benchmarks/networks/zoo.py`, on one thread. A row has milliseconds of processor
time of each stage, of the total, and of torch-pruning with its defaults, as medians of ``--rounds`` new processes.

    .venv/bin/python benchmarks/networks/stages.py [--only NAME ...] [--rounds 3] [--no-rival]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from networks import BuiltNetwork, all_networks
from zoo import LIMIT, RIVAL_SHARE, prune_network, run_apart, warm_up

RESULTS = Path(__file__).parent.parent / "results" / "stages.json"
SAMPLE = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v2", "torchvision:mnasnet0_5", "torchvision:densenet121",
    "torchvision:efficientnet_b0", "torchvision:convnext_tiny", "torchvision:vit_b_16", "torchvision:regnet_y_800mf", "timm:mixnet_s",
    "timm:swin_tiny_patch4_window7_224", "timm:convnextv2_atto", "timm:pvt_v2_b0", "transformers:BertForMaskedLM",
    "transformers:T5ForConditionalGeneration", "pyg:GraphSAGE", "pyg:GCN", "recurrent:GRU",
)  # fmt: skip
PLACES = {  # the modules that call the functions: a patch at the definition would not be seen there
    "record": "netgraph.tracing.tracer.record_network",
    "second": "netgraph.tracing.other_examples.record_network",
    "numbers": "netgraph.coarsen.hierarchy.hierarchy.prove_recording",
    "rules": "netgraph.tracing.tracer._walk_graph",
    "freeze": "netgraph.tracing.tracer.build_unit_spec",
    "inject": "netgraph.coarsen.hierarchy.level_builder.inject",
    "write": "netgraph.coarsen.hierarchy.level_builder.coarse_network",
    "verify": "netgraph.coarsen.hierarchy.level_builder.check_coarse_network",
}
STAGES = (*PLACES, "affinity", "match")


@contextmanager
def time_stages(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the processor seconds of each stage."""
    with ExitStack() as stack:
        for stage, place in PLACES.items():
            module, _, name = place.rpartition(".")
            inner = getattr(__import__(module, fromlist=[name]), name)
            stack.enter_context(patch(place, _time_function(inner, stage, seconds)))
        yield


def _time_function(inner: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return inner(*args, **kwargs)
        finally:
            seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - started

    return timed


def measure_stages(make: Callable[[], BuiltNetwork]) -> dict[str, Any]:
    """Return processor seconds of each stage and of the total."""
    from netgraph import plugins
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy

    torch.manual_seed(0)
    build_hierarchy(*warm_up())
    model, example = make()
    seconds: dict[str, float] = {}
    weigh = _time_function(plugins.load_plugin("netgraph.affinities", "cosine"), "affinity", seconds)
    match = _time_function(plugins.load_plugin("netgraph.coarseners", "hem"), "match", seconds)
    with time_stages(seconds):
        started = time.process_time()
        build_hierarchy(model, example, affinity=weigh, coarsener=match)
        seconds["whole"] = time.process_time() - started
    return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=SAMPLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    known, rows = {name for name, _ in all_networks()}, []
    print(f"{'':44}", *(f"{s:>8}" for s in (*STAGES, "rest", "whole", "rival", "ratio")))
    for name in options.only:
        if name not in known:
            raise SystemExit(f"no network is called {name!r}. benchmarks/networks/networks.py lists all.")
        rows.append(row := measure_network(name, options.rounds, options.no_rival))
        cells = [row.get(k) for k in (*STAGES, "rest", "whole", "rival")]
        print(f"{name[:44]:44}", *(f"{1000 * c:8.1f}" if c is not None else f"{'':>8}" for c in cells), end=" ")
        print(f"{row['ratio']:8.2f}" if row.get("ratio") else f"{'':>8}", flush=True)
    ratios = [r["ratio"] for r in rows if r.get("ratio")]
    if ratios:
        print(f"median ratio {statistics.median(ratios):.2f} of {len(ratios)}")
    options.out.write_text(json.dumps({"torch": torch.__version__, "rounds": options.rounds, "rows": rows}, indent=1))


def measure_network(name: str, rounds: int, no_rival: bool) -> dict[str, Any]:
    """Return the medians of one network."""
    ours = [run_apart(measure_stages, name, LIMIT) for _ in range(rounds)]
    rivals = [] if no_rival else [run_apart(prune_network, name, LIMIT // RIVAL_SHARE) for _ in range(rounds)]
    row: dict[str, Any] = {"name": name}
    for key in (*STAGES, "whole"):
        seconds = [r[key] for r in ours if key in r]
        row[key] = statistics.median(seconds) if seconds else None
    if row["whole"] is None:
        return {**row, "failed": ours[0]}
    row["rest"] = row["whole"] - sum(row[s] or 0 for s in STAGES)
    processor = [r["processor"] for r in rivals if "processor" in r]
    if processor:
        row["rival"] = statistics.median(processor)
        row["ratio"] = row["whole"] / row["rival"]
    return row


if __name__ == "__main__":
    main()
