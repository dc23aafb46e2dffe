"""Claim: growth from one block to eight by zero or random blocks beats plain training of its cost on bytes of real reviews in short runs.

Over 200 bytes a parameter it does not, and it never reaches plain training of all bytes. A decoder of eight blocks of width 32 (about 114,000 parameters) predicts the
next byte of the IMDB reviews, in windows of 128 bytes. No byte is seen twice. Every method runs a whole schedule of its own (warm-up, stable, decay): plain training, plain
training of 0.6 of the bytes, fewer blocks alone, and growth from fewer blocks by zero, copied, split and random blocks.
``--optimizer`` is AdamW or Muon. ``--tune`` runs `RATES` for each method with seed 100, which no result uses, and the results
take each method's best rate. ``--million`` is the length of a run in millions of bytes. ``--width 512 --rows 64 --length 256 --bf16
--device cuda`` is a decoder of 25 million parameters on a GPU, and ``--width 1024`` one of 100 million. Losses are nats a byte on 262,144
bytes of the test split. Seconds are processor time of one thread, on a GPU time on the clock, with the building of levels. A machine that
others use too makes them longer, unevenly. FLOPs are exact.

    NETGRAPH_DATA=... python benchmarks/training/language_model.py --tune --optimizer muon
    NETGRAPH_DATA=... python benchmarks/training/language_model.py --seeds 3 --optimizer muon  # to benchmarks/results/language_model.jsonl
    python benchmarks/training/language_model.py --report     # tables, and docs/pictures/language_model.svg
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import (
    TUNING,
    describe_machine,
    find_best_rate,
    make_grid_parser,
    prepare_device,
    read_rows,
    row_key,
    run_missing,
)

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_single_level
from netgraph.fas.options.text import parse_options
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.readers.imdb import read_csv
from netgraph.models.training.tasks import make_cross_entropy
from netgraph.models.transformer import Decoder
from netgraph.optim.optimizers import find_optimizer

RESULTS = Path(__file__).parent.parent / "results" / "language_model.jsonl"
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "language_model.svg"
RATES = (4e-3, 8e-3, 1.6e-2)
TEST_BYTES = 2**18
SIZES = ("width", "blocks", "length", "rows", "million", "bf16")
TABLE = ("optimizer", *SIZES)  # what a rate depends on, beside the method
KEY = ("method", *TABLE, "lr", "seed")  # identifies a row


@dataclass(frozen=True)
class Method:
    """One way to train.

    Parameters
    ----------
    share : tuple of float
        Share of the steps on each level, finest first.
    blocks : int, optional
        Blocks of the network that is trained. By default all.
    bytes : float
        Share of plain training's bytes that the run sees.
    options : dict of str to str
        Options of the solver.
    levels : dict
        Arguments of `netgraph.build_hierarchy`.
    """

    share: tuple[float, ...] = (1.0,)
    blocks: int | None = None
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
    "four blocks, at 0.85 random, asymmetric": grow("random", 0.85, "asymmetric", blocks=4),
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


def cut_windows(split: str, n: int, length: int) -> Tensor:
    """Return the first n windows of a split, each with the byte that follows it."""
    return load_bytes(split, n * length + 1).as_strided((n, length + 1), (length, 1))


class ByteBatches:
    """Minibatches of windows of bytes, each window once, in the order of a seed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.rows, length = settings["rows"], settings["length"]
        self.steps = round(settings["million"] * 1e6) // (self.rows * length)
        n = self.steps * self.rows
        self.windows = cut_windows("train", n, length)
        self.order = torch.randperm(n, generator=torch.Generator().manual_seed(settings["seed"]))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.order.view(self.steps, self.rows):
            window = self.windows[rows].long()
            yield window[:, :-1], window[:, 1:]


@torch.no_grad()
def measure_loss(model: nn.Module, length: int, device: str) -> float:
    """Return nats a byte on the test split."""
    loss = make_cross_entropy()
    model.eval()
    parts = [w.long().to(device) for w in cut_windows("test", TEST_BYTES // length, length).split(256)]
    return statistics.fmean(float(loss(model(w[:, :-1]), w[:, 1:])) for w in parts)


def build_levels(method: Method, settings: dict[str, Any], device: str) -> Hierarchy:
    """Return the levels of a method, with first weights of their own."""
    torch.manual_seed(settings["seed"])
    width, length = settings["width"], settings["length"]
    sizes = {"n_heads": max(width // 64, 2), "n_hidden": 4 * width, "depth": method.blocks or settings["blocks"]}
    model = Decoder(256, width=width, **sizes, length=length, dropout=0.0).to(device)
    example = torch.zeros(2, length, dtype=torch.int64, device=device)
    if len(method.share) == 1:
        return build_single_level(model, example)
    hierarchy = ng.build_hierarchy(model, example, n_levels=len(method.share), **method.levels)
    ng.init_coarse_weights(hierarchy)
    return hierarchy


def train_once(settings: dict[str, Any], device: str) -> dict[str, Any]:
    """Train once with the settings of a row, and return the row with its results."""
    method, batches, clock = METHODS[settings["method"]], ByteBatches(settings), prepare_device(device)
    load_bytes("test", TEST_BYTES + 1)
    begun = clock()
    levels = build_levels(method, settings, device)
    options = parse_options({**method.options, "smoothing.bf16": str(settings["bf16"]).lower()})
    solver = FAS(
        "kaskade", find_optimizer(settings["optimizer"]), settings["lr"], epochs=method.bytes, share=method.share, schedule="wsd",
        weight_decay=0.0, options=options, seed=settings["seed"],
    )  # fmt: skip
    solution = solver.solve(levels, Problem(batches, make_cross_entropy()), every=100)
    seconds = clock() - begun
    return {
        **settings, "seconds": seconds, "flops": solution.flops, "parameters": levels.levels[0].n_parameters,
        "loss": measure_loss(solution.model, settings["length"], device),
        "curve": [[r["step"], r["level"], round(r["loss"], 4)] for r in solution.events("smooth")],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return tables: medians over seeds with spread, losses and costs relative to plain with the same optimizer."""
    parts = []
    for sizes in dict.fromkeys((row_key(row, SIZES), row["seed"] != TUNING) for row in rows):
        chosen = [r for r in rows if (row_key(r, SIZES), r["seed"] != TUNING) == sizes]
        (width, blocks, length, n_rows, million, bf16), is_result = sizes
        parts += [
            f"\n{million:g} million bytes, {blocks} blocks of width {width}, {n_rows} windows of {length} bytes"
            f"{', bfloat16' if bf16 else ''}, {'results' if is_result else 'grid of rates, seed 100'}\n",
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


def list_gaps(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Return by method and optimizer how far above plain training it ends, in percent, against millions of bytes.

    Each run is compared with the lowest plain run of its seed, sizes and optimizer. Methods with one horizon are left out.
    """
    lowest: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if row["method"] == "plain":
            key = row_key(row, (*TABLE, "seed"))
            lowest[key] = min(row["loss"], lowest.get(key, row["loss"]))
    gaps: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows:
        base = lowest.get(row_key(row, (*TABLE, "seed")))
        if base is not None and row["method"] != "plain":
            of_method = gaps.setdefault((row["method"], row["optimizer"]), {})
            of_method.setdefault(row["million"], []).append(100 * (row["loss"] / base - 1))
    lines = {key: sorted((x, min(ys)) for x, ys in points.items()) for key, points in gaps.items()}
    return {key: points for key, points in lines.items() if len(points) > 1}


def draw_picture(rows: list[dict[str, Any]]) -> None:
    """Draw how far above plain training each method ends, against the length of the run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.0, 4.2), layout="constrained")
    lines = list_gaps([row for row in rows if (row["width"], row["blocks"]) == (32, 8)])
    for (method, optimizer), points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{method} ({optimizer})")
    axes.set(
        xscale="log", ylim=(0, None), xlabel="millions of bytes of a run", ylabel="nats a byte, % above plain training"
    )
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    plt.close(figure)


def parse_command_line() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_grid_parser(__doc__, RESULTS, RATES)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--million", type=float, default=3.0, help="millions of bytes of a run")
    parser.add_argument("--width", type=int, default=32, help="width of the decoder")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of the decoder")
    parser.add_argument("--length", type=int, default=128, help="bytes of a window")
    parser.add_argument("--rows", type=int, default=16, help="windows of a minibatch")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="only these methods")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = parse_command_line()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows))
        draw_picture(rows)
        return
    table = {name: getattr(options, name) for name in TABLE}
    names = [name for name in METHODS if not options.only or name in options.only]
    calls = []
    for seed, name in product([TUNING] if options.tune else range(options.seeds), names):
        for lr in options.rates if options.tune else [find_best_rate(rows, {"method": name, **table})]:
            settings = {"method": name, **table, "lr": lr, "seed": seed}
            calls.append((settings, partial(train_once, settings, options.device)))
    prepare_device(options.device)
    for row in run_missing(options.out, KEY, calls, describe_machine(options.device)):
        print(
            f"{row['method']} {row['optimizer']} {row['seed']} {row['lr']:g}: {row['loss']:.4f} nats, {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
