"""Rules of look-ups and scatters by index, which pin the indexed axis, and of tensors that are made from sizes."""

from __future__ import annotations

import torch
from torch import fx

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import ONE, Space
from netgraph.rules.operator_call import Call, Spaces, bind_arguments, operator_name
from netgraph.rules.operators import COPIES, EXPANSIONS, VIEWS, name_operators, tabulate_rule

SCATTERS = name_operators("scatter", "scatter_", "scatter_add", "scatter_add_", "index_add", "index_add_")
RESHAPED = COPIES | VIEWS | EXPANSIONS  # ``arange`` still counts up along its own dimension


def index_select_rule(call: Call) -> Spaces:
    """Take ``self[..., index, ...]`` along one dimension."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    if not call.look_up_chosen(call["self"], call["index"], spaces[dim]):
        call.pin(spaces[dim], "looked up by index")
    call.alias(call["self"], [d if d != dim else [] for d in range(len(spaces))])
    spaces[dim] = (call.spaces("index") or [ONE])[0]
    return spaces


def gather_rule(call: Call) -> Spaces:
    """Take one number along a dimension for each entry of the index."""
    places = call["indices" if call.name == "aten.take_along_dim" else "index"]
    if call["dim"] is None:  # of take_along_dim, which then flattens
        return take_rule(call)
    spaces, index = call.spaces("self"), call.spaces(places)
    dim = call.dim("dim", len(spaces))
    if not call.follow_numbers(places, spaces[dim]):
        call.pin(spaces[dim], "looked up by index")
    for d, space in enumerate(index):
        if d != dim and sp.size_of(space) == sp.size_of(spaces[d]):
            call.unite(space, spaces[d])
        elif d != dim:
            call.pin(spaces[d], "looked up by index")
    return index


def advanced_index_rule(call: Call) -> Spaces:
    """Index ``self[i, j]`` with tensors: indexed dimensions are pinned and replaced by those of the index."""
    rest, tensor_indices, position = _lay_out_indices(call)
    masked = any(_is_mask(i) for i in tensor_indices)
    mask_spaces = [call.new_dynamic_space(position, "as many as a mask lets through")] if masked else []
    index_spaces = call.broadcast(mask_spaces if _is_mask(i) else call.spaces(i) for i in tensor_indices)
    out = [s for s, _ in rest[:position]] + index_spaces + [s for s, _ in rest[position:]]
    if not masked:
        call.alias(
            call["self"], [d for _, d in rest[:position]] + [[]] * len(index_spaces) + [d for _, d in rest[position:]]
        )
    return out


def _lay_out_indices(call: Call) -> tuple[list[tuple[Space, int]], list[fx.Node], int]:
    """Return the dimensions without an index, the tensor indices, and the place of their dimensions among the others.

    Indexed dimensions are pinned. The dimensions of the tensor indices stand where the first tensor index stands, or in front if
    slices separate the tensor indices (numpy's rule).
    """
    spaces = call.spaces("self")
    indices = list(call["indices"]) + [None] * (len(spaces) - len(call["indices"]))
    rest: list[tuple[Space, int]] = []
    tensor_indices: list[fx.Node] = []
    position, dim = None, 0  # ``dim`` is the dimension of ``self`` that the next index reads
    for index in indices:
        if dim >= len(spaces):
            break
        if index is None:
            rest.append((spaces[dim], dim))
            dim += 1
            continue
        width = len(call.shape(index)) if _is_mask(index) else 1
        followed = width == 1 and call.look_up_chosen(call["self"], index, spaces[dim])
        for space in spaces[dim : dim + width] if not followed else ():
            call.pin(space, "looked up by index")
        if (arange_space := _find_arange_space(call, index, sp.size_of(spaces[dim]))) is not None:
            call.unite(spaces[dim], arange_space)
        if position is None:
            position = len(rest)
        elif rest[position:] or (tensor_indices and position < len(rest)):
            position = 0
        tensor_indices.append(index)
        dim += width
    return rest, tensor_indices, position or 0


def _find_arange_space(call: Call, index: fx.Node, size: int) -> Space | None:
    """Return the space of an index that is ``arange(size)``, which takes all entries in their order, else None."""
    spaces = [space for space in call.spaces(index) if sp.size_of(space) == size]
    while operator_name(index.target) in RESHAPED:
        index = index.all_input_nodes[0]
    if operator_name(index.target) != "aten.arange" or len(spaces) != 1:
        return None
    arange = bind_arguments(index)
    counts_all = arange["end"] == size and not arange.get("start") and arange.get("step", 1) == 1
    return spaces[0] if counts_all else None


def _is_mask(index: fx.Node) -> bool:
    """Return True if an index is a mask of truth values."""
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def index_put_rule(call: Call) -> Spaces:
    """Write ``self[indices] = values``. Indexed dimensions are pinned, and the others are those of the values."""
    rest, tensor_indices, position = _lay_out_indices(call)
    shapes = [(1,) if _is_mask(i) else call.shape(i) for i in tensor_indices]
    n_index = max((len(shape) for shape in shapes), default=0)
    written: list[Space | None] = [s for s, _ in rest]
    written[position:position] = [None] * n_index
    values = call.spaces("values")
    for space, other in zip(reversed(values), reversed(written), strict=False):
        if other is None:
            call.pin(space, "written by index")
        elif space != ONE:
            call.unite(space, other)
    return call.spaces("self")


def masked_scatter_rule(call: Call) -> Spaces:
    """Write the numbers of ``source``, one after the other, to the true places of a mask.

    Where the mask is the same for all units of the last dimension, whole rows are written, and their units are those of the source.
    All other axes are pinned.
    """
    operands = [call.spaces(name) for name in ("self", "source", "mask")]
    last = [spaces[-1] if spaces else ONE for spaces in operands]
    rows = _repeats_last_dim(call["mask"]) and sp.size_of(last[0]) == sp.size_of(last[1])
    for space in (space for spaces in operands for space in (spaces[:-1] if rows else spaces)):
        call.pin(space, "chosen by a mask")
    for space in last[1:] if rows else ():
        if space != ONE:
            call.unite(last[0], space)
    return call.spaces("self")


def _repeats_last_dim(mask: fx.Node) -> bool:
    """Return True if a mask has one entry along its last dimension, or copies of one, so that its units are alike."""
    if mask.meta["val"].shape[-1:] == (1,):
        return True
    while operator_name(mask.target) in COPIES:
        mask = mask.all_input_nodes[0]
    before = mask.all_input_nodes[0].meta["val"] if mask.all_input_nodes else None
    return operator_name(mask.target) in EXPANSIONS and before is not None and before.ndim > 0 and before.shape[-1] == 1


def scatter_rule(call: Call) -> Spaces:
    """Add or write entries at indices of one dimension, and unite the other dimensions."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    chosen = call.name in SCATTERS and call.follow_numbers(call["index"], spaces[dim])
    if not chosen:
        call.pin(spaces[dim], "scattered by index")
    for name in ("src", "source", "index", "value"):
        node = call.arguments.get(name)
        if not isinstance(node, fx.Node) or len(call.shape(node)) != len(spaces):
            continue
        for d, space in enumerate(call.spaces(node)):
            if d == dim:
                _place_sources(call, space, dim, chosen)
            elif sp.size_of(space) == sp.size_of(spaces[d]):
                call.unite(space, spaces[d])
            else:
                call.pin(spaces[d], "scattered by index")
                call.pin(space, "scattered by index")
    return spaces


def _place_sources(call: Call, space: Space, dim: int, chosen: bool) -> None:
    """Unite the dimension of the sources that are scattered with that of the index, or pin it."""
    if chosen:
        index = call.spaces("index")
        call.unite(space, index[dim if len(index) > 1 else 0])
    else:
        call.pin(space, "scattered by index")


def write_part_rule(call: Call) -> Spaces:
    """Write one entry (``select_scatter``) or a stretch (``slice_scatter``) of a dimension, which is pinned, and unite the others."""
    spaces, source = call.spaces("self"), call.spaces("src")
    dim = call.dim("dim", len(spaces))
    call.pin(spaces[dim], "written in part")
    if len(source) == len(spaces):
        call.pin(source[dim], "written in part")
        source = source[:dim] + source[dim + 1 :]
    for space, other in zip(spaces[:dim] + spaces[dim + 1 :], source, strict=True):
        call.unite(space, other)
    return spaces


def row_starts_rule(call: Call) -> Spaces:
    """Say where each row starts in a sorted list of row numbers, as graph networks ask of their edges."""
    for space in call.spaces("self"):
        call.pin(space, "counted")
    return [call.new_dynamic_space(0, "starts of rows")]


def one_hot_rule(call: Call) -> Spaces:
    """Add a last dimension of classes."""
    return [*call.spaces("self"), call.new_pinned_space(call.shape()[-1], "classes")]


def take_rule(call: Call) -> Spaces:
    """Take entries of the flattened tensor, and pin all axes."""
    for operand in call.operands:
        for space in call.spaces(operand):
            call.pin(space, "looked up by index")
    return [call.new_pinned_space(n, "looked up by index") for n in call.shape()]


def constant_rule(call: Call) -> Spaces:
    """Make a tensor of one repeated number. Its axes have no constraint of their own."""
    out = [sp.new_space(n) for n in call.shape()]
    if isinstance(call.arguments.get("size"), (list, tuple)):
        call.resize("size", out)
    return out


def distinct_numbers_rule(call: Call) -> Spaces:
    """Make a tensor of numbers that differ between units (arange, eye, noise), and pin its axes."""
    out = [call.new_pinned_space(n, "numbers that tell units apart") for n in call.shape()]
    if isinstance(call.arguments.get("size"), (list, tuple)):
        call.resize("size", out)
    elif isinstance(call.arguments.get("steps"), int):  # of linspace and logspace, whose ends may be any numbers
        call.resize("steps", out[0], single=True)
    elif (
        call.name == "aten.arange"
        and type(call.arguments.get("end")) is int
        and (call["end"],) == call.shape()
        and not call.arguments.get("start")
    ):
        call.resize("end", out[0], single=True)
    return out


def meshgrid_rule(call: Call) -> list[Spaces]:
    """Make the coordinates of a grid, and pin its axes."""
    tensors = list(call["tensors"])
    axes = [(call.spaces(node) or [sp.ONE])[0] for node in tensors]
    for axis in axes:
        call.pin(axis, "coordinates of a grid")
    if call.arguments.get("indexing", "ij") == "xy" and len(axes) > 1:
        axes[0], axes[1] = axes[1], axes[0]
    return [list(axes) for _ in tensors]


def masked_select_rule(call: Call) -> Spaces:
    """Take the numbers at the true places of a mask, as many as it has at run time. All axes are pinned."""
    for operand in call.operands:
        for space in call.spaces(operand):
            call.pin(space, "chosen by a mask")
    return [call.new_dynamic_space(0, "as many as a mask lets through")]


def nonzero_rule(call: Call) -> Spaces | list[Spaces]:
    """List the places of the numbers that are not zero: one row for each place, or one list for each dimension."""
    if isinstance(call.node.meta["val"], (list, tuple)):
        return call.list_places(call["self"])
    spaces = call.state.place_columns[call.node] = call.spaces("self")
    for space in spaces:
        call.pin(space, "looked up by a condition")
    if len(spaces) == 1:
        call.state.unit_numbers[call.node, None] = spaces[0]
    return [call.new_dynamic_space(0, "as many as are not zero"), call.new_pinned_space(call.shape()[1], "an index")]


def search_rule(call: Call) -> Spaces:
    """Find the place of each number in a sorted list, or whether a list holds it (``isin``). The list is pinned."""
    searched, listed = (
        call[n]
        for n in (("self", "sorted_sequence") if call.name == "aten.searchsorted" else ("elements", "test_elements"))
    )
    for operand in (
        n for n in (listed, searched) if isinstance(n, fx.Node) and (n is listed or len(call.shape(listed)) > 1)
    ):
        for space in call.spaces(operand):
            call.pin(space, "looked up in a list")
    return call.spaces(searched) if isinstance(searched, fx.Node) else []


RULES = {
    "aten.masked_select": masked_select_rule,
    **tabulate_rule(write_part_rule, "select_scatter", "slice_scatter"),
    "aten._convert_indices_from_coo_to_csr": row_starts_rule,
    **tabulate_rule(masked_scatter_rule, "masked_scatter", "masked_scatter_"),
    **tabulate_rule(search_rule, "searchsorted", "isin"),
    **tabulate_rule(nonzero_rule, "nonzero", "nonzero_numpy"),
    "aten.index_select": index_select_rule,
    "aten.gather": gather_rule,
    "aten.index": advanced_index_rule,
    **dict.fromkeys(["aten.index_put", "aten.index_put_", "aten._index_put_impl_"], index_put_rule),
    **dict.fromkeys(
        [f"aten.{n}" for n in ("scatter_add", "scatter_add_", "scatter", "scatter_", "index_add", "index_add_", "scatter_reduce",
                               "scatter_reduce_", "index_copy", "index_copy_", "index_fill", "index_fill_", "index_reduce",
                               "index_reduce_")],
        scatter_rule,
    ),
    "aten.one_hot": one_hot_rule,
    "aten.take": take_rule,
    **tabulate_rule(constant_rule, "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full", "scalar_tensor",
             "empty_strided", "new_empty_strided"),
    **tabulate_rule(distinct_numbers_rule, "arange", "linspace", "eye", "rand", "randn", "randint", "randperm", "tril_indices", "triu_indices",
             "hann_window", "logspace", "range", "bartlett_window"),
    **tabulate_rule(meshgrid_rule, "meshgrid"),
}  # fmt: skip
