"""The choice of levels for a budget of time: closed forms of its plan, and whole choices on small networks."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from command_line import run

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.errors import NetgraphError
from netgraph.fas import choose_training
from netgraph.fas.auto import choice
from netgraph.fas.auto.candidates import Candidate, share_cost
from netgraph.fas.auto.choice import choose_by_lead, predict_lead
from netgraph.fas.auto.probe import Probe, take_judged_batches


def perceptron():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))


def problem(n=256):
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(1))
    return ng.Problem(
        list(zip(inputs.split(16), inputs[:, :2].abs().split(16), strict=True)), torch.nn.functional.mse_loss
    )


def candidates(n):
    hierarchies = [build_single_level(perceptron(), torch.ones(2, 6)) for _ in range(n)]
    return [Candidate("depth" if i else "", h, (1.0,), [], [1.0]) for i, h in enumerate(hierarchies)]


def probes(each, seconds, losses):
    return [Probe(c, seconds, seconds, (1,), loss) for c, loss in zip(each, losses, strict=True)]


@pytest.mark.parametrize("n_levels", [1, 2, 3, 5])
def test_shares_of_the_cost_add_up_and_halve_from_level_to_level(n_levels):
    shares = share_cost(n_levels, 0.4)
    assert sum(shares) == pytest.approx(1)
    assert all(a == pytest.approx(2 * b) for a, b in pairwise(shares[1:]))


def test_steps_cost_what_their_shares_say():
    candidate = Candidate("space", None, (0.4, 0.4, 0.2), [], [0.1, 0.02, 0.01])
    assert candidate.count_steps(10) == (40, 200, 200)
    assert candidate.count_steps(1e-9) == (1, 1, 1)


def test_a_lead_that_falls_with_a_power_of_time_is_continued():
    each, fall = candidates(2), 0.5
    lead = {t: 0.3 * t**-fall for t in (2, 8, 800)}
    first, second = (probes(each, t, [1.0, 1 - lead[t]]) for t in (2, 8))
    now, then = predict_lead(first, second, second[1], 800)
    assert (now, then) == (pytest.approx(lead[8]), pytest.approx(lead[800]))


@pytest.mark.parametrize(
    ("first", "second", "winner", "reason"),
    [
        ([1.0, 0.8, 0.9], [0.6, 0.5, 0.4], 2, "33.3% below that of plain training after 8.0 s"),
        ([1.0, 0.5, 1.2], [0.6, 0.599, 0.7], 0, "chosen: plain training. The best candidate was depth"),
        ([1.0, 1.1, 1.2], [0.6, 0.7, 0.8], 0, "16.7% above that of plain training"),
        ([1.0, math.nan, 0.9], [0.6, math.nan, 0.5], 2, "16.7% below"),
        ([math.inf, 0.9, 0.9], [math.nan, 0.9, 0.5], 1, "100.0% below"),
    ],
)
def test_the_largest_lead_wins_and_plain_training_where_there_is_none(first, second, winner, reason):
    each = candidates(3)
    best, why = choose_by_lead(probes(each, 2, first), probes(each, 8, second), 100)
    assert best is each[winner]
    assert reason in why


@pytest.fixture
def half_for_probes(monkeypatch):
    """Give probes half of the budget, so that a busy machine has time for them."""
    monkeypatch.setattr(choice, "PROBING", 0.5)


def test_a_choice_leaves_the_first_weights_and_plans_what_is_left_of_the_budget(half_for_probes):
    network, lines = perceptron(), []
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    chosen = choose_training(network, torch.ones(2, 6), problem(), seconds=6, lr=1e-2, tell=lines.append)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert len(lines) == sum(map(len, chosen.rounds)) == len(chosen.rows())
    assert chosen.rounds[0][0].candidate.name == "plain"
    assert [text[:5] for text in chosen.left_out][:2] == ["depth", "space"]  # then levels for which there was no time
    assert chosen.solver.epochs * 16 == sum(chosen.steps)
    solution = chosen.solver.solve(chosen.hierarchy, problem())
    assert solution.history[-1]["step"] == sum(chosen.steps)
    assert solution.model is network
    assert chosen.reason in str(chosen)


def test_a_network_without_directions_is_trained_plainly():
    network = torch.nn.Linear(6, 2)
    chosen = choose_training(network, torch.ones(2, 6), problem(), seconds=2)
    assert (chosen.directions, chosen.rounds) == ("", [])
    assert "no levels can be trained" in str(chosen)


def test_levels_that_the_problem_does_not_fit_are_left_out_and_the_mode_stays(half_for_probes):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )
    images = torch.rand(64, 3, 16, 16)
    dense = ng.Problem(list(zip(images.split(8), images.split(8), strict=True)), torch.nn.functional.mse_loss)
    chosen = choose_training(network, images[:2], dense, seconds=8)
    (why,) = [text for text in chosen.left_out if text.startswith("space, 2")]
    assert "Give Problem(restrict=...)" in why
    assert all(module.training for module in network.modules())
    assert all(level.model.training for level in chosen.hierarchy.levels)


def test_probes_are_compared_on_minibatches_of_another_order():
    loader = torch.utils.data.DataLoader(torch.arange(640.0).split(1), batch_size=64, shuffle=True)
    judged = take_judged_batches(ng.Problem(loader, None), 3)
    assert len(judged) == 8
    assert all(torch.equal(a, b) for a, b in zip(judged, take_judged_batches(ng.Problem(loader, None), 3), strict=True))


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_budget_is_a_number_of_seconds(seconds):
    with pytest.raises(NetgraphError, match="Give the seconds that training may take"):
        choose_training(perceptron(), torch.ones(2, 6), problem(), seconds=seconds)


def test_a_budget_too_small_for_probes_is_refused_with_one_that_is_not():
    with pytest.raises(NetgraphError, match=r"a budget of 0.01 s is too small: .* Give \d+ s or more"):
        choose_training(perceptron(), torch.ones(2, 6), problem(), seconds=0.01)


def test_minibatches_without_a_length_are_refused():
    class Endless:
        def __iter__(self):
            return iter(problem().batches)

    with pytest.raises(NetgraphError, match="the minibatches have no length"):
        choose_training(perceptron(), torch.ones(2, 6), ng.Problem(Endless(), None), seconds=5)


def test_the_options_that_the_command_prints_give_the_same_network(half_for_probes, tmp_path):
    chosen, again = tmp_path / "auto.safetensors", tmp_path / "again.safetensors"
    code, out, err = run("train", "mlp", "--widths", 16, "--auto", 5, "-o", chosen, "--json")
    assert code == 0, err
    document = json.loads(out)
    options = document["auto"]["again"].partition(": ")[2].split()
    assert run("train", "mlp", "--widths", 16, *options, "-o", again)[0] == 0
    assert chosen.read_bytes() == again.read_bytes()
    assert document["auto"]["probes"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--auto", 9, "--levels", 2, "--epochs", 3], "--levels, --epochs would have no effect: --auto chooses"),
        (["--auto", 9, "--resume", "--checkpoints", "folder"], "goes on with the options that it printed"),
        (["--auto", 0], "--auto is 0. Give the seconds"),
    ],
)
def test_what_the_command_chooses_cannot_be_given(words, why):
    code, _, err = run("train", "mlp", *words)
    assert code == 1
    assert why in err
