"""Rules of normalization layers. Statistics over units stay exact if all aggregates have the same size."""

from __future__ import annotations

from netgraph.rules import index_space as sp
from netgraph.rules.operator_call import Call, Spaces


def batch_norm_rule(call: Call) -> Spaces:
    """Unite weight, bias and running statistics with the channels. The statistics run over batch and space."""
    out = call.spaces("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.has(name):
            call.unite(call.spaces(name)[0], out[1])
    return out


def native_batch_norm_rule(call: Call) -> list[Spaces]:
    """Batch norm that also returns the saved statistics."""
    out = batch_norm_rule(call)
    return [out] + [[out[1]] if shape else [] for shape in call.output_shapes()[1:]]


def layer_norm_rule(call: Call) -> Spaces:
    """Require aggregates of one size along the last dimensions, which layer norm and RMS norm average over."""
    out = call.spaces("input")
    n = len(call["normalized_shape"])
    last = out[-n:]
    call.equal(tuple(factor for space in last for factor in space), "normalised over")
    for name in ("weight", "bias"):
        if call.has(name):
            for own_space, space in zip(call.spaces(name), last, strict=True):
                call.unite(own_space, space)
    call.resize("normalized_shape", last)
    return out


def native_layer_norm_rule(call: Call) -> list[Spaces]:
    """Layer norm that also returns the saved statistics."""
    out = layer_norm_rule(call)
    return [
        out,
        *([sp.ONE if n == 1 else s for s, n in zip(out, shape, strict=True)] for shape in call.output_shapes()[1:]),
    ]


def group_norm_rule(call: Call) -> Spaces:
    """Require aggregates of one size inside a group, since statistics run over space and the channels of a group.

    Channels of one group share statistics, channels of two groups do not. Merging two channels inside their group is therefore
    exact if they are equal. Merging two whole groups is exact only if all of their channels are.
    """
    batch, channels, *image = call.spaces("input")
    sizes = [call["num_groups"], sp.size_of(channels) // call["num_groups"]]
    divided_here = len(sp.resolve(channels)) == 1
    groups, each = call.reshape([channels], sizes)
    if divided_here:  # and not by heads or grouped convolutions before it, whose units merge as a whole
        call.state.norm_groups.append((groups, each))
    for name in ("weight", "bias"):
        if call.has(name):
            call.unite(call.spaces(name)[0], channels)
    call.equal(sp.resolve(each), "normalised over")
    call.resize("num_groups", sp.resolve(groups), single=True)
    return [batch, sp.resolve(channels), *image]


def weight_norm_rule(call: Call) -> Spaces:
    """``g v / |v|`` (Salimans and Kingma, NeurIPS 2016). The norm of n equal entries is sqrt(n / k) times that of k."""
    out = call.spaces("v")
    dim = call.arguments.get("dim")
    rest = tuple(f for d, space in enumerate(out) for f in space if d != dim)
    call.equal(rest, "a norm is taken over")
    call.scale(None, rest, -0.5)
    for d, space in enumerate(call.spaces("g")):
        if space != sp.ONE:
            call.unite(space, out[d])
    return out


RULES = {
    "aten.batch_norm": batch_norm_rule,
    "aten.instance_norm": batch_norm_rule,
    **dict.fromkeys(
        ["aten.native_batch_norm", "aten._native_batch_norm_legit", "aten._native_batch_norm_legit_no_training"],
        native_batch_norm_rule,
    ),
    **dict.fromkeys(["aten.layer_norm", "aten.rms_norm"], layer_norm_rule),
    "aten.native_layer_norm": native_layer_norm_rule,
    "aten.group_norm": group_norm_rule,
    "aten._weight_norm": weight_norm_rule,
}
