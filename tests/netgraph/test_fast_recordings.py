"""Networks that need no slow way of recording: what they look at is known while they run on meta tensors.

The way of a recording is its cost: ``make_fx`` takes ten times as long as meta tensors with numbers where they are needed. Each network
is judged by its own forward, on other inputs than those of the recording.
"""

import gc
import weakref

import numpy as np
import pytest
import torch
from nets import Fn
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.environment.gc_pause import old_objects_skipped
from netgraph.errors import GuardError
from netgraph.recording.recorder import record_network


class Places(nn.Module):
    """Columns that are read or written by a list, after a layer whose units may merge."""

    def __init__(self, places, write=False):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 5)
        self.places, self.write = places, write

    def forward(self, x):
        y = self.b(torch.tanh(self.a(x)))
        if not self.write:
            return y[self.places]
        y = y.clone()
        y[self.places] = y[self.places] * 2 + 1
        return y


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    "places",
    [
        (slice(None), [-1, 0]),
        (slice(None), [True, False, True, False, True]),
        (slice(None), np.array([3, 1])),
        (slice(None), range(2)),
        (Ellipsis, [2]),
    ],
    ids=["numbers", "flags", "array", "range", "one"],
)
def test_lists_of_places_keep_their_numbers_on_meta_tensors(places, write):
    model, example = Places(places, write), torch.randn(3, 4)
    assert record_network(model, example, training=False).way in ("meta", "numbers")
    copy = coarse_network(model, ng.trace(model, example), {})
    for rows in (1, 5):
        x = torch.randn(rows, 4)
        assert torch.allclose(copy(x), model(x), atol=1e-6)


class Positions(nn.Module):
    """A decision on positions, and a table of frequencies that is moved to the device of the inputs, as in decoders."""

    def __init__(self, move):
        super().__init__()
        self.a, self.b, self.move = nn.Linear(4, 6), nn.Linear(6, 3), move
        self.frequencies = nn.Buffer(torch.rand(6))

    def forward(self, x):
        positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        if (positions.diff(dim=-1) != 1).any():  # the rows are several texts after one another
            raise NotImplementedError
        angles = positions[..., None].float() * self.move(self.frequencies, x)
        return self.b(self.a(x) * angles.cos())


@pytest.mark.parametrize(
    "move",
    [
        lambda t, x: t.to(x.device),
        lambda t, x: t.to(device=x.device, dtype=torch.float),
        lambda t, x: t.to(x),
        lambda t, x: t.to("cpu", torch.float32),
    ],
    ids=["by place", "by name", "like", "by its text"],
)
def test_a_table_that_is_moved_to_the_inputs_needs_no_slow_recording(move):
    model, example = Positions(move), torch.randn(2, 5, 4)
    assert record_network(model, example, training=False).way == "numbers"
    copy = coarse_network(model, ng.trace(model, example), {})
    x = torch.randn(3, 5, 4)
    assert torch.allclose(copy(x), model(x), atol=1e-6)


def test_a_list_of_places_decides_on_the_numbers_of_the_inputs():
    def run(net, x):
        return net.b(net.a(x) * (2.0 if 7.0 in x[:, [-1, 0]] else 1.0))

    model = Fn(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    example = torch.randn(2, 4)
    assert record_network(model, example, training=False).way == "numbers"
    copy = coarse_network(model, ng.trace(model, example), {})
    x = torch.randn(3, 4)
    assert torch.allclose(copy(x), model(x), atol=1e-6)
    x[1, 0] = 7.0
    with pytest.raises(GuardError):
        copy(x)


def test_work_on_a_hierarchy_searches_for_cycles_among_its_own_objects_alone():
    class Loop:
        pass

    def make_loop():
        loop = Loop()
        loop.self = loop
        return weakref.ref(loop)

    old = make_loop()
    with old_objects_skipped():
        new = make_loop()
        gc.collect()
        assert new() is None
        assert old() is not None
    gc.collect()
    assert old() is None
    gc.freeze()
    with old_objects_skipped():
        pass
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
