"""Join the parts of `benchmarks/device.sh` in one JSON file: machine, versions, seeds, and for each part its rows or its error.

    python benchmarks/join_parts.py LOGS FOLDER      # called by device.sh at its end

LOGS has the file ``parts`` (name, exit code, seconds and limit of each part, one a line), a log of each part and ``tests.xml``. FOLDER has
the rows in JSON lines and gets ``device.json``.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

PACKAGES = ("netgraph-coarsening", "torch", "torchvision", "transformers", "numpy", "scipy", "numba")
LAST_LINES = 30  # of the output of a part that failed


def describe_versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages, and the commit. None is one that is not there."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {**found, "commit": git.stdout.strip() or None}


def describe_hardware() -> dict[str, Any]:
    """Return the platform, the processors, and the GPU if there is one."""
    machine: dict[str, Any] = {"platform": platform.platform(), "processors": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        machine |= {"gpu": properties.name, "gpu_gib": properties.total_memory / 2**30}
    return machine


def read_tests(path: Path) -> list[dict[str, Any]]:
    """Return one row for each test: its name, its outcome, its seconds, and what a failure says."""
    rows = []
    for case in ElementTree.parse(path).iter("testcase"):
        row = {"test": case.get("name"), "outcome": "passed", "seconds": float(case.get("time", 0))}
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                row |= {"outcome": child.tag, "says": child.get("message")}
        rows.append(row)
    return rows


def read_part(line: str, logs: Path, folder: Path) -> dict[str, Any]:
    """Return the record of a part."""
    name, code, seconds, limit = line.split()
    part: dict[str, Any] = {"part": name, "exit": int(code), "seconds": int(seconds), "limit": int(limit), "rows": []}
    if code != "0":
        part["error"] = "ran past its seconds" if code in ("124", "137") else f"ended with {code}"
        part["output"] = (logs / f"{name}.log").read_text(errors="replace").splitlines()[-LAST_LINES:]
    tests, rows = logs / "tests.xml", folder / f"{name}.jsonl"
    if name == "tests" and tests.exists():
        part["rows"] = read_tests(tests)
    elif rows.exists():
        part["rows"] = [json.loads(text) for text in rows.read_text().splitlines() if text.startswith("{")]
    return part


def main() -> None:
    """Write the joined file, and print one line for each part."""
    logs, folder = map(Path, sys.argv[1:])
    listed = (logs / "parts").read_text().splitlines() if (logs / "parts").exists() else []
    parts = [read_part(line, logs, folder) for line in listed]
    seeds = sorted({row["seed"] for part in parts for row in part["rows"] if "seed" in row})
    joined = {"machine": describe_hardware(), "versions": describe_versions(), "seeds": seeds, "parts": parts}
    (folder / "device.json").write_text(json.dumps(joined, indent=1) + "\n")
    for part in parts:
        print(f"{part['part']}: {part.get('error', 'done')}, {len(part['rows'])} rows, {part['seconds']} s")


if __name__ == "__main__":
    main()
