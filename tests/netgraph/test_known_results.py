"""Remembered results of operators on meta tensors against PyTorch's own: shapes, strides, dtypes, gradients and aliasing."""

import pytest
import torch

from netgraph.environment.torch_internals import identify_storage
from netgraph.recording import known_results
from netgraph.recording.meta_recorder import run_on_meta

ATEN = torch.ops.aten


def meta(*shape, dtype=torch.float32, grad=False, order=None):
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    tensor = tensor if order is None else tensor.permute(order)
    return tensor.detach().requires_grad_(grad)


CALLS = {
    "broadcast over strides": (ATEN.add.Tensor, (meta(4, 3, 2, order=(2, 0, 1)), meta(1, 4, 3)), {}),
    "a whole number": (ATEN.mul.Tensor, (meta(3, dtype=torch.int64), 2), {}),
    "a number with a point": (ATEN.mul.Tensor, (meta(3, dtype=torch.int64), 2.0), {}),
    "a flag": (ATEN.mul.Tensor, (meta(3, dtype=torch.bool), True), {}),
    "a power": (ATEN.pow.Tensor_Scalar, (meta(2, 3, grad=True), 2), {}),
    "a comparison": (ATEN.ne.Scalar, (meta(2, 3, grad=True), 1), {}),
    "an index": (ATEN.index.Tensor, (meta(5, 4, grad=True), [None, meta(3, dtype=torch.int64)]), {}),
    "a sum in another dtype": (ATEN.cumsum.default, (meta(2, 3), 1), {"dtype": torch.float64}),
    "attention to more keys": (
        ATEN.scaled_dot_product_attention.default, (meta(2, 2, 3, 4, grad=True), meta(2, 2, 5, 4), meta(2, 2, 5, 4)), {},
    ),
    "two results": (ATEN.topk.default, (meta(4, 6, grad=True), 2), {}),
    "a new tensor": (ATEN.arange.default, (5,), {"device": torch.device("meta")}),
}  # fmt: skip


def describe(result):
    parts = result if isinstance(result, (tuple, list)) else (result,)
    return [(p.shape, p.stride(), p.dtype, p.requires_grad, p.device.type) for p in parts]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_remembered_result_is_that_of_pytorch(name, gradients):
    function, args, kwargs = CALLS[name]
    known_results._known.clear()
    with torch.set_grad_enabled(gradients):
        expected = describe(function(*args, **kwargs))
        first, second = (run_on_meta(function, args, kwargs) for _ in range(2))
    assert len(known_results._known) == 1
    assert describe(first) == describe(second) == expected


def test_equal_numbers_of_other_kinds_are_other_calls():
    known_results._known.clear()
    dtypes = [run_on_meta(ATEN.add.Tensor, (meta(3, dtype=torch.int32), n), {}).dtype for n in (1, 1.0, True)]
    assert dtypes == [torch.int32, torch.float32, torch.int32]
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        assert run_on_meta(ATEN.add.Tensor, (meta(3, dtype=torch.int32), 1.0), {}).dtype == dtype


def test_results_of_two_calls_are_tensors_of_their_own():
    x = meta(3)
    first, second = (run_on_meta(ATEN.exp.default, (x,), {}) for _ in range(2))
    assert first is not second
    assert identify_storage(first) != identify_storage(second)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (ATEN.view.default, (meta(2, 3), [6])),
        (ATEN.type_as.default, (meta(3), meta(3))),
        (ATEN.contiguous.default, (meta(3),)),
        (ATEN.relu_.default, (meta(3),)),
        (ATEN.reshape.default, (meta(2, 3), [3, 2])),
    ],
)
def test_views_and_writes_stay_what_they_are(function, args):
    for _ in range(2):
        assert identify_storage(run_on_meta(function, args, {})) == identify_storage(args[0])


def test_a_full_table_begins_anew(monkeypatch):
    monkeypatch.setattr(known_results, "LARGEST", 3)
    known_results._known.clear()
    for n in range(1, 9):
        assert run_on_meta(ATEN.exp.default, (meta(n),), {}).shape == (n,)
        assert len(known_results._known) <= 3
