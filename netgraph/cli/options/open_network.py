"""Open a network and its calibration data for a command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.terminal import echo
from netgraph.cli.console.tokenizer_file import find_tokenizer_file
from netgraph.cli.options.completion import complete_words
from netgraph.errors import NetgraphError
from netgraph.utils.choices import DATA_SETS, ZOOS
from netgraph.utils.options import declare_option

if TYPE_CHECKING:
    from torch import nn

    from netgraph.models.data.calibration import CalibrationData

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_words([f"{zoo}:" for zoo in ZOOS]),
        help="A file (.pt, .ckpt, .safetensors, .pt2), a folder, or torchvision:NAME, timm:NAME, hf:OWNER/NAME, hf:CONFIG.json.",
    ),
]

Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Tokenizer of the network. By default NAME.tokenizer.json or tokenizer.json in its folder, or that of --data imdb.",
    ),
]


def holds_hierarchy(model: str) -> bool:
    """Return True for a folder that holds a hierarchy, or nothing that is known."""
    from netgraph.coarsen.hierarchy.serialize import INDEX
    from netgraph.io.hub.folder_kind import HIERARCHY, find_kind

    if not os.path.isdir(model):
        return False
    return os.path.isfile(os.path.join(model, INDEX)) or find_kind(Path(model)) in ("", HIERARCHY)


def find_tokenizer(model: str, path: Path | None) -> Any:
    """Return the tokenizer at a path, or the one in the folder of the network, or None."""
    from netgraph.io.hub.text_files import find_source_folder, has_tokenizer
    from netgraph.models.data.folder_tokenizer import open_folder_tokenizer
    from netgraph.models.data.tokenizer import open_tokenizer

    file = find_tokenizer_file(model, path)
    if file is not None:
        return open_tokenizer(file)
    folder = find_source_folder(model)
    return None if folder is None or not has_tokenizer(folder) else open_folder_tokenizer(folder)


def find_text_tokenizer(model: str, path: Path | None, data: str | None) -> Any:
    """Return the tokenizer of a network for rows of text, None for other rows, and say where words of the data take its place.

    Raises
    ------
    NetgraphError
        A tokenizer was asked for, and the rows are no text.
    """
    from netgraph.models.data.calibration import is_text

    if not is_text(str(data)):
        if path is not None:
            raise NetgraphError(f"--tokenizer {path} reads texts, and --data {data} has none. Leave it out.")
        return None
    tokenizer = find_tokenizer(model, path)
    if tokenizer is None and data == "imdb":
        echo(
            f"netgraph: no tokenizer lies beside {model}, and the words are those that `netgraph train` learns from {data}",
            err=True,
        )
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How a network is opened."""

    arch: str | None = declare_option(
        None,
        help="Architecture of a state dict: package.module:factory, or a name as above.",
        metavar="MODULE:FACTORY",
    )
    arch_arg: list[str] | None = declare_option(None, help="Argument of the factory (repeatable).", metavar="KEY=VALUE")
    input_: list[str] | None = declare_option(
        None, help="Example input: 2x3x224x224, 2x16:int64 or ids=2x16:int64 (repeatable).", metavar="SIZES"
    )
    trust: bool = declare_option(False, help="Open files that can run the code that came with them.")
    code_dir: Path | None = declare_option(
        None,
        help="Folder where --arch, --rules and files with --trust look for modules first. By default the working directory. Nothing else looks there.",
        metavar="FOLDER",
    )

    rules: list[str] | None = declare_option(
        None, help="Table of rules for operators without one (repeatable).", metavar="MODULE:TABLE"
    )
    key: str | None = declare_option(
        None, help="Key of the weights in a checkpoint with several, such as ema.", metavar="KEY"
    )
    download: bool = declare_option(
        False,
        help="Fetch trained weights of NAME@WEIGHTS of torchvision, NAME@pretrained of timm, or hf:OWNER/NAME.",
    )

    def open_network(self, model: str, seed: int = 7619, data: str | None = None) -> tuple[nn.Module, Any]:
        """Open a network and make an example of its inputs.

        Parameters
        ----------
        model : str
            A file, or a name such as ``torchvision:resnet18``.
        seed : int
            Seed of random weights.
        data : str, optional
            Source of data, whose shape is tried first where no ``--input`` is given.

        Returns
        -------
        network : torch.nn.Module
        example : Tensor, tuple or dict
            Guessed where no ``--input`` is given.
        """
        import torch

        from netgraph.io.example_inputs import guess_input, parse_inputs
        from netgraph.io.load import describe_origin, load_model
        from netgraph.io.model_zoo import parse_arch_args
        from netgraph.models.data.text_windows import is_text_file

        self._add_rules()
        example = parse_inputs(self.input_) if self.input_ else None
        arch_args = parse_arch_args(self.arch_arg or [])
        with torch.random.fork_rng(devices=[]), _print_choices():
            torch.manual_seed(seed)
            network = load_model(
                model, arch=self.arch, arch_args=arch_args, trust=self.trust, code_dir=self.code_dir, key=self.key,
                download=self.download,
            )  # fmt: skip
        origin = describe_origin(model, arch_args)
        if origin is not None:
            echo(f"netgraph: {origin}", err=True)
        if example is None:
            likely = _list_likely_inputs(data)
            example, text = guess_input(network, likely, masks=data is None or not is_text_file(data))
            is_of_data = any(text.startswith(f"--input {shape}") for shape in likely)
            reason = f", as {data} has it" if is_of_data else ""
            echo(f"netgraph: guessed {text}{reason}", err=True)
        return network, example

    def _add_rules(self) -> None:
        """Add the tables of rules that the options name."""
        if self.rules:
            from netgraph.environment.import_path import search_folder_first
            from netgraph.rules.registry import import_rules

            with search_folder_first(self.code_dir or Path.cwd()):
                for reference in self.rules:
                    import_rules(reference)


def _list_likely_inputs(data: str | None) -> list[str]:
    """Return the shape of two rows of a source as a text for ``--input``, if it has a shape of its own."""
    from netgraph.models.data.calibration import find_shape

    shape = None if data is None else find_shape(data)
    return [] if shape is None else ["x".join(map(str, (2, *shape)))]


@contextmanager
def _print_choices() -> Iterator[None]:
    """Print the choices that are made while a network is opened, one line each. Other warnings stay warnings."""
    from netgraph.errors import LoadWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LoadWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, LoadWarning):
            echo(f"netgraph: {warning.message}", err=True)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Calibration data of a command."""

    data: str | None = declare_option(
        None,
        help="Calibration data: digits, mnist, fashion-mnist, cifar10, imdb, a folder of pictures, a .npy, .pt or .txt, or text:FILE.",
        metavar="SOURCE", words=DATA_SETS,
    )  # fmt: skip
    samples: int = declare_option(512, help="Rows of calibration data.", metavar="N")

    def read(self, example: Any, seed: int, tokenizer: Any = None) -> CalibrationData | None:
        """Read the rows of calibration data in the form of the example, and print their warnings.

        Returns
        -------
        CalibrationData or None
            None where no data are asked for.
        """
        from netgraph.models.data.calibration import load_calibration

        if self.data is None:
            return None
        with print_warnings():
            return load_calibration(self.data, example=example, n=self.samples, seed=seed, tokenizer=tokenizer)


@contextmanager
def print_warnings() -> Iterator[None]:
    """Print the warnings of a block on stderr, one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in dict.fromkeys(str(warning.message) for warning in caught):
        echo(f"netgraph: {warning}", err=True)
