"""Pickles of PyTorch, written so that a full disk is told as the system's refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_pickle(value: Any, path: Path) -> None:
    """Write a value by `torch.save`.

    Raises
    ------
    OSError
        The system refuses. PyTorch raises a `RuntimeError` with a source line of its writer there, and other ones for values that
        have no pickle.
    """
    import torch  # not needed for a command's help

    try:
        torch.save(value, path)
    except RuntimeError as error:
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise OSError(f"PyTorch does not write it: {str(error).splitlines()[0][:120]}") from error
