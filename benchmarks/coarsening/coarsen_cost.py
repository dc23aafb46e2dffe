"""Claim: coarsening large networks takes seconds and little memory, compared with reading their weights from a file.

ResNet-50, ViT-B/16, GPT-2 small and a Llama of one billion parameters, with random weights and one level of half the size by
heavy-edge matching. Each runs in its own process. Measured are seconds and peak resident memory of ``build_hierarchy``, and the
seconds of reading the same weights from a safetensors file. ``--device cuda --dtype bfloat16`` builds the levels of a network that is
on a GPU in half precision, and adds the peak of the GPU's memory.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/coarsening/coarsen_cost.py
    .venv/bin/python benchmarks/coarsening/coarsen_cost.py --only llama_1b --device cuda --dtype bfloat16 --out llama.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from torch.utils._pytree import tree_map

RESULTS = Path(__file__).parent.parent / "results" / "coarsen_cost.json"


def resnet50() -> Any:
    """25.6 million parameters."""
    from netgraph.io.model_zoo import build_network

    return build_network("torchvision:resnet50", {}), torch.randn(2, 3, 224, 224)


def vit_b_16() -> Any:
    """86.6 million parameters."""
    from netgraph.io.model_zoo import build_network

    return build_network("torchvision:vit_b_16", {}), torch.randn(2, 3, 224, 224)


def gpt2() -> Any:
    """124 million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(use_cache=False)), {"input_ids": torch.ones(2, 16, dtype=torch.int64)}


def llama_1b() -> Any:
    """Llama 3.2 1B in shape: 1.24 billion parameters, grouped queries, tied embeddings."""
    return llama(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256)  # fmt: skip


def llama_small() -> Any:
    """The same with two layers of width 64, for a test of this script."""
    return llama(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=512)  # fmt: skip


def llama(**sizes: int) -> Any:
    """Return a Llama of the given sizes, and its example."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**sizes, tie_word_embeddings=True, use_cache=False, pad_token_id=0)
    return LlamaForCausalLM(config), {"input_ids": torch.ones(2, 16, dtype=torch.int64)}


NETWORKS = {make.__name__: make for make in (resnet50, vit_b_16, gpt2, llama_1b, llama_small)}
USUAL = ("resnet50", "vit_b_16", "gpt2", "llama_1b")


def measure_network(name: str, device: str, dtype: str, queue: Any) -> None:
    """Put a row of results into a queue."""
    import netgraph as ng
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    torch.manual_seed(0)
    model, example = NETWORKS[name]()
    model = model.to(device, getattr(torch, dtype))
    floats = getattr(torch, dtype)
    example = tree_map(lambda t: t.to(device, floats if t.is_floating_point() else t.dtype), example)
    reading = time_reading_weights(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    hierarchy = ng.build_hierarchy(model, example)
    if device != "cpu":
        torch.cuda.synchronize()
    row = {
        "name": name, "parameters": [level.n_parameters for level in hierarchy.levels],
        "seconds": time.perf_counter() - started, "seconds_to_read": reading,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "peak_before_gib": before / 2**20,
    }  # fmt: skip
    if device != "cpu":
        row["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    queue.put(row | {"device": device, "dtype": dtype})


def time_reading_weights(model: torch.nn.Module) -> float:
    """Return the seconds of reading the weights from a file in a warm page cache."""
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        save_file({n: p.detach() for n, p in model.named_parameters()}, path)
        started = time.perf_counter()
        sum(float(t.flatten()[0]) + float(t.flatten()[-1]) + float(t.sum()) for t in load_file(path).values())
        return time.perf_counter() - started


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=USUAL, help="only these networks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in options.only:
        queue = context.Queue()
        process = context.Process(target=measure_network, args=(name, options.device, options.dtype, queue))
        process.start()
        rows.append(receive_row(queue, process))
        process.join()
        print(json.dumps(rows[-1]), flush=True)
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    options.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


def receive_row(queue: Any, process: Any) -> Any:
    """Return the row of a process. A process that ended without one has printed why."""
    while True:
        try:
            return queue.get(timeout=2)
        except Empty:
            if not process.is_alive():
                raise SystemExit(f"the process ended with {process.exitcode} and gave no row") from None


if __name__ == "__main__":
    main()
