"""Claim: netgraph traces, coarsens by half and runs popular networks, exactly for duplicate units.

Each network has random weights. It is traced or refused by name, coarsened by half with heavy-edge matching, run, and trained for one
step. Both oracles run on all axes at once in float32 and in float64 (in float32 again if the network casts or is too large). Seconds
count from the module to the coarse network. torch-pruning with its defaults runs for comparison. Each network is a line of JSON
in ``benchmarks/results/zoo.jsonl``. With ``--newer`` the networks are those of `newer_networks.py`, on no list before, and the lines
are in ``benchmarks/results/newer_networks.jsonl``. The duplicate-unit oracle then runs on another batch, too.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/networks/zoo.py [--newer] [--only SUBSTRING ...] [--no-rival] [--part K/N] [--limit S] [--summary FILE ...]

Each network uses one thread. On a few shared cores, small operators wait longer for a second thread than they work.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import HEAVY, BuiltNetwork, all_networks
from newer_networks import draw_other_batch, newer_networks

RESULTS = Path(__file__).parent.parent / "results"
LIMIT = 240  # seconds for each network, unless --limit changes it
# torch-pruning gets an eighth of the limit. It hangs on some networks, and no finished one took half of these 30 s.
RIVAL_SHARE = 8
TOLERANCE = 1e-4  # largest relative error with which an oracle passes
LIBRARIES = (
    "torchvision", "timm", "transformers", "diffusers", "torch-geometric", "segmentation-models-pytorch", "monai", "kornia", "x-transformers",
    "vit-pytorch", "denoising-diffusion-pytorch", "open_clip_torch", "perceiver-pytorch", "performer-pytorch", "linformer", "conformer", "iTransformer",
    "tab-transformer-pytorch", "rtdl_revisiting_models", "efficientnet-pytorch", "facenet-pytorch", "demucs", "egnn-pytorch", "pytorch-tcn", "torch-pruning",
)  # fmt: skip


def coarsen_network(make: Callable[[], BuiltNetwork]) -> dict[str, Any]:
    """Return a row about netgraph on a network."""
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
    from netgraph.coarsen.hierarchy.report import measure_coverage
    from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
    from netgraph.errors import NetgraphError

    torch.manual_seed(0)
    build_hierarchy(*warm_up())
    model, example = make()
    row: dict[str, Any] = {"traced": False, "coarsened": False, "ran": False, "trained": False}
    try:
        started, worked = time.perf_counter(), time.process_time()
        hierarchy = build_hierarchy(model, example)
        row["seconds"], row["processor"] = time.perf_counter() - started, time.process_time() - worked
    except NetgraphError as error:
        return {**row, "refused": f"{type(error).__name__}: {error}"}
    row |= {"traced": True, "coarsened": True, "ran": True}
    coarse, spec = hierarchy.levels[1].model, hierarchy.levels[0].spec
    row["parameters"] = [level.n_parameters for level in hierarchy.levels]
    row["merged_share"] = measure_coverage(hierarchy)[0]
    try:
        row["trained"] = train_step(coarse, example)
    except NetgraphError as error:  # such as a training mode that could not be recorded
        row |= {"trained": False, "untrained": f"{type(error).__name__}: {error}"}
    for oracle, judge in (("duplicate", check_duplicate_units), ("dead", check_dead_units)):
        single = judge(model, spec, example, spec.free, double=False)
        double = judge(model, spec, example, spec.free)
        row[oracle] = [v.error if v.error is not None else v.note for v in (single, double)]
    other = draw_other_batch(example)
    if other is not None:
        row["other_batch"] = judge_other_batch(model, spec, other)
    return row


def judge_other_batch(model: torch.nn.Module, spec: Any, example: Any) -> float | str:
    """Return the error of the duplicate-unit oracle on another batch, or why there is none."""
    from netgraph.coarsen.network.oracles import check_duplicate_units
    from netgraph.errors import NetgraphError

    try:
        verdict = check_duplicate_units(model, spec, example, spec.free)
    except NetgraphError as error:  # a fixed size, or another outcome of a decision on the inputs
        return f"{type(error).__name__}: {error}"
    return verdict.note if verdict.error is None else verdict.error


def warm_up() -> BuiltNetwork:
    """Return a small network, whose run imports modules and compiles kernels before the clock starts.

    Its axes are odd, divided into blocks, wider than the comparison of all pairs, and of too many units for it. Each kind uses
    different kernels.
    """
    layers = [torch.nn.Conv2d(3, 13, 3), torch.nn.BatchNorm2d(13), torch.nn.ReLU(), torch.nn.Conv2d(13, 300, 1)]
    layers += [torch.nn.Conv2d(300, 6, 6), torch.nn.Flatten(), torch.nn.Linear(6, 2100), torch.nn.Linear(2100, 4)]
    return torch.nn.Sequential(*layers), torch.randn(2, 3, 8, 8)


def train_step(model: torch.nn.Module, example: Any) -> bool:
    """Return True if all gradients of one training step are finite."""
    from netgraph.coarsen.network.compare_outputs import collect_tensors
    from netgraph.utils.pytree import normalize_example

    args, kwargs = normalize_example(example)
    model.train()
    loss = sum(t.float().square().mean() for t in collect_tensors(model(*args, **kwargs)) if t.is_floating_point())
    loss.backward()  # type: ignore[union-attr]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(grads) and all(bool(torch.isfinite(g).all()) for g in grads)


def prune_network(make: Callable[[], BuiltNetwork]) -> dict[str, Any]:
    """Return a row about torch-pruning: half of the channels by magnitude, with its defaults."""
    import torch_pruning as tp

    torch.manual_seed(0)
    tp.pruner.MagnitudePruner(*warm_up(), importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5).step()
    model, example = make()
    model.eval()
    before = sum(p.numel() for p in model.parameters())
    row: dict[str, Any] = {"ran": False}
    try:
        started, worked = time.perf_counter(), time.process_time()
        outputs = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1:]
        pruner = tp.pruner.MagnitudePruner(
            model, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=outputs
        )
        pruner.step()
        row["seconds"], row["processor"] = time.perf_counter() - started, time.process_time() - worked
        with torch.no_grad():
            model(**example) if isinstance(example, dict) else model(
                *(example if isinstance(example, tuple) else (example,))
            )
        row["ran"] = True
        row["parameters"] = [before, sum(p.numel() for p in model.parameters())]
        row["silent_no_op"] = row["parameters"][0] == row["parameters"][1]
    except Exception as error:  # a failure of the rival is a result
        row["failed"] = f"{type(error).__name__}: {str(error)[:200]}"
    return row


def _run_child(queue: Any, measure: Callable[..., dict[str, Any]], make: Callable[[], BuiltNetwork]) -> None:
    torch.set_num_threads(1)
    try:
        queue.put(measure(make))
    except Exception as error:
        queue.put({"crashed": f"{type(error).__name__}: {str(error)[:300]}"})


def run_apart(measure: Callable[..., dict[str, Any]], make: Callable[[], BuiltNetwork], limit: int) -> dict[str, Any]:
    """Measure a network in its own process, for at most ``limit`` seconds."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_run_child, args=(queue, measure, make))
    process.start()
    try:
        row: dict[str, Any] = queue.get(timeout=limit)
    except Exception:
        row = {"crashed": f"no answer in {limit} s"}
    process.terminate()
    process.join()
    return row


def format_summary(rows: list[dict[str, Any]]) -> str:
    """Return the counts that the README quotes."""
    ours = [r["netgraph"] for r in rows]
    coarsened = [r for r in ours if r.get("coarsened")]
    both = [
        (r["netgraph"]["processor"], r["torch-pruning"]["processor"])
        for r in rows
        if "processor" in r["netgraph"] and "processor" in r.get("torch-pruning", {})
    ]
    lines = [
        f"{len(rows)} networks: {len(coarsened)} coarsened, {sum('refused' in r for r in ours)} refused by name, "
        f"{sum('crashed' in r for r in ours)} crashed",
        f"of those coarsened: {sum(r['trained'] for r in coarsened)} trained a step; relative errors of the oracles",
    ]
    for oracle in ("duplicate", "dead"):
        for place, precision in enumerate(("float32", "float64")):
            errors = [r[oracle][place] for r in coarsened if isinstance(r[oracle][place], float)]
            lines.append(
                f"  {oracle} unit in {precision}: {sum(e < 1e-4 for e in errors)} of {len(errors)} below 1e-4, median "
                f"{statistics.median(errors):.1e}, largest {max(errors):.1e}; not applicable to {len(coarsened) - len(errors)}"
            )
    if both:
        ratios = sorted(a / b for a, b in both)
        lines.append(
            f"processor time, netgraph over torch-pruning: median {statistics.median(ratios):.2f} of {len(both)}"
        )
        rivals = [r["torch-pruning"] for r in rows]
        lines.append(
            f"torch-pruning: {sum(r.get('ran', False) and not r.get('silent_no_op') for r in rivals)} ran smaller, "
            f"{sum(bool(r.get('silent_no_op')) for r in rivals)} silently unchanged"
        )
    return "\n".join(lines)


def format_libraries(rows: list[dict[str, Any]]) -> str:
    """Return a row of the README's table for each library."""
    libraries: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        libraries.setdefault(row["name"].partition(":")[0], []).append(row)
    lines = []
    for name, members in libraries.items():
        ours = [row["netgraph"] for row in members]
        rivals = [row.get("torch-pruning", {}) for row in members]
        counts = [
            len(members),
            sum(bool(r.get("coarsened")) for r in ours),
            sum(bool(r.get("trained")) for r in ours),
            sum(passes(r.get("duplicate", [None])[-1]) for r in ours),
            sum(passes(r.get("other_batch")) for r in ours),
            sum(bool(r.get("ran")) and not r.get("silent_no_op") for r in rivals),
        ]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def passes(error: float | str | None) -> bool:
    """Return True for an error of an oracle that is small enough."""
    return isinstance(error, float) and error < TOLERANCE


def list_versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in LIBRARIES if name in installed}


def select_part(names: list[str], k: int, n: int) -> list[str]:
    """Return every n-th light network from the k-th on, and all heavy ones if k is 0. Two heavy ones at once fill the memory."""
    heavy = [name for name in names if name.partition(":")[2].startswith(HEAVY)]
    light = [name for name in names if name not in heavy]
    return light[k::n] + (heavy if k == 0 else [])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--newer", action="store_true", help="networks on no list before")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--part", default="0/1", help="K/N: part K of N parallel runs. The first gets all heavy networks"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for each network")
    parser.add_argument("--summary", nargs="*", type=Path, help="print the summary of existing results")
    options = parser.parse_args()
    if options.summary:
        lines = [json.loads(line) for file in options.summary for line in file.read_text().splitlines()]
        rows = [line for line in lines if "name" in line]
        print(format_summary(rows))
        print(format_libraries(rows))
        return
    networks = dict(newer_networks() if options.newer else all_networks())
    names = [name for name in networks if not options.only or any(o in name for o in options.only)]
    out = options.out or RESULTS / ("newer_networks.jsonl" if options.newer else "zoo.jsonl")
    names = select_part(names, *map(int, options.part.split("/")))
    measured: list[dict[str, Any]] = []
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], text=True).strip()
    with out.open("w") as file:
        machine: dict[str, Any] = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1, "seed": 0}
        machine["versions"] = list_versions()
        file.write(json.dumps(machine) + "\n")
        for name in names:
            row: dict[str, Any] = {
                "name": name,
                "commit": commit,
                "netgraph": run_apart(coarsen_network, networks[name], options.limit),
            }
            if not options.no_rival:
                row["torch-pruning"] = run_apart(prune_network, networks[name], options.limit // RIVAL_SHARE)
            measured.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(name, json.dumps(row["netgraph"])[:260], flush=True)
    print(format_summary(measured))


if __name__ == "__main__":
    main()
