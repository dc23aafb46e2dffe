"""Named sets of ATen operators, one set for each property that other modules ask for.

Names stand without their overload: ``aten.mean`` is ``mean.default`` and ``mean.dim``. A module that needs several
properties takes the union of their sets. In all definitions, x is the first argument of the operator. Two sets hold
overloads, for code that compares them with the target of a node.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from netgraph.rules.operator_call import Rule, operator_name

ATEN = torch.ops.aten


def name_operators(*names: str) -> frozenset[str]:
    """Return the full names of ATen operators: ``aten.relu`` for ``relu``."""
    return frozenset(f"aten.{name}" for name in names)


def tabulate_rule(rule: Rule, *names: str) -> dict[str, Rule]:
    """Return the entries of a table ``RULES`` for one rule of several operators."""
    return dict.fromkeys([f"aten.{name}" for name in names], rule)


# The result has the shape and the numbers of x, up to the data type, the device and the memory layout.
COPIES = name_operators(
    "to", "_to_copy", "contiguous", "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "positive", "resolve_conj",
    "resolve_neg",
)  # fmt: skip

# The result holds each number of x once, under other dimensions. No other argument is a tensor, and x keeps its own
# shape. One overload is no view in this sense: ``view.dtype`` reads the bits of x as another type.
VIEWS = name_operators(
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "permute", "transpose", "t",
    "mT", "numpy_T", "swapaxes", "swapdims", "movedim", "moveaxis",
)  # fmt: skip

# Each tensor of the result holds some of the numbers of x, each of them once.
PARTS = name_operators("select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind")

# The result holds each number of x equally often, along new dimensions or along those that had one index.
EXPANSIONS = name_operators("expand", "expand_as", "broadcast_to")

# The result holds each number of x equally often, along any dimension. ``repeat_interleave`` counts as one with an
# integer for its number of repeats only.
REPEATS = name_operators("repeat", "repeat_interleave")

# x is a list of tensors. The result holds each number of each of them once.
JOINS = name_operators("cat", "concat", "concatenate", "stack")

# In evaluation the result is x. In training each number, or each feature map, is multiplied by 0 or by 1 / (1 - p),
# and the draw does not depend on the numbers.
DROPOUTS = name_operators("dropout", "dropout_", "feature_dropout", "feature_dropout_")

# f(c x) = c f(x) for every c > 0, for floating-point numbers, with all other arguments held fixed. Where the units of
# an axis have factors of their own, this holds unit by unit for every operator that does not sum or pick along the axis.
POSITIVELY_HOMOGENEOUS = COPIES | VIEWS | PARTS | EXPANSIONS | DROPOUTS | name_operators(
    "relu", "relu_", "leaky_relu", "leaky_relu_", "neg", "type_as", "index_select", "sum", "mean", "max_pool1d", "max_pool2d",
    "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
)  # fmt: skip

# The result is linear in x; argument 1 is the weight, argument 2 the bias or nothing.
LAYERS = name_operators("linear", "conv1d", "conv2d", "conv3d")

# Each vector along the last dimensions is shifted by one number and scaled by one number, then by a weight. Each number
# of the result stands where the number of x stood.
NORMS = name_operators("layer_norm", "rms_norm")

LINEAR = ATEN.linear.default
BATCH_NORM = ATEN.batch_norm.default

# The overloads of LAYERS whose padding is a list of integers, so that code can read it. The overload ``padding`` of a
# convolution takes a word in its place.
LAYER_OVERLOADS = (LINEAR, ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)


def passes_positive_factor(node: fx.Node) -> bool:
    """Return True if a positive factor of a node's first argument passes to its result.

    The operator is in `POSITIVELY_HOMOGENEOUS` and the result has floating-point numbers: a conversion to integers rounds.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point() or node.target is ATEN.view.dtype:
        return False
    return operator_name(node.target) in POSITIVELY_HOMOGENEOUS
