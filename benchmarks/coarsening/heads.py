"""Claim: half of the heads and feed-forward neurons of a trained IMDB classifier can go, and its accuracy stays within a point;
without repair only where heads merge in one basis.

The residual stream keeps its width. Pairs of heads and neurons merge by `hem`, heads alike by the cosine of their rows or by
their circuits, in one basis or in the bases that they have; beside them, in the same run, random pairs and pruning by
magnitude, all with the same repairs, fitted on 512 training reviews without labels. Accuracy is that of the same 2,000 test
reviews for all, whose deviation is 0.8 points; "error" is the relative function error there.

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
    """How units are chosen, and whether heads are brought to one basis before they merge."""

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
    """Yield what each way and repair leaves of a network's accuracy."""
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


def format_table(found: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: accuracy, and the function error in brackets."""
    lines = ["| way | " + " | ".join(f"`{rung}`" for rung in RUNGS) + " |", "|---|" + "---|" * len(RUNGS)]
    for way in dict.fromkeys(HeadMethod(*(row[name] for name in HeadMethod._fields)) for row in found):
        mine = [row for row in found if HeadMethod(*(row[name] for name in HeadMethod._fields)) == way]
        cells = []
        for rung in RUNGS:
            of = [row for row in mine if row["repair"] == rung]
            mean = [sum(row[key] for row in of) / max(len(of), 1) for key in ("accuracy", "error")]
            cells.append(f"{mean[0]:.1f} ({mean[1]:.3f})")
        basis = ", one basis" if way.one_basis else ""
        lines.append(f"| `{way.coarsener}`, {way.affinity}{basis} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure every seed that is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of trained networks")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for row in measure_methods(load_trained("transformer", seed, given.folder), load_data("transformer"), seed):
            found.append(row)
            RESULTS.write_text("".join(json.dumps(r) + "\n" for r in found))
    print(f"base {sum(r['base'] for r in found) / max(len(found), 1):.1f}\n\n{format_table(found)}")


if __name__ == "__main__":
    main()
