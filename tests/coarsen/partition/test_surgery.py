"""Losses without units, against dense least squares, and against copies that are not missed."""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.matching.unit_surgery import STRENGTH, measure_surgery
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError


def measure(network, rows):
    spec = ng.trace(network, rows[:2])
    with torch.no_grad():
        return measure_surgery(coarse_network(network, spec, {}).eval(), spec, list(rows.split(16)))


def refit_without(gone, readers):
    """Return the loss without some units of layers (columns (n, units, k), weights (o, units, k)), each refitted by least squares."""
    loss = 0.0
    for C, W in readers:
        centred = (C - C.mean(0)).reshape(len(C), -1)
        weights, left = W.reshape(len(W), -1), np.repeat(~gone, C.shape[2])
        ridge = np.sqrt(STRENGTH * np.square(centred).sum() / centred.shape[1])
        wide = np.vstack([centred, ridge * np.eye(centred.shape[1])])
        targets = wide @ weights.T
        kept = wide[:, left]
        rest = targets - kept @ np.linalg.lstsq(kept, targets, rcond=None)[0]
        loss += np.square(rest).sum() / np.square(centred @ weights.T).sum()
    return loss


def eliminate(readers):
    """Return the losses of units that leave one by one, always the one that is missed least."""
    n = readers[0][0].shape[1]
    gone, losses = np.zeros(n, dtype=bool), np.zeros(n)
    for _ in range(n):
        tried = {unit: refit_without(gone | (np.arange(n) == unit), readers) for unit in np.flatnonzero(~gone)}
        unit = min(tried, key=tried.get)
        losses[unit], gone[unit] = tried[unit], True
    return losses


class Parallel(nn.Module):
    """Two layers read the same units."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Linear(5, 12), nn.Linear(12, 3), nn.Linear(12, 20)

    def forward(self, x):
        hidden = self.first(x).relu()
        return self.left(hidden), self.right(hidden)


def test_losses_are_those_of_dense_least_squares_without_the_units():
    torch.manual_seed(0)
    network, rows = Parallel().double().eval(), torch.randn(60, 5, dtype=torch.float64)
    hidden = network.first(rows).relu().detach().numpy()[:, :, None]
    readers = [(hidden, layer.weight.detach().numpy()[:, :, None]) for layer in (network.left, network.right)]
    np.testing.assert_allclose(measure(network, rows)["first"].numpy(), eliminate(readers), rtol=1e-6)


def test_all_pixels_of_a_channel_leave_together():
    torch.manual_seed(0)
    layers = nn.Conv1d(3, 6, 1), nn.ReLU(), nn.Conv1d(6, 6, 3, groups=6), nn.Conv1d(6, 2, 3)
    network, rows = nn.Sequential(*layers).double().eval(), torch.randn(40, 3, 9, dtype=torch.float64)
    patches = network[:3](rows).detach().unfold(2, 3, 1).transpose(1, 2).flatten(0, 1).numpy()  # (n, 6, 3)
    (losses,) = (value for axis, value in measure(network, rows).items() if len(value) == 6)
    np.testing.assert_allclose(losses.numpy(), eliminate([(patches, network[3].weight.detach().numpy())]), rtol=1e-6)


def test_copies_are_left_out_first_and_are_not_missed_after_a_fit():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)).double().eval()
    with torch.no_grad():
        for p in (network[0].weight, network[0].bias):
            p[6:] = p[:6]
    rows = torch.randn(400, 5, dtype=torch.float64)
    kept = {}
    for importance in ("surgeon", "magnitude"):
        options = {"coarsener": "magnitude", "importance": importance, "repair": "ridge", "data": rows}
        level = ng.build_hierarchy(network, rows[:2], **options).levels[1]
        kept[importance] = sorted(np.flatnonzero(level.transfers["0"].aggregates >= 0) % 6)
        assert importance == "magnitude" or level.reasons["error"] < 0.03
    assert kept["surgeon"] == [0, 1, 2, 3, 4, 5] != kept["magnitude"]


def test_a_layer_with_too_many_columns_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("netgraph.coarsen.matching.unit_surgery.MOST_COLUMNS", 11)
    with pytest.raises(
        NetgraphError, match=r"columns of 'left\.weight', and 12 columns are more than 11\. Choose fisher"
    ):
        measure(Parallel().double().eval(), torch.randn(8, 5, dtype=torch.float64))
