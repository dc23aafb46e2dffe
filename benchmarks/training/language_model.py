"""Claim: growth from one block to eight by zero or random blocks beats plain training of its cost on bytes of real reviews.

It does not reach plain training of all bytes. A decoder of eight blocks of width 32 (about 114,000 parameters) predicts the
next byte of the IMDB reviews, in windows of 128 bytes. No byte is seen twice. Every method runs a whole schedule of its own (warm-up, stable, decay): plain training, plain
training of 0.6 of the bytes, fewer blocks alone, and growth from fewer blocks by zero, copied, split and random blocks.
``--optimizer`` is AdamW or Muon. ``--tune`` runs `RATES` for each method with seed 100, which no result uses, and the results
take each method's best rate. ``--million`` is the length of a run in millions of bytes. Losses are nats a byte on 262,144 bytes
of the test split. Seconds are processor time of one thread, with the building of levels. A machine that others use too
makes them longer, unevenly. FLOPs are exact.

    NETGRAPH_DATA=... python benchmarks/training/language_model.py --tune --optimizer muon
    NETGRAPH_DATA=... python benchmarks/training/language_model.py --seeds 3 --optimizer muon  # to benchmarks/results/language_model.jsonl
    python benchmarks/training/language_model.py --report
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import TUNING, describe_machine, find_best_rate, make_grid_parser, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_single_level
from netgraph.fas.options import parse_options
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.readers.imdb import read_csv
from netgraph.models.training.tasks import make_cross_entropy
from netgraph.models.transformer import Decoder
from netgraph.optim.optimizers import find_optimizer

RESULTS = Path(__file__).parent.parent / "results" / "language_model.jsonl"
RATES = (4e-3, 8e-3, 1.6e-2)
LENGTH, ROWS, WIDTH, BLOCKS = 128, 16, 32, 8
TEST_BYTES = 2**18
KEY = ("method", "optimizer", "seed", "lr", "million")  # identifies a row


@dataclass(frozen=True)
class Method:
    """One way to train.

    Parameters
    ----------
    share : tuple of float
        Share of the steps on each level, finest first.
    blocks : int
        Blocks of the network that is trained.
    bytes : float
        Share of plain training's bytes that the run sees.
    options : dict of str to str
        Options of the solver.
    levels : dict
        Arguments of `netgraph.build_hierarchy`.
    """

    share: tuple[float, ...] = (1.0,)
    blocks: int = BLOCKS
    bytes: float = 1.0
    options: dict[str, str] = field(default_factory=dict)
    levels: dict[str, Any] = field(default_factory=dict)


def grow(begin: str, at: float, moments: str = "kept", *, blocks: int = 1, **options: str) -> Method:
    """Return growth from a number of blocks to all of them, at a share of the steps."""
    split = {"split.blocks": begin, "split.moments": moments, "split.kind": "none"}
    return Method((1 - at, at), options={**split, **options}, levels={"directions": "depth", "blocks": blocks})


METHODS = {
    "plain": Method(),
    "plain, 0.6 of the bytes": Method(bytes=0.6),
    "one block alone": Method(blocks=1),
    "two blocks alone": Method(blocks=2),
    "four blocks alone": Method(blocks=4),
    "one block, at 0.7 zero": grow("zero", 0.7),
    "one block, at 0.7 zero, asymmetric": grow("zero", 0.7, "asymmetric"),
    "one block, at 0.7 copied": grow("copied", 0.7),
    "one block, at 0.7 split": grow("prolonged", 0.7),
    "one block, at 0.7 random": grow("random", 0.7),
    "one block, at 0.7 random, asymmetric": grow("random", 0.7, "asymmetric"),
    "one block, at 0.7 random, reset": grow("random", 0.7, "reset"),
    "one block, at 0.5 zero, asymmetric": grow("zero", 0.5, "asymmetric"),
    "one block, at 0.5 copied": grow("copied", 0.5),
    "one block, at 0.5 random, asymmetric": grow("random", 0.5, "asymmetric"),
    "two blocks, at 0.5 split": grow("prolonged", 0.5, blocks=2),
    "two blocks, at 0.5 copied": grow("copied", 0.5, blocks=2),
    "four blocks, at 0.7 split": grow("prolonged", 0.7, blocks=4),
    "four blocks, at 0.7 copied": grow("copied", 0.7, blocks=4),
    "one, two, four and eight blocks, split": Method(
        (0.3, 0.2, 0.2, 0.3), options={"split.kind": "none"}, levels={"directions": "depth"}
    ),
    "one, two, four and eight blocks, copied": Method(
        (0.3, 0.2, 0.2, 0.3), options={"split.kind": "none", "split.blocks": "copied"}, levels={"directions": "depth"}
    ),
}


@cache
def load_bytes(split: str, n: int) -> Tensor:
    """Return the first n bytes of a split's reviews in a random order of reviews, with a zero byte between them."""
    texts, _ = read_csv(Path(os.environ["NETGRAPH_DATA"]) / "imdb", split)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    joined = b"\0".join(texts[i].encode() for i in order)
    if len(joined) < n:
        raise SystemExit(f"the reviews have {len(joined):,} bytes, and {n:,} were asked for. Give a smaller --million.")
    return torch.frombuffer(bytearray(joined[:n]), dtype=torch.uint8)


class ByteBatches:
    """Minibatches of windows of bytes, each window once, in the order of a seed."""

    def __init__(self, million: float, seed: int) -> None:
        self.steps = round(million * 1e6) // (ROWS * LENGTH)
        n = self.steps * ROWS
        self.windows = load_bytes("train", n * LENGTH + 1).as_strided((n, LENGTH + 1), (LENGTH, 1))
        self.order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.order.view(self.steps, ROWS):
            window = self.windows[rows].long()
            yield window[:, :-1], window[:, 1:]


@torch.no_grad()
def measure_loss(model: nn.Module) -> float:
    """Return nats a byte on the test split."""
    windows = load_bytes("test", TEST_BYTES + 1).as_strided((TEST_BYTES // LENGTH, LENGTH + 1), (LENGTH, 1)).long()
    loss = make_cross_entropy()
    model.eval()
    parts = [float(loss(model(w[:, :-1]), w[:, 1:])) for w in windows.split(256)]
    return statistics.fmean(parts)


def build_levels(method: Method, seed: int) -> Hierarchy:
    """Return the levels of a method, with first weights of their own."""
    torch.manual_seed(seed)
    sizes = {"width": WIDTH, "n_heads": 2, "n_hidden": 4 * WIDTH, "depth": method.blocks}
    model, example = Decoder(256, **sizes, length=LENGTH, dropout=0.0), torch.zeros(2, LENGTH, dtype=torch.int64)
    if len(method.share) == 1:
        return build_single_level(model, example)
    hierarchy = ng.build_hierarchy(model, example, n_levels=len(method.share), **method.levels)
    ng.init_coarse_weights(hierarchy)
    return hierarchy


def train_once(name: str, optimizer: str, seed: int, lr: float, million: float) -> dict[str, Any]:
    """Train once, and return a row of results."""
    method, batches = METHODS[name], ByteBatches(million, seed)
    load_bytes("test", TEST_BYTES + 1)
    begun = time.thread_time()
    levels = build_levels(method, seed)
    solver = FAS(
        "kaskade", find_optimizer(optimizer), lr, epochs=method.bytes, share=method.share, schedule="wsd",
        weight_decay=0.0, options=parse_options(method.options), seed=seed,
    )  # fmt: skip
    solution = solver.solve(levels, Problem(batches, make_cross_entropy()), every=100)
    seconds = time.thread_time() - begun
    return {
        "method": name, "optimizer": optimizer, "seed": seed, "lr": lr, "million": million, "seconds": seconds,
        "flops": solution.flops, "loss": measure_loss(solution.model),
        "curve": [[r["step"], r["level"], round(r["loss"], 4)] for r in solution.events("smooth")],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return tables: medians over seeds with spread, losses and costs relative to plain with the same optimizer."""
    parts = []
    for million, is_result in sorted({(row["million"], row["seed"] != TUNING) for row in rows}):
        chosen = [r for r in rows if (r["million"], r["seed"] != TUNING) == (million, is_result)]
        parts += [
            f"\n{million:g} million bytes, {'results' if is_result else 'grid of rates, seed 100'}\n",
            "| method | optimizer | rate | n | nats a byte | above plain | FLOPs / plain | seconds / plain |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for key in dict.fromkeys((r["method"], r["optimizer"], r["lr"]) for r in chosen):
            plain = [r for r in chosen if r["method"] == "plain" and r["optimizer"] == key[1]]
            lowest = min(plain, key=lambda row: row["loss"], default={"lr": None})
            runs = [r for r in chosen if (r["method"], r["optimizer"], r["lr"]) == key]
            parts.append(format_row(key, runs, [r for r in plain if r["lr"] == lowest["lr"]]))
    return "\n".join(parts)


def format_row(key: tuple[Any, ...], runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """Return one line of a table."""
    losses = [row["loss"] for row in runs]
    spread = f" ({min(losses):.4f}–{max(losses):.4f})" if len(runs) > 1 else ""
    line = f"| {key[0]} | {key[1]} | {key[2]:g} | {len(runs)} | {statistics.median(losses):.4f}{spread} |"
    if not plain:
        return f"{line} | | |"
    base = {kind: statistics.median(r[kind] for r in plain) for kind in ("flops", "seconds", "loss")}
    cost = {kind: statistics.median(row[kind] for row in runs) / base[kind] for kind in base}
    return f"{line} {cost['loss'] - 1:+.1%} | {cost['flops']:.2f} | {cost['seconds']:.2f} |"


def main() -> None:
    """Run the benchmark."""
    parser = make_grid_parser(__doc__, RESULTS, RATES)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--million", type=float, default=3.0, help="millions of bytes of a run")
    parser.add_argument("--only", nargs="*", help="only these methods")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows))
        return
    torch.set_num_threads(1)
    names = [name for name in METHODS if not options.only or name in options.only]
    seeds = [TUNING] if options.tune else range(options.seeds)
    calls = []
    for seed, name in ((seed, name) for seed in seeds for name in names):
        setting = {"optimizer": options.optimizer, "million": options.million}
        for lr in options.rates if options.tune else [find_best_rate(rows, {"method": name, **setting})]:
            settings = {**setting, "seed": seed, "lr": lr}
            calls.append(({"method": name, **settings}, partial(train_once, name, **settings)))
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        print(
            f"{row['method']} {row['optimizer']} {row['seed']} {row['lr']:g}: {row['loss']:.4f} nats, {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
