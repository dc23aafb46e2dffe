"""Claim: half of the heads and feed-forward neurons of a trained IMDB classifier can merge within one point of accuracy.

Without repair, this holds only if heads merge in one basis. The residual stream keeps its width. Pairs of heads and neurons merge by
`hem`, with the cosine of the rows of heads or their circuits as affinity, in one basis or in their own bases. The same run has random
pairs and pruning by magnitude, with the same repairs, fitted on 512 training reviews without labels. Accuracies are on the same 2,000
test reviews, with a standard deviation of 0.8 points. "error" is the relative function error on them.

    .venv/bin/python benchmarks/coarsening/trained.py --folder nets --network transformer
    .venv/bin/python benchmarks/coarsening/heads.py --folder nets

One thread. Rows go to ``benchmarks/results/heads.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from merging import TestScore
from torch import nn
from trained import load_data, load_trained

import netgraph as ng
from netgraph.coarsen.network.head_alignment import find_rotatable_axes, rotate_to_one_basis
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.repair.pipeline import repair_network

RESULTS = Path(__file__).parent.parent / "results" / "heads.jsonl"
RUNGS = ("none", "ridge")
SEEN, JUDGED = 512, 2000


class HeadMethod(NamedTuple):
    """How units are merged: a coarsener, an affinity, and True if heads are rotated to one basis first."""

    coarsener: str
    affinity: str
    one_basis: bool


WAYS = (
    HeadMethod("hem", "circuits", True),
    HeadMethod("hem", "circuits", False),
    HeadMethod("magnitude", "cosine", False),
    HeadMethod("random", "cosine", True),
    HeadMethod("hem", "cosine", True),
    HeadMethod("random", "cosine", False),
    HeadMethod("hem", "cosine", False),
)


def measure_methods(base: nn.Module, data: Any, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each method and repair of one network."""
    order = torch.Generator().manual_seed(seed + 1)
    seen = data.ready(data.train.inputs[torch.randperm(len(data.train), generator=order)[:SEEN]])
    judge, spec = TestScore(base, data, JUDGED), ng.trace(base, seen[:2])
    halved = [axis.name for axis in spec.free if axis.kind == "head" or axis.name.endswith(".up")]
    rotating = find_rotatable_axes(base, spec, seen[:2], halved)
    head = {"seed": seed, "base": judge.base, "judged": JUDGED, "seen": SEEN}
    for way in WAYS:
        started = time.process_time()
        transfers = ng.build_hierarchy(
            base, seen[:2], n_levels=2, coarsener=way.coarsener, affinity=way.affinity, spec=spec,
            ratio={"*": 1.0, **dict.fromkeys(halved, 0.5)}, seed=seed,
        ).levels[1].transfers  # fmt: skip
        fine = rotate_to_one_basis(base, spec, transfers, rotating) if way.one_basis else base
        spent = time.process_time() - started
        for rung in RUNGS:
            started, network = time.process_time(), coarse_network(fine, spec, transfers).eval()
            repair_network(fine, spec, transfers, network, rung=rung, data=seen)
            seconds = round(spent + time.process_time() - started, 2)
            sizes = {"units": {axis: t.n_coarse for axis, t in transfers.items()}}
            yield head | way._asdict() | {"repair": rung, **judge(network), "seconds": seconds, **sizes}


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table of accuracy, with the function error in parentheses."""
    lines = ["| way | " + " | ".join(f"`{rung}`" for rung in RUNGS) + " |", "|---|" + "---|" * len(RUNGS)]
    for way in dict.fromkeys(HeadMethod(*(row[name] for name in HeadMethod._fields)) for row in rows):
        method_rows = [row for row in rows if HeadMethod(*(row[name] for name in HeadMethod._fields)) == way]
        cells = []
        for rung in RUNGS:
            cell_rows = [row for row in method_rows if row["repair"] == rung]
            mean = [sum(row[key] for row in cell_rows) / max(len(cell_rows), 1) for key in ("accuracy", "error")]
            cells.append(f"{mean[0]:.1f} ({mean[1]:.3f})")
        basis = ", one basis" if way.one_basis else ""
        lines.append(f"| `{way.coarsener}`, {way.affinity}{basis} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for row in measure_methods(load_trained("transformer", seed, options.folder), load_data("transformer"), seed):
            rows.append(row)
            RESULTS.write_text("".join(json.dumps(r) + "\n" for r in rows))
    print(f"base {sum(r['base'] for r in rows) / max(len(rows), 1):.1f}\n\n{format_table(rows)}")


if __name__ == "__main__":
    main()
