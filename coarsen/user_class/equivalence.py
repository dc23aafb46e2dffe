"""Proof that a network of the user's class computes the same as a recorded graph.

Both run on large random weights. Initial weights prove little: logits are near zero, softmax is nearly flat, and a wrong grouping of heads does not show. The
weights here have twice the standard deviation that keeps the output of a layer as large as its input. Dropout, stochastic depth
and the like return their mean instead of random numbers, and training mode can be compared as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import collect_tensors, fixed_seed, max_relative_error
from netgraph.coarsen.network.oracles import MAX_DOUBLE, cast_to_double
from netgraph.coarsen.network.precision import (
    HALVES,
    HalfWatch,
    bound_roundoff,
    find_half,
    find_half_casts,
    widen_casts,
)
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.user_class.factor_folding import apply_factors
from netgraph.environment.torch_internals import TensorMode
from netgraph.errors import OwnClassError, describe_error
from netgraph.recording.forward.expert_routing import batch_experts
from netgraph.recording.forward.size_relations import explain_broken_relation
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import disable_fused_attention
from netgraph.utils.module_state import set_training_mode, swap_state
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.seeds import make_generator

Rename = Callable[[str], str]
ATEN = torch.ops.aten
ROUTERS = 4  # draws of the weights, because a few tokens may take the same experts by chance
TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    **{half: bound_roundoff(half, 1e-4) for half in HALVES},
}
UNIFORM = (ATEN.rand.default, ATEN.rand_like.default)
SPREAD = 2.0  # standard deviation of random weights, in units of 1 / sqrt(fan in)


def find_difference(
    network: nn.Module,
    graph: GraphNetwork,
    examples: list[Any],
    factors: Mapping[str, float],
    seed: int,
    rename: Rename = str,
) -> str | None:
    """Return the first difference between two networks, or None.

    Parameters
    ----------
    network : torch.nn.Module
        The user's class.
    graph : GraphNetwork
    examples : list of Tensor, tuple or dict
    factors : dict of str to float
        For each parameter of ``graph``, the ratio of the network's parameter to it.
    seed : int
    rename : callable ``(name) -> name``, default str
        Gives the network's name of a parameter or buffer of the graph.
    """
    odd_names = _find_odd_names(network, graph, rename)
    if odd_names:
        return f"it has {', '.join(odd_names[:3])} in shapes that the coarse parameters do not have"
    state = draw_large_state(graph, seed)
    half = find_half(state.values())
    wide = graph if half is None else widen_casts(graph)
    half = half or find_half_casts(graph)
    if sum(t.numel() for t in state.values()) < MAX_DOUBLE:
        with contextlib.suppress(_PrecisionError):
            double = {name: cast_to_double(t) for name, t in state.items()}
            with contextlib.nullcontext(HalfWatch()) if half is None else HalfWatch() as watch:
                difference = _compare_outputs(
                    network, wide, [cast_to_double(e) for e in examples], double, factors, torch.float64, rename
                )
            if difference is None or not watch.saw_half:
                return difference
    return _compare_outputs(network, graph, examples, state, factors, half or torch.float32, rename)


class _PrecisionError(Exception):
    """The graph itself does not run in double precision, because a cast inside it meets double weights."""


def _compare_outputs(
    network: nn.Module,
    graph: GraphNetwork,
    examples: list[Any],
    state: Mapping[str, Tensor],
    factors: Mapping[str, float],
    dtype: torch.dtype,
    rename: Rename,
) -> str | None:
    """Run both networks in both modes on all examples, and return the first difference."""
    network_state = {rename(name): tensor for name, tensor in apply_factors(state, factors).items()}
    for training in (False, True):
        for example in examples:
            where = f"in {'training' if training else 'evaluation'} mode on {_format_shapes(example)}"
            try:
                expected = _run_network(graph, state, example, training)
            except Exception as error:
                if dtype is torch.float64:
                    raise _PrecisionError from error
                return f"the recorded graph itself fails {where} ({describe_error(error)})"
            try:
                results = _run_network(network, network_state, example, training)
            except Exception as error:  # operators raise many kinds for sizes that do not fit
                return f"it fails {where} ({describe_error(error)}{_find_failing_module(network, error)})"
            difference = max_relative_error(expected, results)
            if not difference <= TOLERANCE[dtype]:
                return f"its outputs differ {where} by {difference:.2g} of their norm"
    return None


def _run_network(model: nn.Module, state: Mapping[str, Tensor], example: Any, training: bool) -> list[Tensor]:
    """Return the output tensors of a network with a copy of the given state."""
    args, kwargs = normalize_example(example)
    copies = {name: t.clone() for name, t in state.items()}  # buffers change in training
    mean_draws: Any = MeanDrawsMode()
    with (
        torch.no_grad(),
        fixed_seed(0),
        disable_fused_attention(),
        preserve_attributes(model),
        batch_experts(model),
        swap_state(model, copies),
        mean_draws,
    ):
        set_training_mode(model, training=training)
        return collect_tensors(model(*args, **kwargs))


class MeanDrawsMode(TensorMode):  # type: ignore[misc]
    """Replaces the random draws of dropout and stochastic depth by their mean. Values that they scale stay the same."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is ATEN.bernoulli_.float:
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        if func is ATEN.native_dropout.default:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = func(*args, **kwargs)
        return result.fill_(0.5) if func in UNIFORM else result


def draw_large_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return random parameters, large for weights that multiply, and random statistics. Other buffers stay the same."""
    generator = make_generator(seed)
    state = traced_state(model)
    trained = {name for name, _ in model.named_parameters()}
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor
        if name.endswith("running_var"):
            state[name] = 1 + 0.5 * noise.clamp(-1.5, 1.5)
        elif name in trained and tensor.is_floating_point():
            is_weight = tensor.ndim > 1 and tensor[0].numel() > 0
            state[name] = noise * SPREAD * tensor[0].numel() ** -0.5 if is_weight else 1 + 0.5 * noise
    return state


def build_examples(model: nn.Module, graph: GraphNetwork, example: Any) -> list[Any]:
    """Return the example, and also one that is twice as long in all free dimensions if the network accepts it."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    if len(leaves) != len(graph.input_shapes):
        raise OwnClassError(
            f"the example has {len(leaves)} inputs, and the network was traced with {len(graph.input_shapes)}. Give an example as it was traced."
        )
    longer = []
    for leaf, shape in zip(leaves, graph.input_shapes, strict=True):
        for dim in (d for d, n in enumerate(shape) if n is None):
            leaf = torch.cat([leaf, leaf.flip(dim)], dim)
        longer.append(leaf)
    shapes = [leaf.shape for leaf in longer]
    if explain_broken_relation(graph.size_relations, shapes, str) is not None:
        return [example]
    args, kwargs = unflatten_tree(structure, longer)
    second = kwargs if kwargs else args
    try:
        _run_network(model, {}, second, training=False)
    except Exception:  # two inputs may have equal sizes by chance, or the network may accept no other sizes
        return [example]
    return [example, second] if any(None in shape for shape in graph.input_shapes) else [example]


def _find_odd_names(network: nn.Module, graph: GraphNetwork, rename: Rename) -> list[str]:
    """Return the names of the user's class that have other shapes in the graph."""
    shapes = {rename(name): t.shape for name, t in traced_state(graph).items()}
    return [name for name, t in traced_state(network).items() if shapes.get(name, t.shape) != t.shape]


def _format_shapes(example: Any) -> str:
    """Return the shapes of an example, such as ``2x3x32x32``."""
    args, kwargs = normalize_example(example)
    return " and ".join("x".join(map(str, t.shape)) for t in (*args, *kwargs.values()) if isinstance(t, Tensor))


def _find_failing_module(network: nn.Module, error: BaseException) -> str:
    """Return `` in NAME, a CLASS`` for the innermost module in the traceback."""
    names = {id(module): name for name, module in network.named_modules()}
    place, trace = "", error.__traceback__
    while trace is not None:
        caller = trace.tb_frame.f_locals.get("self")
        if id(caller) in names and names[id(caller)]:
            place = f" in {names[id(caller)]}, a {type(caller).__name__}"
        trace = trace.tb_next
    return place
