"""Claim: moving the weights of a network costs less than five passes that read and write them.

ResNet-50, GPT-2 small and the shapes of a Llama of one billion parameters (state dict and axes alone, a quarter of the layers), with
random pairs of units in single precision. Inject, restrict and prolong are compared with scipy's sparse products on the same
two-dimensional matrices, with dense products on the largest matrix, and with one pass that reads and writes the same bytes. Results go
to existing memory (``out``), and in a second measurement to new memory, with a pass to new memory as reference. Times are processor
time in rounds that alternate. Ratios within a round are median, minimum and maximum.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/coarsening/transfers.py
    .venv/bin/python benchmarks/coarsening/transfers.py resnet50      # this network again, the other rows stay
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import spread, time_call

import netgraph as ng
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, prolong, restrict
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.environment.torchvision_compat import prepare_torchvision

RESULTS = Path(__file__).parent.parent / "results" / "transfers.json"
ROUNDS = 5


class ShapeSpec:
    """A state dict with its axes, in place of a trace. A matrix has two axes, and the second is summed over."""

    def __init__(self, shapes: dict[str, tuple[int, int]]) -> None:
        self.parameters = {n: ((f"a{s[0]}",), (f"a{s[1]}",)) for n, s in shapes.items()}
        self.sums = {(n, 1): frozenset({f"a{s[1]}"}) for n, s in shapes.items()}
        self.sizes = {f"a{k}": k for s in shapes.values() for k in s}
        self.state = {n: torch.randn(s) for n, s in shapes.items()}
        self.transfers = {axis: random_pairs(k) for axis, k in self.sizes.items()}


def random_pairs(n: int) -> Transfer:
    """Return a transfer of random pairs."""
    return Transfer(np.random.default_rng(n).permutation(np.arange(n) % -(-n // 2)))


def trace_network(model: Any, example: Any) -> tuple[Any, dict[str, Transfer], dict[str, Any]]:
    """Return spec, transfers and state of a network."""
    spec = ng.trace(model, example)
    state = {n: t.detach() for n, t in traced_state(model).items()}
    return spec, {a.name: random_pairs(a.size) for a in spec.free if a.equal is None or a.size % 2 == 0}, state


def resnet50() -> Any:
    """25.6 million parameters."""
    from netgraph.io.model_zoo import build_network

    return trace_network(build_network("torchvision:resnet50", {}), torch.randn(2, 3, 224, 224))


def gpt2() -> Any:
    """124 million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(use_cache=False))
    return trace_network(model, {"input_ids": torch.ones(2, 16, dtype=torch.int64)})


def llama_1b() -> Any:
    """Llama 3.2 1B in shape, with four of its sixteen equal layers: 0.51 of 1.24 billion parameters."""
    shapes = {"embedding": (128256, 2048)}
    for i in range(4):
        shapes |= {f"{i}.{n}": (2048, 2048) for n in "qo"} | {f"{i}.{n}": (512, 2048) for n in "kv"}
        shapes |= {f"{i}.gate": (8192, 2048), f"{i}.up": (8192, 2048), f"{i}.down": (2048, 8192)}
    spec = ShapeSpec(shapes)
    del spec.transfers["a128256"]
    return spec, spec.transfers, spec.state


def call_on_one_thread(function: Callable[[], Any]) -> None:
    """Call a function on one thread. Waiting threads of torch spin, and spinning counts as processor time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    function()
    torch.set_num_threads(before)


def merged_matrices(spec: Any, transfers: Any, state: Any) -> dict[str, tuple[Any, Any, Any]]:
    """Return (R, W, P) of every matrix with two merged axes. Kernels of one pixel count as matrices."""
    out = {}
    for name, tensor in state.items():
        terms = spec.parameters.get(name, ())
        two = terms[:2] if tensor.ndim > 1 and tensor[0, 0].numel() == 1 else ()
        if two and all(len(t) == 1 and t[0] in transfers for t in two):
            r, p = (transfers[t[0]] for t in two)
            out[name] = r.R.astype(np.float32), tensor.flatten(1).numpy(), p.P.astype(np.float32)
    return out


def measure_network(make: Callable[[], Any]) -> dict[str, Any]:
    """Return the measurements of one network."""
    spec, transfers, state = make()
    pairs = merged_matrices(spec, transfers, state)
    coarse = inject(spec, transfers, state)
    memory = {
        n: torch.ones_like(t) for n, t in state.items()
    }  # allocated now, because new pages cost more than the pass
    part = {n: state[n] for n in pairs}
    small, of_part = inject(spec, transfers, state), inject(spec, transfers, part)
    ways: dict[str, Callable[[], Any]] = {
        "read and write": lambda: call_on_one_thread(
            lambda: [torch.add(t, 1, out=memory[n]) for n, t in state.items()]
        ),
        "inject": lambda: inject(spec, transfers, state, out=small),
        "restrict": lambda: restrict(spec, transfers, state, out=small),
        "prolong": lambda: prolong(spec, transfers, coarse, out=memory),
        "inject matrices": lambda: inject(spec, transfers, part, out=of_part),
        "read and write anew": lambda: call_on_one_thread(lambda: [t + 1 for t in state.values()]),
        "inject anew": lambda: inject(spec, transfers, state),
        "restrict anew": lambda: restrict(spec, transfers, state),
        "prolong anew": lambda: prolong(spec, transfers, coarse),
        "inject matrices anew": lambda: inject(spec, transfers, part),
        "scipy matrices": lambda: [r @ w @ p for r, w, p in pairs.values()],
    }
    for function in ways.values():
        function()
    rows = [{n: time_call(function) for n, function in ways.items()} for _ in range(ROUNDS)]
    name = max(pairs, key=lambda n: state[n].numel())
    r, w, p = pairs[name]
    dense = [torch.from_numpy(x.toarray()) for x in (r, p)]
    largest, room = {name: state[name]}, {name: of_part[name]}
    one = [
        time_call(lambda: call_on_one_thread(lambda: dense[0] @ torch.from_numpy(w) @ dense[1]))
        / time_call(lambda: inject(spec, transfers, largest, out=room))
        for _ in range(ROUNDS)
    ]
    moves = ("inject", "restrict", "prolong")
    return {
        "network": make.__name__,
        "numbers": sum(t.numel() for t in state.values()),
        "passes": {n: spread([x[n] / x["read and write"] for x in rows]) for n in moves},
        "passes_anew": {n: spread([x[f"{n} anew"] / x["read and write anew"] for x in rows]) for n in moves},
        "seconds": {n: spread([x[n] for x in rows]) for n in ways},
        "matrices": len(pairs),
        "scipy_times_ours": spread([x["scipy matrices"] / x["inject matrices"] for x in rows]),
        "scipy_times_ours_anew": spread([x["scipy matrices"] / x["inject matrices anew"] for x in rows]),
        "dense_times_ours_on_the_largest": spread(one),
    }


def main(asked: list[str]) -> None:
    """Run the benchmark for all networks, or for the given ones."""
    prepare_torchvision()
    torch.manual_seed(0)
    machine = {
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("torch", "numpy", "numba", "scipy", "torchvision", "transformers")},
        "seed": 0,
        "note": "processor time of all threads; two cores shared with other work; median, least, most",
    }
    rows = {r["network"]: r for r in json.loads(RESULTS.read_text())["rows"]} if asked else {}
    for make in (resnet50, gpt2, llama_1b):  # the last takes 7 GiB
        if not asked or make.__name__ in asked:
            rows[make.__name__] = measure_network(make)
            print(json.dumps(rows[make.__name__]), flush=True)
            RESULTS.write_text(json.dumps({**machine, "rows": list(rows.values())}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
