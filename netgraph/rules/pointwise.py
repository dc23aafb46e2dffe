"""Rules of elementwise operators: operands broadcast to the result, and their units correspond one to one."""

from __future__ import annotations

from torch import fx

from netgraph.rules.index_space import ONE
from netgraph.rules.operator_call import Call, Spaces
from netgraph.rules.operators import COPIES, name_operators


def pointwise_rule(call: Call) -> Spaces:
    """Unite the operands from the last dimension on. A parameter times a scalar still counts as that parameter."""
    ndim = len(call.shape())
    out = call.broadcast([[ONE] * ndim, *(call.spaces(operand) for operand in call.operands)])[-ndim:] if ndim else []
    if len(call.operands) == 1 and is_scalar_multiple(call):
        call.alias(call.operands[0], range(len(out)))
    return out


def is_scalar_multiple(call: Call) -> bool:
    """Return True if the result is the operand up to a scalar factor, the data type or the memory layout."""
    return call.name in SAME_NUMBERS or (call.name in ("aten.mul", "aten.div") and isinstance(call["self"], fx.Node))


def like_rule(call: Call) -> Spaces:
    """Give the result the spaces of the operand, since only its shape is read."""
    return call.spaces(call.operands[0])


def random_like_rule(call: Call) -> Spaces:
    """Pin the axes of the shape, because noise differs between units that are otherwise alike."""
    spaces = call.spaces(call.operands[0])
    for space in spaces:
        call.pin(space, "noise of its own for each unit")
    return spaces


def dropout_rule(call: Call) -> Spaces:
    """Unite the operands. Noise that the evaluation mode draws, too, tells units apart, so their axes are pinned there.

    In training, units that are alike are alike on average, as under dropout in any network.
    """
    out = pointwise_rule(call)
    if not call.state.training and call.arguments.get("train", True) and call.arguments.get("p") != 0:
        for space in out:
            call.pin(space, "noise of its own for each unit, in evaluation mode too")
    return out


def type_as_rule(call: Call) -> Spaces:
    """Give the result the spaces of the first operand. Of the other one only type and device are read."""
    first = call.operands[0]
    call.alias(first, range(len(call.shape())))
    return call.spaces(first)


def where_rule(call: Call) -> Spaces | list[Spaces]:
    """Unite condition and operands element by element. A condition alone is looked up: its true places are listed."""
    return pointwise_rule(call) if "other" in call.arguments else call.list_places(call["condition"])


def broadcast_tensors_rule(call: Call) -> list[Spaces]:
    """Unite a list of tensors that are broadcast to one shape."""
    out = call.broadcast(call.spaces(operand) for operand in call.operands)
    return [list(out) for _ in call.node.meta["val"]]


# Operators whose result has the same axes and, up to its type, the same numbers. ``conj`` changes signs only.
SAME_NUMBERS = COPIES | name_operators(
    "detach_", "requires_grad_", "float", "cpu", "_to_cpu", "cuda", "type_as", "conj", "_conj"
)
# Elementwise operators that PyTorch has not tagged as pointwise. Tagged ones need no entry.
UNTAGGED = name_operators(
        "gelu", "gelu_", "silu",
        "relu", "relu_", "relu6", "relu6_", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu",
        "celu_", "mish", "mish_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_",
        "softplus", "softshrink", "hardshrink", "threshold", "threshold_", "log_sigmoid", "logsigmoid", "rrelu", "rrelu_",
        "rrelu_with_noise", "prelu_kernel", "masked_fill", "masked_fill_", "copy_", "fill_", "zero_",
        "clamp", "clamp_", "clamp_min", "clamp_max", "clip", "nan_to_num", "nan_to_num_", "isfinite",
        "isnan", "isinf", "isclose", "lerp", "addcmul", "addcdiv", "_prelu_kernel", "softsign", "tanhshrink",
        "logical_and", "logical_or", "logical_not", "logical_xor", "bucketize", "rsub", "square", "square_", "divide",
        "multiply", "subtract", "true_divide", "floor_divide", "not_equal", "greater", "greater_equal", "less",
        "less_equal", "xlogy", "special_expit", "sinc", "abs", "absolute", "negative", "arctan2", "fix",
        "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__", "bitwise_and", "bitwise_or",
        "bitwise_not", "floor_divide_", "float_power", "pow", "pow_", "remainder", "fmod", "expit",
        "view_as_real_copy", "dequantize", "real", "imag", "complex", "polar",
)  # fmt: skip
# Elementwise operators that draw a number for each unit.
DROPOUTS = name_operators(
    "dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_", "feature_alpha_dropout",
    "feature_alpha_dropout_", "bernoulli", "bernoulli_", "exponential_",
)  # fmt: skip


def prelu_rule(call: Call) -> Spaces:
    """Unite the weight, one slope for each channel, with dimension 1."""
    out = call.spaces("self")
    (slope,) = call.spaces("weight") or [ONE]
    if slope != ONE:
        call.unite(slope, out[1 if len(out) > 1 else 0])
    return out


RULES = {
    **dict.fromkeys(sorted(SAME_NUMBERS | UNTAGGED), pointwise_rule),
    **dict.fromkeys(sorted(DROPOUTS), dropout_rule),
    **dict.fromkeys(
        [f"aten.{n}" for n in ("zeros_like", "ones_like", "empty_like", "full_like")],
        like_rule,
    ),
    **dict.fromkeys(
        [f"aten.{n}" for n in ("rand_like", "randn_like", "normal_", "uniform_", "randint_like")],
        random_like_rule,
    ),
    "aten.fake_quantize_per_tensor_affine": pointwise_rule,
    "aten.type_as": type_as_rule,
    "aten.where": where_rule,
    "aten.prelu": prelu_rule,
    "aten.broadcast_tensors": broadcast_tensors_rule,
}
