"""Result shapes of the commonest operators. PyTorch works many of them out in Python, which is slow.

Each rule takes the arguments of one operator and returns meta tensors with the size, strides and dtype of its result. A rule
returns None where a case is not one of the plain ones written here. PyTorch is asked in that case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
ATEN = torch.ops.aten
INTEGERS = (torch.int64, torch.int32)


def infer_result(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Return meta tensors like the result of an operator, or None where no rule covers the call.

    Parameters
    ----------
    func : operator
    args, kwargs : sequence and dict
        Arguments of the call, with tensors on the meta device.

    Returns
    -------
    Tensor, tuple of Tensor or None
        Floating-point results require gradients where an argument does and gradients are enabled.
    """
    rule = OWN.get(func)
    result = None if rule is None or not isinstance(args[0], Tensor | list | tuple) else rule(*args, **kwargs)
    if result is not None and torch.is_grad_enabled() and _needs_gradient(args):
        for tensor in result if isinstance(result, tuple) else (result,):
            if tensor.is_floating_point() and not tensor.requires_grad:
                tensor.requires_grad_()
    return result


def _needs_gradient(args: Sequence[Any]) -> bool:
    return any(
        (isinstance(a, Tensor) and a.requires_grad) or (isinstance(a, (list, tuple)) and _needs_gradient(a))
        for a in args
    )


def _new_tensor(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=META)


def _are_plain(*tensors: Tensor | None) -> bool:
    """Return True if all tensors are contiguous, floating-point and of one dtype."""
    present = [t for t in tensors if t is not None]
    return all(t.is_floating_point() and t.dtype == present[0].dtype and t.is_contiguous() for t in present)


def _infer_elementwise(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return x.clone() if x.is_floating_point() else None


def _infer_clamp(x: Tensor, *bounds: Any, **more: Any) -> Tensor | None:
    return None if any(isinstance(b, Tensor) for b in (*bounds, *more.values())) else _infer_elementwise(x)


def _infer_softmax(x: Tensor, *_: Any, dtype: Any = None, **__: Any) -> Tensor | None:
    return _new_tensor(x, x.shape) if dtype is None and _are_plain(x) else None


def _return_input(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _infer_binary(a: Any, b: Any, **_: Any) -> Tensor | None:
    if not isinstance(a, Tensor):
        return None
    if type(b) in (int, float):
        return a.clone() if a.is_floating_point() else None
    if not isinstance(b, Tensor) or a.dtype != b.dtype or not a.is_floating_point():
        return None
    if a.shape == b.shape and a.stride() == b.stride():
        return a.clone()
    shape = _broadcast_shapes(a.shape, b.shape)
    return _new_tensor(a, shape) if shape is not None and _are_plain(a, b) else None


def _broadcast_shapes(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    n = max(len(a), len(b))
    a, b = [1] * (n - len(a)) + list(a), [1] * (n - len(b)) + list(b)
    fits = all(x == y or x == 1 or y == 1 for x, y in zip(a, b, strict=True))
    return [y if x == 1 else x for x, y in zip(a, b, strict=True)] if fits else None


def _infer_in_place(a: Tensor, b: Any, **_: Any) -> Tensor | None:
    if type(b) in (int, float):
        return a if a.is_floating_point() else None
    return (
        a
        if isinstance(b, Tensor) and a.dtype == b.dtype and list(a.shape) == _broadcast_shapes(a.shape, b.shape)
        else None
    )


def _infer_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _are_plain(weight, bias) or x.dtype != weight.dtype or weight.ndim != 2 or x.ndim < 1:
        return None
    if x.shape[-1] != weight.shape[1]:
        return None
    return (
        None
        if bias is not None and bias.shape != weight.shape[:1]
        else _new_tensor(x, [*x.shape[:-1], weight.shape[0]])
    )


def _make_convolution_rule(n: int) -> Callable[..., Tensor | None]:
    def infer_convolution(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        if (
            not _are_plain(x, weight, bias)
            or not x.ndim == weight.ndim == n + 2
            or x.shape[1] != weight.shape[1] * groups
        ):
            return None
        steps, pads, holes = (_expand_sizes(v, n) for v in (stride, padding, dilation))
        spans = (h * (k - 1) + 1 for h, k in zip(holes, weight.shape[2:], strict=True))
        sizes = [(m + 2 * p - s) // step + 1 for m, p, s, step in zip(x.shape[2:], pads, spans, steps, strict=True)]
        wrong = weight.shape[0] % groups or min(sizes) < 1 or (bias is not None and bias.shape != weight.shape[:1])
        return None if wrong else _new_tensor(x, [x.shape[0], weight.shape[0], *sizes])

    return infer_convolution


def _expand_sizes(value: Any, n: int) -> list[int]:
    listed: list[int] = [value] if isinstance(value, int) else list(value)
    return listed * n if len(listed) == 1 else listed


def _make_pool_rule(n: int) -> Callable[..., Tensor | None]:
    def infer_pool(x: Tensor, output_size: Any) -> Tensor | None:
        sizes = _expand_sizes(output_size, n)
        fits = _are_plain(x) and x.ndim in (n + 1, n + 2) and None not in sizes and min(x.shape) > 0
        return _new_tensor(x, [*x.shape[:-n], *sizes]) if fits else None

    return infer_pool


def _infer_reduction(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    if dtype is not None or not dim or not _are_plain(x):
        return None
    reduced = {d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)}
    return _new_tensor(x, [1 if d in reduced else m for d, m in enumerate(x.shape) if keepdim or d not in reduced])


def _infer_vector_norm(
    x: Tensor, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    return _infer_reduction(x, dim, keepdim, dtype=dtype)


def _infer_cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not _are_plain(*tensors) or first.ndim == 0 or any(t.ndim != first.ndim for t in tensors):
        return None
    dim %= first.ndim
    rest = {(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}
    size = sum(t.shape[dim] for t in tensors)
    return _new_tensor(first, [*first.shape[:dim], size, *first.shape[dim + 1 :]]) if len(rest) == 1 else None


def _infer_matmul(a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.ndim == b.ndim >= 3 and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    return (
        _new_tensor(a, [*a.shape[:-1], b.shape[-1]]) if fits and a.dtype == b.dtype and a.is_floating_point() else None
    )


def _infer_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Any = None, *_: Any, **more: Any
) -> Tensor | None:
    if not query.is_floating_point() or len({t.dtype for t in (query, key, value)}) > 1 or query.ndim != 4:
        return None
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2] or key.shape[-2] != value.shape[-2]:
        return None
    shape = [*query.shape[:-1], key.shape[-2]]
    if (
        more.get("enable_gqa")
        or query.shape[-1] != key.shape[-1]
        or (mask is not None and _broadcast_shapes(list(mask.shape), shape) != shape)
    ):
        return None
    return _new_tensor(query, [*query.shape[:-1], value.shape[-1]])


def _infer_recurrent(x: Tensor, states: Any, params: Any, *more: Any) -> tuple[Tensor, ...] | None:
    if not isinstance(more[0], bool) or x.ndim != 3:  # packed sequences have other arguments
        return None
    listed = (states,) if isinstance(states, Tensor) else tuple(states)
    _, _, _, _, bidirectional, batch_first = more
    batch, steps = (0, 1) if batch_first else (1, 0)
    out = _new_tensor(x, [x.shape[steps], x.shape[batch], listed[0].shape[-1] * (1 + bidirectional)])
    return (out.transpose(0, 1) if batch_first else out, *(_new_tensor(s, s.shape) for s in listed))


def _infer_roll(x: Tensor, *_: Any) -> Tensor | None:
    return _new_tensor(x, x.shape) if _are_plain(x) and x.numel() else None


def _bind_overloads(rule: Any, names: str, overload: str = "default") -> dict[Any, Any]:
    return {getattr(getattr(ATEN, name), overload): rule for name in names.split()}


OWN: dict[Any, Callable[..., Any]] = {
    **_bind_overloads(_infer_elementwise, "batch_norm dropout elu gelu group_norm hardsigmoid hardswish hardtanh layer_norm leaky_relu mish relu relu6 "
                 "sigmoid silu tanh neg exp sqrt rsqrt softplus clamp_min"),
    **_bind_overloads(_infer_clamp, "clamp"),
    **_bind_overloads(_infer_softmax, "softmax log_softmax", "int"),
    **_bind_overloads(_return_input, "dropout_ elu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ relu_ relu6_ silu_"),
    **_bind_overloads(_infer_binary, "add sub mul div", "Tensor"),
    **_bind_overloads(_infer_in_place, "add_ sub_ mul_ div_", "Tensor"),
    **_bind_overloads(_infer_linear, "linear"),
    **_bind_overloads(_make_convolution_rule(1), "conv1d"), **_bind_overloads(_make_convolution_rule(2), "conv2d"), **_bind_overloads(_make_convolution_rule(3), "conv3d"),
    **_bind_overloads(_make_pool_rule(1), "adaptive_avg_pool1d"), **_bind_overloads(_make_pool_rule(2), "adaptive_avg_pool2d"),
    **_bind_overloads(_infer_reduction, "mean", "dim"), **_bind_overloads(_infer_reduction, "sum", "dim_IntList"),
    **_bind_overloads(_infer_vector_norm, "linalg_vector_norm"), **_bind_overloads(_infer_cat, "cat"), **_bind_overloads(_infer_matmul, "matmul"),
    **_bind_overloads(_infer_attention, "scaled_dot_product_attention"), **_bind_overloads(_infer_roll, "roll"),
    **_bind_overloads(_infer_recurrent, "lstm gru rnn_tanh rnn_relu", "input"),
}  # fmt: skip
