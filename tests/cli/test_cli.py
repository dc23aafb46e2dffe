"""The command line, typed as a user would."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import run
from numba import njit
from torch import nn

from netgraph.cli.console.compilation import announce_compilation
from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
from netgraph.models.perceptron import mlp

ARCH = ["--arch", "netgraph.models:mlp"]


@pytest.fixture
def file(tmp_path):
    torch.save(mlp().state_dict(), tmp_path / "model.pt")
    return str(tmp_path / "model.pt")


def test_coarsen_prints_the_table_and_writes_a_network_that_opens_without_options(file, tmp_path):
    small = tmp_path / "small.safetensors"
    code, out, err = run("coarsen", file, *ARCH, "-o", small, "--export", tmp_path / "page.html")
    assert code == 0
    assert "operator complexity" in out
    assert "have a merged dimension" in out
    assert "guessed --input 2x64" in err
    assert "Content-Security-Policy" in (tmp_path / "page.html").read_text()
    assert run("verify", small)[0] == 0
    assert "neurons" in run("inspect", small)[1]


def test_the_data_decide_the_guessed_input(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    torch.save(network, tmp_path / "net.pt")
    code, _, err = run("coarsen", tmp_path / "net.pt", "--trust", "--data", "digits", "--repair", "ridge")
    assert code == 0, err
    assert "guessed --input 2x1x8x8, as digits has it" in err


def test_a_key_chooses_among_weights_and_the_choice_is_told_on_stderr(tmp_path):
    fine, averaged = mlp(), mlp(sizes=(64, 9, 9, 10))
    torch.save({"model": fine.state_dict(), "ema": fine.double().state_dict(), "epoch": 1}, tmp_path / "last.ckpt")
    code, out, err = run("inspect", tmp_path / "last.ckpt", *ARCH, "--json")
    assert code == 0
    json.loads(out)
    assert "the weights under model were taken. It also has ema, which --key chooses." in err
    code, _, err = run("inspect", tmp_path / "last.ckpt", *ARCH, "--key", "ema")
    assert code == 0
    assert "were taken" not in err
    torch.save(
        {"student": fine.state_dict(), "teacher": mlp().state_dict(), "other": averaged.state_dict()},
        tmp_path / "two.pt",
    )
    code, _, err = run("inspect", tmp_path / "two.pt", *ARCH)
    assert code == 1
    assert "student, teacher. Choose one by --key." in err


def test_json_is_json_and_nothing_else(file):
    report = json.loads(run("coarsen", file, *ARCH, "--json", "--levels", 2, "--axis-ratio", "0=0.25")[1])
    assert report["levels"][1]["axes"] == {"0": 32, "2": 32}
    assert {a["name"] for a in json.loads(run("inspect", file, *ARCH, "--json")[1])["axes"]} >= {"0", "2"}
    assert all(v["error"] < 1e-4 for v in json.loads(run("verify", file, *ARCH, "--json")[1]))
    assert "hem" in json.loads(run("plugins", "--json")[1])["netgraph.coarseners"]


def test_plugins_are_listed_with_their_distribution():
    out = run("plugins")[1]
    assert "hem" in out
    assert "netgraph-coarsening" in out


def test_export_builds_as_coarsen_does_and_shows_a_saved_hierarchy_as_it_is(file, tmp_path):
    assert run("coarsen", file, *ARCH, "--levels", 2, "-o", tmp_path / "m.hierarchy")[0] == 0
    assert run("export", file, tmp_path / "a.json", *ARCH, "--levels", 2)[0] == 0
    code, out, err = run("export", tmp_path / "m.hierarchy", tmp_path / "b.json")
    assert (code, out) == (0, "")
    assert "wrote" in err
    one, two = (json.loads((tmp_path / name).read_text())["nodes"] for name in ("a.json", "b.json"))
    assert one == two
    assert {"level1"} == {key for key in one[0] if key.startswith("level")}


def test_all_levels_are_written_as_a_folder(file, tmp_path):
    assert run("coarsen", file, *ARCH, "-o", tmp_path / "m.hierarchy")[0] == 0
    assert (tmp_path / "m.hierarchy" / "hierarchy.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["coarsen", "none.pt"], 1, "does not exist"),
        (["coarsen", "FILE"], 1, "--arch"),
        (["coarsen", "FILE", *ARCH, "--ratio", "0"], 1, "above 0"),
        (["coarsen", "FILE", *ARCH, "--input", "2x63"], 1, "does not run on the example"),
        (["coarsen", "FILE", *ARCH, "--coarsener", "no"], 1, "no coarsener"),
        (["coarsen", "FILE", *ARCH, "--keep", "0", "--keep", "2"], 3, "nothing in this network can be merged"),
        (["coarsen", "FILE", *ARCH, "-o", "x.txt"], 1, "ends in .txt"),
        (["coarsen", "FILE", *ARCH, "-o", "/no/such/x.safetensors"], 1, "does not exist"),
        (["coarsen", "FILE", *ARCH, "--axis-ratio", "0"], 1, "AXIS=RATIO"),
        (["export", "FILE", "x.docx", *ARCH], 1, "which no exporter writes"),
        (["coarsen", "FILE", *ARCH, "--export", "x"], 1, "ends in nothing"),
        (["coarsen"], 2, ""),
        (["coarsen", "FILE", "--no-such-option"], 2, ""),
    ],
)
def test_mistakes_get_a_sentence_and_an_exit_code(file, words, code, message):
    exit_code, out, err = run(*[file if w == "FILE" else w for w in words])
    assert exit_code == code
    assert message in err
    assert out == ""


def test_the_program_itself_prints_no_traceback_and_leaves_nothing_half_written(file, tmp_path):
    words = [sys.executable, "-m", "netgraph", "coarsen", file, "-o", str(tmp_path / "out.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("netgraph: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_verify_exits_with_4_where_an_oracle_fails(file, monkeypatch):
    from netgraph.coarsen.network import oracles as verify

    monkeypatch.setattr(verify, "_measure_difference", lambda *a: (0.5, 0.0))
    code, out, err = run("verify", file, *ARCH)
    assert code == 4
    assert "WRONG" in out
    assert "report the network" in err


def test_the_demo_does_what_the_readme_says(tmp_path):
    code, out, _ = run("demo", "--folder", tmp_path / "demo")
    assert code == 0
    assert "level 1: test accuracy" in out
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"model.pt", "small.safetensors", "hierarchy.html"}


def test_compilation_is_announced_once_and_not_for_compiled_kernels(capsys):
    double = njit(lambda x: x * 2)
    with announce_compilation():
        assert (double(2), double(2.0)) == (4, 4.0)
    assert capsys.readouterr().err.count("compiling kernels") == 1
    with announce_compilation():
        double(3)
    assert not capsys.readouterr().err


def test_the_seconds_of_a_level_are_without_those_of_compiling_kernels():
    """The judge is the wall clock. A kernel that another kernel calls is compiled within it and counts once."""

    def compiles(graph, n_coarse, *, seed):
        inner = njit(lambda x: x + 1)
        outer = njit(lambda x: inner(x) * 2)
        begun = time.perf_counter()
        outer(3)
        spent.append(time.perf_counter() - begun)
        return np.arange(graph.n_units) // 2

    spent = []
    levels = build_hierarchy(mlp((6, 16, 3)), torch.randn(2, 6), coarsener=compiles).levels
    assert 0.5 * sum(spent) < levels[1].compiling <= sum(spent)
    assert levels[1].seconds >= 0
    again = [build_hierarchy(mlp((6, 16, 3)), torch.randn(2, 6)).levels for _ in range(2)][1]
    assert again[1].compiling == 0


def test_help_does_not_import_torch():
    code = "import sys; sys.argv = ['netgraph', '--help']\ntry:\n    import netgraph.cli.main; netgraph.cli.main.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_the_own_class_is_written_whole_and_its_name_is_checked_before_work_begins(file, tmp_path):
    own = tmp_path / "own.pt"
    code, _, err = run("coarsen", file, *ARCH, "--own-class", own)
    assert code == 0
    assert "a Sequential" in err
    assert run("verify", own, "--trust")[0] == 0
    code, _, err = run("coarsen", file, *ARCH, "--own-class", tmp_path / "own.safetensors", "--affinity", "correlation")
    assert code == 1
    assert "NAME.pt" in err
    assert [p.name for p in tmp_path.glob("*own*")] == ["own.pt"]


class Masked(nn.Module):
    """Integers and floats, by keyword."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        return self.b(self.a(self.embed(ids)).relu() * mask[..., None])


def test_a_written_network_of_keyword_inputs_opens_without_options(tmp_path):
    import netgraph as ng

    example = {"ids": torch.randint(0, 20, (2, 6)), "mask": torch.randn(2, 6)}
    ng.save(ng.build_hierarchy(Masked(), example).levels[1].model, tmp_path / "small.safetensors")
    code, _, err = run("inspect", tmp_path / "small.safetensors")
    assert code == 0
    assert "--input ids=2x6:int64 --input mask=2x6" in err
