"""The installed command in shells and terminals: pipes that close, full disks, Ctrl-C, narrow screens, Tab."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from netgraph import plugins
from netgraph.cli import main as cli
from netgraph.io.bundle import read_bundle
from netgraph.models.data.datasets import NAMES
from netgraph.models.training.tasks import AUGMENTATIONS, NETWORKS
from netgraph.optim.optimizers import OPTIMIZERS
from netgraph.optim.schedules import SCHEDULES
from netgraph.utils import choices

NETGRAPH = [sys.executable, "-m", "netgraph"]


def run(*words, **options):
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run([*NETGRAPH, *words], capture_output=True, text=True, env=environment, timeout=120, **options)


def test_a_closed_pipe_and_a_full_disk_print_no_traceback():
    piped = subprocess.run(
        f"{' '.join(NETGRAPH)} plugins | head -1", shell=True, capture_output=True, text=True, timeout=120
    )
    assert (piped.stdout, piped.stderr) == ("netgraph.coarseners\n", "")
    if not Path("/dev/full").exists():  # Linux has it
        return
    with open("/dev/full", "w") as full:
        done = subprocess.run([*NETGRAPH, "plugins"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("netgraph: the system refuses to read or write ([Errno 28]")
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_prints_one_word_and_exits_with_130(tmp_path):
    command = [*NETGRAPH, "train", "mlp", "--epochs", "100000"]
    heeded = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # background jobs inherit deaf ears
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, preexec_fn=heeded, **pipes) as process:
        assert process.stderr is not None
        process.stderr.readline()  # at work
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "netgraph: stopped"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_help_is_plain_text_that_fits_the_terminal():
    for columns in ("80", "50"):
        done = run("coarsen", "--help", stdin=subprocess.DEVNULL, env={"COLUMNS": columns, "NO_COLOR": "1"})
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= int(columns)


def test_the_seed_draws_new_weights_too(tmp_path):
    weights = []
    for seed in ("1", "1", "2"):
        out = tmp_path / f"{len(weights)}.safetensors"
        words = ["torchvision:squeezenet1_1", "--input", "1x3x32x32", "--seed", seed, "--levels", "2", "-o", str(out)]
        assert in_process("coarsen", *words) == 0
        weights.append(torch.cat([t.flatten().double() for t in read_bundle(out)[0].values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def in_process(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["netgraph", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return left.value.code or 0


def completed(shell, line):
    """Run the completion of a shell, through the variables of Typer's scripts."""
    variables = (
        {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))} if shell == "bash" else {"_TYPER_COMPLETE_ARGS": line}
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_NETGRAPH_COMPLETE": f"complete_{shell}", **variables}.items():
            patch.setenv(name, value)
        assert in_process() == 0


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("netgraph co", ["coarsen"], "verify"),
        (
            "netgraph coarsen m.pt --coarsener h",
            [n for n in plugins.list_plugins("netgraph.coarseners") if n[0] == "h"],
            "kmeans",
        ),
        ("netgraph coarsen m.pt --coarsener a", ["auto"], "hem"),
        ("netgraph coarsen m.pt --affinity ", plugins.list_plugins("netgraph.affinities"), "hem"),
        ("netgraph coarsen m.pt --repair ", choices.RUNGS, "hem"),
        ("netgraph coarsen m.pt --budget ", ["units", "flops"], "hem"),
        ("netgraph coarsen tim", ["timm"], "torchvision"),
        ("netgraph train ", choices.NETWORKS, "hem"),
        ("netgraph train mlp --data ", choices.DATA_SETS, "hem"),
        ("netgraph train mlp --cycle ", choices.CYCLES, "hem"),
    ],
)
def test_tab_completes_names(capsys, shell, line, wanted, unwanted):
    completed(shell, line)
    out = capsys.readouterr().out
    assert all(word in out for word in wanted)
    assert unwanted not in out


def test_the_words_of_options_name_the_functions_behind_them():
    """The words stand once, in `netgraph.utils.choices`. Where each word belongs to a function, both agree."""
    assert choices.DATA_SETS == NAMES
    assert choices.NETWORKS == NETWORKS
    assert tuple(AUGMENTATIONS) == choices.AUGMENTATIONS
    assert tuple(SCHEDULES) == choices.SCHEDULES
    assert tuple(OPTIMIZERS) == choices.OPTIMIZERS
