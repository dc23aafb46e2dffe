"""Claim: none yet. Milliseconds of a forward pass by minibatch, of networks and of their coarse networks of half the size.

ResNet-50 and ViT-B/16 of torchvision with random weights, in evaluation mode without gradients. The coarse network is one step of
channels or of depth. `torch.utils.benchmark` waits for the device and gives the median of calls over at least ``--seconds``.

    python benchmarks/coarsening/latency.py --device cuda --dtype bfloat16      # to benchmarks/results/latency.jsonl
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import describe_machine, prepare_device, run_missing

import netgraph as ng
from netgraph.io.model_zoo import build_network

RESULTS = Path(__file__).parent.parent / "results" / "latency.jsonl"
KEY = ("network", "directions", "device", "dtype", "pixels", "batch")  # identifies a row


def build_networks(name: str, directions: tuple[str, ...], pixels: int) -> dict[str, nn.Module]:
    """Return a network, under the name ``none``, and its coarse network for each direction."""
    torch.manual_seed(0)
    model, example = build_network(name, {}).eval(), torch.randn(2, 3, pixels, pixels)
    coarse = {d: ng.build_hierarchy(model, example, directions=d).levels[1].model.eval() for d in directions}
    return {"none": model, **coarse}


def measure_latency(settings: dict[str, Any], model: nn.Module, seconds: float) -> dict[str, Any]:
    """Return the row of a network with the milliseconds of a call."""
    device, dtype = settings["device"], getattr(torch, settings["dtype"])
    model = model.to(device, dtype)
    inputs = torch.randn(settings["batch"], 3, settings["pixels"], settings["pixels"]).to(device, dtype)
    with torch.no_grad():
        timer = Timer("model(inputs)", globals={"model": model, "inputs": inputs}, num_threads=torch.get_num_threads())
        times = timer.blocked_autorange(min_run_time=seconds)
    n_parameters = sum(p.numel() for p in model.parameters())
    return {**settings, "parameters": n_parameters, "ms": 1e3 * times.median, "ms_iqr": 1e3 * times.iqr}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["torchvision:resnet50", "torchvision:vit_b_16"])
    parser.add_argument("--directions", nargs="*", default=["channels", "depth"])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    prepare_device(options.device)
    for name in options.networks:
        models = build_networks(name, tuple(options.directions), options.pixels)
        calls = []
        for directions, batch in product(models, options.batch):
            settings = dict(
                zip(KEY, (name, directions, options.device, options.dtype, options.pixels, batch), strict=True)
            )
            calls.append((settings, partial(measure_latency, settings, models[directions], options.seconds)))
        for row in run_missing(options.out, KEY, calls, describe_machine(options.device)):
            print(f"{row['network']} {row['directions']} {row['batch']}: {row['ms']:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
