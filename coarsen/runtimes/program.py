"""A network as an exported program of PyTorch: with a free batch where that can be, one tensor for tied weights, and no paths of this machine.

Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation", ASPLOS 2024, is
about the machinery. `torch.export` records one mode, and every runtime here reads its program.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.runtimes.example_call import ExampleCall
from netgraph.coarsen.runtimes.result_names import flatten_tensors, name_inputs, name_results
from netgraph.errors import NetgraphError, describe_error
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import disable_fused_attention
from netgraph.tracing.tracer import trace
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import find_place
from netgraph.utils.pytree import build_structure, list_dropped

LOGGERS = (
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "torch.onnx",
    "torch._dynamo",
    "onnxscript",
    "onnx_ir",
)
PRIVATE = ("stack_trace", "source_fn_stack", "from_node")  # of a node: source files and their lines


@dataclass(frozen=True, eq=False)
class Program:
    """An exported program, and what a runtime's file says of it.

    Parameters
    ----------
    exported : torch.export.ExportedProgram
    call : ExampleCall
        The call that it was exported with.
    inputs, outputs : list of str
        Names of the tensors that it takes and returns.
    results : list of Tensor
        What the network returned for the call.
    batch : int or None
        Rows of every batch, None where their number is free.
    fixed_by : str
        Why the batch is fixed, where nobody asked for that.
    shapes : dict
        Sizes of the batch as `torch.onnx.export` takes them, to name them in the file.
    left_out : list of str
        Parts of the network's answer that are no tensors, and are not in that of the file.
    """

    exported: Any
    call: ExampleCall
    inputs: list[str]
    outputs: list[str]
    results: list[torch.Tensor]
    batch: int | None
    fixed_by: str
    shapes: Any
    left_out: list[str]


def export_program(network: nn.Module, call: ExampleCall, batch: int | None = None) -> Program:
    """Export a network in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode.
    call : ExampleCall
    batch : int, optional
        Rows of every batch. By default their number is free.

    Raises
    ------
    NetgraphError
        `torch.export` cannot record the network.
    """
    call = call.with_rows(batch or max(call.n_rows, 2))  # one row would be taken for a constant
    answer = _run_example(network, call)
    left_out = [f"{path} ({kind})" for path, kind in list_dropped(build_structure(answer, [], drop_unknown=True))]
    if left_out and not isinstance(network, GraphNetwork):  # such as a cache, which no runtime returns
        args, kwargs = call.arguments
        network = coarse_network(network, trace(network, kwargs or args, prove=False), {}).eval()
    exported, shapes, fixed_by = None, None, ""
    if batch is None and call.n_rows:
        try:
            exported, shapes = _run_export(network, call, free=True)
        except Exception as error:  # torch.export has many errors for a size that is not free
            fixed_by = _explain_fixed_batch(network, call, error)
    elif batch is None:
        fixed_by = "its inputs have no dimensions"
    if exported is None:
        exported = _export_fixed(network, call)
    _join_tied_weights(exported)
    _remove_private_notes(exported.graph_module)
    inputs = name_inputs(exported, call.arguments)
    return Program(
        exported, call, inputs, name_results(answer, inputs), flatten_tensors(answer),
        batch=None if shapes is not None else call.n_rows, fixed_by=fixed_by, shapes=shapes, left_out=left_out,
    )  # fmt: skip


def _run_example(network: nn.Module, call: ExampleCall) -> Any:
    """Return the answer of a network to the example."""
    args, kwargs = call.arguments
    try:
        with torch.no_grad():
            return network(*args, **kwargs)
    except NetgraphError:
        raise
    except Exception as error:  # a network may raise anything
        raise NetgraphError(
            f"{type(network).__name__} does not run on the example ({describe_error(error)}). Give an example that it takes."
        ) from error


def _export_fixed(network: nn.Module, call: ExampleCall) -> Any:
    """Export a network for the sizes of a call."""
    try:
        return _run_export(network, call, free=False)[0]
    except Exception as error:  # torch.export has no common class of errors
        place = re.search(r'File "[^"]*", line \d+, in (\w+)\n\s*(.+)', str(error))
        where = f" at {place[2].strip()!r}" if place else ""
        raise NetgraphError(
            f"torch.export cannot record {type(network).__name__}{where} ({describe_error(error)}). Write this step without a decision on "
            "the numbers of a tensor, and without what PyTorch cannot export."
        ) from error


def _run_export(network: nn.Module, call: ExampleCall, *, free: bool) -> tuple[Any, Any]:
    """Return the exported program and the sizes that are free in it."""
    args, kwargs = call.arguments
    shapes = None
    if free:
        collection, rows = torch.export.ShapesCollection(), torch.export.Dim("batch", min=1)
        for tensor, holds in zip(call.tensors, call.batched, strict=True):
            if holds:
                collection[tensor] = {0: rows}
        shapes = collection.dynamic_shapes(network, args, kwargs)
    with quiet_torch(), torch.no_grad(), disable_fused_attention():
        return torch.export.export(network, args, kwargs, dynamic_shapes=shapes, strict=False), shapes


def _explain_fixed_batch(network: nn.Module, call: ExampleCall, error: Exception) -> str:
    """Return why the batch of a network cannot be free."""
    if isinstance(network, GraphNetwork):
        fixed = [shape[0] for shape, holds in zip(network.input_shapes, call.batched, strict=True) if holds]
        if any(n is not None for n in fixed):
            return f"the network was traced for inputs of {call.n_rows} rows"
    if match := re.search(r"specialized it to be a constant \((\d+)\)", str(error)):
        return f"torch.export finds that the network's own code fixes it at {match[1]}"
    return f"torch.export does not record it with a free one ({describe_error(error)})"


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence what the exporters of PyTorch log, warn and print on the way. What they refuse is raised."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in LOGGERS:
            stack.enter_context(silence_logger(name))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def _join_tied_weights(exported: Any) -> None:
    """Leave one parameter of several that are one tensor. A program has one for each name, and opens with as many.

    The first name stays. Nothing else in the program changes.
    """
    first: dict[Any, str] = {}
    specs = exported.graph_signature.input_specs
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    kept: dict[str, Any] = {}
    for spec in [spec for spec in specs if spec.target in exported.state_dict]:
        place = find_place(exported.state_dict[spec.target])
        if place not in first:
            first[place], kept[spec.target] = spec.target, nodes[spec.arg.name]
            continue
        nodes[spec.arg.name].replace_all_uses_with(kept[first[place]])
        exported.graph.erase_node(nodes[spec.arg.name])
        specs.remove(spec)
        del exported.state_dict[spec.target]
    exported.graph_module.recompile()


def _remove_private_notes(module: nn.Module) -> None:
    """Remove the places in source files from the nodes of a program and of the graphs inside it."""
    for part in module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            for note in PRIVATE:
                node.meta.pop(note, None)
