"""Options of FAS: they are read by name, refused in a sentence, and each has its effect."""

import doctest
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from fasnets import OPEN, batches, hierarchy_of, mean_loss, network
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Adapt, Gate, Smoothing, Split, Tau, Tolerance
from netgraph.fas.options.text import build_option_table, format_option_table, list_option_names, parse_options
from netgraph.fas.solver import cycles
from netgraph.fas.solver.adaptive import VisitLength
from netgraph.fas.solver.cycles import build_cycle
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.optim import optimizers, schedules


def test_options_are_read_by_their_dotted_names():
    options = parse_options(
        {"gate.gap": "0.05", "tau.kind": "whole", "level.2.lr": "3e-4", "level.1.pre": "7", "gate.search": "1,0.5"}
    )
    assert options.gate.gap == 0.05
    assert options.gate.search == (1.0, 0.5)
    assert options.tau.kind == "whole"
    assert options.lr_of(2, 1.0) == 3e-4
    assert options.smoothing_of(1).pre == 7
    of_levels = parse_options({"level.1.gate.search": "1,0.5", "level.0.tau.kind": "whole"})
    assert (of_levels.gate_of(1).search, of_levels.gate_of(0)) == ((1.0, 0.5), Gate())
    assert (of_levels.tau_of(0).kind, of_levels.tau_of(1)) == ("whole", Tau())
    assert "smoothing.clip" in list_option_names()
    for wrong in (
        {"gate.gop": "1"},
        {"level.x.lr": "1"},
        {"level.².lr": "1"},  # a digit that int refuses
        {"level." + "9" * 5000 + ".lr": "1"},
        {"level.1.speed": "1"},
        {"tau.kind": "some"},
        {"smoothing.pre": "many"},
    ):
        with pytest.raises(NetgraphError):
            parse_options(wrong)


def cycled(levels, **own):
    """The records of three V-cycles on three levels, and the run itself, seen at each step down."""
    options = Options(Smoothing(1, 1, 2), Tau(batches=3), OPEN, levels=levels)
    seen = []

    def look(run, record):
        if record["event"] == "down":
            seen.append((record["level"], len(run.grids[record["level"] + 1].common)))

    solution = FAS("v", torch.optim.Adam, 1e-2, cycles=3, options=options).solve(
        hierarchy_of(network()), Problem(batches(), cross_entropy), callbacks=[look]
    )
    return solution, seen


@pytest.mark.parametrize(("n_levels", "steps"), [(1, [48]), (2, [16, 32]), (3, [12, 12, 24])])
def test_by_default_the_coarsest_level_has_twice_the_steps_of_each_other(n_levels, steps):
    levels = hierarchy_of(network(), max(n_levels, 2)).levels[:n_levels]
    run = FAS("kaskade", epochs=4).begin(ng.Hierarchy(levels), Problem(batches(), cross_entropy))
    assert [sum(v.steps for v in run.visits if v.level == level) for level in range(n_levels)] == steps


def test_a_level_has_a_gate_of_its_own():
    solution, _ = cycled({1: {"gate.gap": -1.0, "gate.patience": 9}})
    assert [r["level"] for r in solution.events("down")] == [0] * 3
    assert [r["level"] for r in solution.events("skip")] == [1] * 3
    assert all("more than -100.0%" in r["why"] for r in solution.events("skip"))


@pytest.mark.parametrize(("patience", "looks"), [(0, 12), (1, 4), (12, 12)])
def test_a_level_rests_after_refusals_twice_as_long_each_time_and_never_with_no_patience(patience, looks):
    """With a patience of one a look is followed by rests of 1, 2, 4, ... cycles: looks at cycles 0, 2, 5, 10."""
    gate = Gate(gap=-1.0, share=float("inf"), patience=patience)
    solution = FAS("v", torch.optim.Adam, 1e-2, cycles=12, options=Options(Smoothing(1, 1, 2), gate=gate)).solve(
        hierarchy_of(network(), 2), Problem(batches(), cross_entropy)
    )
    why = [record["why"] for record in solution.events("skip")]
    assert len(why) == 12
    assert sum("rests" not in words for words in why) == looks


def test_a_level_has_a_tau_of_its_own_on_the_first_minibatches_of_the_finer_levels_set():
    solution, seen = cycled({1: {"tau.batches": 2}})
    assert seen == [(0, 3), (1, 2)] * 3
    solution, _ = cycled({1: {"tau.kind": "none"}})
    assert [np.isnan(r["tau"]) for r in solution.events("down")] == [False, True] * 3


def test_a_level_may_begin_without_moments_by_itself():
    def carried(levels):
        has_moments = []

        def look(run, record):
            if record["event"] == "down":
                has_moments.append(bool(run.grids[record["level"] + 1].smoother.optimizer.state))

        options = Options(Smoothing(1, 1, 2), Tau(batches=2), OPEN, levels=levels)
        FAS("v", torch.optim.Adam, 1e-2, cycles=1, options=options).solve(
            hierarchy_of(network()), Problem(batches(), cross_entropy), callbacks=[look]
        )
        return has_moments

    assert carried({}) == [True, True]
    assert carried({1: {"moments": False}}) == [True, False]
    assert carried({0: {"moments": False}}) == [False, True]


@pytest.mark.parametrize("n_levels", [2, 3, 5])
def test_a_w_cycle_is_a_v_cycle_with_two_cycles_on_every_coarse_level(n_levels):
    def visits(cycle, **texts):
        return build_cycle(cycle, 0, n_levels - 1, parse_options(texts).smoothing_of)

    each = {f"level.{i}.cycles": "2" for i in range(1, n_levels)}
    assert visits("v", **each) == visits("v", **{"smoothing.cycles": "2"}) == visits("w")
    for cycle in ("w", "f"):
        assert visits(cycle, **{"smoothing.cycles": "1"}) == visits("v")


@pytest.mark.parametrize("cycle", ["v", "f"])
def test_a_level_is_visited_as_often_as_the_cycles_above_it_multiply_to(cycle):
    visits = build_cycle(cycle, 0, 3, parse_options({"level.1.cycles": "3", "level.2.cycles": "1"}).smoothing_of)
    downs = [sum(v[:2] == ("down", level) for v in visits) for level in range(3)]
    assert downs == [1, 3, 3]
    assert sum(v.kind == "smooth" and v.level == 3 for v in visits) == 3


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("level.1.ema", "The running mean belongs to the finest level: give level.0.ema"),
        ("level.0.cycles", "The length of the run is the number of cycles on the finest level"),
        ("level.1.gate.gop", "A level can have its own lr, pre, post"),
        ("level.1.split.noise", "A level can have its own lr, pre, post"),
        ("level.1.gate", "A level can have its own lr, pre, post"),
        ("level.1.tau.batches", "option level.1.tau.batches is 0. Give a number of 1 or more"),
        ("level.1.tau.kind", "level.1.tau.kind is '0'. Choose one of none, common"),
    ],
)
def test_options_that_a_single_level_cannot_have_are_refused(name, sentence):
    with pytest.raises(NetgraphError, match=sentence):
        parse_options({name: "0"})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("smoothing.pre", "-1", "Give a number of 0 or more"),
        ("smoothing.accumulate", "0", "Give a number of 1 or more"),
        ("smoothing.clip", "0", "Give a number above 0"),
        ("smoothing.ema", "1", "Give a number of 0 or more and below 1"),
        ("gate.blend", "1.5", "Give a number of 0 or more and of 1 or less"),
        ("tau.batches", "0", "Give a number of 1 or more"),
        ("gate.gap", "nan", "option gate.gap is nan. Give a number.$"),
        ("gate.search", "1,-0.5", "option gate.search is -0.5. Give a number above 0"),
        ("split.noise", "-1", "Give a number of 0 or more"),
        ("tolerance.max_it", "-3", "Give a number of 0 or more"),
        ("level.1.post", "-2", "option level.1.post is -2. Give a number of 0 or more"),
        ("level.1.lr", "-0.1", "option level.1.lr is -0.1. Give a number above 0"),
    ],
)
def test_numbers_out_of_bounds_are_refused(name, text, sentence):
    with pytest.raises(NetgraphError, match=sentence):
        parse_options({name: text})


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in list_option_names()
        if n not in ("tau.kind", "split.kind", "split.blocks", "split.moments", "tolerance.measure")
    ],
)
def test_no_option_may_be_nan(name):
    with pytest.raises(NetgraphError, match=name):
        parse_options({name: "nan"})


def test_every_option_says_what_it_means_and_numbers_say_their_unit():
    rows = build_option_table()
    assert [row.name for row in rows] == [*list_option_names(), "level.N.NAME"]
    assert all(row.meaning.endswith(".") for row in rows)
    words = (
        "tau.kind",
        "split.kind",
        "split.blocks",
        "split.moments",
        "tolerance.measure",
        "estimate.kind",
        "level.N.NAME",
    )
    assert [row.name for row in rows if not row.unit and row.default not in ("true", "false")] == [*words]


def test_the_table_of_options_in_the_documentation_is_the_one_of_the_code():
    documentation = (Path(__file__).parents[2] / "docs" / "fas.md").read_text(encoding="utf8")
    assert format_option_table() in documentation


def test_help_of_a_group_lists_its_fields_with_their_defaults():
    for group in (Smoothing, Tau, Gate, Split, Adapt, Tolerance):
        for option in fields(group):
            assert re.search(rf"^{option.name} : .*, default \S+\n    [A-Z\w]", group.__doc__, re.M), option.name


@pytest.mark.parametrize("module", [cycles, optimizers, schedules], ids=lambda module: module.__name__)
def test_examples_print_what_they_show(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (
            lambda: FAS("z", epochs=1).solve(hierarchy_of(network()), Problem(batches(), cross_entropy)),
            "no cycle is called",
        ),
        (lambda: FAS("v"), "length of the run"),
        (lambda: FAS("v", lr=0.0, epochs=1), "rate above 0"),
        (lambda: FAS("kaskade", cycles=3).solve(hierarchy_of(network()), Problem(batches(), cross_entropy)), "epochs"),
        (
            lambda: FAS("full", epochs=1, share=(1, 2)).solve(
                hierarchy_of(network()), Problem(batches(), cross_entropy)
            ),
            "shares",
        ),
        (lambda: Problem(iter(batches()), cross_entropy), "once only"),
        (lambda: FAS("v", epochs=1).solve(hierarchy_of(network()), Problem([], cross_entropy)), "no minibatches"),
        (lambda: FAS("v", epochs=1).solve(hierarchy_of(network()), Problem([3], cross_entropy)), "not a pair"),
        (
            lambda: FAS("v", epochs=1, schedule="never").solve(
                hierarchy_of(network()), Problem(batches(), cross_entropy)
            ),
            "no schedule",
        ),
    ],
)
def test_mistakes_are_sentences(mistake, sentence):
    with pytest.raises(NetgraphError, match=sentence):
        mistake()


def test_selections_train_as_aggregates_do():
    model = network()
    spec = ng.trace(model, torch.randn(2, 6))
    transfers = {"0": Transfer.selection(np.arange(8), 16)}
    coarse = coarse_network(model, spec, transfers)
    hierarchy = ng.Hierarchy([ng.Level(model, spec), ng.Level(coarse, spec.with_sizes({"0": 8}), transfers)])
    data = batches()
    before = mean_loss(model, data)
    FAS("v", torch.optim.SGD, 0.1, epochs=10).solve(hierarchy, Problem(data, cross_entropy))
    assert mean_loss(model, data) < before


def probe(model):
    """The loss on one set of minibatches."""
    return mean_loss(model, batches(4))


def test_a_gap_bounds_what_the_loss_rises_by_from_level_to_level():
    model = network()
    FAS("kaskade", torch.optim.AdamW, 1e-2, epochs=10, share=(1, 0, 0)).solve(
        hierarchy_of(model), Problem(batches(), cross_entropy)
    )
    loose = ng.build_hierarchy(model, torch.randn(2, 6), n_levels=2, ratio="gap:10", loss=probe)
    tight = ng.build_hierarchy(model, torch.randn(2, 6), n_levels=2, ratio="gap:0.3", loss=probe)
    for hierarchy, limit in ((loose, 10), (tight, 0.3)):
        fine, coarse = (probe(level.model) for level in hierarchy.levels)
        assert coarse - fine <= limit * fine
        assert coarse_ratio(hierarchy) in hierarchy.levels[1].reasons["gaps"]
    assert loose.levels[1].n_units < tight.levels[1].n_units


def coarse_ratio(hierarchy):
    (ratio,) = set(hierarchy.levels[1].reasons["ratios"].values())
    return ratio


@pytest.mark.parametrize(
    "mistake",
    [
        {"ratio": "gap:0.1"},
        {"ratio": "gap:x", "loss": probe},
        {"ratio": "gap:inf", "loss": probe},
        {"ratio": "half", "loss": probe},
    ],
)
def test_a_gap_that_cannot_be_measured_is_a_sentence(mistake):
    with pytest.raises(NetgraphError, match="gap"):
        ng.build_hierarchy(network(), torch.randn(2, 6), **mistake)


def test_units_are_matched_again_while_training():
    model = network()
    options = Options(Smoothing(2, 2, 4), Tau(batches=2), OPEN, adapt=Adapt(rematch=2))
    solution = FAS("v", torch.optim.AdamW, 1e-2, epochs=6, options=options).solve(
        hierarchy_of(model, 2), Problem(batches(), cross_entropy)
    )
    made = solution.events("rematch")
    assert len(made) >= 3
    assert all(record["units"] == [24, 12] and not record["why"] for record in made)
    assert len(solution.events("down")) > 2
    loaded = ng.Hierarchy(hierarchy_of(model, 2).levels)
    with pytest.raises(NetgraphError, match="rematch"):
        FAS("v", epochs=1, options=options).solve(loaded, Problem(batches(), cross_entropy))


def test_coarse_visits_grow_while_they_earn_more_than_cycles_and_shrink_otherwise():
    steering = VisitLength()
    for cycle in range(4):
        steering.begin_visit(2.0 * cycle)
        steering.end_visit(1.0, 2.0 * cycle + 0.1)  # ten a second
        steering.step(5.0 - cycle)
        steering.end_cycle(2.0 * cycle + 2)  # half a second each
    assert steering.factor == 4
    for cycle in range(4, 20):
        steering.begin_visit(2.0 * cycle)
        steering.end_visit(0.0, 2.0 * cycle + 0.1)
        steering.step(5.0 - cycle)
        steering.end_cycle(2.0 * cycle + 2)
    assert steering.factor == 0.25


def test_a_steered_run_ends_where_its_schedule_does():
    model = network()
    gate = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"))
    options = Options(Smoothing(2, 2, 4), Tau(batches=2), gate, adapt=Adapt(steer=True))
    solver = FAS("v", torch.optim.AdamW, 1e-2, epochs=6, options=options)
    run = solver.begin(hierarchy_of(model, 2), Problem(batches(), cross_entropy))
    solver.finish(run)
    assert run.schedules[0].taken == run.total_steps - 1
    assert run.steps != run.total_steps
