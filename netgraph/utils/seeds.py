"""Random generators of numpy and torch from a seed that a caller gave. Each takes other seeds, and a wrong one is told in one sentence."""

from __future__ import annotations

import numpy as np
import torch

from netgraph.errors import NetgraphError


def make_random(seed: int) -> np.random.Generator:
    """Return a generator of numpy.

    Raises
    ------
    NetgraphError
        The seed is negative.
    """
    if seed < 0:
        raise NetgraphError(f"the seed is {seed}. Give a whole number of 0 or more.")
    return np.random.default_rng(seed)


def make_generator(seed: int) -> torch.Generator:
    """Return a generator of torch.

    Raises
    ------
    NetgraphError
        The seed has more than 64 bits.
    """
    return torch.Generator().manual_seed(check_torch_seed(seed))


def check_torch_seed(seed: int) -> int:
    """Return a seed that torch takes."""
    if not -(2**63) <= seed < 2**64:
        raise NetgraphError(f"the seed {seed} does not fit into 64 bits. Give a smaller one.")
    return seed
