"""Transfers: laws of P and R, and of moving whole networks, against dense matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_inject, dense_moved, dense_P, dense_R

from netgraph.coarsen.matching.labels import renumber_labels
from netgraph.coarsen.transfer.kernels import IndexMap, copy_to_members, sum_into_aggregates
from netgraph.coarsen.transfer.parameter_maps import distribute, inject, prolong, restrict, zero_sum_part
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import AggregatesError, NetgraphError
from netgraph.models.perceptron import mlp
from netgraph.tracing.tracer import trace

partitions = st.lists(st.integers(0, 5), min_size=1, max_size=24).map(lambda x: Transfer(renumber_labels(np.array(x))))


def without(left_out):
    """Return a transfer of these aggregates, in which -1 leaves a unit out."""
    aggregates = np.array(left_out)
    kept = aggregates >= 0
    aggregates[kept] = renumber_labels(aggregates[kept]) if kept.any() else aggregates[kept]
    return Transfer(aggregates)


def with_weights(drawn):
    """Return the transfer with weights of its units, some of which are zero."""
    transfer, seed = drawn
    random = np.random.default_rng(seed)
    return Transfer(transfer.aggregates, random.random(transfer.n_fine) * random.integers(0, 2, transfer.n_fine))


plain_selections = st.lists(st.integers(-1, 5), min_size=1, max_size=24).map(without)
selections = plain_selections | st.tuples(plain_selections, st.integers(0, 1000)).map(with_weights)


@given(selections)
def test_P_and_R_are_those_written_unit_by_unit(t):
    np.testing.assert_array_equal(t.P.toarray(), dense_P(t.aggregates))
    np.testing.assert_allclose(t.R.toarray(), dense_R(t.aggregates, t.weights), atol=1e-15)


@given(selections)
def test_restriction_after_prolongation_is_the_identity(t):
    np.testing.assert_allclose((t.R @ t.P).toarray(), np.eye(t.n_coarse), atol=1e-12)


@given(selections, st.integers(-3, 2))
def test_the_four_maps_are_the_four_matrices(t, dim):
    shapes = [3, 4, 2]
    fine, coarse = list(shapes), list(shapes)
    fine[dim], coarse[dim] = t.n_fine, t.n_coarse
    x, y = torch.randn(fine, dtype=torch.float64), torch.randn(coarse, dtype=torch.float64)

    def by(matrix, tensor):
        return torch.tensordot(torch.from_numpy(matrix.toarray()), tensor.movedim(dim, 0), 1).movedim(0, dim)

    torch.testing.assert_close(t.average(x, dim), by(t.R, x), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.total(x, dim), by(t.P.T, x), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.copy(y, dim), by(t.P, y), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.share(y, dim), by(t.R.T, y), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.average_sq(x, dim), by(t.R.power(2), x), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.share_sq(y, dim), by(t.R.power(2).T, y), atol=1e-12, rtol=0)


@given(selections)
def test_torch_matrices_equal_scipy_ones(t):
    np.testing.assert_allclose(t.P_torch(torch.float64).to_dense().numpy(), t.P.toarray())
    np.testing.assert_allclose(t.R_torch(torch.float64).to_dense().numpy(), t.R.toarray())


@given(partitions, st.integers(0, 1000))
def test_composition_is_the_product_of_prolongations(t, seed):
    second = Transfer(renumber_labels(np.random.default_rng(seed).integers(0, 3, t.n_coarse)))
    np.testing.assert_allclose(t.compose(second).P.toarray(), (t.P @ second.P).toarray())


@given(partitions, st.integers(0, 1000))
def test_composition_averages_over_the_finest_units(t, seed):
    second = Transfer(renumber_labels(np.random.default_rng(seed).integers(0, 3, t.n_coarse)))
    composed = t.compose(second)
    np.testing.assert_allclose(composed.R.toarray(), dense_R(second.aggregates[t.aggregates]), atol=1e-15)
    if len(set(t.sizes)) == 1:
        np.testing.assert_allclose(composed.R.toarray(), (second.R @ t.R).toarray(), atol=1e-15)


@given(selections, st.integers(0, 1000), st.booleans())
def test_composition_with_weights_is_the_product_of_the_restrictions(t, seed, later_too):
    t = with_weights((t, seed))
    random = np.random.default_rng(seed)
    aggregates = renumber_labels(random.integers(0, 3, t.n_coarse))
    second = Transfer(aggregates, random.random(t.n_coarse) if later_too else None)
    counted = dense_R(aggregates, second.weights if later_too else t.sizes)  # without weights, aggregates count by size
    np.testing.assert_allclose(t.compose(second).R.toarray(), counted @ t.R.toarray(), atol=1e-14)


@given(selections)
def test_composition_with_the_identity_changes_nothing(t):
    for same in (t.compose(Transfer.identity(t.n_coarse)), Transfer.identity(t.n_fine).compose(t)):
        np.testing.assert_array_equal(same.aggregates, t.aggregates)
        np.testing.assert_allclose(same.R.toarray(), t.R.toarray(), atol=1e-15)
    assert Transfer.identity(t.n_fine).is_identity


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("weights", [None, np.arange(6.0)])
def test_the_four_maps_keep_the_dtype_and_their_argument(dtype, weights):
    t = Transfer(np.array([0, 0, 0, 0, 0, 1]), weights)
    x, y = torch.ones(6, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype)
    results = [
        t.average(x, 0),
        t.total(x, 0),
        t.copy(y, 0),
        t.share(y, 0),
        t.average_sq(x, 0),
        t.share_sq(y, 0),
    ]
    assert {result.dtype for result in results} == {dtype}
    assert (x == 1).all()
    assert (y == 1).all()


def test_averages_in_half_precision_neither_overflow_nor_stop_growing():
    two, many = Transfer(np.zeros(2, dtype=int)), Transfer(np.zeros(3000, dtype=int))
    large = torch.full((2,), 60000.0, dtype=torch.float16)
    assert two.average(large, 0).item() == 60000
    small = torch.full((3000,), 1.0078125, dtype=torch.bfloat16)
    assert many.average(small, 0).item() == 1.0078125


@pytest.mark.parametrize("wrong", [[0, 0, 2], [1, 1], [0, -2], [0.0, 1.0], [[0], [1]]])
def test_an_array_that_is_no_partition_makes_no_transfer(wrong):
    with pytest.raises(AggregatesError):
        Transfer(np.array(wrong))


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0], [1.0, np.inf, 1.0], ["a", "b", "c"], [[1.0, 1.0, 1.0]]]
)
def test_weights_that_no_mean_can_have_make_no_transfer(wrong):
    with pytest.raises(AggregatesError, match="weight"):
        Transfer(np.array([0, 0, 1]), np.array(wrong))


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e300, 1.7e308])
def test_weights_of_any_size_share_out_one(size):
    t = Transfer(np.array([0, 0, 0, 1, 1]), np.array([1.0, 0.5, 0.0, 1.0, 1.0]) * size)
    np.testing.assert_allclose(t.shares, [2 / 3, 1 / 3, 0, 0.5, 0.5], rtol=1e-2)
    np.testing.assert_allclose((t.R @ t.P).toarray(), np.eye(2), atol=1e-15)


def test_a_transfer_does_not_follow_later_changes_of_the_array_it_was_made_from():
    aggregates = np.array([0, 0, 1])
    t = Transfer(aggregates)
    aggregates[:] = 7
    assert t.aggregates.tolist() == [0, 0, 1]


def test_a_selection_by_mask_is_the_selection_by_numbers():
    mask = np.array([True, False, True])
    by_number = Transfer.selection(np.flatnonzero(mask), 3)
    np.testing.assert_array_equal(Transfer.selection(mask, 3).aggregates, by_number.aggregates)


def test_a_selection_leaves_out_units_and_puts_zeros_back():
    t = Transfer.selection(np.array([0, 2]), 3)
    assert t.copy(torch.tensor([5.0, 7.0]), 0).tolist() == [5.0, 0.0, 7.0]
    assert t.average(torch.tensor([5.0, 6.0, 7.0]), 0).tolist() == [5.0, 7.0]


def _network(seed):
    torch.manual_seed(seed)
    model = mlp((5, 8, 6, 3)).double()
    spec = trace(model, torch.randn(2, 5, dtype=torch.float64))
    random = np.random.default_rng(seed)
    transfers = {
        a.name: Transfer(renumber_labels(random.integers(0, 3, a.size)), random.random(a.size) if seed % 2 else None)
        for a in spec.free
    }
    return model, spec, transfers, {n: p.detach() for n, p in model.named_parameters()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_laws_of_moving_whole_networks(seed):
    _, spec, transfers, state = _network(seed)
    coarse = inject(spec, transfers, state)
    wanted = dense_inject(spec, transfers, state)
    error = {n: torch.randn_like(v) for n, v in coarse.items()}
    gradient = {n: torch.randn_like(v) for n, v in state.items()}
    up, down = prolong(spec, transfers, error), restrict(spec, transfers, gradient)
    again = inject(spec, transfers, up)
    for name in state:
        torch.testing.assert_close(coarse[name], wanted[name], atol=1e-12, rtol=0)
        torch.testing.assert_close(again[name], error[name], atol=1e-12, rtol=0)
    left = sum(float((up[n] * gradient[n]).sum()) for n in state)
    right = sum(float((error[n] * down[n]).sum()) for n in state)
    assert abs(left - right) < 1e-12 * max(1, abs(left)) * 100


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, n) for n in (2, 6, 3, 6, 4)]), st.integers(1, 4), st.integers(0, 10**6))
def test_the_kernels_equal_the_product_with_both_matrices_for_any_shape_and_any_units_left_out(shape, k, seed):
    rng = np.random.default_rng(seed)
    maps, matrices = [], []
    for n in (shape[1], shape[3]):
        drawn = rng.integers(-1, k, n)
        drawn[0] = 0
        aggregates = np.where(drawn < 0, -1, np.searchsorted(np.unique(drawn[drawn >= 0]), drawn))
        maps.append(IndexMap(aggregates, rng.random(aggregates.max() + 1)))
        matrices.append(np.where(aggregates == np.arange(aggregates.max() + 1)[:, None], maps[-1].scale[:, None], 0))
    x = rng.random(shape)
    coarse = np.einsum("ip,jq,apmqb->aimjb", *matrices, x)
    np.testing.assert_allclose(sum_into_aggregates(x, shape, *maps), coarse.ravel(), atol=1e-14)
    fine = np.einsum("ip,jq,aimjb->apmqb", *matrices, coarse)
    out = np.full(x.size, 9.0)
    assert np.shares_memory(copy_to_members(coarse, coarse.shape, *maps, out), out)
    np.testing.assert_allclose(out, fine.ravel(), atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_tensors_given_for_the_result_hold_what_is_returned_and_the_state_stays(seed):
    _, spec, transfers, state = _network(seed)
    before = {n: t.clone() for n, t in state.items()}
    for move in (inject, restrict):
        wanted = move(spec, transfers, state)
        room = {n: torch.full_like(t, 7) for n, t in wanted.items()}
        strided = {n: torch.full((*t.shape, 2), 7.0, dtype=torch.float32)[..., 0] for n, t in wanted.items()}
        for out, digits in ((room, 1e-15), (strided, 1e-5)):
            found = move(spec, transfers, state, out=out)
            for name, tensor in found.items():
                assert tensor is out[name]
                torch.testing.assert_close(tensor.double(), wanted[name], atol=digits, rtol=digits)
    kept = inject(spec, {}, state, out=state)
    assert all(torch.equal(kept[n], before[n]) and torch.equal(state[n], before[n]) for n in state)
    name, small = next(iter(room)), torch.empty(1, 1)
    with pytest.raises(NetgraphError, match="has shape"):
        inject(spec, transfers, state, out={**room, name: small})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_duals_go_up_by_the_transpose_of_injection_and_come_down_unchanged(seed):
    _, spec, transfers, state = _network(seed)
    fine = {n: torch.randn_like(v) for n, v in state.items()}
    momentum = {n: torch.randn_like(v) for n, v in inject(spec, transfers, state).items()}
    up = distribute(spec, transfers, momentum)
    again = restrict(spec, transfers, up)
    for name in momentum:
        torch.testing.assert_close(again[name], momentum[name], atol=1e-12, rtol=0)
    left = sum(float((up[n] * fine[n]).sum()) for n in fine)
    down = inject(spec, transfers, fine)
    right = sum(float((momentum[n] * down[n]).sum()) for n in down)
    assert abs(left - right) < 1e-10 * max(1, abs(left))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_second_moments_move_by_squared_entries_and_are_never_negative(seed):
    _, spec, transfers, state = _network(seed)
    fine = {n: torch.rand_like(v) for n, v in state.items()}
    down = restrict(spec, transfers, fine, squared=True)
    coarse = {n: torch.rand_like(v) for n, v in down.items()}
    up = distribute(spec, transfers, coarse, squared=True)
    P, R = (lambda t: dense_P(t.aggregates) ** 2), (lambda t: dense_R(t.aggregates, t.weights) ** 2)
    judged = (
        (down, dense_moved(spec, transfers, fine, outgoing=lambda t: P(t).T, incoming=R)),
        (up, dense_moved(spec, transfers, coarse, outgoing=lambda t: R(t).T, incoming=P)),
    )
    for found, wanted in judged:
        for name in found:
            torch.testing.assert_close(found[name], wanted[name], atol=1e-12, rtol=0)
            assert (found[name] >= 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_zero_sum_noise_on_a_prolonged_network_changes_no_output(seed):
    model, spec, transfers, state = _network(seed)
    y = inject(spec, transfers, state)
    noise = zero_sum_part(spec, transfers, {n: torch.randn_like(v) for n, v in state.items()})
    x = torch.randn(7, 5, dtype=torch.float64)
    wide = prolong(spec, transfers, y)
    before = torch.func.functional_call(model, wide, (x,))
    after = torch.func.functional_call(model, {n: wide[n] + noise[n] for n in wide}, (x,))
    torch.testing.assert_close(after, before, atol=1e-11, rtol=0)
    merged = any((t.sizes > 1).any() for t in transfers.values())
    assert any(float(n.abs().max()) > 0 for n in noise.values()) == merged


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_gradient_of_the_coarse_network_is_the_restricted_gradient_where_units_are_alike(seed):
    from netgraph.coarsen.network.rewrite import coarse_network

    model, spec, transfers, state = _network(seed)
    y = inject(spec, transfers, state)
    with torch.no_grad():
        for name, value in prolong(spec, transfers, y).items():
            model.get_parameter(name).copy_(value)
    coarse = coarse_network(model, spec, transfers)
    x = torch.randn(7, 5, dtype=torch.float64)
    model(x).square().sum().backward()
    coarse(x).square().sum().backward()
    down = restrict(spec, transfers, {n: p.grad for n, p in model.named_parameters()})
    for name, p in coarse.named_parameters():
        torch.testing.assert_close(p.grad, down[name], atol=1e-10, rtol=1e-10)
