"""Claim: a page of 10,000 units loads in 2 s and opens an axis in 0.3 s. A page of 1,000,000 units loads at axis level.

Headless Chromium without a graphics card. Measured are the time from navigation to the second frame after the page has loaded, the time to
open two connected axes (400 units of each are drawn, with their heaviest connections), and to open an aggregate. Each step has the
time on the wall until the second frame after the key, the processor time of the page's main thread, and that of all processes of
the browser, as median, minimum and maximum of the rounds.

    apt-get install chromium chromium-driver
    .venv/bin/pip install -c constraints.txt -e '.[dev]'
    .venv/bin/python benchmarks/viz/pages.py

If the machine has other work, the time on the wall is that of the page only with priority over it (Linux, as root):

    setsid -w sh -c 'echo -20 > /proc/self/autogroup; exec .venv/bin/python benchmarks/viz/pages.py'
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy import sparse
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import median_min_max

import netgraph as ng

RESULTS = Path(__file__).parent.parent / "results" / "pages.json"
ROUNDS = 5
KINDS = ("wall ms", "thread ms", "all processes ms")
FRAMES = (
    "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - t)));"
)
ENTER = "document.getElementById('graph').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));"


def merge_runs(graph: Any, n_coarse: int, *, seed: int = 0) -> Any:
    """Merge runs of consecutive units. The page does not depend on the choice."""
    return np.arange(graph.n_units) * n_coarse // graph.n_units


def no_affinities(units: Any, *, seed: int = 0) -> Any:
    """Return no affinities, because the page does not show them."""
    n = units.spec.axes[units.axis].size
    return sparse.csr_array((n, n))


def build_network(sizes: tuple[int, ...]) -> nn.Module:
    """Return linear layers of these sizes with ReLU."""
    return nn.Sequential(*[layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())][:-1])


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Run the browser with metrics in thread time."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,900",
    ):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    try:
        yield driver
    finally:
        driver.quit()


def main_thread_seconds(driver: Any) -> float:
    """Return the processor seconds of the page's main thread so far."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def browser_seconds(driver: Any) -> float:
    """Return the processor seconds of all processes of the browser so far."""
    times = [p.cpu_times() for p in psutil.Process(driver.service.process.pid).children(recursive=True)]
    return float(sum(t.user + t.system for t in times))


def scheduler_rank() -> str:
    """Return the priority of this session in the Linux scheduler, such as '/autogroup-70 nice -20'."""
    group = Path("/proc/self/autogroup")
    return group.read_text().strip() if group.exists() else "nice " + str(os.nice(0))


def measure_round(path: Path) -> dict[str, tuple[float, ...]]:
    """Return (wall, main thread, all processes) in milliseconds of each step."""
    out: dict[str, tuple[float, ...]] = {}
    with open_chromium() as driver:
        driver.get(path.as_uri())
        wall = driver.execute_async_script("const t = 0; " + FRAMES)
        out["stands"] = wall, 1000 * main_thread_seconds(driver), 1000 * browser_seconds(driver)
        rows = [i for i, x in enumerate(driver.find_elements("css selector", "#axes tbody tr")) if x.text.endswith("d")]
        clicks = [f"document.querySelectorAll('#axes button')[{i}].click(); " for i in rows[:2]]
        for name, script in zip(("an axis", "the next axis", "an aggregate"), [*clicks, ""], strict=True):
            time.sleep(0.5)  # let the page finish the last step
            before, of_all = main_thread_seconds(driver), browser_seconds(driver)
            wall = driver.execute_async_script("const t = performance.now(); " + script + ENTER + FRAMES)
            out[name] = wall, 1000 * (main_thread_seconds(driver) - before), 1000 * (browser_seconds(driver) - of_all)
    return out


def main() -> None:
    """Run the benchmark."""
    torch.manual_seed(0)
    rows = []
    for sizes in ((64, *([1000] * 10), 10), (16, 500_000, 16, 500_000, 10)):
        hierarchy = ng.build_hierarchy(
            build_network(sizes), torch.randn(2, sizes[0]), n_levels=3, coarsener=merge_runs, affinity=no_affinities
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            ng.export(hierarchy, path)
            rounds = [measure_round(path) for _ in range(ROUNDS)]
            row: dict[str, Any] = {"units": hierarchy.levels[0].n_units, "bytes": path.stat().st_size}
        for name in rounds[0]:
            row[name] = {
                kind: [round(value) for value in median_min_max(r[name][i] for r in rounds)]
                for i, kind in enumerate(KINDS)
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    with open_chromium() as driver:
        version = driver.capabilities["browserVersion"]
    machine = {"machine": platform.platform(), "chromium": version, "rounds": ROUNDS}
    shared = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "precedence": scheduler_rank()}
    RESULTS.write_text(
        json.dumps({**machine, **shared, "spread": "median, least, most", "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
