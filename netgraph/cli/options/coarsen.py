"""Shared by the commands that coarsen a network: single options, and the way from options to a hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.compilation import announce_compilation
from netgraph.cli.console.progress import show_progress
from netgraph.cli.options.command_options import After, find_typer_option
from netgraph.cli.options.open_network import DataOptions, OpenOptions, find_text_tokenizer
from netgraph.coarsen.hierarchy.options import CoarsenOptions

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, find_typer_option(CoarsenOptions, "seed")]
Outputs = Annotated[list[str] | None, find_typer_option(CoarsenOptions, "outputs")]
InsideHeads = Annotated[bool, find_typer_option(CoarsenOptions, "inside_heads")]
Data = Annotated[DataOptions, After("repair")]
Opening = Annotated[OpenOptions, After("quality")]


def open_network(model: str, options: CoarsenOptions, data: DataOptions, opening: OpenOptions) -> tuple[nn.Module, Any]:
    """Check all options, then open the network and make an example of its inputs."""
    from netgraph.coarsen.matching.unit_importance import check_importance
    from netgraph.coarsen.repair.pipeline import check_rung

    options.check()
    check_rung(options.repair, data.data)
    check_importance(options.importance, data.data)
    return opening.open_network(model, options.seed, data.data)


def coarsen_network(network: nn.Module, example: Any, options: CoarsenOptions, inputs: Any) -> Hierarchy:
    """Coarsen an open network, with progress on the terminal.

    Parameters
    ----------
    network : torch.nn.Module
    example : Tensor, tuple or dict
    options : CoarsenOptions
    inputs : Tensor, tuple, dict or None
        Calibration data.
    """
    from netgraph.coarsen.hierarchy import hierarchy

    with announce_compilation(), show_progress("coarsening") as progress:
        return hierarchy.build_hierarchy(network, example, options=options, data=inputs, progress=progress)


def read_inputs(data: DataOptions, example: Any, seed: int, model: str) -> Any:
    """Return the inputs of the calibration data, None where there are none. Texts are read by the tokenizer of the network."""
    rows = data.read(example, seed, find_text_tokenizer(model, None, data.data))
    return None if rows is None else rows.inputs
