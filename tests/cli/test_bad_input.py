"""Bad input on the command line and on every coarsener gives a sentence and a code, or aggregates that keep the contract."""

import json

import numpy as np
import pytest
import torch
from command_line import run
from scipy import sparse

import netgraph as ng
from netgraph import plugins
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.contract import check_aggregates, leaves_out
from netgraph.errors import NetgraphError
from netgraph.models.perceptron import mlp

pytestmark = pytest.mark.no_cover
SIZES = (64, 16, 12, 10)
ARCH = ["--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[64,16,12,10]", "--levels", "2"]
COARSENERS = sorted(
    {*plugins.list_plugins("netgraph.coarseners")} - {"kahip", "mtkahypar"}
)  # their libraries are extras


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks and calibration data, good and bad."""
    here = tmp_path_factory.mktemp("bad")
    good = mlp(SIZES).state_dict()
    torch.save(good, here / "good.pt")
    torch.save({**good, "0.weight": good["0.weight"].index_fill(0, torch.tensor([3]), float("nan"))}, here / "nan.pt")
    torch.save({name: torch.zeros_like(tensor) for name, tensor in good.items()}, here / "zero.pt")
    torch.save(mlp((64, 1, 1, 10)).state_dict(), here / "one.pt")
    rows = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    for name, array in {
        "good": rows,
        "narrow": rows[:, :63],
        "deep": rows.reshape(16, 2, 64),
        "nan": rows * np.nan,
        "empty": rows[:0],
        "whole": rows.astype(np.int64),
    }.items():
        np.save(here / f"{name}.npy", array)
    (here / "text.npy").write_text("hello")
    return here


def coarsen(folder, *words):
    """Return (exit code, stdout, message) of `netgraph coarsen` on files of a folder."""
    return run("coarsen", *[folder / w if w.endswith((".pt", ".npy")) else w for w in words])


@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (["good.pt", *ARCH, "--ratio", "0"], 1, "Give one above 0 and at most 1"),
        (["good.pt", *ARCH, "--ratio", "nan"], 1, "Give one above 0 and at most 1"),
        (["good.pt", *ARCH, "--ratio", "1"], 3, "keep every unit"),
        (["good.pt", *ARCH, "--axis-ratio", "0=1", "--axis-ratio", "2=1"], 3, "keep every unit"),
        (["good.pt", *ARCH, "--budget", "error=1e-9", "--data", "good.npy"], 3, "Give a larger one"),
        (["good.pt", *ARCH, "--budget", "units=half"], 1, "is not KIND=SHARE"),
        (["nan.pt", *ARCH], 1, "axis '0': unit 3 has weights that are not finite"),
        (["zero.pt", *ARCH], 3, "hem found no two units alike on 0, 2"),
        (["one.pt", *ARCH[:2], "--arch-arg", "sizes=[64,1,1,10]"], 3, "nothing in this network can be merged"),
        (["good.pt", *ARCH, "--repair", "ridge"], 1, "needs calibration data"),
        (["good.pt", *ARCH, "--repair", "ridge", "--data", "narrow.npy"], 1, "takes rows × 64"),
        (["good.pt", *ARCH, "--repair", "norms", "--data", "deep.npy"], 1, "holds rows × 2 × 64"),
        (["good.pt", *ARCH, "--repair", "tune", "--data", "nan.npy"], 1, "not finite"),
        (["good.pt", *ARCH, "--repair", "ridge", "--data", "empty.npy"], 1, "holds no rows"),
        (["good.pt", *ARCH, "--repair", "ridge", "--data", "whole.npy"], 1, "torch.int64"),
        (["good.pt", *ARCH, "--repair", "ridge", "--data", "text.npy"], 1, "cannot be read"),
        (["good.pt", *ARCH, "--repair", "ridge", "--data", "none.npy"], 1, "does not exist"),
        (["good.pt", *ARCH, "--data", "good.npy", "--samples", "0"], 1, "Change n"),
        (["good.pt", *ARCH, "--affinity", "correlation"], 1, "there are no calibration data"),
        (["good.pt", *ARCH, "--round-to", "0"], 1, "Give a multiple"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence_and_a_code(folder, words, code, fragment):
    exit_code, out, message = coarsen(folder, *words)
    assert (exit_code, out) == (code, "")
    assert fragment in message
    assert "\n" not in message.strip()


@pytest.mark.parametrize("name", [*COARSENERS, "auto"])
def test_zero_weights_and_the_smallest_ratio_end_in_an_answer_or_a_sentence(folder, name):
    for model, ratio in (("zero.pt", "0.5"), ("good.pt", "1e-9")):
        code, out, message = coarsen(folder, model, *ARCH, "--coarsener", name, "--ratio", ratio, "--json")
        if code == 0:
            assert all(1 <= n < 16 for n in json.loads(out)["levels"][1]["axes"].values())
        else:
            assert (code, out) == (3, "")
            assert message.startswith("nothing merges")


def graphs():
    """A graph of two components and lone units, one without edges, and one of a single unit."""
    blocks = [np.ones((4, 4)), np.ones((3, 3)), np.zeros((2, 2))]
    parted = sparse.csr_array(sparse.block_diag(blocks))
    parted.setdiag(0)
    parted.eliminate_zeros()
    points = np.random.default_rng(0).normal(size=(9, 4))
    yield AxisGraph("parted", parted, np.ones(9), lambda: points), 4
    yield AxisGraph("edgeless", sparse.csr_array((5, 5)), np.ones(5), lambda: points[:5]), 2
    yield AxisGraph("single", sparse.csr_array((1, 1)), np.ones(1), lambda: points[:1]), 1


@pytest.mark.parametrize("name", COARSENERS)
def test_every_coarsener_answers_on_parted_edgeless_and_single_graphs(name):
    merge = plugins.load_plugin("netgraph.coarseners", name)
    for graph, n_coarse in graphs():
        for n_asked in {n_coarse, 1, graph.n_units}:
            answer = merge(graph, n_asked, seed=0)
            aggregates = check_aggregates(answer, graph, name, leaves_out=leaves_out(merge))
            assert aggregates.max() + 1 >= n_asked


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_an_affinity_of_no_sense_is_refused_before_any_coarsener_sees_it(value):
    def bad(units, *, seed):
        n = len(units.incoming)
        return sparse.csr_array(([value, value], ([0, 1], [1, 0])), shape=(n, n))

    def never(graph, n_coarse, *, seed):
        raise AssertionError("the graph came through")

    with pytest.raises(NetgraphError, match=r"affinity 'bad' answers axis '0' with .* between units 0 and 1"):
        ng.build_hierarchy(mlp(SIZES), torch.randn(2, 64), affinity=bad, coarsener=never)
