"""Patterns that networks of libraries share: questions about finite numbers, checked arguments, caches of decorators, noise."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.errors import GuardError, TraceError
from netgraph.recording.recorder import record_network


def judge(network: nn.Module, example: object, other: object | None = None) -> ng.UnitSpec:
    """Trace a network, ask both oracles on two batches, and return the trace."""
    spec = ng.trace(network, example)
    for inputs in (example, other) if other is not None else (example,):
        for oracle in (check_duplicate_units, check_dead_units):
            verdict = oracle(network, spec, inputs, spec.free)
            assert verdict.error is None or verdict.error < 1e-9, verdict
    return spec


def ask_at_once(h: torch.Tensor) -> bool:
    """Ask as DETR does before it clamps."""
    return not torch.isfinite(h).all()


def ask_twice(h: torch.Tensor) -> bool:
    """Ask for infinities and for no numbers apart."""
    return bool(torch.isinf(h).any() or torch.isnan(h).any())


def ask_together(h: torch.Tensor) -> bool:
    """Ask for both in one mask."""
    return bool((torch.isinf(h) | torch.isnan(h)).any())


def count_failures(h: torch.Tensor) -> bool:
    """Count the entries that are no numbers."""
    return bool(torch.isnan(h).sum() > 0)


def compare_with_itself(h: torch.Tensor) -> bool:
    """Ask whether a number is not equal to itself."""
    return bool((h != h).any())


def ask_of_a_sum(h: torch.Tensor) -> bool:
    """Ask of one number that is made of all."""
    return not torch.isfinite(h.sum())


class Clamped(nn.Module):
    """A perceptron that clamps activations which are not finite."""

    def __init__(self, ask):
        super().__init__()
        self.first, self.last, self.ask = nn.Linear(5, 8), nn.Linear(8, 3), ask

    def forward(self, x):
        h = nn.functional.dropout(self.first(x), 0.1, self.training)
        if self.ask(h):
            h = torch.clamp(h, -1e4, 1e4)
        return self.last(h)


@pytest.mark.parametrize("ask", [ask_at_once, ask_twice, ask_together, count_failures, compare_with_itself])
def test_a_question_whether_activations_are_finite_is_a_guard_in_both_modes(ask):
    network = Clamped(ask)
    spec = judge(network, torch.randn(2, 5), torch.randn(3, 5))
    assert [axis.equal for axis in spec.free] == [None]  # the question does not bind units to one another
    coarse = ng.build_hierarchy(network, torch.randn(2, 5), n_levels=2).levels[1].model
    assert torch.isfinite(coarse.train()(torch.randn(4, 5))).all()
    with pytest.raises(GuardError, match="finite"):
        coarse.eval()(torch.full((2, 5), torch.nan))


def test_a_question_of_one_number_made_of_all_units_keeps_their_weights_in_the_sum():
    network = Clamped(ask_of_a_sum)
    judge(network, torch.randn(2, 5))
    coarse = ng.build_hierarchy(network, torch.randn(2, 5), n_levels=2).levels[1].model
    with pytest.raises(GuardError, match="finite"):
        coarse(torch.full((2, 5), torch.inf))


def test_other_questions_about_activations_are_refused_as_before():
    with pytest.raises(TraceError, match="branches on"):
        ng.trace(Clamped(lambda h: bool(h.sum() > 1e4)), torch.randn(2, 5))


class Forecast(nn.Module):
    """A head that answers a distribution's mean, deviation and likelihood."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 6)

    def forward(self, x, y):
        df, location, scale = self.last(self.first(x).relu()).chunk(3, -1)
        student = torch.distributions.StudentT(2 + nn.functional.softplus(df), location, nn.functional.softplus(scale))
        return student.mean, -student.log_prob(y)


def test_distributions_check_no_arguments_while_they_are_recorded(monkeypatch):
    # torch.compile switches it off for good
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    network, example = Forecast(), (torch.randn(2, 5), torch.randn(2, 2))
    judge(network, example, (torch.randn(3, 5), torch.randn(3, 2)))
    with pytest.raises(ValueError, match="constraint"):  # and do so again afterwards
        torch.distributions.Normal(torch.zeros(1), -torch.ones(1))


def cache_results(function):
    """Cache the results of a function behind a wrapper, as transformers does."""
    cached = functools.lru_cache(maxsize=8)(function)

    @functools.wraps(function)
    def wrapper(*args):
        return cached(*args)

    return wrapper


@cache_results
def make_places(n: int, width: int) -> torch.Tensor:
    """Return a table of sines."""
    return torch.sin(torch.arange(n)[:, None] / 10.0 ** torch.arange(width))


class Placed(nn.Module):
    """A network that adds cached tables to its tokens."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last((self.first(x + make_places(x.shape[1], 5))).relu())


def test_a_cache_behind_a_wrapper_holds_numbers_after_tracing():
    network, example = Placed(), torch.randn(2, 4, 5)
    expected = network(example)  # fills the cache
    judge(network, example, torch.randn(3, 4, 5))
    assert torch.equal(network(example), expected)


class HalfWidth(nn.Module):
    """Positions by the half of a width, which Python makes a float."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        steps = torch.arange(x.new_zeros(3, 8).shape[1] / 2, dtype=torch.float32)
        angles = torch.stack([steps.sin(), steps.cos()], -1).flatten()
        return self.last(self.first(x + angles).relu())


def test_a_range_may_end_at_a_float():
    judge(HalfWidth(), torch.randn(2, 8), torch.randn(3, 8))


class AlwaysDropping(nn.Module):
    """A prenet whose dropout stays on in evaluation, as in text-to-speech networks."""

    def __init__(self, drop):
        super().__init__()
        self.first, self.middle, self.last, self.drop = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3), drop

    def forward(self, x):
        return self.last(self.middle(self.drop(self.first(x).relu())).relu())


@pytest.mark.parametrize(
    "drop",
    [
        lambda h: nn.functional.dropout(h, 0.5, training=True),
        lambda h: nn.functional.alpha_dropout(h, 0.5, training=True),
        lambda h: h * torch.bernoulli(torch.full_like(h, 0.5)),
    ],
)
def test_noise_that_evaluation_draws_for_each_unit_tells_units_apart(drop):
    spec = judge(AlwaysDropping(drop), torch.randn(2, 5), torch.randn(3, 5))
    assert [axis.name for axis in spec.free] == ["middle"]
    assert "noise" in spec.axes["first"].kept


def test_dropout_that_evaluation_turns_off_leaves_units_free():
    spec = judge(AlwaysDropping(nn.Dropout(0.5)), torch.randn(2, 5))
    assert {axis.name for axis in spec.free} == {"first", "middle"}


class Marked(nn.Module):
    """A network that looks rows up by the marks of its input, and compares how many there are."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, marks):
        h = nn.functional.dropout(self.first(x), 0.1, self.training)[marks.nonzero()[:, 0]]
        assert h.shape[0] == 3
        return self.last(h)


def test_a_count_of_rows_that_inputs_mark_is_a_guard_although_the_rows_are_activations():
    network, marks = Marked(), torch.tensor([1, 0, 1, 1, 0])
    spec = judge(network, (torch.randn(5, 5), marks), (torch.randn(5, 5), marks.flip(0)))
    assert [axis.name for axis in spec.free] == ["first"]
    coarse = ng.build_hierarchy(network, (torch.randn(5, 5), marks), n_levels=2).levels[1].model
    with pytest.raises(GuardError, match="count"):
        coarse(torch.randn(5, 5), torch.ones(5, dtype=torch.long))


class Chunked(nn.Module):
    """Overlapping chunks of a sequence by strides, as in Longformer."""

    def __init__(self):
        super().__init__()
        self.query, self.value, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def split_heads(self, h):
        rows, length, _ = h.shape
        return h.view(rows, length, 2, 4).transpose(1, 2).reshape(rows * 2, length // 4, 4, 4)

    def chunk(self, h):
        size, stride = list(h.size()), list(h.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return h.as_strided(size=size, stride=stride)

    def forward(self, x):
        query, value = self.chunk(self.split_heads(self.query(x))), self.chunk(self.split_heads(self.value(x)))
        mixed = (query @ value.transpose(-1, -2)).softmax(-1) @ value
        mixed = mixed.flatten(1, 2).view(x.shape[0], 2, -1, 4).transpose(1, 2).flatten(2)
        return self.last(mixed)


def test_chunks_by_strides_of_the_memory_keep_the_outermost_dimension_free():
    spec = judge(Chunked(), torch.randn(2, 8, 6), torch.randn(3, 8, 6))
    assert [axis.size for axis in spec.free] == [2]  # heads merge whole


class Literals(nn.Module):
    """A network that makes tensors of Python numbers on the device of its input."""

    def __init__(self, make):
        super().__init__()
        self.first, self.last, self.make = nn.Linear(5, 8), nn.Linear(8, 3), make

    def forward(self, x):
        return self.last((self.first(x) * self.make(x)).relu())


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.tensor([1.5, 2.0], device=x.device)[1],
        lambda x: torch.as_tensor([[2, 3], [4, 5]], device=x.device, dtype=torch.long).prod(1).cumsum(0)[1],
        lambda x: torch.asarray(2.5, device=x.device),
        lambda x: x.new_tensor([1, 3])[1],
    ],
)
def test_tensors_of_python_numbers_are_recorded_without_a_slower_way(make):
    network, example = Literals(make), torch.randn(2, 5)
    assert record_network(network, example, training=False).way == "meta"
    spec = judge(network, example, torch.randn(3, 5))
    assert [axis.name for axis in spec.free] == ["first"]


class Correlated(nn.Module):
    """Correlation of two series by Fourier transforms, as in Autoformer."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.last = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        query, key = torch.fft.rfft(self.query(x), dim=1), torch.fft.rfft(self.key(x), dim=1)
        return self.last(torch.fft.irfft(query * torch.conj(key), n=x.shape[1], dim=1))


def test_conjugates_keep_units():
    assert judge(Correlated(), torch.randn(2, 6, 5), torch.randn(3, 6, 5)).free


class Checked(nn.Module):
    """A network that checks its mask with the assertion of PyTorch."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, mask):
        torch._check_tensor_all(mask, lambda: "a mask must be all true")
        return self.last(self.first(x).relu())


def test_assertions_on_inputs_are_guards():
    network, mask = Checked(), torch.ones(2, 4, dtype=torch.bool)
    judge(network, (torch.randn(2, 5), mask), (torch.randn(3, 5), torch.ones(3, 4, dtype=torch.bool)))
    coarse = ng.build_hierarchy(network, (torch.randn(2, 5), mask), n_levels=2).levels[1].model
    with pytest.raises(GuardError):
        coarse(torch.randn(2, 5), ~mask)


class Sorted(nn.Module):
    """A network that takes the numbers of each unit in their order."""

    def __init__(self, take):
        super().__init__()
        self.first, self.last, self.take = nn.Linear(5, 8), nn.Linear(8, 3), take

    def forward(self, x):
        return self.last(self.take(self.first(x)))


def test_numbers_taken_along_a_dimension_keep_the_units_of_the_others():
    in_order = Sorted(lambda h: torch.take_along_dim(h, h.argsort(1), 1))
    assert [axis.name for axis in judge(in_order, torch.randn(2, 4, 5), torch.randn(3, 4, 5)).free] == ["first"]
    flat = Sorted(lambda h: torch.take_along_dim(h, torch.arange(16)).view(2, 8))
    assert not ng.trace(flat, torch.randn(2, 5)).free


class Unread(nn.Module):
    """A network that makes an answer nobody asks for, with dropout, before it goes on with dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.side, self.last, self.drop = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3), nn.Dropout(0.3)

    def forward(self, x):
        h = self.first(x).relu()
        self.drop(self.side(h))
        return self.last(self.drop(h))


def test_unread_dropout_still_draws_its_numbers_before_others():
    network, example = Unread(), torch.randn(2, 5)
    judge(network, example, torch.randn(3, 5))  # the proof compares the training mode under one random state
    coarse = ng.build_hierarchy(network, example, n_levels=2).levels[1].model
    assert torch.isfinite(coarse.train()(torch.randn(3, 5))).all()
