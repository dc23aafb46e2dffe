"""The words that options accept, each list once.

The library checks against these lists, and the shell completes from them. A key press waits for
completion, therefore nothing here imports PyTorch.
"""

from __future__ import annotations

# Collections of networks that open by name, as in ``torchvision:resnet18``.
ZOOS = ("torchvision", "timm", "hf")

# What a coarsening step makes smaller: units, resolution, residual blocks.
DIRECTIONS = ("channels", "space", "depth")

# How a merged block becomes several blocks again: its ends are shared out, or all of it is copied.
DEPTH_BY = ("split", "copy")

# Ways to repair a coarse network, each stronger than the one before.
RUNGS = ("none", "rescale", "norms", "ridge", "tune")

# Ways to repair that need calibration data.
DATA_RUNGS = ("norms", "ridge", "tune")

# What tells how important a unit is: its weights, its activations, the gradients of its parameters, or what is lost without it.
IMPORTANCES = ("none", "magnitude", "activation", "taylor", "fisher", "surgeon")

# Importances that need calibration data.
DATA_IMPORTANCES = ("activation", "taylor", "fisher", "surgeon")

# What a budget bounds, as in ``parameters=0.5``.
BUDGETS = ("parameters", "flops", "units", "error")

# What the ratios of a sweep are shares of: the units of each axis, or a cost that is spread over the axes.
SWEEP_BUDGETS = ("none", "parameters", "flops", "units")

# What a compressed network is held to, as in ``latency=0.5``: shares of the original's, points of accuracy that may go, or an error.
TARGETS = ("parameters", "flops", "latency", "accuracy", "error")

# What a network is judged by.
METRICS = ("top1", "top5", "loss", "perplexity", "mse", "mae", "error")

# What a small network is tuned towards: labels, and outputs, layers and distances of rows of the network that it came from.
TUNING_LOSSES = ("labels", "knowledge", "hint", "relational")

# How rounds of merging and tuning share out what goes.
ROUND_SCHEDULES = ("exponential", "linear")

# Networks that ``netgraph train`` builds.
NETWORKS = ("mlp", "cnn", "resnet20", "resnet56", "vgg", "wide-resnet", "transformer", "residual", "unet", "fno")

# Restoration of images. Each is also a NETWORK of ``netgraph train``: the residual network on this task.
RESTORATIONS = ("denoise", "inpaint", "deblur", "super-resolution")

# Equations whose solutions a network learns. Each is also a NETWORK of ``netgraph train``: the U-Net on this task.
OPERATORS = ("darcy",)

# Classification, prediction of the next token, restoration of images, and learned operators.
TASKS = ("classify", "lm", *RESTORATIONS, *OPERATORS)

DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "imdb")
TOKENIZERS = ("word", "bpe")
AUGMENTATIONS = ("none", "crop", "crop-flip", "rotate", "crop-flip-rotate")

CYCLES = ("v", "w", "f", "full", "kaskade", "additive")
NESTED = ("full", "kaskade")  # which start one level after another, from the coarsest to the finest
SWITCHES = ("share", "plateau")
SCHEDULES = ("one-cycle", "wsd", "cosine", "constant")
PARALLEL = ("ddp", "none")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd", "muon")
