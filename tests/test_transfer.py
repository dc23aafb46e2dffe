"""Transfers: laws of P and R, and of moving whole networks, against dense matrices."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_inject

from netgraph.coarsen.hem import numbered
from netgraph.coarsen.transfer import Transfer
from netgraph.coarsen.weights import inject, prolong, restrict
from netgraph.models.mlp import mlp
from netgraph.tracing import trace

partitions = st.lists(st.integers(0, 5), min_size=1, max_size=24).map(lambda x: Transfer(numbered(np.array(x))))


@given(partitions)
def test_restriction_after_prolongation_is_the_identity(t):
    np.testing.assert_allclose((t.R @ t.P).toarray(), np.eye(t.n_coarse), atol=1e-12)


@given(partitions, st.integers(0, 2))
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


@given(partitions)
def test_torch_matrices_equal_scipy_ones(t):
    np.testing.assert_allclose(t.P_torch(torch.float64).to_dense().numpy(), t.P.toarray())
    np.testing.assert_allclose(t.R_torch(torch.float64).to_dense().numpy(), t.R.toarray())


@given(partitions, st.integers(0, 1000))
def test_composition_is_the_product_of_prolongations(t, seed):
    second = Transfer(numbered(np.random.default_rng(seed).integers(0, 3, t.n_coarse)))
    np.testing.assert_allclose(t.compose(second).P.toarray(), (t.P @ second.P).toarray())


def test_a_selection_leaves_out_units_and_puts_zeros_back():
    t = Transfer.selection(np.array([0, 2]), 3)
    assert t.copy(torch.tensor([5.0, 7.0]), 0).tolist() == [5.0, 0.0, 7.0]
    assert t.average(torch.tensor([5.0, 6.0, 7.0]), 0).tolist() == [5.0, 7.0]


def _network(seed):
    torch.manual_seed(seed)
    model = mlp((5, 8, 6, 3)).double()
    spec = trace(model, torch.randn(2, 5, dtype=torch.float64))
    random = np.random.default_rng(seed)
    transfers = {a.name: Transfer(numbered(random.integers(0, 3, a.size))) for a in spec.free}
    return model, spec, transfers, {n: p.detach() for n, p in model.named_parameters()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_laws_of_moving_whole_networks(seed):
    _, spec, transfers, state = _network(seed)
    coarse = inject(spec, transfers, state)
    judged = dense_inject(spec, transfers, state)
    error = {n: torch.randn_like(v) for n, v in coarse.items()}
    gradient = {n: torch.randn_like(v) for n, v in state.items()}
    up, down = prolong(spec, transfers, error), restrict(spec, transfers, gradient)
    again = inject(spec, transfers, up)
    for name in state:
        torch.testing.assert_close(coarse[name], judged[name], atol=1e-12, rtol=0)
        torch.testing.assert_close(again[name], error[name], atol=1e-12, rtol=0)
    left = sum(float((up[n] * gradient[n]).sum()) for n in state)
    right = sum(float((error[n] * down[n]).sum()) for n in state)
    assert abs(left - right) < 1e-12 * max(1, abs(left)) * 100


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_gradient_of_the_coarse_network_is_the_restricted_gradient_where_units_are_alike(seed):
    from netgraph.coarsen.network import coarse_network

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
