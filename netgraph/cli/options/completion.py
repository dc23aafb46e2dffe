"""Shell completion: names of installed plug-ins, and the few words that an option knows.

A key press waits for completion, therefore nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netgraph.plugins import list_plugins

Completer = Callable[[str], list[str]]


def complete_words(words: Sequence[str]) -> Completer:
    """Return a function that completes these words.

    Examples
    --------
    >>> complete_words(("channels", "space"))("ch")
    ['channels']
    """

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def complete_plugins(group: str, *more: str) -> Completer:
    """Return a function that completes the names of a group of plug-ins, and the words of ``more``."""

    def complete(incomplete: str) -> list[str]:
        return complete_words(sorted([*list_plugins(group), *more]))(incomplete)

    return complete
