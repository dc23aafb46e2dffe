"""The words that options accept, each list once.

The library checks against these lists, and the shell completes from them. A key press waits for
completion, therefore nothing here imports PyTorch.
"""

from __future__ import annotations

ZOOS = ("torchvision", "timm", "hf")
"""Collections of networks that open by name, as in ``torchvision:resnet18``."""

DIRECTIONS = ("channels", "space", "depth")
"""What a coarsening step makes smaller: units, resolution, residual blocks."""

DEPTH_BY = ("split", "copy")
"""How a merged block becomes several blocks again: its ends are shared out, or all of it is copied."""

RUNGS = ("none", "rescale", "norms", "ridge", "tune")
"""Ways to repair a coarse network, each stronger than the one before."""

DATA_RUNGS = ("norms", "ridge", "tune")
"""Ways to repair that need calibration data."""

BUDGETS = ("parameters", "flops", "units", "error")
"""What a budget bounds, as in ``parameters=0.5``."""

NETWORKS = ("mlp", "cnn", "resnet20", "resnet56", "vgg", "wide-resnet", "transformer")
"""Networks that ``netgraph train`` builds."""

TASKS = ("classify", "lm")
"""Classification, or prediction of the next token."""

DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "imdb")
TOKENIZERS = ("word", "bpe")
AUGMENTATIONS = ("none", "crop", "crop-flip", "rotate", "crop-flip-rotate")

CYCLES = ("v", "w", "f", "full", "kaskade", "additive")
SCHEDULES = ("one-cycle", "cosine", "constant")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
