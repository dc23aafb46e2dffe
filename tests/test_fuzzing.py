"""Inputs that fuzzing has found, replayed without atheris, and the watch that judges them."""

import json
import math
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from document_edits import read_edits
from target_table import CORPUS, NAMES, find_target, list_corpus
from watching import Fault, Target, Watch, WrongAnswerError

from netgraph.errors import LoadError, NetgraphError

pytestmark = pytest.mark.no_cover
for package in ("networkx", "pydot", "pymetis", "PIL", "tokenizers"):  # the judges of some targets
    pytest.importorskip(package)
NAMES = [name for name in NAMES if name != "config" or find_spec("transformers")]

FUZZ = Path(__file__).parent.parent / "benchmarks" / "fuzz"


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_accepted_and_no_input_of_the_corpus_is_a_fault(name):
    target = find_target(name)
    watch = Watch(target, audit=False, seconds=math.inf)
    for data in target.seeds():
        target.check(data, watch.folder)  # raises if the reader or its judge refuses it
    for path in list_corpus(name):
        assert watch.find_fault(path.read_bytes()) is None, path


@pytest.mark.parametrize("name", [name for name in NAMES if name != "picture"])
def test_mutations_change_seeds_and_most_inputs_stay_within_the_structure(name):
    target, draw = find_target(name), random.Random(3)
    seeds = target.seeds()
    changed = [target.mutate(draw.choice(seeds), draw) for _ in range(60)]
    assert len({data for data in changed if data is not None}) > 20
    assert all(data is None or isinstance(data, bytes) for data in changed)


def test_every_folder_of_the_corpus_is_of_a_target_and_its_files_are_small():
    assert {path.name for path in CORPUS.iterdir()} <= set(NAMES) | {"config"}
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert max(sizes) <= 4096
    assert sum(sizes) <= 200_000


def fail_with(error):
    def check(data, folder):
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("x"), "KeyError"),
        (RecursionError(), "RecursionError"),
        (WrongAnswerError("2 is 3"), "WrongAnswerError"),
        (LoadError("x cannot be read (RuntimeError: DefaultCPUAllocator: can't allocate memory)"), "allocator"),
        (SystemExit(1), "SystemExit"),
        (LoadError("x is damaged. Save it again."), None),
        (NetgraphError("two\nlines"), None),  # the message is escaped
    ],
)
def test_the_watch_tells_refusals_from_faults(error, kind):
    fault = Watch(Target("t", fail_with(error), list), audit=False).find_fault(b"")
    assert (fault and fault.kind) == kind


def test_the_watch_measures_memory_and_time():
    watch = Watch(Target("t", lambda data, folder: b"x" * (600 * 2**20), list), audit=False)
    assert isinstance(watch.find_fault(b""), Fault) or not Path("/proc/self/clear_refs").exists()
    slow = Watch(Target("t", lambda data, folder: sum(range(10**5)), list), audit=False, seconds=0.0)
    assert slow.find_fault(b"").kind == "slow"


def test_the_watch_hears_of_processes_and_of_files_elsewhere(tmp_path):
    script = f"""
import os
from watching import Target, Watch
checks = [lambda d, f: open({str(tmp_path / "x")!r}, "w"), lambda d, f: os.system("true"), lambda d, f: open(f / "x", "w")]
print([(fault := Watch(Target("t", check, list)).find_fault(b"")) and fault.place for check in checks])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=FUZZ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['open', 'os.system', None]"


def test_edits_change_the_place_that_they_name_and_no_other():
    bases = [{"a": [1, {"b": 2}], "c": "x"}]
    edits = [["set", ["a", 1, "b"], 5], ["repeat", ["c"], 3], ["delete", ["a", 0], None], ["set", ["nothing", 0], 1]]
    assert read_edits(json.dumps({"base": 7, "edits": edits}).encode(), bases) == (0, {"a": [{"b": 5}], "c": "xxx"})
    assert read_edits(b"no json", bases) == (0, bases[0])


def test_a_run_without_atheris_says_how_to_install_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'atheris' else find(n, *a)\n"
    )
    done = subprocess.run(
        [sys.executable, FUZZ / "run.py", "--dry"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("atheris is not installed")
    assert done.stderr.count("\n") == 1
