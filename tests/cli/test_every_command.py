"""Every command with wrong values of every option and wrong paths of every kind: a code of the documented set and one sentence.

Commands run as the installed program runs them, through `main`. What is drawn has fixed seeds, so every run draws the same.
"""

import contextlib
import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import warnings

import psutil
import pytest
import torch
import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import netgraph as ng
from netgraph.cli.main import app
from netgraph.errors import NetgraphError
from netgraph.fas import FAS
from netgraph.models.perceptron import mlp
from netgraph.models.transformer import Encoder
from tests.support.attention_networks import SIZES, TOKENS
from tests.support.command_line import run_main
from tests.support.wrong_paths import DEVICES, KINDS, make_wrong_path

pytestmark = pytest.mark.no_cover
CODES = {0, 1, 2, 3, 4}  # of the page on the command line, without 130, which is Ctrl-C
SEED = 7619
ROOM = 2**32  # bytes that a command on a wrong path may take
SECONDS = 20  # for one command. A pipe that nobody writes to is waited for without an end
WORDS = (
    "",
    "x",
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "2x0",
    "a=b",
    "=",
    "a=1,",
    "[" * 99,
    "a\nb",
    "\x1b]0;T\x07",
    "s3://b/x",
    "nowhere/x.pt",
    ".",
    "x.html",
    "é" * 300,
    os.fsdecode(b"caf\xe9"),
)
COMMANDS = typer.main.get_command(app).commands
GOOD = {  # words of a command that it takes, before those that it does not
    "coarsen": ["net.safetensors", "--input", "2x6", "--levels", "2", "--no-prove"],
    "compress": ["net.safetensors", "--input", "2x6", "--data", "rows.pt", "--no-prove"],
    "evaluate": ["net.safetensors", "--input", "2x6", "--data", "rows.pt"],
    "finetune": ["net.safetensors", "--input", "2x6", "--data", "rows.pt", "--epochs", "1"],
    "sweep": [
        *("net.safetensors", "--input", "2x6", "--data", "rows.pt", "--no-prove"),
        *("--ratios", "0.5", "--coarseners", "hem", "--no-latency"),
    ],
    "check": ["net.safetensors"],
    "inspect": ["net.safetensors", "--input", "2x6"],
    "verify": ["net.safetensors", "--input", "2x6"],
    "export": ["net.safetensors", "out.json", "--input", "2x6", "--levels", "2", "--no-prove"],
    "features": ["net.safetensors", "out.svg", "--input", "2x6", "--data", "rows.pt", "--no-prove"],
    "attention": [
        "heads.safetensors",
        "out.svg",
        "--input",
        "2x12:int64",
        "--levels",
        "2",
        "--no-prove",
        "--data",
        "tokens.pt",
    ],
    "train": ["mlp", "--widths", "8,8", "--epochs", "1"],
    "report": ["runs.json"],
    "demo": [],
    "ui": [],
    "plugins": [],
}
READ = {  # options and arguments that name a file or a folder to read, with suffixes and prefixes
    "model": ((".pt", ".safetensors", ".pt2", ".json", ".safetensors.index.json", ".hierarchy", ""), ("", "hf:")),
    "models": ((".pt", ".safetensors", ".hierarchy", ""), ("", "hf:")),
    "path": ((".pt", ".safetensors", ".pt2", ".hierarchy", ""), ("",)),
    "runs": ((".json", ""), ("",)),
    "data": ((".npy", ".pt", ""), ("",)),
    "data_root": (("",), ("",)),
    "code_dir": (("",), ("",)),
    "tokenizer": ((".json", ""), ("",)),
}
WRITTEN = {
    "output": (".safetensors", ".hierarchy", ".pt", ".html", ".svg"),
    "export": (".html", ".svg", ".json", ".npz"),
    "own_class": (".pt", ""),
    "out": (".html", ".svg", ".json", ".npz", ".graphml", ".onnx", ".pt2", ".xml"),
    "resume": (".jsonl", ""),
    "checkpoints": ("",),
    "report": ("",),
    "folder": ("",),
}


def test_every_command_and_every_path_is_walked():
    assert set(GOOD) == set(COMMANDS)
    paths = {p.name for c in COMMANDS.values() for p in c.params if "path" in str(p.type_descriptor).lower()}
    assert paths <= READ.keys() | WRITTEN.keys()
    assert READ.keys() | WRITTEN.keys() <= {p.name for c in COMMANDS.values() for p in c.params}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a folder with a network, and work in it. Training ends before its first step, and no page is served."""

    def stop(*_, **__):
        raise NetgraphError("This training stands for a long one.")

    logger = logging.getLogger("netgraph")
    for name in ("handlers", "propagate", "level"):
        value = getattr(logger, name)
        monkeypatch.setattr(logger, name, list(value) if name == "handlers" else value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FAS, "finish", stop)
    monkeypatch.setattr("netgraph.models.training.trainer.fit", stop)
    monkeypatch.setattr(subprocess, "call", lambda words: 0)
    torch.manual_seed(0)
    for file, network, example in (
        ("net", mlp((6, 8, 8, 3)), torch.randn(2, 6)),
        ("heads", Encoder(40, 3, **SIZES), TOKENS),
    ):
        ng.save(ng.build_hierarchy(network, example, n_levels=2).levels[1].model, tmp_path / f"{file}.safetensors")
    torch.save(TOKENS, tmp_path / "tokens.pt")
    torch.save(torch.randn(4, 6), tmp_path / "rows.pt")
    return tmp_path


@contextlib.contextmanager
def bounded():
    """Let a command take no more memory than a file that it may read, and end one that waits."""

    def give_up(*_):
        raise AssertionError(f"the command waits for more than {SECONDS} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)


def judge(*words):
    """Run a command and check what a user sees of it."""
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, out, err = run_main(*words)
    assert code in CODES, (words, code)
    assert "Traceback" not in err + out
    assert not set(out + err) & set("\x1b\x07")
    (out + err).encode()  # half of a pair is no text
    lines = err.splitlines()
    assert all(line.startswith("netgraph: ") for line in lines), (words, lines)
    if not code:
        return
    assert lines, words
    assert "Free some space" not in err, (words, lines)  # the disk is not full
    assert "[Errno" not in err, (words, lines)
    verdict = words[0] in ("check", "verify") or code == 4 or (words[0] == "compress" and code == 3)
    if "--json" in words and out:
        json.loads(out)
    assert not out or verdict, (words, out)


@pytest.mark.parametrize(
    ("number", "help_"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota is used up. Free some space"),
        (errno.EROFS, "Give another place"),
        (errno.EACCES, "permissions"),
        (errno.EPERM, "permissions"),
        (errno.ENAMETOOLONG, "Give a shorter name"),
        (errno.ELOOP, "leads back to itself"),
        (errno.ENOTDIR, "A part of the path is a file"),
        (errno.EISDIR, "A folder is there"),
        (errno.EMFILE, "ulimit"),
        (errno.EIO, "The disk or its connection fails"),
        (errno.ENOMEM, "Free some memory"),
        (9999, "Give another place"),
    ],
)
def test_a_refusal_of_the_system_says_what_helps_against_it(folder, monkeypatch, number, help_):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "x.pt")

    monkeypatch.setattr("netgraph.cli.console.file_contents.read_contents", refuse)
    code, out, err = run_main("check", "x.pt")
    assert (code, out) == (1, "")
    assert err.startswith("netgraph: the system refuses to read or write")
    assert help_ in err
    assert len(err.splitlines()) == 1
    assert ("space" in err) == (number in (errno.ENOSPC, errno.EDQUOT))


def fixed(n):
    """Return the settings of a walk that draws the same values in every run."""
    chosen = settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(SEED)(chosen(test))


def place(name, parameter, word):
    """Return the words of a command with one word of a parameter, in the place of the right one."""
    right = list(GOOD[name])
    if isinstance(parameter, typer.core.TyperArgument):
        arguments = [p for p in COMMANDS[name].params if isinstance(p, typer.core.TyperArgument)]
        right[arguments.index(parameter)] = word
        return [name, *right]
    option = max(parameter.opts, key=len)
    return [name, *right, option] if parameter.is_flag else [name, *right, f"{option}={word}"]


PARAMETERS = {
    name: [p for p in command.params if p.name not in ("help", "install_completion", "show_completion")]
    for name, command in COMMANDS.items()
}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_explains_wrong_values(name, folder):
    for parameter in PARAMETERS[name]:
        walk_option(name, parameter)


def walk_option(name, parameter):
    """Run a command with wrong values of an option."""
    has_json = any(p.name == "json_" for p in PARAMETERS[name])

    @fixed(1 if getattr(parameter, "is_flag", False) else 2)
    @given(st.sampled_from(WORDS), st.booleans())
    def call(word, as_json):
        judge(*place(name, parameter, word), *(["--json"] if as_json and has_json else []))

    call()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_several_wrong_values_at_once_are_explained(name, folder):
    options = PARAMETERS[name]

    @fixed(8)
    @given(st.lists(st.tuples(st.sampled_from(options), st.sampled_from(WORDS)), min_size=2, max_size=4))
    def call(drawn):
        words = [name, *GOOD[name]]
        for parameter, word in drawn:
            if not isinstance(parameter, typer.core.TyperArgument):
                words += place(name, parameter, word)[len(GOOD[name]) + 1 :]
        judge(*words)

    call()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_wrong_kind_of_path_is_explained(name, folder):
    for parameter in PARAMETERS[name]:
        for kind in KINDS:
            if parameter.name in READ:
                walk_path(folder, name, parameter, kind, *READ[parameter.name])
            elif parameter.name in WRITTEN and kind not in DEVICES:
                walk_path(folder, name, parameter, kind, WRITTEN[parameter.name], ("",))


def walk_path(folder, name, parameter, kind, suffixes, prefixes):
    """Run a command with a path of a wrong kind."""

    @fixed(1)
    @given(st.sampled_from(suffixes), st.sampled_from(prefixes))
    def call(suffix, prefix):
        room = folder / "room"
        room.mkdir()
        path = make_wrong_path(room, kind, suffix)
        try:
            judge(*place(name, parameter, f"{prefix}{path.relative_to(folder)}"))
        finally:
            shutil.rmtree(room)

    call()
