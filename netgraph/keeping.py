"""A trained network as ``netgraph train -o`` writes it: one that opens by itself, or a state dict; of text, the tokenizer too."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import typer

from netgraph.destination import check_file, written
from netgraph.errors import NetgraphError


def write(trained: Any, task: Any, output: Path) -> None:
    """Write a network, and of text what its tokens are."""
    import torch

    from netgraph.coarsen.network import coarse_network
    from netgraph.coarsen.saving import save
    from netgraph.models.text import save_tokenizer
    from netgraph.tracing import trace

    trained = trained.cpu().eval()
    if output.suffix == ".pt":
        written(partial(torch.save, trained.state_dict()), output)
    else:
        save(coarse_network(trained, trace(trained, task.example), {}), output)
    typer.echo(f"netgraph: wrote {output}", err=True)
    if task.data.tokenizer is not None:
        beside = output.with_suffix(".tokenizer.json")
        save_tokenizer(task.data.tokenizer, beside)
        typer.echo(f"netgraph: wrote {beside}, the tokenizer that it was trained with", err=True)


def check_output(output: Path | None) -> None:
    """Refuse a place, or a suffix, that no trained network is written to.

    Raises
    ------
    NetgraphError
    """
    if output is None:
        return
    if output.suffix not in (".safetensors", ".pt"):
        raise NetgraphError(f"--output {output} ends in {output.suffix or 'nothing'}; give NAME.safetensors or NAME.pt")
    check_file(output)
