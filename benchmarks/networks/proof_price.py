"""Claim: the proof that a recording holds costs at most half of a trace without it, in the median of the zoo.

`netgraph.trace` runs with and without ``prove`` in turn, ``--rounds`` times after one run of each to warm up, and so does
`netgraph.coarsen.build_hierarchy`, which also compares numbers where a network is small. Each network has its own process and one
thread. A row has medians of processor seconds, and the ratio with its smallest and largest value.

    .venv/bin/python benchmarks/networks/proof_price.py [--only NAME ...] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import BuiltNetwork, all_networks
from zoo import LIMIT, run_apart, warm_up

RESULTS = Path(__file__).parent.parent / "results" / "proof_price.json"
SAMPLE = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v2", "torchvision:densenet121", "torchvision:efficientnet_b0",
    "torchvision:convnext_tiny", "torchvision:vit_b_16", "torchvision:swin_t", "torchvision:regnet_y_800mf", "torchvision:deeplabv3_resnet50",
    "timm:mixnet_s", "timm:convnextv2_atto", "timm:pvt_v2_b0", "timm:levit_128s", "timm:mobilevit_xxs", "timm:mixer_s32_224", "timm:hrnet_w18_small",
    "transformers:BertForMaskedLM", "transformers:GPT2LMHeadModel", "transformers:LlamaForCausalLM", "transformers:MixtralForCausalLM",
    "transformers:T5ForConditionalGeneration", "transformers:DebertaV2ForSequenceClassification", "transformers:MambaForCausalLM",
    "transformers:WhisperForAudioClassification", "transformers:Wav2Vec2ForSequenceClassification",
    "pyg:GCN", "pyg:GAT", "pyg:GraphSAGE", "pyg:PNA", "recurrent:GRU", "recurrent:BiLSTM",
)  # fmt: skip


def measure_price(make: Callable[[], BuiltNetwork], *, rounds: int) -> dict[str, Any]:
    """Return processor seconds with and without the proof, of the trace and of the way to the coarse network."""
    import netgraph as ng
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy

    torch.manual_seed(0)
    build_hierarchy(*warm_up())
    model, example = make()
    runs: dict[str, Callable[[bool], Any]] = {
        "trace": lambda prove: ng.trace(model, example, prove=prove),
        "coarsen": lambda prove: build_hierarchy(model, example, prove=prove),
    }
    row: dict[str, Any] = {}
    for name, run in runs.items():
        pairs = [(_time_run(run, False), _time_run(run, True)) for _ in range(rounds + 1)][1:]
        ratios = [proven / plain for plain, proven in pairs]
        row[name] = {
            "plain": statistics.median(plain for plain, _ in pairs),
            "proven": statistics.median(proven for _, proven in pairs),
            "ratio": [statistics.median(ratios), min(ratios), max(ratios)],
        }
    return row


def _time_run(run: Callable[[bool], Any], prove: bool) -> float:
    started = time.process_time()
    run(prove)
    return time.process_time() - started


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=SAMPLE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    known, rows = {name for name, _ in all_networks()}, []
    for name in options.only:
        if name not in known:
            raise SystemExit(f"no network is called {name!r}. benchmarks/networks/networks.py lists all.")
        row = {"name": name, **run_apart(partial(measure_price, rounds=options.rounds), name, LIMIT)}
        rows.append(row)
        print(f"{name[:44]:44}", format_row(row), flush=True)
    summary = {}
    for stage in ("trace", "coarsen"):
        ratios = sorted(row[stage]["ratio"][0] for row in rows if stage in row)
        if ratios:
            summary[stage] = [statistics.median(ratios), ratios[0], ratios[-1]]
            print(f"{stage}: median {summary[stage][0]:.2f} of {len(ratios)}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1, "rounds": options.rounds}
    options.out.write_text(json.dumps({**machine, "ratios": summary, "rows": rows}, indent=1) + "\n")


def format_row(row: dict[str, Any]) -> str:
    """Return milliseconds without and with the proof, and their ratio."""
    if "trace" not in row:
        return str(row)
    return "   ".join(
        f"{stage} {1000 * row[stage]['plain']:8.1f} {1000 * row[stage]['proven']:8.1f} {row[stage]['ratio'][0]:6.2f}"
        for stage in ("trace", "coarsen")
    )


if __name__ == "__main__":
    main()
