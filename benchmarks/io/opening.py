"""Claim: opening and saving ResNet-50 and GPT-2 take at most 1.1 times as long as before files were digested, flushed and renamed.

The older build is given by the path of its Python. Both builds do the same work in turn, each in a process of its own, and a pair of neighbouring
times gives one ratio. Weights are random. Each build reads the files that it wrote itself.

- open: `ng.load_model` of a state dict (ResNet-50, ``.pt``), and of a folder of transformers (GPT-2, ``.safetensors``)
- save: `ng.save` of the hierarchy with one coarse level, which is made before, over an older file
- load: `ng.load` of that file
- process: a whole process that imports netgraph and opens the weights

Times are seconds of processor time, of one thread. What a disk needs to flush files is no processor time: ``wall`` gives the seconds that passed.

    git worktree add /tmp/before c9ead61 && (cd /tmp/before && python3 -m venv .venv && .venv/bin/pip install -e '.[dev]')
    python benchmarks/io/opening.py /tmp/before/.venv/bin/python        # results in benchmarks/results/opening.json

The results were measured while other jobs ran on the same two cores. The claim holds for each action but one: saving ResNet-50 took 0.92 times as
long in the first run and 1.21 times in the second, with pairs from 0.69 to 1.36. So it is open there.

GPT-2 needs transformers in both environments. The ratio of a row is the median of those of its pairs, with the least and the most.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ACTIONS = ("open", "save", "load")
NETWORKS = ("resnet50", "gpt2")
RESULTS = Path(__file__).parents[1] / "results" / "opening.json"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def write_weights(name: str, folder: Path) -> None:
    """Write random weights."""
    import torch

    torch.manual_seed(0)
    if name == "resnet50":
        import netgraph as ng

        torch.save(ng.load_model("torchvision:resnet50").state_dict(), folder / "resnet50.pt")
    else:
        import transformers

        transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder / "gpt2")


def open_weights(name: str, folder: Path):
    """Open the weights as a network."""
    import netgraph as ng

    if name == "resnet50":
        return ng.load_model(folder / "resnet50.pt", arch="torchvision:resnet50")
    return ng.load_model(f"hf:{folder / 'gpt2'}")


def work(name: str, folder: Path, own: Path) -> None:
    """Make a hierarchy, then do each action that is read from the standard input, and print its seconds."""
    import torch

    import netgraph as ng

    torch.set_num_threads(1)
    example = torch.zeros(2, 3, 64, 64) if name == "resnet50" else {"input_ids": torch.zeros(2, 16, dtype=torch.int64)}
    hierarchy = ng.build_hierarchy(open_weights(name, folder), example, n_levels=2)
    file = own / f"{name}.hierarchy"
    actions = {
        "open": lambda: open_weights(name, folder),
        "save": lambda: ng.save(hierarchy, file),
        "load": lambda: ng.load(file),
    }
    for action in ACTIONS:  # once without a clock
        actions[action]()
    print("ready", flush=True)
    for line in sys.stdin:
        wall, begun = time.perf_counter(), time.process_time()
        actions[line.strip()]()
        print(json.dumps([time.process_time() - begun, time.perf_counter() - wall]), flush=True)


class Worker:
    """A build that does actions in a process of its own."""

    def __init__(self, python: str, name: str, folder: Path, own: Path) -> None:
        command = [python, __file__, "--work", name, str(folder), str(own)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        while (line := self.process.stdout.readline()) != "ready\n":
            assert line, f"{python} fails"

    def __call__(self, action: str) -> list[float]:
        self.process.stdin.write(f"{action}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def time_process(python: str, name: str, folder: Path) -> list[float]:
    """Return the seconds of a whole process that opens the weights."""
    wall = time.perf_counter()
    process = subprocess.Popen([python, __file__, "--once", name, str(folder)], env=ENVIRONMENT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0, f"{python} fails"
    return [usage.ru_utime + usage.ru_stime, time.perf_counter() - wall]


def measure_pairs(before, after, n: int) -> dict:
    """Return the ratios of ``n`` pairs of times, where each build is first in turn."""
    pairs = []
    for i in range(n):
        first, second = (before, after) if i % 2 else (after, before)
        one, other = first(), second()
        pairs.append((one, other) if i % 2 else (other, one))
    out = {"n": n}
    for place, clock in enumerate(("processor", "wall")):
        ratios = [b[place] / a[place] for a, b in pairs]
        out[clock] = {
            "before": round(statistics.median(a[place] for a, _ in pairs), 4),
            "after": round(statistics.median(b[place] for _, b in pairs), 4),
            "ratio": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return out


def measure(python: str, name: str, n: int, folder: Path) -> list[dict]:
    """Return the rows of one network."""
    write_weights(name, folder)
    builds = {"before": python, "after": sys.executable}
    for build in builds:
        (folder / build).mkdir(exist_ok=True)
    workers = {build: Worker(path, name, folder, folder / build) for build, path in builds.items()}
    rows = []
    for action in ACTIONS:
        before, after = (lambda build=build, action=action: workers[build](action) for build in ("before", "after"))
        rows.append({"network": name, "action": action, **measure_pairs(before, after, n)})
    for worker in workers.values():
        worker.close()
    before, after = (lambda path=path: time_process(path, name, folder) for path in (python, sys.executable))
    rows.append({"network": name, "action": "process", **measure_pairs(before, after, n)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", help="Python of the older build")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--dry", action="store_true", help="print the results alone")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, folder, own = options.work
        work(name, Path(folder), Path(own))
        return
    if options.once:
        open_weights(options.once[0], Path(options.once[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            rows += measure(options.before, name, options.pairs, Path(folder))
            for row in rows[-len(ACTIONS) - 1 :]:
                print(json.dumps(row), flush=True)
    if not options.dry:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
