"""Claim: coarsening large networks takes seconds and little memory, compared with reading their weights from a file.

ResNet-50, ViT-B/16, GPT-2 small and a Llama of one billion parameters, with random weights and one level of half the size by
heavy-edge matching. Each runs in its own process. Measured are seconds and peak resident memory of ``build_hierarchy``, and the
seconds of reading the same weights from a safetensors file.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/coarsening/coarsen_cost.py
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, tie_word_embeddings=True, use_cache=False, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": torch.ones(2, 16, dtype=torch.int64)}


def measure_network(make: Callable[[], Any], queue: Any) -> None:
    """Put a row of results into a queue."""
    import netgraph as ng
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    model, example = make()
    reading = time_reading_weights(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    hierarchy = ng.build_hierarchy(model, example)
    seconds = time.perf_counter() - started
    queue.put(
        {
            "name": make.__name__,
            "parameters": [level.n_parameters for level in hierarchy.levels],
            "seconds": seconds,
            "seconds_to_read": reading,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "peak_before_gib": before / 2**20,
        }
    )


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
    context = multiprocessing.get_context("spawn")
    rows = []
    for make in (resnet50, vit_b_16, gpt2, llama_1b):
        queue = context.Queue()
        process = context.Process(target=measure_network, args=(make, queue))
        process.start()
        rows.append(queue.get(timeout=900))
        process.join()
        print(json.dumps(rows[-1]), flush=True)
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULTS.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
