"""Values of every type that public functions take, most of them wrong: `find_arguments` gives strategies for a signature.

Numbers are out of every range, names are those of nothing, paths are no places, networks do not run, graphs do not fit.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import sparse
from torch import Tensor, nn

import netgraph as ng
from netgraph.affinity import AllPairs
from netgraph.coarsen import (
    AxisGraph,
    Compressed,
    Costs,
    Latency,
    LevelMaps,
    Metric,
    Quality,
    Stage,
    Sweep,
    Target,
    TuneOptions,
    Verdict,
    build_level_maps,
    fine_tune,
    sweep,
)
from netgraph.coarsen.hierarchy.hierarchy import BuildInputs, Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.fas import (
    FAS,
    Adapt,
    Checkpoints,
    CoarseStart,
    Estimate,
    Gate,
    GradientEstimate,
    History,
    Ledger,
    Maps,
    Multigrid,
    Objective,
    Options,
    Outcome,
    Problem,
    Run,
    Smoothing,
    Solution,
    Split,
    Tau,
    Tolerance,
    TrainOptions,
    VarianceReport,
)
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.graph.axis_units import AxisUnits
from netgraph.graph.graph import UnitGraph
from netgraph.models import (
    Blur,
    CalibrationData,
    Dataset,
    DataSplit,
    Degradation,
    Evaluation,
    Holes,
    Loader,
    LowerResolution,
    Noise,
    OperatorQuality,
    RestorationQuality,
    Task,
    TrainingDefaults,
    mlp,
)
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import Axis, UnitSpec

EXAMPLE = torch.linspace(-1, 1, 24).reshape(4, 6)
TARGETS = torch.tensor([0, 1, 2, 0])
NAMES = (
    "",
    "x",
    "hem",
    "cosine",
    "all",
    "0",
    "a\nb",
    "\x1b]0;T\x07",
    "s3://bucket/x",
    "torchvision:",
    "torchvision:none",
    "-1",
    "2x0",
)
PLACES = (
    "nowhere/x.html",
    "nowhere",
    ".",
    "x.html",
    "x.mtx",
    "x.level9.A.mtx",
    "x.pt",
    "x.safetensors",
    "x",
    "\udcff.pt",
    "a\nb.svg",
)


class Raises(nn.Module):
    """A network that does not run."""

    def forward(self, x):
        raise RuntimeError("no")


class Empty(nn.Module):
    """A network that answers nothing."""

    def forward(self, x):
        return None


def make_network():
    torch.manual_seed(0)
    return mlp((6, 8, 3))


@cache
def make_hierarchy():
    return ng.build_hierarchy(make_network(), EXAMPLE, n_levels=2)


@cache
def make_sweep():
    return sweep(make_network(), EXAMPLE, ratios=[0.5], coarseners=["hem"], example=EXAMPLE, latency=False)


def make_nan_network():
    model = make_network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


def make_problem(loss=nn.functional.cross_entropy):
    return Problem([(EXAMPLE, TARGETS)], loss)


def make_run():
    return FAS("v", torch.optim.SGD, 0.1, cycles=1).begin(make_hierarchy(), make_problem())


@cache
def make_compressed():
    return ng.compress(make_network(), EXAMPLE, target="parameters=0.5", example=EXAMPLE)


@cache
def make_solution():
    return FAS("v", torch.optim.SGD, 0.1, cycles=1).solve(make_hierarchy(), make_problem())


def make_multigrid():
    hierarchy = make_hierarchy()
    return Multigrid(torch.optim.SGD(hierarchy.levels[0].model.parameters(), 0.1), hierarchy)


def make_coarse_start():
    maps = HierarchyMaps(make_hierarchy())
    return CoarseStart(maps, torch.optim.SGD(maps.models[0].parameters(), 0.1), [1], Options())


def make_dataset(rows=8, classes=("a", "b", "c"), inputs=None, targets=None, **fields):
    """Return a data set of three alike splits."""
    inputs = torch.linspace(-1, 1, rows * 6).reshape(rows, 6) if inputs is None else inputs
    split = DataSplit(inputs, torch.arange(rows) % 3 if targets is None else targets)
    return Dataset("points", classes, split, split, split, **fields)


def make_graph(weights, **fields):
    """Return the graph of an axis from its dense affinities."""
    n = len(weights)
    return AxisGraph("axis", sparse.csr_array(np.asarray(weights, float)), np.ones(n), **fields)


def _make_points(n):
    return np.random.default_rng(n).normal(size=(n, 3))


def make_full_graph(n=6, **fields):
    return make_graph(np.ones((n, n)) - np.eye(n), make_features=lambda: _make_points(n), **fields)


def make_units(axis="0", state=None):
    spec = make_hierarchy().levels[0].spec
    state = dict(make_network().named_parameters()) if state is None else state
    return AxisUnits(spec, {k: v.detach() for k, v in state.items()}, axis)


def answer(value):
    """Return a function that answers a value, whatever it is given."""
    return lambda *args, **kwargs: value


ARRAYS = [
    np.zeros(0),
    np.zeros((0, 0)),
    np.zeros((3, 0)),
    np.ones((4, 4)),
    np.ones((4, 3)) * np.nan,
    np.full((4, 3), np.inf),
    np.arange(6),
    np.array([0, 0, 1, 1, 2, 2]),
    np.array([-1, 5]),
    np.array([2**62, 0]),
    np.array(1),
    np.array(["a", "b"]),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.ones((2, 2, 2)),
    np.array([[0.0, -1.0], [-1.0, 0.0]]),
]
TENSORS = [
    EXAMPLE,
    torch.zeros(0),
    torch.zeros(0, 6),
    torch.zeros(2, 5),
    torch.full((2, 6), float("nan")),
    torch.tensor(1),
    torch.zeros(2, 1, 8, 8),
    torch.ones(3, dtype=torch.bool),
    torch.ones(2, 3, dtype=torch.complex64),
    torch.arange(6),
    torch.zeros(2, 6, device="meta"),
    torch.eye(6).to_sparse(),
]
GRAPHS = [
    make_full_graph,
    lambda: make_full_graph(equal=True),
    lambda: make_full_graph(7, equal=True),
    lambda: make_full_graph(fixed=np.ones(6, bool)),
    lambda: make_full_graph(equal=True, fixed=np.arange(6) == 0),
    lambda: make_graph(np.zeros((0, 0))),
    lambda: make_graph(np.zeros((1, 1))),
    lambda: make_graph(np.zeros((5, 5))),
    lambda: make_graph(np.ones((4, 4))),  # every unit is its own neighbour
    lambda: make_graph(np.triu(np.ones((4, 4)), 1)),  # not symmetric
    lambda: (
        make_full_graph(4, equal=False)
        and AxisGraph("axis", AllPairs(np.ones((4, 4), np.float32) - np.eye(4, dtype=np.float32)), np.ones(4))
    ),
]
FUNCTIONS = [
    answer(None),
    answer(float("nan")),
    answer(torch.ones(2)),
    answer("x"),
    answer(np.ones((4, 4))),
    answer(-1),
]
OPTIMIZERS = [torch.optim.SGD, torch.optim.Adam, answer(None), answer("x")]


def _build(make, *strategies, **named):
    """Return a strategy for what ``make`` makes. What it refuses is not drawn."""

    def attempt(values):
        try:
            return make(*values[0], **values[1])
        except NetgraphError:
            return None

    return (
        st.tuples(st.tuples(*strategies), st.fixed_dictionaries(named)).map(attempt).filter(lambda one: one is not None)
    )


def _sample(makers):
    return st.sampled_from(makers).map(lambda make: make())


INTEGERS = st.sampled_from([-1, 0, 1, 2, 7, -(2**63), 2**40, 2**64, 10**30])
NUMBERS = st.sampled_from([float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 0.5, 1.0, 1e308, 5e-324])
WORDS = st.sampled_from(NAMES)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(WORDS, inner, max_size=2)),
    max_leaves=4,
)
TENSOR = st.sampled_from(TENSORS)
ANY = st.one_of(PLAIN, TENSOR, st.sampled_from(ARRAYS), st.builds(object))
EXAMPLES = st.one_of(
    TENSOR,
    st.tuples(TENSOR, TENSOR),
    st.dictionaries(st.sampled_from(["x", "input"]), TENSOR, max_size=1),
)
RECORDS = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["begin", "smooth", "evaluate", "down", "up", "skip", "finish", "x"]),
        "level": st.integers(-1, 3),
        "step": INTEGERS,
        "seconds": NUMBERS,
        "flops": NUMBERS,
    },
    optional={
        "loss": NUMBERS,
        "lr": NUMBERS,
        "length": NUMBERS,
        "figures": st.dictionaries(WORDS, NUMBERS, max_size=2),
        "x": PLAIN,
    },
)
COSTS = st.fixed_dictionaries({"level": st.integers(-1, 3), "kind": WORDS, "seconds": NUMBERS, "flops": NUMBERS})
TRANSFERS = st.sampled_from([Transfer(np.zeros(8, int)), Transfer(np.arange(8)), Transfer(np.zeros(1, int))])
HISTORIES = st.one_of(
    st.builds(lambda: History.of(make_solution())),
    _build(History, WORDS, st.lists(RECORDS, max_size=3), st.lists(COSTS, max_size=2)),
)
SPLITS = _build(DataSplit, TENSOR, TENSOR)
DATASETS = st.one_of(
    _build(make_dataset, st.sampled_from([0, 1, 8])),
    _build(make_dataset, classes=st.sampled_from([(), ("a",)])),
    _build(make_dataset, inputs=TENSOR),
    _build(make_dataset, mean=st.sampled_from([(0.0,), (1.0, 2.0)]), std=st.sampled_from([(0.0,), ()])),
    _build(make_dataset, padding=INTEGERS),
)
PROBLEMS = st.one_of(
    st.builds(make_problem),
    st.sampled_from(FUNCTIONS).map(make_problem),
    st.lists(ANY, max_size=2).map(lambda batches: Problem(batches, nn.functional.cross_entropy)),
)
REPORTS = st.builds(VarianceReport, INTEGERS, WORDS)
MAPS = st.builds(lambda: HierarchyMaps(make_hierarchy()))
BY_TYPE = {
    bool: st.booleans(),
    int: INTEGERS,
    float: NUMBERS,
    str: WORDS,
    object: ANY,
    typing.Any: ANY,
    Path: st.sampled_from(PLACES).map(Path),
    type(None): st.none(),
    np.int64: INTEGERS,
    nn.Module: _sample([make_network, make_nan_network, Raises, Empty, nn.Identity, nn.ModuleList]),
    GraphNetwork: st.builds(lambda: make_hierarchy().levels[1].model),
    Tensor: TENSOR,
    torch.dtype: st.sampled_from([torch.float32, torch.int64, torch.bool, torch.complex64, torch.float16]),
    torch.Generator: st.builds(torch.Generator),
    torch.optim.Optimizer: st.one_of(
        st.builds(lambda: torch.optim.SGD(make_network().parameters(), 0.1)),
        st.builds(lambda: torch.optim.SGD(make_hierarchy().levels[0].model.parameters(), 0.1)),
    ),
    Hierarchy: st.builds(make_hierarchy),
    Level: st.sampled_from([0, 1]).map(lambda i: make_hierarchy().levels[i]),
    UnitSpec: st.sampled_from([0, 1]).map(lambda i: make_hierarchy().levels[i].spec),
    UnitGraph: st.builds(lambda: ng.unit_graph(make_network(), make_hierarchy().levels[0].spec)),
    Axis: st.builds(Axis, WORDS, INTEGERS),
    BuildInputs: st.none(),
    Transfer: TRANSFERS,
    LevelMaps: st.builds(lambda: build_level_maps(make_hierarchy().levels[1])),
    AxisGraph: _sample(GRAPHS),
    AxisUnits: st.builds(make_units),
    AllPairs: _build(AllPairs, st.sampled_from(ARRAYS)),
    sparse.csr_array: st.sampled_from(
        [sparse.csr_array((0, 0)), sparse.csr_array((3, 4)), sparse.csr_array(np.eye(8))]
    ),
    CoarsenOptions: st.builds(CoarsenOptions),
    TrainOptions: st.builds(TrainOptions),
    TuneOptions: st.builds(TuneOptions),
    Evaluation: st.builds(Evaluation, NUMBERS, NUMBERS),
    Metric: st.builds(Metric, WORDS, st.sampled_from(FUNCTIONS), st.booleans()),
    Target: st.sampled_from(["flops=0.5", "accuracy=-1", "error=0.1"]).map(Target.parse),
    Latency: st.builds(Latency, NUMBERS, NUMBERS, NUMBERS, INTEGERS, INTEGERS, INTEGERS),
    Costs: st.builds(lambda: make_compressed().stages[0].costs),
    Stage: st.builds(lambda: make_compressed().stages[1]),
    Compressed: st.builds(make_compressed),
    Sweep: st.builds(make_sweep),
    Quality: st.builds(lambda: ng.quality(make_full_graph(), np.zeros(6, int))),
    Verdict: st.builds(Verdict, WORDS, st.just(("0",)), NUMBERS),
    Problem: PROBLEMS,
    Objective: PROBLEMS,
    Solution: st.builds(make_solution),
    Run: st.builds(make_run),
    FAS: st.builds(lambda: FAS("v", torch.optim.SGD, 0.1, cycles=1)),
    Maps: MAPS,
    HierarchyMaps: MAPS,
    Multigrid: st.builds(make_multigrid),
    CoarseStart: st.builds(make_coarse_start),
    History: HISTORIES,
    Ledger: st.builds(Ledger),
    Checkpoints: st.builds(lambda: Checkpoints("checkpoints")),
    Outcome: st.sampled_from(list(Outcome)),
    DataSplit: SPLITS,
    Dataset: DATASETS,
    Loader: st.builds(lambda: Loader(make_dataset(), 4)),
    Task: st.builds(lambda: Task("points", make_network(), make_dataset(), TrainingDefaults())),
    TrainingDefaults: st.builds(TrainingDefaults),
    CalibrationData: st.builds(CalibrationData, TENSOR, st.none()),
    OperatorQuality: st.builds(OperatorQuality, NUMBERS, NUMBERS),
    RestorationQuality: st.builds(RestorationQuality, NUMBERS, NUMBERS, NUMBERS),
    VarianceReport: REPORTS,
    GradientEstimate: st.builds(GradientEstimate, st.just({}), NUMBERS, REPORTS, st.just({0: 4})),
    Degradation: st.sampled_from([Noise(), Holes(), Blur(), LowerResolution()]),
    **{kind: st.builds(kind) for kind in (Noise, Holes, Blur, LowerResolution)},
} | {kind: st.builds(kind) for kind in (Adapt, Estimate, Gate, Options, Smoothing, Split, Tau, Tolerance)}
BY_NAME = {
    "example": EXAMPLES,
    "inputs": EXAMPLES,
    "data": st.one_of(EXAMPLES, st.lists(EXAMPLES, max_size=2), st.none()),
}


def find_strategy(kind, name=""):
    """Return a strategy for the values of an annotation, or None if it has none here."""
    if name in BY_NAME and kind is typing.Any:
        return BY_NAME[name]
    if isinstance(kind, typing.Hashable) and kind in BY_TYPE:
        return BY_TYPE[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        strategies = [s for s in map(find_strategy, parts) if s is not None]
        return st.one_of(strategies) if strategies else None
    if origin is typing.Literal:
        return st.sampled_from([*parts, "none of them"])
    if origin is np.ndarray:
        return st.sampled_from(ARRAYS)
    if origin is Callable:  # of collections.abc
        return st.sampled_from(OPTIMIZERS if parts[-1] is torch.optim.Optimizer else FUNCTIONS)
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        inner = list(map(find_strategy, parts))
        return None if None in inner else st.tuples(*inner)
    if origin in (list, tuple, frozenset, set, Sequence, Iterable):
        inner = find_strategy(parts[0])
        made = list if origin in (Sequence, Iterable) else origin
        return st.just(made()) if inner is None else st.lists(inner, max_size=3).map(made)
    if origin in (dict, Mapping):
        key, value = map(find_strategy, parts)
        return st.just({}) if key is None or value is None else st.dictionaries(key, value, max_size=2)
    return None


def find_hints(function):
    """Return the annotations of a function or class by parameter, those for type checkers included."""
    names = {"Hierarchy": Hierarchy, "FAS": FAS, "Options": Options, "Figure": object}
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function, localns=names)
    options = {ng.build_hierarchy: CoarsenOptions, fine_tune: TuneOptions}.get(function)
    return hints if options is None else typing.get_type_hints(options) | hints


def find_arguments(function, *, skip_self=False):
    """Return strategies for the parameters of a function: those it must have and those it may have.

    A name that begins with ``*`` takes a list of further positional arguments. None if there is no strategy for a parameter that
    the function must have.
    """
    hints, needed, optional = find_hints(function), {}, {}
    for parameter in list(inspect.signature(function).parameters.values())[skip_self:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        strategy = find_strategy(hints.get(parameter.name, typing.Any), parameter.name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            optional["*" + parameter.name] = st.lists(strategy, max_size=2)
        elif strategy is not None:
            (needed if parameter.default is parameter.empty else optional)[parameter.name] = strategy
        elif parameter.default is parameter.empty:
            return None
    return needed, optional


def list_methods(kind):
    """Yield the public methods, class methods and properties of a class of ours: (name, what it is)."""
    for name, value in inspect.getmembers_static(kind):
        ours = any(name in vars(c) and c.__module__.startswith("netgraph") for c in kind.__mro__)
        if ours and not name.startswith("_"):
            yield name, value
