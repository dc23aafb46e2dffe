"""The methods of a network, a hierarchy and a compression that write, open and upload a folder as Hugging Face has them.

The three classes are far apart, and the functions behind the methods need all of them. They are therefore imported on the first call, as
public names are.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Self


class HubMethods:
    """Writes, opens and uploads itself as a folder that the hub of Hugging Face shows with a card.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> ng.build_hierarchy(network, torch.zeros(1, 4)).save_pretrained("small")
    >>> [level.n_units for level in ng.Hierarchy.from_pretrained("small").levels]
    [8, 4]
    """

    def save_pretrained(self, folder: str | Path, *, license: str = "", processing: Any = ()) -> None:
        """Write this object as a folder. `netgraph.coarsen.save_pretrained` has the details.

        Parameters
        ----------
        folder : str or path
            Its place. An older folder of netgraph is replaced in one step.
        license : str, default ""
            Identifier of a license for the card, such as ``apache-2.0``.
        processing : tokenizer or processor, or a list of them, default ()
            They save themselves into the folder.

        Raises
        ------
        LoadError
            Something else is there, or it cannot be written.
        """
        _find("save_pretrained")(self, folder, license=license, processing=processing)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Open a folder, or a repository of the hub, that `save_pretrained` wrote. No code that comes with it runs.

        Parameters
        ----------
        source : str or path
            A folder, or OWNER/NAME.
        revision : str, optional
            Branch, tag or commit of a repository.
        token : str or bool, optional
            Token for a private repository. By default the one that is stored on this machine.
        local_files_only : bool, default False
            Ask nobody, and take a repository from the cache.

        Raises
        ------
        LoadError
            It is not there, is damaged, or holds an object of another class.
        """
        opened: Self = _find("open_pretrained")(
            source, cls, revision=revision, token=token, local_files_only=local_files_only
        )
        return opened

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        license: str = "",
        processing: Any | Iterable[Any] = (),
    ) -> str:
        """Upload this object to a repository of the hub. `netgraph.coarsen.push_to_hub` has the details.

        Parameters
        ----------
        repo_id : str
            OWNER/NAME, or NAME of your own. It is made if it does not exist.
        private : bool, optional
            Whether a new repository is private. By default as your account has it.
        token : str or bool, optional
            Token with the right to write. By default the one that is stored on this machine.
        revision : str, optional
            Branch to write to. By default main.
        commit_message : str, optional
        create_pr : bool, default False
            Ask for a pull request in place of a commit.
        license : str, default ""
            Identifier of a license for the card, such as ``apache-2.0``.
        processing : tokenizer or processor, or a list of them, default ()

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        LoadError
            The name is none, or the hub refuses or is not reached.
        """
        address: str = _find("push_to_hub")(
            self, repo_id, private=private, token=token, revision=revision, commit_message=commit_message,
            create_pr=create_pr, license=license, processing=processing,
        )  # fmt: skip
        return address


def _find(name: str) -> Any:
    """Return a function of the module that needs all three classes."""
    return getattr(import_module("netgraph.coarsen.hub.pretrained"), name)
