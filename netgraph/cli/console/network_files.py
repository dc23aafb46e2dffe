"""The files of coarse networks: checked before work begins, and written as the suffix says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from netgraph.cli.console.terminal import echo
from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_new_folder, check_output_file, check_replaceable
from netgraph.io.files.pickles import save_pickle

if TYPE_CHECKING:
    from torch import nn

    from netgraph.coarsen.compression.result import Compressed
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy


def check_levels_output(output: Path | None) -> None:
    """Check before work begins that the coarsest network, or all levels, can be written.

    Raises
    ------
    NetgraphError
        The suffix is of no such file, or the path cannot be written.
    """
    if output is None:
        return
    if output.suffix not in (".safetensors", ".hierarchy"):
        raise NetgraphError(
            f"--output {output} ends in {output.suffix or 'nothing'}. Give NAME.safetensors for the coarsest network, "
            "or NAME.hierarchy for all levels."
        )
    if output.suffix == ".safetensors":
        check_output_file(output)
        return
    from netgraph.coarsen.hierarchy.serialize import FILES, check_destination

    check_new_folder(output)
    check_destination(output)
    check_replaceable(output, FILES)


def write_levels(hierarchy: Hierarchy, output: Path) -> None:
    """Write the coarsest network, or all levels, as the suffix says."""
    from netgraph.coarsen.hierarchy.serialize import save

    save(hierarchy if output.suffix == ".hierarchy" else hierarchy.levels[-1].model, output)
    echo(f"netgraph: wrote {output}", err=True)


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
    elif output.suffix:
        raise NetgraphError(
            f"--output {output} ends in {output.suffix}. Give NAME.safetensors for the recorded graph, NAME.pt for the network in its "
            "own class, or NAME.hierarchy for both levels."
        )
    else:
        check_new_folder(output)


def check_class_output(network: nn.Module, output: Path | None) -> None:
    """Check, once the network is open, that it can be written in its own class where the path asks for that.

    Raises
    ------
    NetgraphError
        The network is a recorded graph, or its class is not written to such a path.
    """
    from netgraph.coarsen.user_class.convert import check_own_class_path

    if output is None or output.suffix in (".safetensors", ".hierarchy"):
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
    from netgraph.coarsen.user_class.convert import save_own_class

    if output.suffix == ".hierarchy":
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
        The suffix is that of another form.
    """
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
    from netgraph.coarsen.user_class.convert import save_own_class

    if isinstance(opened, Hierarchy):
        write_levels(opened, output)
        return
    if output.suffix == ".safetensors":
        save(opened, output)
    elif as_state and output.suffix:
        write_atomically(partial(save_pickle, opened.state_dict()), output)
    else:
        save_own_class(opened, output)
    echo(f"netgraph: wrote {output}", err=True)
