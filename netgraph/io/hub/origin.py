"""Where a network came from, and what was done to it: remembered beside the network, for the card of its folder.

A module is the key of a weak table. Nothing is added to the network itself, and a copy of it (`copy.deepcopy`, a pickle) has no origin.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from netgraph.errors import LoadError
from netgraph.io.trained_weights import find_cached_folder, is_repository

ROOTED = re.compile(r"(?P<before>^|[^=]*=|hf:)(?:~|[A-Za-z]:)?[/\\](?![/\\])(?:.*[/\\])?(?P<last>[^/\\]+)[/\\]*$", re.S)
LICENSE = re.compile(r"[\w.+-]+", re.ASCII)
MOST_STEPS = 1000
MOST_ENTRIES = 2**17  # axes, facts and rows of a step


@dataclass(frozen=True)
class Step:
    """One thing that was done to a network.

    Parameters
    ----------
    title : str
        Its head on the card, such as ``Coarsening``.
    facts : dict of str to str, default {}
        Options and numbers, in words.
    sizes : dict of str to (int, int), default {}
        For each axis that shrank its units before and after.
    rows : tuple of dict of str to str, default ()
        A table, one dict by head of column for each row.
    notes : tuple of str, default ()
        Sentences.
    document : dict, default {}
        The whole result as plain data for JSON.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rows: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Step:
        """Return the step of plain data that a file holds.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            The data have another form.
        """
        sizes = {str(name): (_read_size(before), _read_size(after)) for name, (before, after) in plain["sizes"].items()}
        rows = tuple(_read_texts(row) for row in plain["rows"])
        if len(sizes) + sum(map(len, rows)) + len(plain["facts"]) > MOST_ENTRIES:
            raise ValueError(f"a step has more than {MOST_ENTRIES:,} entries")
        notes = tuple(map(str, plain["notes"]))
        return cls(str(plain["title"]), _read_texts(plain["facts"]), sizes, rows, notes, dict(plain["document"]))


@dataclass(frozen=True)
class Origin:
    """Where a network came from, and what was done to it.

    Parameters
    ----------
    source : str, default ""
        File, folder or name of the original, as it was opened. Empty if it was not opened by netgraph.
    class_name : str, default ""
        Class of the original.
    base_model : str, default ""
        Repository on the hub that it came from, as OWNER/NAME.
    license : str, default ""
        License of the folder that it was opened from.
    steps : tuple of Step, default ()
        The first one first.
    opened : str, default ""
        Where its last file, folder or repository is. No file holds it.
    """

    source: str = ""
    class_name: str = ""
    base_model: str = ""
    license: str = ""
    steps: tuple[Step, ...] = ()
    opened: str = ""

    def with_step(self, step: Step) -> Origin:
        """Return the origin after one more step."""
        return replace(self, steps=(*self.steps, step))

    def find_step(self, title: str) -> Step | None:
        """Return the last step of a title, or None."""
        return next((step for step in reversed(self.steps) if step.title == title), None)

    def to_plain(self) -> dict[str, Any]:
        """Return the origin as data for JSON. Numbers that are not finite become null."""
        plain: dict[str, Any] = _replace_nonfinite(asdict(self))
        del plain["opened"]
        return {**plain, "source": hide_folder(self.source)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Origin:
        """Return the origin of plain data that a file holds.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            The data have another form.
        """
        if len(plain["steps"]) > MOST_STEPS:
            raise ValueError(f"it has more than {MOST_STEPS:,} steps")
        words = {name: str(plain[name]) for name in ("source", "class_name", "base_model", "license")}
        check_license(words["license"])
        return cls(**words, steps=tuple(Step.from_plain(step) for step in plain["steps"]))


def check_license(license: str) -> None:
    """Refuse a license that is no identifier.

    Raises
    ------
    LoadError
    """
    if license and not LICENSE.fullmatch(license):
        raise LoadError(f"the license is {license!r:.80}. Give an identifier of the hub, such as apache-2.0 or other.")


_ORIGINS: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def find_origin(network: nn.Module) -> Origin:
    """Return the origin of a network. Without one that was set, it is inferred from what transformers and timm leave on a network."""
    return _ORIGINS.get(network) or infer_origin(network)


def set_origin(network: nn.Module, origin: Origin) -> None:
    """Remember the origin of a network for as long as the network lives."""
    _ORIGINS[network] = origin


def add_step(network: nn.Module, step: Step) -> None:
    """Remember one more step of a network."""
    set_origin(network, find_origin(network).with_step(step))


def amend_step(network: nn.Module, facts: Mapping[str, str], document: Mapping[str, Any] | None = None) -> None:
    """Add facts and data to the last step of a network, such as the command that was typed. A network without steps stays without."""
    origin = find_origin(network)
    if origin.steps:
        last = origin.steps[-1]
        last = replace(last, facts={**last.facts, **facts}, document={**last.document, **(document or {})})
        set_origin(network, replace(origin, steps=(*origin.steps[:-1], last)))


def infer_origin(network: nn.Module) -> Origin:
    """Return the origin that transformers or timm left on a network: the name that it was opened by, and its repository."""
    name = str(getattr(getattr(network, "config", None), "_name_or_path", "") or "")
    pretrained = getattr(network, "pretrained_cfg", None)
    timm = str(pretrained.get("architecture") or "") if isinstance(pretrained, Mapping) else ""
    source = f"hf:{name}" if name else f"timm:{timm}" if timm else ""
    class_name = "" if hasattr(network, "document") else type(network).__name__  # a recorded graph
    return Origin(source, class_name, find_base_model(source, network), opened=source)


def find_base_model(source: str, network: nn.Module) -> str:
    """Return the repository of a source with trained weights, as OWNER/NAME, or an empty text."""
    package, _, name = source.partition(":")
    if package == "timm" and "@" in name:
        repository = str((getattr(network, "pretrained_cfg", None) or {}).get("hf_hub_id") or "")
        return repository if is_repository(repository) else ""
    name = name.partition("@")[0]
    if package != "hf" or os.path.exists(name):
        return ""
    return name if is_repository(name) or (name and find_cached_folder(name) is not None) else ""


def hide_folder(word: str) -> str:
    """Return a word without the folders of a path from the root of a machine. What is written for others says nothing of these.

    Examples
    --------
    >>> from netgraph.io.hub.origin import hide_folder
    >>> [hide_folder(word) for word in ("/home/me/net.pt", "hf:~/nets/bert", "--data=/rows.pt", "nets/small", "s3://rows/x")]
    ['net.pt', 'hf:bert', '--data=rows.pt', 'nets/small', 's3://rows/x']
    """
    return ROOTED.sub(lambda match: match["before"] + match["last"], word)


def _read_size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no number of units")
    return value


def _read_texts(plain: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in plain.items()}


def _replace_nonfinite(value: Any) -> Any:
    """Return plain data without infinity and without what is no number, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): _replace_nonfinite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_nonfinite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
