"""Windows, patches and shuffles: numbers move between channels and space."""

from __future__ import annotations

from netgraph import space as sp
from netgraph.call import Call, Spaces


def unfold_dim(call: Call) -> Spaces:
    """Sliding windows along one dimension; the window is a new last one."""
    spaces, shape = call.spaces("self"), call.shape()
    dim = call.dim("dimension", len(spaces))
    call.pin(spaces[dim], "slid over")
    spaces[dim] = call.fresh_pinned(shape[dim], "a window")
    return [*spaces, call.fresh_pinned(shape[-1], "a window")]


def im2col(call: Call) -> Spaces:
    """Patches (batch, channels · kernel, places)."""
    batch, channels, *image = call.spaces("self")
    for space in image:
        call.pin(space, "slid over")
    _, rows, places = call.shape()
    kernel = call.fresh_pinned(rows // sp.size_of(channels), "a patch")
    return [batch, channels + kernel, call.fresh_pinned(places, "a place")]


def col2im(call: Call) -> Spaces:
    """Patches back to an image."""
    batch, rows, places = call.spaces("self")
    call.pin(places, "slid over")
    channels = call.shape()[1]
    lead, kernel = call.reshape([rows], [channels, sp.size_of(rows) // channels])
    call.pin(kernel, "a patch")
    return [batch, lead, *(call.fresh_pinned(n, "a position in space") for n in call.shape()[2:])]


def pixel_shuffle(call: Call) -> Spaces:
    """Channels (c · r · r) become c channels of r times the resolution."""
    factor = call["upscale_factor"]
    *lead, channels, height, width = call.spaces("self")
    c, block = call.reshape([channels], [sp.size_of(channels) // factor**2, factor**2])
    for space in (block, height, width):
        call.pin(space, "shuffled into space")
    return [*lead, c, *(call.fresh_pinned(n, "a position in space") for n in call.shape()[-2:])]


def pixel_unshuffle(call: Call) -> Spaces:
    """Space becomes channels (c · r · r)."""
    *lead, channels, height, width = call.spaces("self")
    for space in (height, width):
        call.pin(space, "shuffled into channels")
    block = call.fresh_pinned(call["downscale_factor"] ** 2, "shuffled into channels")
    return [*lead, channels + block, *(call.fresh_pinned(n, "a position in space") for n in call.shape()[-2:])]


def channel_shuffle(call: Call) -> Spaces:
    """Channels (g · c) become (c · g)."""
    batch, channels, *image = call.spaces("self")
    g = call["groups"]
    groups, each = call.reshape([channels], [g, sp.size_of(channels) // g])
    call.pin(groups, "shuffled")
    return [batch, each + groups, *image]


RULES = {
    "aten.unfold": unfold_dim,
    "aten.im2col": im2col,
    "aten.col2im": col2im,
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.channel_shuffle": channel_shuffle,
}
