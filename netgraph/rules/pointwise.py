"""Operators that act on each element by itself: operands broadcast to the result, and meet unit by unit."""

from __future__ import annotations

from torch import fx

from netgraph.errors import TraceError
from netgraph.rules.index_space import ONE
from netgraph.rules.operator_call import Call, Spaces


def pointwise_rule(call: Call) -> Spaces:
    """Unite operands from the last dimension on; a scalar factor leaves a parameter a parameter."""
    ndim = len(call.shape())
    out = call.broadcast([[ONE] * ndim, *(call.spaces(operand) for operand in call.operands)])[-ndim:] if ndim else []
    if len(call.operands) == 1 and is_scalar_multiple(call):
        call.alias(call.operands[0], range(len(out)))
    return out


def is_scalar_multiple(call: Call) -> bool:
    """Tell whether the result is the operand up to a scalar factor, a type or a layout."""
    return call.name in COPIES or (call.name in ("aten.mul", "aten.div") and isinstance(call["self"], fx.Node))


def like_rule(call: Call) -> Spaces:
    """Return a tensor shaped as an operand, with numbers of its own."""
    return call.spaces(call.operands[0])


def random_like_rule(call: Call) -> Spaces:
    """Noise differs between units that are alike, so the axes of its shape are kept."""
    spaces = call.spaces(call.operands[0])
    for space in spaces:
        call.pin(space, "noise of its own for each unit")
    return spaces


def type_as_rule(call: Call) -> Spaces:
    """Take dtype or device of the other operand and nothing else (``type_as``)."""
    first = call.operands[0]
    call.alias(first, range(len(call.shape())))
    return call.spaces(first)


def where_rule(call: Call) -> Spaces:
    """Choose element by element; of a condition alone, its places are as many as numbers decide.

    Raises
    ------
    TraceError
        Of a condition alone.
    """
    if "other" not in call.arguments:
        raise TraceError(
            f"the network looks up the places of a condition{call.location()}, as many as its numbers decide, and the recording "
            "would hold for this example only; write torch.where(condition, a, b), or a product with the mask"
        )
    return pointwise_rule(call)


def broadcast_tensors_rule(call: Call) -> list[Spaces]:
    """Broadcast a list of tensors to one shape (``broadcast_tensors``)."""
    out = call.broadcast(call.spaces(operand) for operand in call.operands)
    return [list(out) for _ in call.node.meta["val"]]


COPIES = {
    f"aten.{name}"
    for name in (
        "to", "_to_copy", "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "lift_fresh", "detach_", "float",
        "requires_grad_", "cpu", "_to_cpu", "type_as", "positive", "conj", "resolve_conj", "resolve_neg", "cuda",
    )
}  # fmt: skip
# Pointwise operators that PyTorch has not tagged as such; tagged ones need no entry.
UNTAGGED = {
    f"aten.{name}"
    for name in (
        "dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "gelu", "gelu_", "silu",
        "relu", "relu_", "relu6", "relu6_", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu",
        "celu_", "mish", "mish_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_",
        "softplus", "softshrink", "hardshrink", "threshold", "threshold_", "log_sigmoid", "logsigmoid", "rrelu", "rrelu_",
        "rrelu_with_noise", "prelu_kernel", "masked_fill", "masked_fill_", "copy_", "fill_", "zero_", "bernoulli_",
        "bernoulli", "clamp", "clamp_", "clamp_min", "clamp_max", "clip", "nan_to_num", "nan_to_num_", "isfinite",
        "isnan", "isinf", "isclose", "lerp", "addcmul", "addcdiv", "_prelu_kernel", "softsign", "tanhshrink",
        "logical_and", "logical_or", "logical_not", "logical_xor", "bucketize", "rsub", "square", "square_", "divide",
        "multiply", "subtract", "true_divide", "floor_divide", "not_equal", "greater", "greater_equal", "less",
        "less_equal", "xlogy", "special_expit", "sinc", "abs", "absolute", "negative", "arctan2", "fix", "native_dropout",
        "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__", "bitwise_and", "bitwise_or",
        "bitwise_not", "floor_divide_", "float_power", "pow", "pow_", "remainder", "fmod", "expit",
        "view_as_real_copy", "dequantize", "real", "exponential_", "complex",
    )
}  # fmt: skip


def prelu_rule(call: Call) -> Spaces:
    """One slope a channel: the weight runs over dimension 1."""
    out = call.spaces("self")
    (slope,) = call.spaces("weight") or [ONE]
    if slope != ONE:
        call.unite(slope, out[1 if len(out) > 1 else 0])
    return out


RULES = {
    **dict.fromkeys(sorted(COPIES | UNTAGGED), pointwise_rule),
    **dict.fromkeys(
        [f"aten.{n}" for n in ("zeros_like", "ones_like", "empty_like", "full_like")],
        like_rule,
    ),
    **dict.fromkeys(
        [f"aten.{n}" for n in ("rand_like", "randn_like", "normal_", "uniform_", "randint_like")],
        random_like_rule,
    ),
    "aten.type_as": type_as_rule,
    "aten.where": where_rule,
    "aten.prelu": prelu_rule,
    "aten.broadcast_tensors": broadcast_tensors_rule,
}
