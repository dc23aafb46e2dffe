"""Shape rules are compared with the sizes, strides and dtypes of PyTorch on the meta device."""

import pytest
import torch

from netgraph.recording.meta_shapes import OWN, infer_result

ATEN = torch.ops.aten


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


X, IMAGE, IDS = meta(2, 5, 8), meta(2, 6, 9, 7), meta(2, 5, 8, dtype=torch.int64)
LAST = IMAGE.contiguous(memory_format=torch.channels_last)
Q, K, V = meta(2, 3, 4, 8), meta(2, 3, 6, 8), meta(2, 3, 6, 10)
GATES = [meta(12, 8), meta(12, 3), meta(12), meta(12)]
CALLS = [
    *[(op, (x,), {}) for op in OWN for x in (X, X.transpose(1, 2), IMAGE, LAST, X[:, :1].expand(2, 5, 8)) if op._schema.name in {
        "aten::relu", "aten::gelu", "aten::silu", "aten::neg", "aten::exp", "aten::sqrt", "aten::rsqrt", "aten::hardswish"}],
    *[(op, (X, other), {}) for op in (ATEN.add.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor) for other in (
        2, 0.5, X, X.double(), meta(8), meta(5, 1), meta(), X.transpose(1, 2).contiguous().transpose(1, 2), meta(4, 2, 5, 8))],
    *[(op, (IDS, other), {}) for op in (ATEN.add.Tensor, ATEN.div.Tensor) for other in (2, 0.5, IDS, X)],
    *[(op, (X.clone(), other), {}) for op in (ATEN.add_.Tensor, ATEN.mul_.Tensor) for other in (2, X, meta(8), meta())],
    *[(ATEN.linear.default, (x, meta(3, 8), b), {}) for b in (None, meta(3)) for x in (
        X, meta(8), meta(2, 8), meta(2, 8, 5).transpose(1, 2), meta(5, 2, 8).transpose(0, 1), meta(2, 4, 5, 8).permute(0, 2, 1, 3))],
    *[(ATEN.conv2d.default, (x, meta(4, 3, 3, 2), b, [2, 1], [1, 0], [1, 2], 2), {}) for x in (IMAGE, LAST) for b in (None, meta(4))],
    (ATEN.conv2d.default, (IMAGE, meta(4, 6, 1, 1)), {}),
    (ATEN.conv1d.default, (X, meta(4, 5, 3), None, [2], [1]), {}),
    (ATEN.conv3d.default, (meta(1, 2, 4, 5, 6), meta(3, 2, 2, 2, 2), None, [1], [1]), {}),
    *[(ATEN.adaptive_avg_pool2d.default, (x, size), {}) for x in (IMAGE, LAST, IMAGE[0]) for size in ([1, 1], [3, 2])],
    *[(ATEN.mean.dim, (x, d, keep), {}) for x in (IMAGE, LAST) for d in ([1], [-1, -2], None) for keep in (False, True)],
    *[(ATEN.sum.dim_IntList, (x, [2]), more) for x in (IMAGE, IDS) for more in ({}, {"dtype": torch.float64})],
    *[(ATEN.linalg_vector_norm.default, (x, 2, [1, 2], True), {}) for x in (IMAGE, LAST)],
    *[(ATEN.cat.default, (parts, 1), {}) for parts in ([X, X], [X, X.double()], [IMAGE, LAST], [X, meta(2, 1, 8)])],
    *[(ATEN.softmax.int, (x, -1), more) for x in (X, X.transpose(1, 2)) for more in ({}, {"dtype": torch.float64})],
    *[(ATEN.matmul.default, (a, b), {}) for a, b in ((Q, K.mT), (X, X.mT), (X, meta(8, 3)), (Q, meta(1, 3, 8, 2)))],
    *[(ATEN.scaled_dot_product_attention.default, (Q, K, V, mask), {}) for mask in (None, meta(4, 6), meta(2, 1, 1, 6))],
    *[(ATEN.roll.default, (x, [1, 2], [1, 2]), {}) for x in (IMAGE, LAST)],
    *[(ATEN.gru.input, (x, meta(1, n, 3)[..., :], [meta(9, 8), meta(9, 3), meta(9), meta(9)], True, 1, 0.0, False, False, first), {})
      for x, n, first in ((X, 2, True), (X, 5, False))],
    *[(ATEN.lstm.input, (X, [meta(2, 2, 3), meta(2, 2, 3)], GATES * 2, True, 1, 0.0, False, True, True), {})],
    *[(ATEN.clamp.default, (X, 0, bound), {}) for bound in (None, 1.0)],
]  # fmt: skip


def facts(found):
    listed = found if isinstance(found, (tuple, list)) else [found]
    return [(tuple(t.shape), t.stride(), t.dtype) for t in listed]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call[0]))
def test_shape_rules_agree_with_pytorch(call):
    func, args, kwargs = call
    found = infer_result(func, args, kwargs)
    if found is not None:
        assert facts(found) == facts(func(*args, **kwargs))


def test_rules_cover_most_calls():
    found = [infer_result(*call) is not None for call in CALLS]
    assert sum(found) > 0.6 * len(CALLS)


@pytest.mark.parametrize("call", [
    (ATEN.linear.default, (X, meta(3, 7))), (ATEN.conv2d.default, (IMAGE, meta(4, 5, 3, 3))), (ATEN.add.Tensor, (X, meta(2, 4, 8))),
    (ATEN.cat.default, ([X, meta(2, 1, 7)], 1)), (ATEN.add_.Tensor, (X, meta(3, 2, 5, 8))), (ATEN.conv2d.default, (IMAGE, meta(4, 6, 11, 3))),
    (ATEN.scaled_dot_product_attention.default, (Q, K, meta(2, 3, 5, 8))), (ATEN.matmul.default, (Q, K)),
], ids=str)  # fmt: skip
def test_calls_with_sizes_that_do_not_fit_are_left_to_pytorch(call):
    assert infer_result(*call, {}) is None


def test_results_of_parameters_require_gradients():
    weight = meta(3, 8).requires_grad_()
    assert infer_result(ATEN.linear.default, (X, weight), {}).requires_grad
    with torch.no_grad():
        assert not infer_result(ATEN.linear.default, (X, weight), {}).requires_grad
