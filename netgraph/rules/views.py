"""Rules of views, cuts, joins and copies: the numbers stay the same, and their dimensions change."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from netgraph.rules import index_space as sp
from netgraph.rules.index_space import ONE, MisfitError, Space
from netgraph.rules.operator_call import Call, Spaces
from netgraph.rules.operators import tabulate_rule

TO_THE_END = 2**63 - 1  # PyTorch writes ``x[a:]`` as a slice to this index


def view_rule(call: Call) -> Spaces:
    """Regroup the factors in row-major order. The size arguments follow the sizes of the spaces."""
    out = _regroup_dims(call)
    for argument in ("size", "shape"):
        if argument in call.arguments:
            sizes = [None if n == -1 else space for n, space in zip(call[argument], out, strict=True)]
            call.resize(argument, sizes)
    return out


def _regroup_dims(call: Call) -> Spaces:
    """Regroup the factors into the recorded shape of the result."""
    source = call.operands[0]
    shape, new = call.shape(source), call.shape()
    out = call.reshape(call.spaces(source), new)
    call.alias(source, _match_dims(shape, new))
    return out


def _match_dims(old: Sequence[int], new: Sequence[int]) -> list[list[int]]:
    """Return for each new dimension the old dimensions that its indices come from."""
    # Both shapes are read from the left. ``a`` and ``b`` are the products of the sizes read since both products were last
    # equal, at dimensions ``i0`` and ``j0``. When they are equal again, the new dimensions j0 .. j come from i0 .. i.
    out: list[list[int]] = [[] for _ in new]
    if 0 in old:  # there are no indices
        return out
    i = j = 0
    while i < len(old) and j < len(new):
        i0, j0, a, b = i, j, old[i], new[j]
        while a != b:
            if a < b:
                i += 1
                a *= old[i]
            else:
                j += 1
                b *= new[j]
        for k in range(j0, j + 1):
            out[k] = list(range(i0, i + 1))
        i, j = i + 1, j + 1
    return out


def flatten_rule(call: Call) -> Spaces:
    """Regroup the factors for an operator without size arguments (``flatten``, ``squeeze``, ``unsqueeze``)."""
    return _regroup_dims(call)


def atleast_rule(call: Call) -> Spaces | list[Spaces]:
    """Add dimensions of size one to a tensor, or to each of a list of tensors."""
    if not isinstance(call.node.meta["val"], (list, tuple)):
        return _regroup_dims(call)
    return [
        call.reshape(call.spaces(node), shape)
        for node, shape in zip(call["tensors"], call.output_shapes(), strict=True)
    ]


def unflatten_rule(call: Call) -> Spaces:
    """Split one dimension into the given sizes."""
    out = _regroup_dims(call)
    sizes = call["sizes"]
    dim = call.dim("dim", len(call.shape("self")))
    call.resize("sizes", [None if n == -1 else out[dim + i] for i, n in enumerate(sizes)])
    return out


def reshape_as_rule(call: Call) -> Spaces:
    """Regroup to the shape of another tensor, and unite the dimensions with those of the other tensor."""
    out = _regroup_dims(call)
    for space, other in zip(out, call.spaces("other"), strict=True):
        call.unite(space, other)
    return out


def expand_rule(call: Call) -> Spaces:
    """Repeat dimensions of size one. The copies are alike, so the new axis has no constraint of its own."""
    spaces, shape = call.spaces("self"), call.shape()
    spaces = [ONE] * (len(shape) - len(spaces)) + spaces
    out = [sp.new_space(n) if space == ONE else space for space, n in zip(spaces, shape, strict=True)]
    call.pass_numbers(call["self"])
    if "size" in call.arguments:
        sizes = [None if n == -1 else space for n, space in zip(call["size"], out, strict=True)]
        call.resize("size", sizes)
    return out


def expand_as_rule(call: Call) -> Spaces:
    """Repeat dimensions of size one to the shape of another tensor."""
    out = expand_rule(call)
    for space, other in zip(out, call.spaces("other"), strict=True):
        call.unite(space, other)
    return out


def permute_rule(call: Call) -> Spaces:
    """Reorder dimensions by a list."""
    ndim = len(call.shape())
    order = [d % ndim for d in call["dims"]]
    return _reorder_dims(call, order)


def transpose_rule(call: Call) -> Spaces:
    """Exchange two dimensions, or the last two without arguments (``t``, ``mT``)."""
    ndim = len(call.shape())
    order = list(range(ndim))
    names = ("dim0", "dim1") if "dim0" in call.arguments else ("axis0", "axis1")
    if names[0] in call.arguments:
        a, b = (call[name] % max(ndim, 1) for name in names)
    else:
        a, b = max(ndim - 2, 0), ndim - 1
    if ndim > 1:
        order[a], order[b] = order[b], order[a]
    return _reorder_dims(call, order)


def reverse_dims_rule(call: Call) -> Spaces:
    """Reverse the order of all dimensions (``numpy_T``)."""
    return _reorder_dims(call, list(range(len(call.shape())))[::-1])


def movedim_rule(call: Call) -> Spaces:
    """Move dimensions to new positions."""
    ndim = len(call.shape())
    source, target = (([v] if isinstance(v, int) else list(v)) for v in (call["source"], call["destination"]))
    source, target = [s % ndim for s in source], [t % ndim for t in target]
    order: list[int | None] = [None] * ndim
    for s, t in zip(source, target, strict=True):
        order[t] = s
    rest = iter(d for d in range(ndim) if d not in source)
    return _reorder_dims(call, [next(rest) if o is None else o for o in order])


def _reorder_dims(call: Call, order: list[int]) -> Spaces:
    """Return the spaces in another order of dimensions."""
    source = call.operands[0]
    spaces = call.spaces(source)
    call.alias(source, order)
    return [spaces[d] for d in order]


def select_rule(call: Call) -> Spaces:
    """Take one index of a dimension, and pin its axis."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    call.pin(spaces[dim], "one unit is taken by its number")
    call.take_column(call["self"], dim, call["index"])
    rest = [d for d in range(len(spaces)) if d != dim]
    call.alias(call["self"], rest)
    return [spaces[d] for d in rest]


def unbind_rule(call: Call) -> list[Spaces]:
    """Take every index of a dimension as a tensor of its own, and pin its axis."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    call.pin(spaces[dim], "taken apart unit by unit")
    for column in range(len(call.node.meta["val"])):
        call.take_column(call["self"], dim, column, result=column)
    rest = [d for d in range(len(spaces)) if d != dim]
    call.alias(call["self"], rest)
    return [[spaces[d] for d in rest] for _ in call.node.meta["val"]]


def slice_rule(call: Call) -> Spaces:
    """Take a range of indices. The axis becomes a concatenation, and the result runs over one part of it."""
    spaces, shape = call.spaces("self"), call.shape("self")
    dim = call.dim("dim", len(shape))
    n = shape[dim]
    start = min(max(_count_from_front(call.arguments.get("start"), n, 0), 0), n)
    stop = min(max(_count_from_front(call.arguments.get("end"), n, n), start), n)
    call.alias(call["self"], range(len(shape)))
    if call.follows_count("start") or call.follows_count("end"):
        call.pin(spaces[dim], "cut by a count")
        spaces[dim] = call.new_dynamic_space(dim, "cut by a count")
        return spaces
    if start == 0 and stop == n and call["step"] == 1:
        if call.arguments.get("end") == n:  # an end beyond it holds for every size
            call.rewrite("end", ONE, lambda ratio: TO_THE_END)
        return spaces
    spaces[dim] = _slice_space(call, spaces[dim], start, stop, call["step"])
    return spaces


def narrow_rule(call: Call) -> Spaces:
    """Take a range of indices by start and length. The axis becomes a concatenation, as for a slice."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    call.alias(call["self"], range(len(spaces)))
    whole, start, length = spaces[dim], call["start"], call["length"]
    if call.follows_count("start") or call.follows_count("length"):
        call.pin(whole, "narrowed by a count")
        spaces[dim] = call.new_dynamic_space(dim, "narrowed by a count")
        return spaces
    try:
        if not isinstance(start, int) or length == 0:
            raise MisfitError("the start is a tensor, or nothing is left")
        start %= sp.size_of(whole)
        call.replace_operator(call.node.target, {**call.arguments, "start": start})
        spaces[dim] = sp.slice_space(whole, start, start + length)
        if start > 0:
            call.resize("start", sp.slice_space(whole, 0, start), single=True)
        call.resize("length", spaces[dim], single=True)
    except MisfitError:
        call.pin(whole, "narrowed")
        spaces[dim] = call.new_pinned_space(length, "narrowed")
    return spaces


def _count_from_front(value: int | None, n: int, default: int) -> int:
    """Return an index counted from the front, or the default for None."""
    if value is None:
        return default
    return value + n if value < 0 else value


def _slice_space(call: Call, space: Space, start: int, stop: int, step: int) -> Space:
    """Return the space of a slice, and state the arguments that follow from it. Pin the axis if it cannot be cut there."""
    if stop == start:
        return call.new_pinned_space(0, "an empty slice")
    if step == 1:
        try:
            part = sp.slice_space(space, start, stop)
            if isinstance(call.arguments.get("start"), int) and start > 0:
                call.resize("start", sp.slice_space(space, 0, start), single=True)
            if stop < sp.size_of(space):
                call.resize("end", sp.slice_space(space, 0, stop), single=True)
            elif call.arguments.get("end") == sp.size_of(space):  # one beyond it holds for every size
                call.rewrite("end", ONE, lambda ratio: TO_THE_END)
            return part
        except MisfitError:
            pass
    if start < step and stop == sp.size_of(space) and stop % step == 0 and _may_merge(space):
        return _take_every(call, space, step)
    call.pin(space, "sliced")
    return call.new_pinned_space(len(range(start, stop, step)), "sliced")


def _may_merge(space: Space) -> bool:
    """Return True if some units of a space may merge, and their number does not vary with the input."""
    atoms = list(sp.iter_atoms(space))
    return not any(atom.dynamic for atom in atoms) and not all(atom.pinned for atom in atoms)


def _take_every(call: Call, space: Space, step: int) -> Space:
    """Return the space of every ``step``-th index, of an axis that holds groups of so many, as gates and values do in turn."""
    groups, member = call.reshape([space], [sp.size_of(space) // step, step])
    call.pin(member, "the place in a group")
    if isinstance(call.arguments.get("end"), int):
        call.rewrite("end", ONE, lambda ratio: TO_THE_END)
    return groups


def split_rule(call: Call) -> list[Spaces]:
    """Cut a dimension into consecutive parts. Equal parts may shrink unequally, so the call gets a list of sizes."""
    spaces = call.spaces("self")
    ndim = len(spaces)
    dim = call.dim("dim", ndim)
    sizes = [shape[dim] for shape in call.output_shapes()]
    call.alias(call["self"], range(ndim))
    given = call.arguments.get("split_size")
    if isinstance(given, int) and given > sum(sizes):
        for atom in sp.iter_atoms(spaces[dim]):  # a longer input has more parts than the one that was recorded
            atom.dynamic = False
    parts = _split_space(call, spaces[dim], sizes)
    arguments = {"self": call["self"], "split_sizes": sizes, "dim": dim}
    call.replace_operator(torch.ops.aten.split_with_sizes.default, arguments)
    call.resize("split_sizes", parts)
    return [[*spaces[:dim], part, *spaces[dim + 1 :]] for part in parts]


def glu_rule(call: Call) -> Spaces:
    """Unite the two halves of a dimension, values and gates (Dauphin et al., ICML 2017, section 2)."""
    spaces = call.spaces("self")
    dim = call.dim("dim", len(spaces))
    first, gate = _split_space(call, spaces[dim], [call.shape()[dim]] * 2)
    call.unite(first, gate)
    spaces[dim] = sp.resolve(first)
    return spaces


def _split_space(call: Call, space: Space, sizes: list[int]) -> list[Space]:
    """Cut a space into consecutive parts of the given sizes. Pin it if it cannot be cut there."""
    try:
        rest, parts = space, []
        for size in sizes[:-1]:
            length = sp.size_of(rest)
            parts.append(sp.slice_space(rest, 0, size))
            rest = sp.slice_space(rest, size, length)
        return [*parts, rest]
    except MisfitError:
        call.pin(space, "split across units")
        return [call.new_pinned_space(n, "split across units") for n in sizes]


def cat_rule(call: Call) -> Spaces:
    """Concatenate tensors along one dimension, and unite their other dimensions."""
    tensors = [n for n in call["tensors"] if call.shape(n) != (0,)]
    ndim = len(call.shape())
    dim = call.dim("dim", ndim)
    out = call.spaces(tensors[0])
    for node in tensors[1:]:
        for d, space in enumerate(call.spaces(node)):
            if d != dim:
                call.unite(out[d], space)
    out[dim] = sp.concat(call.spaces(node)[dim] for node in tensors)
    return out


def stack_rule(call: Call) -> Spaces:
    """Stack tensors along a new pinned dimension, and unite their other dimensions."""
    out = call.spaces(call["tensors"][0])
    dim = call.dim("dim", len(out) + 1)
    for node in call["tensors"][1:]:
        for space, other in zip(out, call.spaces(node), strict=True):
            call.unite(space, other)
    return [*out[:dim], call.new_pinned_space(len(call["tensors"]), "stacked"), *out[dim:]]


def repeat_rule(call: Call) -> Spaces:
    """Repeat a dimension as a whole: the number of the copy is the outer factor."""
    argument = "repeats" if "repeats" in call.arguments else "dims"
    repeats, spaces = list(call[argument]), call.spaces("self")
    repeats = [1] * (len(spaces) - len(repeats)) + repeats
    spaces = [ONE] * (len(repeats) - len(spaces)) + spaces
    copies = [sp.new_space(n) for n in repeats]
    call.resize(argument, copies[len(repeats) - len(call[argument]) :])
    return [copy + space for copy, space in zip(copies, spaces, strict=True)]


def repeat_interleave_rule(call: Call) -> Spaces:
    """Repeat each unit: the number of the copy is the inner factor."""
    if not isinstance(call.arguments.get("repeats"), int):
        return _repeat_by_table(call)
    flat = call.arguments.get("dim") is None
    spaces = [tuple(f for space in call.spaces("self") for f in space)] if flat else call.spaces("self")
    dim = 0 if flat else call.dim("dim", len(spaces))
    copies = sp.new_space(call["repeats"])
    call.resize("repeats", copies, single=True)
    spaces[dim] = spaces[dim] + copies
    if isinstance(call.arguments.get("output_size"), int):
        call.resize("output_size", spaces[dim], single=True)
    return spaces


def _repeat_by_table(call: Call) -> Spaces:
    """Repeat units by a table of numbers of copies. Their sum is read at run time."""
    spaces = call.spaces("self") if "self" in call.arguments else []
    flat = "dim" not in call.arguments or call["dim"] is None
    dims = list(range(len(spaces))) if flat else [call.dim("dim", len(spaces))]
    for space in [*(spaces[d] for d in dims), *call.spaces("repeats")]:
        call.pin(space, "repeated by a table")
    made = call.new_dynamic_space(0 if flat else dims[0], "repeated by a table")
    if isinstance(call.arguments.get("output_size"), int):
        call.replace_operator(call.node.target, {**call.arguments, "output_size": None})
    return [made] if flat else [*spaces[: dims[0]], made, *spaces[dims[0] + 1 :]]


def pad_rule(call: Call) -> Spaces:
    """Pad with zeros. The zeros before and after are axes of their own, which may shrink like the axes that they meet."""
    spaces, pads = call.spaces("self"), list(call["pad"])
    ndim, sizes = len(spaces), [None] * len(pads)
    edits: list[Space | None] = list(sizes)
    constant = call.arguments.get("mode", "constant") == "constant" and call.arguments.get("value") in (None, 0, 0.0)
    for i in range(len(pads) // 2):
        dim, (before, after) = ndim - 1 - i, pads[2 * i : 2 * i + 2]
        if before == after == 0:
            continue
        if constant and before >= 0 and after >= 0:
            ends = [sp.new_space(before) if before else None, sp.new_space(after) if after else None]
            edits[2 * i], edits[2 * i + 1] = ends
            spaces[dim] = sp.concat([e for e in (ends[0], spaces[dim], ends[1]) if e is not None])
        else:
            call.pin(spaces[dim], "padded")
            spaces[dim] = call.new_pinned_space(call.shape()[dim], "padded")
    call.resize("pad", edits)
    return spaces


def flip_rule(call: Call) -> Spaces:
    """Reorder the indices of some dimensions (``flip``, ``roll``), and pin these."""
    spaces = call.spaces("self")
    for dim in call.dims("dims", len(spaces)):
        call.pin(spaces[dim], "reordered by number")
    return spaces


def rotate_rule(call: Call) -> Spaces:
    """Turn a plane of two dimensions by quarters (``rot90``), and pin both."""
    spaces = call.spaces("self")
    a, b = (dim % len(spaces) for dim in call["dims"])
    for dim in (a, b):
        call.pin(spaces[dim], "reordered by number")
    if call["k"] % 2:
        spaces[a], spaces[b] = spaces[b], spaces[a]
    return spaces


def diagonal_rule(call: Call) -> Spaces:
    """Take a diagonal, and pin both of its axes."""
    spaces = call.spaces("self")
    dims = {call[name] % len(spaces) for name in ("dim1", "dim2")}
    for dim in dims:
        call.pin(spaces[dim], "a diagonal")
    rest = [space for d, space in enumerate(spaces) if d not in dims]
    return [*rest, call.new_pinned_space(call.shape()[-1], "a diagonal")]


def complex_view_rule(call: Call) -> Spaces:
    """Read pairs of numbers as complex numbers, or the reverse, as rotary embeddings do."""
    spaces = call.spaces("self")
    if len(call.shape()) < len(spaces):
        call.pin(spaces[-1], "real and imaginary part")
        call.alias(call["self"], range(len(spaces) - 1))
        return spaces[:-1]
    call.alias(call["self"], [*range(len(spaces)), []])
    return [*spaces, call.new_pinned_space(2, "real and imaginary part")]


RULES = {
    **tabulate_rule(view_rule, "view", "reshape", "_unsafe_view", "_reshape_alias", "reshape_copy", "view_copy"),
    **tabulate_rule(flatten_rule, "flatten", "squeeze", "unsqueeze", "squeeze_", "unsqueeze_", "ravel"),
    **tabulate_rule(atleast_rule, "atleast_1d", "atleast_2d", "atleast_3d"),
    **tabulate_rule(unflatten_rule, "unflatten"),
    **tabulate_rule(reshape_as_rule, "view_as", "reshape_as"),
    **tabulate_rule(expand_rule, "expand", "broadcast_to"),
    **tabulate_rule(expand_as_rule, "expand_as"),
    **tabulate_rule(permute_rule, "permute"),
    **tabulate_rule(
        transpose_rule, "transpose", "t", "swapaxes", "swapdims", "adjoint", "matrix_H", "mT", "mH", "transpose_", "t_"
    ),
    **tabulate_rule(reverse_dims_rule, "numpy_T"),
    **tabulate_rule(movedim_rule, "movedim", "moveaxis"),
    **tabulate_rule(select_rule, "select"),
    **tabulate_rule(unbind_rule, "unbind"),
    **tabulate_rule(slice_rule, "slice"),
    **tabulate_rule(narrow_rule, "narrow"),
    **tabulate_rule(
        split_rule,
        "split",
        "split_with_sizes",
        "chunk",
        "unsafe_chunk",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "tensor_split",
    ),
    **tabulate_rule(glu_rule, "glu"),
    **tabulate_rule(cat_rule, "cat", "concat", "concatenate"),
    **tabulate_rule(stack_rule, "stack"),
    **tabulate_rule(repeat_rule, "repeat", "tile"),
    **tabulate_rule(repeat_interleave_rule, "repeat_interleave"),
    **tabulate_rule(pad_rule, "pad", "constant_pad_nd"),
    "aten.rot90": rotate_rule,
    **tabulate_rule(flip_rule, "flip", "roll", "fliplr", "flipud"),
    **tabulate_rule(diagonal_rule, "diagonal"),
    **tabulate_rule(complex_view_rule, "view_as_complex", "view_as_real"),
}
