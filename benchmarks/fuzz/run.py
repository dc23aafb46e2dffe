"""Claim: what netgraph reads from strangers is accepted or refused by one sentence, within 2 seconds and 512 MiB, whatever the bytes.

Coverage-guided fuzzing by atheris (libFuzzer) over the targets of `target_table.py`. It runs for as long as is asked, outside the gate.

    pip install atheris                                                # Linux, Python 3.11 to 3.13. No extra of netgraph needs it.
    python benchmarks/fuzz/run.py --minutes 40                         # all targets, results in benchmarks/results/fuzz.json
    python benchmarks/fuzz/run.py --minutes 10 --target npy --dry      # one target, results on stdout alone
    python benchmarks/fuzz/run.py --replay FILE --target npy           # one input

Each target runs in a process of its own, with a limit of memory. An input that fails is kept in the folder ``--faults``, once for each
kind and place of failure, and the run goes on. A process that dies is counted as a fault and begun again with the next seed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "fuzz.json"
PACKAGES = (
    "netgraph-coarsening",
    "atheris",
    "torch",
    "numpy",
    "scipy",
    "safetensors",
    "tokenizers",
    "transformers",
    "pillow",
    "networkx",
)
LENGTH = 4096  # most bytes of an input


def run_child(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Fuzz one target in this process until the time is over. libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["netgraph"], exclude=list_compiled_modules()):
        from target_table import find_target, list_corpus
        from watching import Watch, limit_memory

        from netgraph.errors import NetgraphError

        target = find_target(name)
        watch = Watch(target)
        warnings.simplefilter("ignore")
        inputs = [*target.seeds(), *(path.read_bytes() for path in list_corpus(name))]
        for data in inputs:  # what is imported on first use is instrumented, and not counted as memory of an input
            with contextlib.suppress(NetgraphError):
                target.check(data, watch.folder)
    for number, data in enumerate(inputs):
        (folder / "corpus" / f"seed{number}").write_bytes(data)
    known: set[str] = set()

    def test_one_input(data: bytes) -> None:
        fault = watch.find_fault(data)
        if fault is not None and fault.signature not in known:
            known.add(fault.signature)
            keep_fault(folder, name, data, fault)

    def mutate(data: bytes, size: int, number: int) -> bytes:
        assert target.mutate is not None
        changed = target.mutate(data, random.Random(number))
        return atheris.Mutate(data, size) if changed is None else changed[:size]

    limit_memory()
    arguments = [
        "fuzz",
        str(folder / "corpus"),
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={LENGTH}",
        "-timeout=60",
    ]
    arguments += ["-rss_limit_mb=0", f"-artifact_prefix={folder}/dead-", "-print_final_stats=1", "-verbosity=1"]
    options = {} if target.mutate is None else {"custom_mutator": mutate}
    atheris.Setup(arguments, test_one_input, **options)
    atheris.Fuzz()


def list_compiled_modules() -> list[str]:
    """Return the modules of kernels that numba compiles. It refuses bytecode with instruments in it."""
    root = HERE.parent.parent
    files = [
        path for package in ("netgraph", "coarsen", "fas", "models", "viz") for path in (root / package).rglob("*.py")
    ]
    compiled = [
        path.relative_to(root).with_suffix("")
        for path in files
        if "@compile_kernel" in path.read_text(encoding="utf-8")
    ]
    names = [".".join(path.parts) for path in compiled]
    return [name if name.startswith("netgraph.") else f"netgraph.{name}" for name in names]


def keep_fault(folder: Path, name: str, data: bytes, fault: Any) -> None:
    """Write an input that failed, and what went wrong."""
    digest = hashlib.sha256(data).hexdigest()[:12]
    (folder / f"fault-{name}-{digest}").write_bytes(data)
    with (folder / "faults.jsonl").open("a") as file:
        file.write(
            json.dumps({"target": name, "input": digest, "signature": fault.signature, "text": fault.text}) + "\n"
        )


def fuzz_target(name: str, seconds: float, seed: int, faults: Path) -> dict[str, Any]:
    """Fuzz one target in processes of its own for some seconds, and return its row of the results."""
    row: dict[str, Any] = {
        "target": name,
        "seed": seed,
        "minutes": 0.0,
        "executions": 0,
        "edges": 0,
        "features": 0,
        "inputs": 0,
        "died": 0,
    }
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    (folder / "corpus").mkdir()
    begun = time.monotonic()
    while (left := seconds - (time.monotonic() - begun)) > 5:
        command = [
            sys.executable,
            str(HERE / "run.py"),
            "--child",
            name,
            "--seed",
            str(seed + row["died"]),
            "--minutes",
            str(left / 60),
            "--faults",
            str(folder),
        ]
        log = folder / "log"
        with log.open("wb") as stream:
            code = subprocess.run(
                command, stdout=stream, stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
            ).returncode
        _read_log(log.read_text(errors="replace"), row)
        if code:
            row["died"] += 1
            (folder / f"log{row['died']}").write_bytes(log.read_bytes()[-20_000:])
            if row["died"] >= 10:
                break
    row["faults"] = collect_faults(folder, name, faults)
    shutil.rmtree(folder / "corpus") if not (faults / "corpus").is_dir() else shutil.move(
        folder / "corpus", faults / "corpus" / f"{name}-{seed}"
    )
    shutil.rmtree(folder)
    return row


def _read_log(text: str, row: dict[str, Any]) -> None:
    """Add what libFuzzer prints to a row: edges of bytecode, features, and inputs that reached new ones."""
    lines = re.findall(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", text)
    done = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    if lines:
        row["edges"], row["features"], row["inputs"] = (
            max(row[key], int(lines[-1][k])) for k, key in ((1, "edges"), (2, "features"), (3, "inputs"))
        )
        row["executions"] += int(done[-1]) if done else int(lines[-1][0])
    seconds = re.findall(r"Done \d+ runs in (\d+) second", text)
    row["minutes"] = round(row["minutes"] + int(seconds[-1]) / 60 if seconds else row["minutes"], 2)


def collect_faults(folder: Path, name: str, faults: Path) -> list[str]:
    """Move inputs that failed to a folder, and return their signatures."""
    faults.mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob("fault-*"), *folder.glob("dead-*"), *folder.glob("log?")]:
        shutil.copy(path, faults / (path.name if name in path.name else f"{name}-{path.name}"))
    record = folder / "faults.jsonl"
    lines = record.read_text().splitlines() if record.exists() else []
    with (faults / "faults.jsonl").open("a") as file:
        file.writelines(line + "\n" for line in lines)
    return sorted({json.loads(line)["signature"] for line in lines} | {path.name for path in folder.glob("dead-*")})


def replay(name: str, file: Path) -> None:
    """Give one input to a target and print what comes out."""
    from target_table import find_target
    from watching import Watch

    fault = Watch(find_target(name)).find_fault(file.read_bytes())
    print("no fault" if fault is None else f"{fault.signature}\n{fault.text}")
    sys.exit(fault is not None)


def describe_machine() -> dict[str, Any]:
    """Return machine and versions."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": versions,
    }


def write_results(rows: list[dict[str, Any]]) -> None:
    """Write the rows of these targets over the older ones, and keep those of other targets."""
    older = json.loads(RESULTS.read_text())["targets"] if RESULTS.exists() else []
    by_name = {row["target"]: row for row in [*older, *rows]}
    minutes = round(sum(row["minutes"] for row in by_name.values()), 1)
    results = {
        "command": "python benchmarks/fuzz/run.py",
        **describe_machine(),
        "minutes": minutes,
        "targets": list(by_name.values()),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the readers of netgraph.")
    parser.add_argument("--minutes", type=float, default=10, help="minutes of all targets together")
    parser.add_argument("--target", action="append", help="one target (repeatable). By default all.")
    parser.add_argument("--seed", type=int, default=7619)
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="folder for inputs that failed")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, max(int(options.minutes * 60), 1), options.seed, options.faults)
    if options.replay:
        replay((options.target or [""])[0], options.replay)
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit(
            "atheris is not installed, and coverage guides the fuzzing by it: pip install atheris (Linux, Python 3.11 to 3.13)."
        )
    from target_table import NAMES

    names = options.target or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise SystemExit(f"no target is called {unknown[0]}. There are {', '.join(NAMES)}.")
    rows = []
    for name in names:
        rows.append(fuzz_target(name, options.minutes * 60 / len(names), options.seed, options.faults))
        print(json.dumps(rows[-1]), flush=True)
        if not options.dry:
            write_results(rows)
    sys.exit(any(row["faults"] or row["died"] for row in rows))


if __name__ == "__main__":
    main()
