"""Pooling and resampling: space changes, channels pass through one by one."""

from __future__ import annotations

from torch import Tensor

from netgraph.call import Call, Spaces


def pool(call: Call) -> Spaces | list[Spaces]:
    """Keep the leading dimensions; the last one, two or three are space."""
    source = call.operands[0]
    spaces = call.spaces(source)
    n = _spatial(call.name)
    for space in spaces[-n:]:
        call.pin(space, "pooled over")
    value = call.node.meta["val"]
    shapes = [tuple(value.shape)] if isinstance(value, Tensor) else call.shapes_out()
    lists = [spaces[:-n] + [call.fresh_pinned(int(m), "a position in space") for m in shape[-n:]] for shape in shapes]
    return lists[0] if isinstance(value, Tensor) else lists


def _spatial(name: str) -> int:
    for n in (1, 2, 3):
        if f"{n}d" in name:
            return n
    return {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}[
        name.split("upsample_")[1].split(".")[0].strip("_")
    ]


def sample_grid(call: Call) -> Spaces:
    """Sample an image (batch, channels, H, W) at the places of a grid (batch, H', W', 2)."""
    image, grid = call.spaces("input"), call.spaces("grid")
    for space in [*image[2:], *grid[1:]]:
        call.pin(space, "sampled in space")
    call.unite(image[0], grid[0])
    return [*image[:2], *(call.fresh_pinned(n, "a position in space") for n in call.shape()[2:])]


RULES = {
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
        pool,
    ),
    **dict.fromkeys(["aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d"], sample_grid),
}  # fmt: skip
