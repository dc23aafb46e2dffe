"""Darcy flow: the solver against a manufactured solution and other grids, the task, its levels and the command."""

import json
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.errors import DataError, NetgraphError
from netgraph.fas import restrict_batch
from netgraph.models import (
    Loader,
    ResidualNet,
    UNet,
    evaluate_operator,
    fno,
    load_darcy,
    load_dataset,
    make_task,
    solve_darcy,
)
from netgraph.models.data.darcy import HIGH, LOW, build_darcy_matrix, draw_permeability
from tests.support.command_line import run

SMALL = {"side": 16, "sizes": (8, 2, 4)}


def middles(side):
    """The middles of cells as x (along a row) and y."""
    y, x = torch.meshgrid(*[(torch.arange(side, dtype=torch.float64) + 0.5) / side] * 2, indexing="ij")
    return x, y


def manufactured(side):
    """A smooth a, u = sin(πx) sin(2πy), and f = -div(a grad u) by hand."""
    x, y = middles(side)
    pi = math.pi
    a, a_x, a_y = 2 + x + x * y, 1 + y, x
    u = torch.sin(pi * x) * torch.sin(2 * pi * y)
    u_x, u_y = pi * torch.cos(pi * x) * torch.sin(2 * pi * y), 2 * pi * torch.sin(pi * x) * torch.cos(2 * pi * y)
    return a, u, -(a_x * u_x + a_y * u_y - a * 5 * pi**2 * u)


def test_the_error_falls_with_the_square_of_the_cells():
    errors = []
    for side in (16, 32, 64):
        a, u, f = manufactured(side)
        errors.append(float((solve_darcy(a[None], f)[0] - u).abs().max()))
    assert errors[0] < 0.03
    assert all(3.5 < coarse / fine < 4.5 for coarse, fine in pairwise(errors))


def test_layers_in_a_row_have_the_flux_of_the_closed_form():
    """-(a u')' = 1 with a = 12 and then 3, far from the other two sides of a long strip: a u' is continuous."""
    side = 64
    a = torch.full((side, side), HIGH, dtype=torch.float64)
    a[:, side // 2 :] = LOW
    matrix = build_darcy_matrix(a.numpy()) / side**2
    at = side * (side // 2) + side // 2 - 1  # the cell before the interface
    assert matrix[at, at + 1] == pytest.approx(-2 * HIGH * LOW / (HIGH + LOW))
    assert matrix[at, at + side] == pytest.approx(-HIGH)


def test_the_matrix_is_that_of_a_loop_over_cells_symmetric_and_positive():
    side = 6
    a = np.random.default_rng(0).uniform(1, 5, (side, side))
    wanted = np.zeros((side * side, side * side))
    for i in range(side):
        for j in range(side):
            for k, m in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                here = i * side + j
                if 0 <= k < side and 0 <= m < side:
                    t = 2 / (1 / a[i, j] + 1 / a[k, m])
                    wanted[here, k * side + m] -= t
                else:
                    t = 2 * a[i, j]
                wanted[here, here] += t
    matrix = build_darcy_matrix(a).toarray() / side**2
    np.testing.assert_allclose(matrix, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_fields_are_the_same_on_every_grid_and_for_every_number_of_samples():
    fine = draw_permeability(3, 128, 1)
    assert set(fine.unique().tolist()) == {LOW, HIGH}
    assert torch.equal(draw_permeability(2, 64, 1), draw_permeability(3, 64, 1)[:2])
    shares = fine.unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean((2, 4))
    assert float((draw_permeability(3, 64, 1) != shares).double().mean()) < 0.08  # cells that the edge of a patch cuts
    assert not torch.equal(draw_permeability(1, 64, 1), draw_permeability(1, 64, 2))


def covariance(p, q):
    """(-Δ + 9)^-2 without the mean, between two points: a sum over cosines without slope at the boundary."""
    k = np.arange(200)[:, None]
    cosines = np.where(k > 0, np.sqrt(2), 1) * np.cos(np.pi * k * np.array([*p, *q]))
    squared = (np.pi**2 * (k**2 + k.T**2) + 9.0) ** -2
    squared[0, 0] = 0
    return float((cosines[:, 0] * cosines[:, 2]) @ squared @ (cosines[:, 1] * cosines[:, 3]))


@pytest.mark.parametrize(
    ("first", "second"), [((0, 0), (0, 4)), ((0, 0), (15, 15)), ((8, 8), (8, 11)), ((2, 5), (5, 2))]
)
def test_signs_agree_as_often_as_the_covariance_of_the_paper_says(first, second):
    """Two normal variables of correlation r have the same sign with probability 1 - arccos(r) / π."""
    fields = draw_permeability(1500, 16, 3) == HIGH
    agreed = float((fields[:, *first] == fields[:, *second]).double().mean())
    p, q = ([(i + 0.5) / 16 for i in cell] for cell in (first, second))
    r = covariance(p, q) / math.sqrt(covariance(p, p) * covariance(q, q))
    assert agreed == pytest.approx(1 - math.acos(r) / math.pi, abs=0.04)  # three standard deviations


def test_averaged_solutions_are_those_of_a_coarser_grid():
    """The average of u is nearer to the coarse solution than the strided one, and shares of a nearer than single cells."""
    fields = draw_permeability(12, 64, 5)
    fine = solve_darcy(fields)
    mean = fields.unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
    average = fine.unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))

    def error(a, u):
        return float((solve_darcy(a) - u).norm() / u.norm())

    assert error(mean, average) < 0.02
    assert error(mean, fine[:, ::2, ::2]) > 1.5 * error(mean, average)  # shifted by a quarter of a coarse cell
    assert error(fields[:, ::2, ::2], average) > error(mean, average)


def test_the_same_seed_gives_the_same_data_and_splits_share_no_field(tmp_path):
    data = load_darcy(**SMALL)
    again = load_darcy(**SMALL, file=tmp_path / "darcy.safetensors")
    read = load_darcy(**SMALL, file=tmp_path / "darcy.safetensors")
    for part in ("train", "valid", "test"):
        for other in (again, read):
            assert torch.equal(getattr(data, part).inputs, getattr(other, part).inputs)
            assert torch.equal(getattr(data, part).targets, getattr(other, part).targets)
    fields = [
        tuple(row) for split in (data.train, data.valid, data.test) for row in split.inputs[:, 0].flatten(1).tolist()
    ]
    assert len(set(fields)) == 14
    u = solve_darcy(data.test.inputs[:, 0])
    assert torch.allclose(data.test.targets[:, 0], 100 * u.float())
    ready = data.ready(data.train.inputs)
    assert set(ready[:, 0].unique().tolist()) == {-1.0, 1.0}
    x, y = middles(16)
    assert torch.allclose(data.train.inputs[3, 1:], torch.stack([x, y]).float())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"side": 3}, "has 3 cells a side. Give 4 to 1024"),
        ({"sizes": (5, 0, 1)}, "Give three numbers of samples"),
        ({"seed": -1}, "the seed is -1"),
        ({"file": "darcy.npz"}, "Give NAME.safetensors"),
    ],
)
def test_numbers_that_make_no_data_are_refused(arguments, why):
    with pytest.raises(DataError, match=why):
        load_darcy(**{**SMALL, **arguments})


def test_a_file_of_other_solutions_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    load_darcy(**SMALL, file=file)
    with pytest.raises(DataError, match=r'"seed": 7619.*"seed": 3.*was asked for'):
        load_darcy(**SMALL, seed=3, file=file)
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load_darcy(**SMALL, file=file)


@pytest.mark.parametrize(
    ("field", "source", "why"),
    [
        (torch.ones(4, 4), None, "Give fields of shape"),
        (torch.zeros(1, 4, 4), None, "not above 0"),
        (torch.full((1, 4, 4), math.nan), None, "not finite"),
        (torch.ones(1, 4, 4), torch.ones(5, 5), "Give a real number for each cell"),
    ],
)
def test_fields_without_a_solution_are_refused(field, source, why):
    with pytest.raises(DataError, match=why):
        solve_darcy(field, source)


def test_errors_are_those_of_numpy():
    data = load_darcy(**SMALL)
    torch.manual_seed(0)
    network = nn.Conv2d(3, 1, 3, padding=1)
    quality = evaluate_operator(network, data, batch=3)
    answers = network(data.ready(data.test.inputs)).detach().double().numpy()
    wanted = [
        np.linalg.norm(answer - u) / np.linalg.norm(u)
        for answer, u in zip(answers, data.test.targets.double().numpy(), strict=True)
    ]
    assert quality.loss == pytest.approx(np.mean(wanted), rel=1e-5)
    assert quality.worst == pytest.approx(np.max(wanted), rel=1e-5)


@pytest.mark.parametrize("build", [ResidualNet, UNet])
def test_a_network_without_shortcut_answers_zero_where_its_head_does(build):
    network = build(1, width=4, channels=1, more_inputs=2, shortcut=False)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    assert not network(torch.rand(1, 3, 8, 8)).any()


@pytest.mark.parametrize("name", ["residual", "unet"])
def test_a_level_in_space_learns_the_averaged_problem(name):
    task = make_task(name, load_darcy(**SMALL), widths=(4,), goal="darcy")
    hierarchy = ng.build_hierarchy(task.network, task.example, n_levels=2, directions="space")
    inputs, targets = next(iter(Loader(task.data, 4)))
    coarse_inputs, coarse_targets = restrict_batch((inputs, targets), task.restrict, 2)
    assert torch.equal(coarse_targets, nn.functional.avg_pool2d(targets, 2))
    wanted = task.network(nn.functional.avg_pool2d(inputs, 2))
    assert torch.allclose(hierarchy.levels[1].model(coarse_inputs), wanted, atol=1e-6)
    x, y = middles(8)
    standardized = (torch.stack([x, y]) - 0.5) * 12**0.5
    assert torch.allclose(nn.functional.avg_pool2d(inputs, 2)[0, 1:], standardized.float(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "goal", "why"),
    [
        ("mlp", "darcy", "mlp is no network for the task darcy. Train residual, unet or fno"),
        ("fno", "denoise", "fno is no network for the task denoise. Train residual or unet"),
        ("fno", "classify", "fno is no network for the task classify. Choose darcy"),
        ("unet", "darcy", "digits are no data for the task darcy"),
    ],
)
def test_networks_tasks_and_data_that_do_not_fit_are_refused(name, goal, why):
    with pytest.raises(NetgraphError, match=why):
        make_task(name, load_dataset("digits"), goal=goal)


@pytest.mark.parametrize(("name", "goal"), [("mlp", "classify"), ("residual", "denoise")])
def test_solutions_are_no_data_of_other_tasks(name, goal):
    with pytest.raises(NetgraphError, match=f"darcy are no data for the task {goal}. Choose the task darcy"):
        make_task(name, load_darcy(**SMALL), goal=goal)


@pytest.fixture
def small_data(monkeypatch):
    make = load_darcy
    monkeypatch.setattr("netgraph.models.data.darcy.load_darcy", lambda side: make(side, sizes=(8, 2, 4)))


def test_command_learns_on_levels_in_space(small_data):
    small = ["--grid", 16, "--widths", "4", "--epochs", "40", "--batch", 4]
    code, out, _ = run("train", "darcy", *small, "--coarsen", "space", "--levels", "2", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["network"], document["data"], document["settings"]["task"]) == ("unet", "darcy", "darcy")
    assert set(document["test"]) == {"loss", "worst"}
    assert document["test"]["loss"] < 0.5  # an answer of 0 has 1
    figures = [record["figures"] for record in document["history"] if record["event"] == "evaluate"]
    assert all(set(f) == {"loss", "worst"} for f in figures)
    _, text, _ = run("train", "residual", "--task", "darcy", *small[:4], "--epochs", 1, "--plain")
    assert "test relative error in L2" in text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["darcy", "--task", "lm"], "darcy is a task, and --task lm is another"),
        (["darcy", "--one-hot"], "--one-hot is about classes"),
        (["darcy", "--label-smoothing", "0.1"], "--label-smoothing is about classes"),
        (["darcy", "--augment", "crop"], "--augment crop would move a field and not its solution"),
        (["darcy", "--data", "digits"], "digits are no data for the task darcy"),
        (["unet", "--task", "denoise", "--data", "darcy"], "darcy are no data for the task denoise"),
        (["darcy", "--grid", "2"], "has 2 cells a side"),
        (["darcy", "--data-root", "."], "the solutions of darcy are computed here"),
        (["mlp", "--grid", "8"], "digits is no equation on a grid"),
        (["darcy", "--coarsen", "space", "--levels", "6"], "the network does not run at 2 x 2"),
    ],
)
def test_options_that_do_not_fit_an_operator_are_refused(small_data, arguments, why):
    grid = [] if "--grid" in arguments or "digits" in arguments else ["--grid", 16]
    code, _, err = run("train", *arguments, *grid, "--epochs", 1)
    assert code == 1
    assert why in err


def test_a_fourier_operator_coarsens_in_channels_and_in_space():
    pytest.importorskip("neuralop")
    task = make_task("fno", load_darcy(**SMALL), widths=(8,), goal="darcy", options={"modes": 6, "n_layers": 2})
    network, example = task.network, task.example
    errors = [verdict.error for verdict in ng.verify(network, ng.trace(network, example), example)]
    assert all(error is None or error < 1e-4 for error in errors)
    assert any(error is not None for error in errors)
    levels = ng.build_hierarchy(network, example, n_levels=2, directions="space").levels
    assert torch.allclose(levels[1].model(example), network(nn.functional.avg_pool2d(example, 2)), atol=1e-6)
    halved = ng.build_hierarchy(network, example, n_levels=2, directions="channels").levels
    assert halved[1].n_units * 2 == halved[0].n_units
    assert halved[1].model(example).shape == (2, 1, 16, 16)


def test_a_fourier_operator_of_no_size_is_refused():
    with pytest.raises(NetgraphError, match="modes of a Fourier neural operator is 0"):
        fno(0)


def test_a_command_without_the_package_names_its_extra(monkeypatch, small_data):
    for module in ("neuralop", "neuralop.models"):
        monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("train", "fno", "--task", "darcy", "--grid", 16, "--epochs", 1)
    assert code == 1
    assert "pip install neuraloperator (the extra operators)" in err
