"""Answers of affinities and coarseners that users and other distributions give: taken as they are meant, or refused by name."""

import asyncio
import functools
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import netgraph as ng
from netgraph import plugins
from netgraph.affinity import AllPairs, cosine
from netgraph.errors import AggregatesError, NetgraphError
from netgraph.graph.affinity_answers import read_affinity
from netgraph.rules.registry import forget_rules

SIZE = 8


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, SIZE), nn.ReLU(), nn.Linear(SIZE, 2))


def likeness(seed=0):
    """A symmetric, non-negative matrix with a zero diagonal."""
    weights = np.random.default_rng(seed).random((SIZE, SIZE))
    weights = (weights + weights.T) * (weights + weights.T > 0.8)
    np.fill_diagonal(weights, 0)
    return weights


FORMS = {
    "numpy": lambda w: w,
    "list": lambda w: w.tolist(),
    "csr": sparse.csr_array,
    "csc matrix": sparse.csc_matrix,
    "coo": sparse.coo_array,
    "unsorted": lambda w: sparse.csr_array(sparse.coo_array(w).tocsc().T.tocsc().T),
    "single precision": lambda w: sparse.csr_array(w.astype(np.float32)),
    "torch": torch.tensor,
    "torch sparse": lambda w: torch.tensor(w).to_sparse(),
    "torch csr": lambda w: torch.tensor(w).to_sparse_csr(),
    "torch sparse of single precision": lambda w: torch.tensor(w).float().to_sparse(),
    "all pairs": AllPairs,
}
SHORT = {
    "numpy": lambda w: w.astype(np.float16),
    "torch": lambda w: torch.tensor(w).half(),
    "torch bfloat16": lambda w: torch.tensor(w).bfloat16(),
    "torch sparse": lambda w: torch.tensor(w).bfloat16().to_sparse(),
    "torch 8 bits": lambda w: torch.tensor(w).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_one_matrix_gives_the_same_aggregates(net, form):
    expected = ng.build_hierarchy(net, torch.zeros(2, 6), affinity=lambda u, *, seed: sparse.csr_array(likeness()))
    made = ng.build_hierarchy(net, torch.zeros(2, 6), affinity=lambda u, *, seed: FORMS[form](likeness()))
    assert made.levels[1].transfers["0"].aggregates.tolist() == expected.levels[1].transfers["0"].aggregates.tolist()
    np.testing.assert_allclose(read_affinity(FORMS[form](likeness()), SIZE).toarray(), likeness(), rtol=1e-6)


@pytest.mark.parametrize("form", SHORT)
def test_numbers_of_short_types_are_taken(form):
    np.testing.assert_allclose(read_affinity(SHORT[form](likeness()), SIZE).toarray(), likeness(), rtol=0.07)


def with_indices(name, value):
    """A sparse matrix whose indices were damaged after it was made."""
    matrix = sparse.csr_array(likeness())
    getattr(matrix, name)[-1] = value
    return matrix


@pytest.mark.parametrize(
    "answer",
    [
        [[0.0], [1.0, 2.0]],
        torch.zeros(SIZE, SIZE, device="meta"),
        np.ma.masked_greater(likeness(), 0.9),
        with_indices("indices", 10**6),
        with_indices("indices", -3),
        with_indices("indptr", 10**6),
    ],
    ids=[
        "rows of several lengths",
        "no numbers",
        "masked",
        "beyond the matrix",
        "before the matrix",
        "beyond the entries",
    ],
)
def test_what_cannot_be_read_as_a_matrix_is_refused_in_one_sentence(answer):
    with pytest.raises(NetgraphError, match="cannot be read as a matrix"):
        read_affinity(answer, SIZE)


@pytest.mark.parametrize("kind", ["affinity", "coarsener"])
def test_a_function_that_ends_the_process_is_named_instead(net, kind):
    def leave(*_, seed):
        sys.exit(3)

    with pytest.raises(NetgraphError, match=r"'leave' fail(s|ed) on axis '0'"):
        ng.build_hierarchy(net, torch.zeros(2, 6), **{kind: leave})


def with_entry(i, j, value):
    weights = likeness()
    weights[i, j] = value
    return weights


WRONG = {
    "of another size": (np.zeros((3, 3)), r"shape \(3, 3\)\. Give one row and one column for each of the 8 units"),
    "sparse of another size": (sparse.eye_array(3), r"shape \(3, 3\)"),
    "of the square of that size": (np.zeros((64, 64)), r"shape \(64, 64\)"),
    "a vector": (np.zeros(SIZE), r"shape \(8,\)"),
    "nothing": (None, r"shape \(\)"),
    "text": (np.full((SIZE, SIZE), "a"), r"numbers of type <U1"),
    "complex": (likeness() * 1j, r"numbers of type complex128"),
    "not a number": (with_entry(2, 5, np.nan), r"nan between units 2 and 5"),
    "infinite": (with_entry(2, 5, np.inf), r"inf between units 2 and 5"),
    "infinite as a double": (with_entry(2, 5, 1).astype(np.longdouble) * np.longdouble("1e4000"), r"inf between units"),
    "negative": (with_entry(2, 5, -1.0), r"-1\.0 between units 2 and 5"),
    "asymmetric": (with_entry(2, 5, 7.0), r"7 from unit 2 to unit 5 and .* back\. Give a symmetric matrix"),
    "with a diagonal": (with_entry(3, 3, 1.0), r"an affinity of 1 of unit 3 to itself\. Set the diagonal to zero"),
    "all pairs of another size": (AllPairs(np.zeros((3, 3))), r"shape \(3, 3\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_answer_that_is_no_affinity_is_refused(net, case):
    answer, message = WRONG[case]
    with pytest.raises(NetgraphError, match=rf"affinity 'mine' answers axis '0' with .*{message}"):
        ng.build_hierarchy(net, torch.zeros(2, 6), affinity=name("mine", lambda u, *, seed: answer))
    with pytest.raises(NetgraphError, match=r"affinity 'mine' answers axis"):
        ng.check_affinity(name("mine", lambda u, *, seed: answer))


def name(text, function):
    function.__name__ = function.__qualname__ = text
    return function


def fail(*args, **kwargs):
    raise ZeroDivisionError("division by zero")


def test_what_fails_is_named_with_its_axis(net):
    with pytest.raises(NetgraphError, match=r"^affinity 'fail' fails on axis '0' of 8 units \(ZeroDivisionError"):
        ng.build_hierarchy(net, torch.zeros(2, 6), affinity=fail)
    with pytest.raises(NetgraphError, match=r"^affinity 'fail' fails"):
        ng.unit_graph(net, ng.trace(net, torch.zeros(2, 6)), affinity=fail)
    with pytest.raises(AggregatesError, match=r"^coarsener 'fail' failed on axis '0', 8 units .* ZeroDivisionError"):
        ng.build_hierarchy(net, torch.zeros(2, 6), coarsener=fail)
    with pytest.raises(AggregatesError, match=r"axis '0'.* is called as coarsener\(graph, n_coarse, seed=seed\)"):
        ng.build_hierarchy(net, torch.zeros(2, 6), coarsener=lambda graph, n_coarse: np.arange(SIZE) % 4)


def test_a_plugin_that_fails_is_named_with_its_distribution(net, tmp_path, monkeypatch):
    info = tmp_path / "bad_affinity-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-affinity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[netgraph.affinities]\nbad = bad_affinity:measure\n[netgraph.coarseners]\nbad = bad_affinity:merge\n"
        "[netgraph.rules]\nbad = bad_affinity:RULES\n"
    )
    (tmp_path / "bad_affinity.py").write_text(
        "def measure(units, *, seed): raise KeyError('x')\ndef merge(graph, n_coarse, *, seed): return 1 / 0\n"
        "def rule(call): raise IndexError('y')\nRULES = {'aten.relu': rule}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    try:
        with pytest.raises(NetgraphError, match=r"rule 'aten\.relu' of bad-affinity fails .*IndexError: y"):
            ng.trace(net, torch.zeros(2, 6))
        (tmp_path / "bad_affinity.py").write_text((tmp_path / "bad_affinity.py").read_text() + "RULES = {}\n")
        sys.modules.pop("bad_affinity")
        forget()
        with pytest.raises(NetgraphError, match=r"^affinity 'bad' of bad-affinity fails on axis '0'"):
            ng.build_hierarchy(net, torch.zeros(2, 6), affinity="bad")
        with pytest.raises(AggregatesError, match=r"^coarsener 'bad' of bad-affinity failed on axis '0'"):
            ng.build_hierarchy(net, torch.zeros(2, 6), coarsener="bad")
    finally:
        monkeypatch.undo()
        sys.modules.pop("bad_affinity", None)
        forget()


def test_plug_ins_under_another_name_than_their_own_are_named_with_their_distribution(net, tmp_path, monkeypatch):
    info = tmp_path / "other_names-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-names\nVersion: 1.0\n")
    kinds = ("renamed", "part", "thing", "thing.method")
    points = "".join(f"{kind.replace('.', '-')} = other_names:{kind}\n" for kind in kinds)
    (info / "entry_points.txt").write_text(f"[netgraph.affinities]\n{points}[netgraph.coarseners]\n{points}")
    (tmp_path / "other_names.py").write_text(
        "import functools\ndef fail(*args, **kwargs): raise KeyError('x')\nrenamed = fail\npart = functools.partial(fail, k=1)\n"
        "class Thing:\n    def __call__(self, *args, **kwargs): fail()\n    method = __call__\nthing = Thing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    try:
        for kind in kinds:
            named = rf"'{kind.replace('.', '-')}' of other-names fail(s|ed) on axis '0'"
            for option in ("affinity", "coarsener"):
                with pytest.raises(NetgraphError, match=f"^{option} {named}"):
                    ng.build_hierarchy(net, torch.zeros(2, 6), **{option: kind.replace(".", "-")})
    finally:
        monkeypatch.undo()
        sys.modules.pop("other_names", None)
        forget()


def test_a_function_that_wraps_an_affinity_of_netgraph_is_checked_as_one_of_its_own(net):
    @functools.wraps(cosine)
    def corner(units, *, seed):
        return cosine(units, seed=seed).tocsr()[:4, :4]

    with pytest.raises(NetgraphError, match=r"^affinity 'cosine' answers axis '0' with shape \(4, 4\)"):
        ng.build_hierarchy(net, torch.zeros(2, 6), affinity=corner)


class Wordless(BaseException):
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize("error", [Wordless, GeneratorExit, asyncio.CancelledError, StopIteration])
def test_every_error_of_a_function_is_named_with_its_axis(net, error):
    def leave(*_, seed):
        raise error

    for option in ("affinity", "coarsener"):
        with pytest.raises(NetgraphError, match=rf"'leave' fail(s|ed) on axis '0'.*{error.__name__}\b(?!: )"):
            ng.build_hierarchy(net, torch.zeros(2, 6), **{option: leave})


def test_an_affinity_that_changes_the_network_is_refused_where_it_is_used(net):
    def spoil(units, *, seed):
        units.state["0.weight"].zero_()
        return likeness()

    with pytest.raises(NetgraphError, match=r"^affinity 'spoil' changed the weights of axis '0'"):
        ng.build_hierarchy(net, torch.zeros(2, 6), affinity=spoil)


def forget():
    for cached in (plugins._find_entry_points, plugins.load_plugin):
        cached.cache_clear()
    forget_rules()


def test_the_check_finds_chance_and_changed_weights():
    calls = []

    def draw(units, *, seed):
        calls.append(1)
        n = units.spec.axes[units.axis].size
        return (1 - np.eye(n)) * len(calls)

    with pytest.raises(NetgraphError, match=r"two answers for one seed"):
        ng.check_affinity(draw)

    def spoil(units, *, seed):
        n = units.spec.axes[units.axis].size
        next(iter(units.state.values())).zero_()
        return 1 - np.eye(n)

    with pytest.raises(NetgraphError, match=r"changed the weights of axis"):
        ng.check_affinity(spoil)


@pytest.mark.parametrize("installed", ["cosine", "both", "normed", "radial", "relu", "shifted", "fourier"])
def test_the_affinities_of_this_distribution_keep_the_contract(installed):
    weigh = plugins.load_plugin("netgraph.affinities", installed)
    ng.check_affinity(weigh)
    stranger = name(installed, lambda units, *, seed: weigh(units, seed=seed))  # checked as one of another distribution
    ng.check_affinity(stranger)
