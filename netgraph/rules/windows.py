"""Rules of windows, patches, shuffles, pooling and resampling: operators along spatial dimensions, which are pinned."""

from __future__ import annotations

from torch import Tensor

from netgraph.rules import index_space as sp
from netgraph.rules.operator_call import Call, Spaces


def unfold_rule(call: Call) -> Spaces:
    """Take sliding windows along one dimension. The window is a new last dimension."""
    spaces, shape = call.spaces("self"), call.shape()
    dim = call.dim("dimension", len(spaces))
    call.pin(spaces[dim], "slid over")
    spaces[dim] = call.new_pinned_space(shape[dim], "a window")
    return [*spaces, call.new_pinned_space(shape[-1], "a window")]


def im2col_rule(call: Call) -> Spaces:
    """Take the patches of an image as columns: (batch, channels · kernel, positions)."""
    batch, channels, *image = call.spaces("self")
    for space in image:
        call.pin(space, "slid over")
    _, rows, places = call.shape()
    kernel = call.new_pinned_space(rows // sp.size_of(channels), "a patch")
    return [batch, channels + kernel, call.new_pinned_space(places, "a place")]


def col2im_rule(call: Call) -> Spaces:
    """Add patches (batch, channels · kernel, positions) up to an image."""
    batch, rows, places = call.spaces("self")
    call.pin(places, "slid over")
    channels = call.shape()[1]
    lead, kernel = call.reshape([rows], [channels, sp.size_of(rows) // channels])
    call.pin(kernel, "a patch")
    return [batch, lead, *(call.new_pinned_space(n, "a position in space") for n in call.shape()[2:])]


def pixel_shuffle_rule(call: Call) -> Spaces:
    """Turn channels (c · r · r) into c channels of r times the resolution."""
    factor = call["upscale_factor"]
    *lead, channels, height, width = call.spaces("self")
    c, block = call.reshape([channels], [sp.size_of(channels) // factor**2, factor**2])
    for space in (block, height, width):
        call.pin(space, "shuffled into space")
    return [*lead, c, *(call.new_pinned_space(n, "a position in space") for n in call.shape()[-2:])]


def pixel_unshuffle_rule(call: Call) -> Spaces:
    """Turn blocks of r by r positions into channels (c · r · r)."""
    *lead, channels, height, width = call.spaces("self")
    for space in (height, width):
        call.pin(space, "shuffled into channels")
    block = call.new_pinned_space(call["downscale_factor"] ** 2, "shuffled into channels")
    return [*lead, channels + block, *(call.new_pinned_space(n, "a position in space") for n in call.shape()[-2:])]


def channel_shuffle_rule(call: Call) -> Spaces:
    """Reorder channels (g · c) to (c · g)."""
    batch, channels, *image = call.spaces("self")
    g = call["groups"]
    groups, each = call.reshape([channels], [g, sp.size_of(channels) // g])
    call.resize("groups", sp.resolve(groups), single=True)
    return [batch, sp.resolve(each) + sp.resolve(groups), *image]


def pooling_rule(call: Call) -> Spaces | list[Spaces]:
    """Pin the spatial dimensions, which are the last one, two or three. Channels pass through."""
    source = call.operands[0]
    spaces = call.spaces(source)
    n = _count_spatial_dims(call.name)
    for space in spaces[-n:]:
        call.pin(space, "pooled over")
    value = call.node.meta["val"]
    shapes = [tuple(value.shape)] if isinstance(value, Tensor) else call.output_shapes()
    lists = [
        spaces[:-n] + [call.new_pinned_space(int(m), "a position in space") for m in shape[-n:]] for shape in shapes
    ]
    return lists[0] if isinstance(value, Tensor) else lists


def _count_spatial_dims(name: str) -> int:
    """Return the number of spatial dimensions from an operator's name."""
    for n in (1, 2, 3):
        if f"{n}d" in name:
            return n
    return {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}[
        name.split("upsample_")[1].split(".")[0].strip("_")
    ]


def grid_sample_rule(call: Call) -> Spaces:
    """Sample an image (batch, channels, H, W) at the positions of a grid (batch, H', W', 2)."""
    image, grid = call.spaces("input"), call.spaces("grid")
    for space in [*image[2:], *grid[1:]]:
        call.pin(space, "sampled in space")
    call.unite(image[0], grid[0])
    return [*image[:2], *(call.new_pinned_space(n, "a position in space") for n in call.shape()[2:])]


def affine_grid_rule(call: Call) -> Spaces:
    """Make a grid of positions (batch, H, W, 2) from maps (batch, 2, 3). ``size`` is that of an image with this batch."""
    batch, *maps = call.spaces("theta")
    for space in maps:
        call.pin(space, "coordinates of a grid")
    call.resize("size", [batch, *[None] * (len(call["size"]) - 1)])
    return [batch, *(call.new_pinned_space(n, "a position in space") for n in call.shape()[1:])]


def unpooling_rule(call: Call) -> Spaces:
    """Write the numbers of a pooled image (..., channels, H, W) back to the places that a pooling noted."""
    n = _count_spatial_dims(call.name)
    image, places = call.spaces("self"), call.spaces("indices")
    for space, other in zip(image, places, strict=True):
        call.unite(space, other)
    for space in image[-n:]:
        call.pin(space, "a position in space")
    return [*image[:-n], *(call.new_pinned_space(m, "a position in space") for m in call.shape()[-n:])]


def as_strided_rule(call: Call) -> Spaces:
    """Read a tensor by strides of its memory. Its axes are pinned, because strides count the units inside them.

    The outermost dimension may vary in size where the result keeps it: no stride depends on it.
    """
    value, spaces = call["self"].meta["val"], call.spaces("self")
    size, stride, offset = call["size"], call["stride"], call.arguments.get("storage_offset")
    keeps = bool(spaces) and bool(size) and value.is_contiguous() and not offset
    keeps = keeps and (size[0], stride[0]) == (value.shape[0], value.stride(0))
    keeps = keeps and sum((n - 1) * step for n, step in zip(size[1:], stride[1:], strict=True)) < stride[0]
    for space in spaces[1:] if keeps else spaces:
        call.pin(space, "read by strides of the memory")
    out = [call.new_pinned_space(n, "read by strides of the memory") for n in call.shape()]
    if keeps:
        out[0] = spaces[0]
        call.resize("size", [spaces[0], *([None] * (len(size) - 1))])
    return out


RULES = {
    "aten.as_strided": as_strided_rule,
    "aten.unfold": unfold_rule,
    "aten.im2col": im2col_rule,
    "aten.col2im": col2im_rule,
    "aten.pixel_shuffle": pixel_shuffle_rule,
    "aten.pixel_unshuffle": pixel_unshuffle_rule,
    **dict.fromkeys(["aten.channel_shuffle", "aten.native_channel_shuffle"], channel_shuffle_rule),
    "aten.affine_grid_generator": affine_grid_rule,
    **dict.fromkeys(["aten.max_unpool2d", "aten.max_unpool3d"], unpooling_rule),
    **dict.fromkeys(
        [f"aten.{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp", "_adaptive_avg")]
        + [f"aten.max_pool{n}d_with_indices" for n in (1, 2, 3)]
        + [f"aten._adaptive_avg_pool{n}d" for n in (2, 3)]
        + [f"aten.upsample_nearest{n}d" for n in (1, 2, 3)]
        + [f"aten._upsample_nearest_exact{n}d" for n in (1, 2, 3)]
        + [f"aten.reflection_pad{n}d" for n in (1, 2, 3)]
        + [f"aten.replication_pad{n}d" for n in (1, 2, 3)]
        + ["aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.upsample_trilinear3d",
           "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa"],
        pooling_rule,
    ),
    **dict.fromkeys(["aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d"], grid_sample_rule),
}  # fmt: skip
