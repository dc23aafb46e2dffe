"""What the shell completes: names of plug-ins as they are installed, and the few words that options know.

A key press waits for these, so nothing here imports PyTorch; tests compare the words with the lists they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netgraph import plugins

Complete = Callable[[str], list[str]]
RUNGS = ("none", "rescale", "norms", "ridge", "tune")
BUDGETS = ("parameters=", "flops=", "units=", "error=")
DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "imdb")
NETWORKS = ("mlp", "cnn", "resnet20", "resnet56", "vgg", "wide-resnet", "transformer")
CYCLES = ("v", "w", "f", "full", "kaskade", "additive")
SCHEDULES = ("one-cycle", "cosine", "constant")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
AUGMENTS = ("none", "crop", "crop-flip", "rotate", "crop-flip-rotate")
DIRECTIONS = ("channels", "space", "depth")
TOKENIZERS = ("word", "bpe")
DEPTH_BY = ("split", "copy")
ZOOS = ("torchvision:", "timm:", "hf:")


def complete_words(words: Sequence[str]) -> Complete:
    """Return what completes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def complete_plugins(group: str, *more: str) -> Complete:
    """Return what completes a plug-in of a group by its name, or one of a few words more."""

    def complete(incomplete: str) -> list[str]:
        return complete_words(sorted([*plugins.list_plugins(group), *more]))(incomplete)

    return complete
