"""Affinities of kernels as spatial patterns, against closed forms and a slow loop over shifts."""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.affinity.spatial import fourier, shifted
from netgraph.affinity.weights import cosine
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.graph.axis_units import AxisUnits


def units_of(weight, axis="0"):
    model = nn.Sequential(
        nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(weight.shape[0], 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    model[0].weight.data.copy_(weight)
    return AxisUnits(ng.trace(model, torch.randn(2, weight.shape[1], 8, 8)), traced_state(model), axis)


def dots(*places):
    """Return kernels of 3 x 3 entries that are 1 at one place each."""
    weight = torch.zeros(len(places), 1, 3, 3)
    for unit, place in enumerate(places):
        weight[unit, 0][place] = 1
    return weight


def test_a_kernel_and_its_shift_are_unlike_by_number_and_alike_as_patterns():
    units = units_of(dots((1, 1), (0, 1), (2, 2)))
    assert cosine(units).toarray()[0, 1] == pytest.approx(0.5)
    for affinity in (shifted, fourier):
        graph = affinity(units).toarray()
        assert graph[0, 1] == pytest.approx(1)
        assert graph[0, 2] == pytest.approx(1)
    assert shifted(units).toarray()[1, 2] == pytest.approx(0.5)  # two pixels apart: further than it looks
    assert shifted(units, reach=2).toarray()[1, 2] == pytest.approx(1)
    assert fourier(units).toarray()[1, 2] == pytest.approx(1)


def test_entries_shifted_out_of_the_window_are_lost():
    """A row at the edge matches the same row in the middle. A full kernel keeps six of its nine entries."""
    row, full = torch.zeros(1, 3, 3), torch.ones(1, 3, 3)
    row[0, 0] = 1
    middle = row.roll(1, 1)
    graph = shifted(units_of(torch.stack([row, middle, full]))).toarray()
    assert graph[0, 1] == pytest.approx(1)
    assert graph[0, 2] == pytest.approx((1 + 3 / np.sqrt(3 * 9)) / 2)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_shifts_are_those_of_a_slow_loop(size):
    weight = torch.randn(6, 2, size, size)
    graph = shifted(units_of(weight)).toarray()
    k = weight.numpy()
    for i in range(6):
        for j in range(6):
            best = -1.0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    total = sum(
                        float(k[i, :, y, x] @ k[j, :, y - dy, x - dx])
                        for y in range(size)
                        for x in range(size)
                        if 0 <= y - dy < size and 0 <= x - dx < size
                    )
                    best = max(best, total / np.linalg.norm(k[i]) / np.linalg.norm(k[j]))
            assert i == j or graph[i, j] == pytest.approx((1 + best) / 2, abs=1e-5)
    assert (graph == graph.T).all()


def test_spectra_are_those_of_numpy():
    weight = torch.randn(5, 2, 3, 3)
    spectra = np.abs(np.fft.rfft2(weight.numpy(), s=(6, 6))).reshape(5, -1)
    unit = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
    np.testing.assert_allclose(fourier(units_of(weight)).toarray() + np.eye(5), (1 + unit @ unit.T) / 2, atol=1e-5)


def test_a_shift_beyond_the_window_loses_the_whole_kernel():
    units = units_of(torch.randn(4, 2, 1, 1))
    np.testing.assert_allclose(shifted(units, reach=2).toarray(), shifted(units, reach=1).toarray())


@pytest.mark.parametrize("affinity", ["shifted", "fourier"])
def test_they_are_plug_ins_that_coarsen_any_network(affinity):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2),
    )  # fmt: skip
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 3, 8, 8), affinity=affinity)
    assert hierarchy.levels[1].n_units < hierarchy.levels[0].n_units
