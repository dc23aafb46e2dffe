"""Open the network and the calibration data that a command names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def open_network(
    model: str,
    arch: str | None,
    arch_arg: list[str] | None,
    inputs: list[str] | None,
    trust: bool,
    code_dir: Path | None,
    seed: int = 7619,
) -> tuple[Any, Any]:
    """Return a network and an example of its inputs, guessed where none is given; ``seed`` is that of random weights."""
    import torch

    from netgraph.io.example_inputs import guess_input, parse_inputs
    from netgraph.io.load import describe_origin, load_model
    from netgraph.io.model_zoo import parse_arch_args

    example, arch_args = parse_inputs(inputs) if inputs else None, parse_arch_args(arch_arg or [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = load_model(model, arch=arch, arch_args=arch_args, trust=trust, code_dir=code_dir)
    weights = describe_origin(model, arch_args)
    if weights is not None:
        typer.echo(f"netgraph: {weights}", err=True)
    if example is None:
        example, text = guess_input(network)
        typer.echo(f"netgraph: guessed {text}", err=True)
    return network, example


def read_calibration_data(source: str, example: Any, samples: int, seed: int, tokenizer: Any = None) -> Any:
    """Return rows of calibration data as the network takes them, and pass on what they warn of."""
    import warnings

    from netgraph.models.data.calibration import load_calibration

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = load_calibration(source, example=example, n=samples, seed=seed, tokenizer=tokenizer)
    for warning in said:
        typer.echo(f"netgraph: {warning.message}", err=True)
    return found
