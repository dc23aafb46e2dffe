"""Claim: ridge fits of recurrent layers leave at most two thirds of the error of a fit of the last layer alone.

Networks of two recurrent layers of 64 units and a linear layer read the eight rows of a picture of `digits` as eight steps. 300 steps of Adam
train them. 512 training inputs are seen by the repair. Errors are relative function errors on the test inputs. ``last layer`` is ridge with the
recurrent layers as merged. ``1 fit`` fits them on the states of the fine layer, ``3 fits`` also on their own, and is what
``--repair ridge`` does.

    .venv/bin/python benchmarks/coarsening/recurrent.py --seeds 3

One thread. Each row is written as soon as it is measured, and existing rows are not measured again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import Row, describe_machine, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.network.functional_error import compute_outputs, function_error
from netgraph.coarsen.repair import recurrent
from netgraph.models import load_dataset

RESULTS = Path(__file__).parent.parent / "results" / "recurrent.jsonl"
KEY = ("method", "network", "seed", "ratio", "repair")
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "LSTM, both directions": (nn.LSTM, {"bidirectional": True}),
    "GRU": (nn.GRU, {}),
    "Elman": (nn.RNN, {}),
}
ROUNDS = {"none": 0, "last layer": 0, "1 fit": 1, "3 fits": 3}


class RowReader(nn.Module):
    """A recurrent network that reads the rows of pictures, (batch, 8, 8)."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.cells = kind(8, 64, 2, batch_first=True, **options)
        self.head = nn.Linear(64 * (1 + self.cells.bidirectional), 10)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.cells(x)[0][:, -1])
        return answer


def train_reader(name: str, seed: int, x: Tensor, y: Tensor) -> nn.Module:
    """Return a trained network."""
    torch.manual_seed(seed)
    kind, options = KINDS[name]
    model = RowReader(kind, **options)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        rows = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def list_jobs(seed: int) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield the settings of each row of a seed, and a function that measures it."""
    digits = load_dataset("digits").flat()
    x, y = digits.train.inputs.reshape(-1, 8, 8), digits.train.targets
    test = digits.test.inputs.reshape(-1, 8, 8), digits.test.targets
    for name in KINDS:
        model = train_reader(name, seed, x, y)
        for method in ("ward", "magnitude"):
            for ratio in (0.75, 0.5):
                for repair in ROUNDS:
                    settings = {"method": method, "network": name, "seed": seed, "ratio": ratio, "repair": repair}
                    yield settings, partial(measure_repair, settings, model, x[:512], test)


def measure_repair(settings: Row, model: nn.Module, seen: Tensor, test: tuple[Tensor, Tensor]) -> Row:
    """Return the row of a smaller network."""
    recurrent.ROUNDS = ROUNDS[settings["repair"]]
    rung = "none" if settings["repair"] == "none" else "ridge"
    level = ng.build_hierarchy(
        model, seen[:2], n_levels=2, coarsener=settings["method"], ratio=settings["ratio"], repair=rung, data=seen
    ).levels[1]
    fine, coarse = (compute_outputs(network.eval(), [test[0]]) for network in (model, level.model))
    accuracies = [100 * float((outputs[0][0].argmax(1) == test[1]).float().mean()) for outputs in (fine, coarse)]
    return settings | {
        "base": round(accuracies[0], 2),
        "accuracy": round(accuracies[1], 2),
        "error": round(function_error(fine, coarse), 4),
    }


def format_table() -> str:
    """Return the means over seeds as a Markdown table: accuracy, and error in brackets."""
    rows, cells = read_rows(RESULTS), dict[tuple[str, float, str], dict[str, list[Row]]]()
    for row in rows:
        key = (row["network"], row["ratio"], row["method"])
        cells.setdefault(key, {}).setdefault(row["repair"], []).append(row)
    lines = [
        "| Network | Base | Kept | Method | " + " | ".join(ROUNDS) + " |",
        "|---|---|---|---|" + "---|" * len(ROUNDS),
    ]
    for (network, ratio, method), repairs in cells.items():
        base = statistics.mean(row["base"] for row in repairs["none"])
        means = [
            f"{statistics.mean(r['accuracy'] for r in repairs[name]):.1f} ({statistics.mean(r['error'] for r in repairs[name]):.2f})"
            for name in ROUNDS
        ]
        lines.append(f"| {network} | {base:.1f} | {ratio:.0%} | `{method}` | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the missing rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        for row in run_missing(RESULTS, KEY, list_jobs(seed), describe_machine() if seed == 0 else None):
            print(row, file=sys.stderr, flush=True)
    print(format_table())


if __name__ == "__main__":
    main()
