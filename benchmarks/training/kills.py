"""Claim: a run that is killed and resumed ends with exactly the weights of an undisturbed run.

kill -9 strikes at 20 random points of a run, and at every call that writes a checkpoint. No checkpoint is lost, and each resumed run ends
bit for bit like the undisturbed one. The run is a W-cycle with tau on several minibatches, dropout, augmentation, a shuffling
``DataLoader``, AdamW and a running mean, on scikit-learn's digits, in one thread on the CPU.

    python benchmarks/training/kills.py              # results in benchmarks/results/kills.json
    python benchmarks/training/kills.py --quick      # for the tests: fewer kills of a shorter run, results on stdout

Each training process is forked. Write calls are those that Python's audit hooks report (opening, renaming and deleting in the folder)
and each fsync. Inside a file, the kernel's SIGXFSZ ends the process at a limit of the file's size.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import netgraph as ng
from netgraph.fas.checkpoint.checkpoint import Checkpoints, list_checkpoints, resume
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.datasets import load_dataset

OPTIONS = Options(
    smoothing=Smoothing(pre=2, post=2, coarse=3, ema=0.9),
    tau=Tau("several", 2),
    gate=Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf")),
)


class NoisyDigits(Dataset):
    """Digits with noise from torch's generator on every access."""

    def __init__(self, split):
        self.inputs, self.targets = split.inputs[:192], split.targets[:192]

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        return self.inputs[i] + 0.1 * torch.randn(64), self.targets[i]


@cache
def build_problem():
    """Return digits and the hierarchy of a network, built once before the first fork."""
    torch.set_num_threads(1)
    data = load_dataset("digits").flat()
    torch.manual_seed(1)
    layers = (torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 24), torch.nn.ReLU())
    model = torch.nn.Sequential(*layers, torch.nn.Linear(24, 10))
    return data, ng.build_hierarchy(model, data.test.inputs[:2], n_levels=3, seed=1)


def train_to_end(folder, cycles, *, before=lambda run: None):
    """Train to the end, from the newest checkpoint if there is one. Return a digest of weights and running mean."""
    data, hierarchy = build_problem()
    problem = Problem(DataLoader(NoisyDigits(data.train), 32, shuffle=True), cross_entropy)
    solver = FAS("w", torch.optim.AdamW, 1e-3, cycles=cycles, weight_decay=0.1, options=OPTIONS)
    run = solver.begin(hierarchy, problem, callbacks=[Checkpoints(folder)] if folder else ())
    if folder:
        resume(run, folder)
    before(run)
    solution = solver.finish(run)
    digest = hashlib.sha256()
    for tensor in [*solution.model.state_dict().values(), *solution.mean.state_dict().values()]:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fork_training(folder, cycles, **options):
    """Fork a training process. Return its id and the end of a pipe that receives its digest."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    status = 1
    try:
        os.write(writer, train_to_end(folder, cycles, **options).encode())
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for_digest(child, reader):
    """Wait for a training process. Return its digest, empty if it was killed. Its own errors end the benchmark."""
    with os.fdopen(reader) as pipe:
        digest = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a training process failed by itself. Its traceback is above.")
    return digest


def find_checkpoints(run):
    """Return the callback that writes the checkpoints of a run."""
    return next(callback for callback in run.callbacks if isinstance(callback, Checkpoints))


def kill_at_random(kills, cycles, wanted):
    """Kill a run repeatedly at random moments of the remaining time, resume each time, then let it finish."""
    draw, done = random.Random(7619), 0
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        wait_for_digest(*fork_training(None, cycles))
        length = time.monotonic() - begun
        while done < kills:
            child, reader = fork_training(folder, cycles)
            time.sleep(length * draw.uniform(0.1, 1.0))
            os.kill(child, signal.SIGKILL)
            if wait_for_digest(child, reader):  # it finished before the kill: start the next run
                for path in list_checkpoints(folder):
                    path.unlink()
            else:
                done += 1
        return {"kills": done, "identical": wait_for_digest(*fork_training(folder, cycles)) == wanted}


def kill_at_call(n):
    """Return a function that lets a process die at its n-th write call, and the list that counts the calls."""
    count = []

    def arm(run):
        inside = []

        def hook(event, args):
            if inside and event in ("open", "os.rename", "os.remove", "os.open"):
                tick()

        def tick():
            count.append(1)
            if len(count) == n:
                os.kill(os.getpid(), signal.SIGKILL)

        callback, flush = find_checkpoints(run), os.fsync
        write = callback.write

        def fsync(number):
            tick()
            flush(number)
            tick()

        def watched(run):
            if run.cycles == 2:
                inside.append(1)
                os.fsync = fsync
            write(run)
            inside.clear()
            os.fsync = flush

        sys.addaudithook(hook)
        callback.write = watched

    return arm, count


def limit_file_size(size):
    """Return a function that lets a process die when its second checkpoint grows beyond a size."""

    def arm(run):
        callback = find_checkpoints(run)
        write = callback.write

        def watched(run):
            if run.cycles == 2:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            write(run)

        callback.write = watched

    return arm


def kill_while_writing(cycles, wanted, sizes):
    """Die at each write call of the second checkpoint and inside its file. Resume each time, and compare."""
    counts = {"calls": 0, "sizes": 0, "identical": 0, "left": []}
    deaths, n = [], 1
    while True:
        arm, _ = kill_at_call(n)
        with tempfile.TemporaryDirectory() as folder:
            if wait_for_digest(*fork_training(folder, cycles, before=arm)):
                break  # all calls have been tried
            deaths.append(_resume_and_compare(folder, cycles, wanted, counts))
        counts["calls"], n = n, n + 1
    for i in range(sizes):
        with tempfile.TemporaryDirectory() as folder:
            if wait_for_digest(
                *fork_training(folder, cycles, before=limit_file_size(1 + 40_000 * i // max(sizes - 1, 1)))
            ):
                continue
            counts["sizes"] += 1
            deaths.append(_resume_and_compare(folder, cycles, wanted, counts))
    return {**counts, "identical": sum(deaths), "deaths": len(deaths)}


def _resume_and_compare(folder, cycles, wanted, counts):
    """Resume after a kill. Return True if the run ends like the undisturbed one."""
    counts["left"].append(len(list_checkpoints(folder)))
    return wait_for_digest(*fork_training(folder, cycles)) == wanted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    build_problem()
    cycles = 3 if quick else 12
    wanted = wait_for_digest(*fork_training(None, cycles))
    results = {
        "undisturbed": wanted[:16],
        "random": kill_at_random(2 if quick else 20, cycles, wanted),
        "writing": kill_while_writing(
            3 if quick else 4, wanted if quick else wait_for_digest(*fork_training(None, 4)), 3 if quick else 12
        ),
    }
    print(json.dumps(results))
    if not quick:
        (Path(__file__).parent.parent / "results" / "kills.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
