"""Claim: a command that is killed leaves the old file or the new one, and the next command ends as if nothing had happened.

SIGKILL, SIGTERM and SIGINT strike at random moments of `netgraph coarsen` (a hierarchy over an older one, and a single network), of
`netgraph export`, of `ng.save`, and of `netgraph train` with checkpoints, from the start and while it resumes from the checkpoint of a run
that was stopped. After each kill these hold:

- What lies under the final name is whole, and it is the old or the new one, byte for byte.
- Every checkpoint is whole, and a run that had one still has one.
- Files of others in the folder, and in the folder of a hierarchy, are as they were.
- The same command then succeeds, with the same bytes as an undisturbed one, and removes what the killed one has left. After a kill of
  `train` that command resumes. So every resumed run ends with the weights of an undisturbed one, bit for bit.

    python benchmarks/io/kills.py                    # 500 kills, results in benchmarks/results/random_kills.json
    python benchmarks/io/kills.py --kills 14 --dry   # fewer, results on stdout alone

Each command runs in a fork of this process, in one thread on the CPU, so that a kill seldom strikes while modules are imported.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import netgraph as ng
from netgraph.cli.main import main as run_command
from netgraph.errors import LoadError
from netgraph.fas.checkpoint.checkpoint import list_checkpoints
from netgraph.io.bundle import read_bundle
from netgraph.models import mlp

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRAINING = "train mlp --data digits --widths 32,24 --epochs 2 --levels 2 --seed 3 --ema 0.9 --checkpoints run --keep-last 2 -o trained.safetensors"
ARCH = "--arch netgraph.models:mlp --input 2x64"
COMMANDS = {  # what is typed, by the action that is killed
    "coarsen": f"coarsen network.pt {ARCH} --levels 3 -o net.hierarchy",
    "coarsen one": f"coarsen network.pt {ARCH} --levels 2 -o small.safetensors",
    "export": "export net.hierarchy graph.graphml",
    "page": "export net.hierarchy page.html",
    "save": "",
    "train": TRAINING,
    "resume": f"{TRAINING} --resume",
}
OUTPUTS = {
    "coarsen": "net.hierarchy",
    "coarsen one": "small.safetensors",
    "export": "graph.graphml",
    "page": "page.html",
    "save": "net.hierarchy",
    "train": "trained.safetensors",
    "resume": "trained.safetensors",
}
FOREIGN = ("notes.txt", ".netgraph-lock.txt", "run/notes.txt")
INSIDE = (
    "net.hierarchy/notes.txt"  # of somebody else, for `ng.save`. The command refuses such a folder before it begins.
)


def hash_path(path):
    """Return a digest of a file or a folder of files, without the notes in it. Nothing has the digest None."""
    files = sorted(f for f in path.rglob("*") if f.name != "notes.txt") if path.is_dir() else [path]
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path.parent)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def build_hierarchy(seed):
    """Return a hierarchy of a small network."""
    torch.manual_seed(seed)
    return ng.build_hierarchy(mlp((64, 48, 32, 10)), torch.zeros(2, 64), n_levels=3)


def list_foreign(action):
    """Return the files of others that an action finds."""
    return (*FOREIGN, INSIDE) if action == "save" else FOREIGN


def stop_training(points, hierarchy):
    """Fill a folder with the checkpoint of a training that was stopped by SIGTERM after its first one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_folder(folder, "train")
        child = fork_action("train", folder, hierarchy)
        while not list_checkpoints(folder / "run"):
            time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        if (code := wait_for(child)) != 130:
            raise SystemExit(f"training was to be stopped by SIGTERM, and it ended with {code}")
        for path in list_checkpoints(folder / "run"):
            shutil.copy(path, points)


def fill_folder(folder, action, points=None):
    """Write the files that an action finds: a network, older outputs, checkpoints for a run that resumes, and files of others."""
    torch.manual_seed(1)
    torch.save(mlp().state_dict(), folder / "network.pt")
    ng.save(build_hierarchy(2), folder / "net.hierarchy")
    ng.save(build_hierarchy(3).levels[1].model, folder / "small.safetensors")
    (folder / "graph.graphml").write_text("an older graph\n")
    (folder / "page.html").write_text("an older page\n")
    (folder / "run").mkdir()
    if action == "resume":
        for path in list_checkpoints(points):
            shutil.copy(path, folder / "run")
    for name in list_foreign(action):
        (folder / name).write_text(f"mine: {name}\n")


def fork_action(action, folder, hierarchy):
    """Begin an action in a fork, and return its process."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets processes in the background ignore it
        os.chdir(folder)
        sink = os.open("/dev/null", os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(sink, stream)
        if action == "save":
            ng.save(hierarchy, OUTPUTS[action])
            status = 0
        else:
            sys.argv = ["netgraph", *COMMANDS[action].split()]
            run_command()
    except SystemExit as end:
        status = end.code or 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def wait_for(child):
    """Wait for a process. Return its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_undisturbed(action, hierarchy, points):
    """Return the digest of the output of an action that nothing disturbs, and its seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_folder(folder, action, points)
        begun = time.monotonic()
        code = wait_for(fork_action(action, folder, hierarchy))
        if code:
            raise SystemExit(f"{action} ends with {code} although nothing disturbs it: {COMMANDS[action]}")
        return hash_path(folder / OUTPUTS[action]), time.monotonic() - begun


def check_state(folder, action, states, when):
    """Return what is wrong in a folder after a kill."""
    problems = []
    if hash_path(folder / OUTPUTS[action]) not in states:
        problems.append(f"{when}: {OUTPUTS[action]} is neither the old one nor the new one")
    for name in list_foreign(action):
        if not (folder / name).is_file() or (folder / name).read_text() != f"mine: {name}\n":
            problems.append(f"{when}: {name} of somebody else was touched")
    checkpoints = list_checkpoints(folder / "run")
    if action == "resume" and not checkpoints:
        problems.append(f"{when}: no checkpoint is left")
    for path in checkpoints:
        try:
            read_bundle(path)
        except LoadError as error:
            problems.append(f"{when}: {error}")
    return problems


def list_remains(folder):
    """Return what a command has left beside its outputs."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".netgraph-*") if path.name != ".netgraph-lock.txt"]


def strike(action, hierarchy, points, expected, seconds, draw):
    """Kill an action at a random moment, and run it again. Return the signal, whether it struck before the end, and what was wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_folder(folder, action, points)
        old = hash_path(folder / OUTPUTS[action])
        number = draw.choice(SIGNALS)
        child = fork_action(action, folder, hierarchy)
        time.sleep(seconds * draw.random())
        os.kill(child, number)  # one that has ended is not waited for yet, and keeps its number
        struck = wait_for(child) != 0
        if not struck:
            return number.name, False, []
        problems = check_state(folder, action, {old, expected}, "after the kill")
        again = "resume" if action == "train" else action
        if code_again := wait_for(fork_action(again, folder, hierarchy)):
            problems.append(f"the next command ends with {code_again}")
        problems += check_state(folder, action, {expected}, "after the next command")
        problems += [f"left: {remains}" for remains in list_remains(folder)]
        return number.name, True, problems


def measure_kills(n_kills, seed, actions, points):
    """Kill each action in turn. Yield counts of signals and all problems after every 25 kills and at the end."""
    hierarchy, draw = build_hierarchy(5), random.Random(seed)
    stop_training(points, hierarchy)
    for action in actions:  # what is imported and compiled first is not part of the seconds
        run_undisturbed(action, hierarchy, points)
    undisturbed = {action: run_undisturbed(action, hierarchy, points) for action in actions}
    if len({undisturbed[action][0] for action in actions if action in ("train", "resume")}) > 1:
        raise SystemExit("a run that resumes after SIGTERM has other weights than an undisturbed one")
    counts, late, problems, done = Counter(), Counter(), [], 0
    seconds = {action: duration for action, (_, duration) in undisturbed.items()}
    while done < n_kills:
        action = actions[done % len(actions)]
        number, struck, wrong = strike(action, hierarchy, points, undisturbed[action][0], seconds[action], draw)
        if not struck:  # a busy machine was slower when the action was timed
            late[action] += 1
            seconds[action] *= 0.8
            continue
        counts[action, number] += 1
        done += 1
        problems += [f"kill {done} of {action} by {number}: {problem}" for problem in wrong]
        if wrong:
            print(*problems[-len(wrong) :], sep="\n", file=sys.stderr)
        if done % 25 and done < n_kills:
            continue
        yield {
            "command": f"python benchmarks/io/kills.py --kills {n_kills} --seed {seed}",
            "kills": done,
            "seed": seed,
            "too late, not counted": dict(late),
            "signals": {f"{action} {number}": n for (action, number), n in sorted(counts.items())},
            "seconds undisturbed": {action: round(duration, 2) for action, (_, duration) in undisturbed.items()},
            "problems": problems,
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    parser.add_argument("--seed", type=int, default=7619)
    parser.add_argument("--actions", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    place = Path(__file__).parent.parent / "results" / "random_kills.json"
    with tempfile.TemporaryDirectory() as points:
        for results in measure_kills(options.kills, options.seed, options.actions, Path(points)):
            if not options.dry:
                place.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    sys.exit(bool(results["problems"]))


if __name__ == "__main__":
    main()
