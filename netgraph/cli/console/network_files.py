"""The files of coarse networks: checked before work begins, and written as the suffix says."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgraph.cli.console.terminal import echo
from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_new_folder, check_output_file, check_parent_folder, check_replaceable
from netgraph.io.files.pickles import save_pickle

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.compression.result import Compressed
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.coarsen.hub.forms import Form

SUFFIXES = (".pt", ".pth", ".safetensors", ".hierarchy")


def is_folder_output(output: Path) -> bool:
    """Return True for a path without a suffix of a file. A number behind a dot, as in ``bert-0.5``, is no suffix."""
    return output.suffix not in SUFFIXES and (
        not output.suffix or output.suffix[1:2].isdigit() or os.path.isdir(output)
    )


def typed_command() -> str:
    """Return the command that was typed, for the card of a folder. Folders of this machine are left out."""
    from netgraph.io.hub.origin import hide_folder

    return shlex.join(["netgraph", *map(hide_folder, sys.argv[1:])])


def _check_folder(output: Path) -> None:
    """Check that a folder of a network can be written."""
    from netgraph.io.hub.folders import check_model_folder

    check_parent_folder(output)
    check_model_folder(output)


def note_command(network: nn.Module) -> None:
    """Remember the command that was typed for the last step of a network."""
    from netgraph.io.hub.origin import amend_step

    amend_step(network, {"command": typed_command()})


def check_spares_input(model: str, *outputs: Path | None) -> None:
    """Check, before work begins, that no output replaces the network that is read.

    Parameters
    ----------
    model : str
        As it was typed: a file, a folder, or a name that is neither.
    *outputs : path or None
        None writes nothing.

    Raises
    ------
    NetgraphError
        An output is the file or the folder that is read.
    """
    source = Path(model.removeprefix("hf:"))
    for output in filter(None, outputs):
        if os.path.exists(source) and os.path.exists(output) and os.path.samefile(source, output):
            raise NetgraphError(f"{output} is the network that is read, and it would be replaced. Give another name.")


def check_levels_output(output: Path | None) -> None:
    """Check before work begins that the coarsest network, or all levels, can be written.

    Raises
    ------
    NetgraphError
        The suffix is of no such file, or the path cannot be written.
    """
    if output is None:
        return
    if is_folder_output(output):
        _check_folder(output)
        return
    if output.suffix not in (".safetensors", ".hierarchy"):
        raise NetgraphError(
            f"--output {output} ends in {output.suffix}. Give NAME.safetensors for the coarsest network, NAME for a folder with a card, or "
            "NAME.hierarchy for all levels."
        )
    if output.suffix == ".safetensors":
        check_output_file(output)
        return
    from netgraph.coarsen.hierarchy.serialize import FILES, check_destination

    check_new_folder(output)
    check_destination(output)
    check_replaceable(output, FILES)


def write_levels(hierarchy: Hierarchy, output: Path, example: Any, seed: int) -> None:
    """Write the coarsest network as a file or a folder, or all levels, as the suffix says."""
    from netgraph.coarsen.hierarchy.serialize import save
    from netgraph.coarsen.hub.forms import form_coarsest

    if is_folder_output(output):
        note_command(hierarchy.levels[-1].model)
        write_folder(form_coarsest(hierarchy, example, seed=seed), output)
        return
    save(hierarchy if output.suffix == ".hierarchy" else hierarchy.levels[-1].model, output)
    echo(f"netgraph: wrote {output}", err=True)


def write_folder(form: Form, output: Path) -> None:
    """Write a folder in a form, and say what it holds and why it is not in its own class."""
    from netgraph.coarsen.hub.pretrained import write_form

    write_form(form, output)
    if form.facts.reason:
        echo(f"netgraph: {form.facts.reason}", err=True)
    what = "the recorded graph" if form.is_own and form.facts.kind == "network" else f"a {form.facts.class_name}"
    echo(f"netgraph: wrote {output}, {what}, with its card", err=True)


def check_compressed_output(output: Path | None) -> None:
    """Check, before the network is opened, that a compressed network can be written.

    Raises
    ------
    NetgraphError
        The suffix is of no such file, or the path cannot be written.
    """
    if output is None:
        return
    if output.suffix in (".safetensors", ".hierarchy"):
        check_levels_output(output)
    elif output.suffix in (".pt", ".pth"):
        check_output_file(output)
    elif is_folder_output(output):
        _check_folder(output)
    else:
        raise NetgraphError(
            f"--output {output} ends in {output.suffix}. Give NAME.safetensors for the recorded graph, NAME.pt for the network in its "
            "own class, NAME for a folder with a card, or NAME.hierarchy for both levels."
        )


def check_class_output(network: nn.Module, output: Path | None) -> None:
    """Check, once the network is open, that it can be written in its own class where the path asks for that.

    Raises
    ------
    NetgraphError
        The network is a recorded graph, or its class is not written to such a path.
    """
    from netgraph.coarsen.user_class.convert import check_own_class_path

    if output is None or output.suffix in (".safetensors", ".hierarchy") or is_folder_output(output):
        return
    if hasattr(network, "document"):
        raise NetgraphError(
            f"--output {output} asks for the network's own class, and this network is a recorded graph. Give NAME.safetensors."
        )
    check_own_class_path(network, output)


def write_compressed(result: Compressed, output: Path) -> None:
    """Write a compressed network as the suffix says, and say what was written.

    Raises
    ------
    NetgraphError
        Equality in its own class was not proven. The recorded graph is then written beside the path, and the message says where.
    """
    from netgraph.coarsen.compression.deploy import record_levels
    from netgraph.coarsen.hierarchy.serialize import save
    from netgraph.coarsen.hub.forms import form_compressed
    from netgraph.coarsen.user_class.convert import save_own_class

    if is_folder_output(output):
        note_command(result.model)
        write_folder(form_compressed(result), output)
    elif output.suffix == ".hierarchy":
        save(record_levels(result), output)
        echo(f"netgraph: wrote {output}, the original and the compressed network", err=True)
    elif output.suffix == ".safetensors":
        save(record_levels(result).levels[-1].model, output)
        echo(f"netgraph: wrote {output}, the recorded graph of the compressed network", err=True)
    elif not hasattr(result.model, "document"):
        save_own_class(result.model, output)
        echo(f"netgraph: wrote {output}, a {type(result.model).__name__}", err=True)
    else:
        beside = output.with_name(f"{output.name}.safetensors")
        save(record_levels(result).levels[-1].model, beside)
        raise NetgraphError(
            f"{output} was not written, because the network was not proven equal in its own class. {beside} holds its recorded graph."
        )


def check_same_form(network: nn.Module, output: Path | None, *, levels: bool) -> None:
    """Check, once a network is open, that it can be written in the form that it was opened in.

    Parameters
    ----------
    network : torch.nn.Module
    output : path or None
    levels : bool
        It is the coarsest of a hierarchy, which is written whole or alone.

    Raises
    ------
    NetgraphError
        The suffix is that of another form, or no folder can hold the class of the network.
    """
    from netgraph.coarsen.hub.forms import choose_form

    if output is None:
        return
    if not levels and output.suffix == ".hierarchy":
        raise NetgraphError(
            f"--output {output} asks for a hierarchy, and one network was opened. Give NAME.safetensors or NAME.pt."
        )
    if output.suffix == ".safetensors" and not hasattr(network, "document"):
        raise NetgraphError(
            f"--output {output} asks for a recorded graph, and the network is a {type(network).__name__}. Give NAME.pt, or a folder for "
            "transformers."
        )
    if is_folder_output(output):
        _check_folder(output)
        choose_form(network)  # raises for a class that no folder can hold
        return
    check_class_output(network, output)


def write_same_form(opened: Hierarchy | nn.Module, output: Path, *, as_state: bool) -> None:
    """Write a network, or the hierarchy whose coarsest level it is, as the suffix says.

    Parameters
    ----------
    opened : Hierarchy or torch.nn.Module
    output : path
    as_state : bool
        Write a network of its own class as a state dict, because it was opened from one.
    """
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.coarsen.hierarchy.serialize import save
    from netgraph.coarsen.hub.forms import choose_form
    from netgraph.coarsen.user_class.convert import save_own_class

    network = opened.levels[-1].model if isinstance(opened, Hierarchy) else opened
    if is_folder_output(output):
        write_folder(choose_form(opened), output)
        return
    if isinstance(opened, Hierarchy):
        save(opened if output.suffix == ".hierarchy" else network, output)
    elif output.suffix == ".safetensors":
        save(network, output)
    elif as_state and output.suffix:
        write_atomically(partial(save_pickle, network.state_dict()), output)
    else:
        save_own_class(network, output)
    echo(f"netgraph: wrote {output}", err=True)
