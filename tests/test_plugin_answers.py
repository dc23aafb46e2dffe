"""Functions of users as plug-ins: each form of a function and of an answer is taken as it is meant, or refused by name."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import nn

import netgraph as ng
from netgraph.errors import AggregatesError, NetgraphError, PluginError
from netgraph.fas import parse_options

SIZE = 8
PAIRS = np.arange(SIZE) // 2


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, SIZE), nn.ReLU(), nn.Linear(SIZE, 2))


def build(net, **options):
    return ng.build_hierarchy(net, torch.zeros(2, 6), **options)


def halve(graph, n_coarse):
    return np.arange(graph.n_units) * n_coarse // graph.n_units


class Halves:
    def __init__(self, *taken, seed=0):
        self.taken = taken

    def __call__(self, graph, n_coarse, *, seed):
        return halve(graph, n_coarse)

    def method(self, graph, n_coarse, seed):
        return halve(graph, n_coarse)

    def __array__(self, dtype=None, copy=None):
        return halve(*self.taken)


def scaled(graph, n_coarse, *, factor, seed):
    return halve(graph, n_coarse) * factor


FORMS = {
    "an object": (Halves(), "Halves"),
    "a method": (Halves().method, "method"),
    "a class whose objects are arrays": (Halves, "Halves"),
    "a partial": (functools.partial(scaled, factor=1), "scaled"),
    "a lambda": (lambda graph, n_coarse, *, seed: halve(graph, n_coarse), "<lambda>"),
    "any keywords": (lambda graph, n_coarse, **keywords: halve(graph, n_coarse), "<lambda>"),
    "cached": (functools.lru_cache(lambda graph, n_coarse, seed: halve(graph, n_coarse)), "<lambda>"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_coarsener_is_taken_and_its_name_holds_no_address(net, form):
    coarsener, name = FORMS[form]
    hierarchy = build(net, coarsener=coarsener)
    assert hierarchy.levels[1].transfers["0"].aggregates.tolist() == PAIRS.tolist()
    assert hierarchy.options.coarsener_name == name


CALLS = {
    "no seed": lambda graph, n_coarse: PAIRS,
    "keywords alone": lambda *, graph, n_coarse, seed: PAIRS,
    "one argument too many": scaled,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_coarsener_and_an_affinity_that_are_called_otherwise_are_told_how(net, call):
    with pytest.raises(
        AggregatesError, match=r"axis '0'.* A coarsener is called as coarsener\(graph, n_coarse, seed=seed\)"
    ):
        build(net, coarsener=CALLS[call])
    with pytest.raises(NetgraphError, match=r"axis '0'.* An affinity is called as affinity\(units, seed=seed\)"):
        build(net, affinity=CALLS[call])


@pytest.mark.parametrize("value", [3, None, [halve]])
def test_what_is_no_function_is_refused_before_work_begins(net, value):
    for kind in ("coarsener", "affinity"):
        with pytest.raises(PluginError, match=rf"{kind} is .*Give a name that `netgraph plugins` lists, or a function"):
            build(net, **{kind: value})


TAKEN = {
    "a list": PAIRS.tolist(),
    "a tensor": torch.tensor(PAIRS),
    "a series": pd.Series(PAIRS),
    "short integers": PAIRS.astype(np.uint8),
    "long integers without sign": PAIRS.astype(np.uint64),
    "integers of another machine": PAIRS.astype(">i4"),
}


@pytest.mark.parametrize("form", TAKEN)
def test_every_form_of_integers_is_taken(net, form):
    aggregates = build(net, coarsener=lambda graph, n_coarse, *, seed: TAKEN[form]).levels[1].transfers["0"].aggregates
    assert aggregates.tolist() == PAIRS.tolist()


async def later(graph, n_coarse, *, seed):
    return PAIRS


REFUSED = {
    "nothing": (None, "a NoneType"),
    "a generator": ((i for i in PAIRS), "a generator"),
    "a dict": ({}, "a dict"),
    "a sparse matrix": (sparse.csr_array(np.eye(SIZE)), "a csr_array"),
    "a sparse tensor": (torch.tensor(PAIRS).to_sparse(), "a Tensor"),
    "a tensor without numbers": (torch.zeros(SIZE, dtype=torch.int64, device="meta"), "a Tensor"),
    "masked": (np.ma.masked_equal(PAIRS, 1), "a MaskedArray"),
    "rows of several lengths": ([[0, 1], [2]], "a list"),
    "floating point": (PAIRS * 1.0, r"float64 of shape \(8,\)"),
    "a tensor with a gradient": ((torch.tensor(PAIRS) * 1.0).requires_grad_(), r"float32 of shape \(8,\)"),
    "not numbers": (np.full(SIZE, np.nan), r"float64 of shape \(8,\)"),
    "complex": (PAIRS + 0j, "complex128"),
    "booleans": (PAIRS > 1, "bool"),
    "objects": (PAIRS.astype(object), "object"),
    "text": (list("aabbccdd"), "<U1"),
    "seconds": (PAIRS.astype("m8[s]"), "timedelta64"),
    "a matrix": (np.matrix(PAIRS), r"int64 of shape \(1, 8\)"),
    "a data frame": (pd.DataFrame(PAIRS), r"int64 of shape \(8, 1\)"),
    "a prolongation": (np.eye(SIZE, dtype=int)[:, :4], r"int64 of shape \(8, 4\)"),
    "too few": (PAIRS[:4], r"int64 of shape \(4,\)"),
    "other numbers": (PAIRS + 100, "104 aggregates"),
    "numbers beyond all integers": (np.full(SIZE, 2**64 - 1, np.uint64), "18446744073709551616 aggregates"),
    "negative numbers": (PAIRS - 2, "numbers -2 to 1"),
    "skipped numbers": (PAIRS * 2, "numbers 0 to 6"),
}  # fmt: skip


@pytest.mark.parametrize("answer", REFUSED)
def test_an_answer_that_is_no_partition_is_refused_with_the_axis(net, answer):
    value, message = REFUSED[answer]
    with pytest.raises(AggregatesError, match=rf"^coarsener '<lambda>' returned {message}.* axis '0' of 8 units"):
        build(net, coarsener=lambda graph, n_coarse, *, seed: value)


def likeness():
    weights = np.random.default_rng(0).random((SIZE, SIZE))
    weights = np.rint(10 * (weights + weights.T))
    np.fill_diagonal(weights, 0)
    return weights


MATRICES = {
    "numpy matrix": np.matrix,
    "data frame": pd.DataFrame,
    "sparse data frame": lambda w: pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(w)),
    "tensor with a gradient": lambda w: torch.tensor(w, requires_grad=True),
    "torch csc": lambda w: torch.tensor(w).to_sparse_csc(),
    "torch bsr": lambda w: torch.tensor(w).to_sparse_bsr((2, 2)),
    "sparse with a gradient": lambda w: torch.tensor(w).to_sparse().requires_grad_(),
    "lil": sparse.lil_array,
    "dok": sparse.dok_array,
    "dia": sparse.dia_array,
    "bsr": sparse.bsr_array,
    "integers": lambda w: w.astype(int),
    "bytes": lambda w: w.astype(np.uint8),
    "sparse integers": lambda w: sparse.csr_array(w.astype(int)),
    "of another machine": lambda w: w.astype(">f8"),
    "long double": lambda w: w.astype(np.longdouble),
    "tuples": lambda w: tuple(map(tuple, w)),
    "twice half": lambda w: sparse.coo_array(
        (np.tile(w.ravel() / 2, 2), (np.tile(np.repeat(np.arange(SIZE), SIZE), 2), np.tile(np.arange(SIZE), 2 * SIZE))),
        shape=(SIZE, SIZE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", MATRICES)
def test_every_form_of_an_affinity_is_read_as_the_same_numbers(net, form):
    expected = build(net, affinity=lambda units, *, seed: likeness()).levels[1].transfers["0"].aggregates
    found = build(net, affinity=lambda units, *, seed: MATRICES[form](likeness())).levels[1].transfers["0"].aggregates
    assert found.tolist() == expected.tolist()


def test_booleans_are_affinities_of_zero_and_one(net):
    def near(dtype):
        return lambda units, *, seed: (likeness() > 10).astype(dtype)

    found, expected = (build(net, affinity=near(dtype)).levels[1].transfers["0"].aggregates for dtype in (bool, float))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "answer", [likeness().astype(object), torch.tensor(likeness() + 1j), sparse.csr_array(likeness() + 1j), "text", {}]
)
def test_other_matrices_are_refused_with_the_axis(net, answer):
    with pytest.raises(NetgraphError, match=r"^affinity '<lambda>' answers axis '0' with"):
        build(net, affinity=lambda units, *, seed: answer)


def test_a_coarsener_that_fails_while_units_are_matched_again_ends_training_with_its_name_and_axis(net):
    calls = []

    def tired(graph, n_coarse, *, seed):
        calls.append(graph.name)
        if len(calls) > 1:
            raise ZeroDivisionError("division by zero")
        return halve(graph, n_coarse)

    hierarchy = build(net, coarsener=tired)
    batches = [(torch.randn(4, 6), torch.randint(2, (4,))) for _ in range(4)]
    options = parse_options({"adapt.rematch": "1"})
    solver = ng.FAS("v", torch.optim.SGD, 0.1, cycles=4, options=options)
    with pytest.raises(AggregatesError, match=r"coarsener 'tired' failed on axis '0', .*ZeroDivisionError"):
        solver.solve(hierarchy, ng.Problem(batches, nn.functional.cross_entropy))


HANGS = """
    import sys, time, torch, netgraph as ng
    def hang(*taken, seed=None):
        print("hangs", flush=True)
        while True:
            time.sleep(0.05)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    ng.build_hierarchy(net, torch.zeros(2, 6), **{sys.argv[1]: hang})
"""


@pytest.mark.parametrize(("kind", "said"), [("coarsener", "merged the 8 units"), ("affinity", "compared the 8 units")])
def test_an_interrupt_names_the_function_that_hangs_and_its_axis(kind, said):
    command = [sys.executable, "-c", textwrap.dedent(HANGS), kind]
    heeded = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # background jobs inherit deaf ears
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=dict(os.environ), preexec_fn=heeded) as process:
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=120)
        finally:
            process.kill()  # one that goes on would be waited for without end
    assert f"stopped while {kind} 'hang' {said} of axis '0'" in error
    assert process.returncode != 0
