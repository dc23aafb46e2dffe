"""Depth as a direction of coarsening: residual blocks that are alike merge along their chain.

A chain is a path graph. Its edges weigh how alike neighbouring blocks are, and heavy-edge matching pairs them. With the
blocks of a pair stacked along a dimension of their own, the maps are those of any axis (`netgraph.coarsen.transfer`)::

    inject    W_c = mean of the pair's W, ends added up            prolong   W = W_c twice, ends halved
    restrict  G_c = sum of the pair's G, ends averaged             distribute  G = G_c / 2 twice, ends copied

The ends of a block are the parameters that its branches are proportional to (`netgraph.analysis.residual_chains`). A
prolonged pair therefore takes two half steps in place of one whole step: x + f(x) becomes x + f(x)/2 + f(x + f(x)/2)/2.
The two agree where f is zero. Elsewhere they differ by f'(x) f(x) / 4, which is of second order in f. Before blocks merge,
the units inside each are put in the order of the first block's (`netgraph.coarsen.directions.block_alignment`).
Chang et al., "Multi-level residual networks from dynamical systems view", ICLR 2018, section 4.

A chain without ends is copied. Every block of a pair takes all of the coarse block, and the mean goes down. The prolonged
pair takes two whole steps, which is another function. Zou et al., "A multi-level framework for accelerating training
transformer models", ICLR 2024, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from netgraph.analysis.residual_chains import Chain
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.heavy_edge import augmented_matching
from netgraph.coarsen.transfer.transfer import HALVES, Transfer
from netgraph.errors import NetgraphError
from netgraph.utils.choices import DEPTH_BY

Orders = dict[str, dict[int, NDArray[np.int64]]]  # by parameter and dimension, the unit that moves to each position


@dataclass(frozen=True, eq=False)
class ChainCoarsening:
    """A chain and the blocks of it that merge. A coarse block has the name of the first block of its aggregate.

    Parameters
    ----------
    chain : Chain
    transfer : Transfer
        From blocks to coarse blocks. Aggregates are runs of neighbours, and blocks may be left out.
    orders : dict of str to dict of int to int array, default {}
        The order in which the units inside a block correspond to those of the first block of its aggregate
        (`netgraph.coarsen.directions.block_alignment`), by parameter and dimension. Other parameters are numbered alike.
    """

    chain: Chain
    transfer: Transfer
    orders: Orders = field(default_factory=dict)

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The blocks that give coarse blocks their names."""
        aggregates, first = np.unique(self.transfer.aggregates, return_index=True)
        return tuple(self.chain.blocks[i] for i in first[aggregates >= 0])

    @property
    def dropped(self) -> tuple[str, ...]:
        """The blocks that are missing from the coarse network."""
        return tuple(block for block in self.chain.blocks if block not in self.kept)

    @property
    def runs(self) -> dict[str, str]:
        """The last block of the run for which each kept block stands: itself, or the last of those that are missing after it."""
        last: dict[str, str] = {}
        kept = None
        for block in self.chain.blocks:
            kept = block if block in self.kept else kept
            if kept is not None:
                last[kept] = block
        return last

    def members(self, kept: str) -> tuple[str, ...]:
        """Return the blocks that merge into the coarse block called ``kept``."""
        aggregate = self.transfer.aggregates[self.chain.blocks.index(kept)]
        return tuple(self.chain.blocks[i] for i in np.flatnonzero(self.transfer.aggregates == aggregate))

    @property
    def families(self) -> dict[str, list[str]]:
        """By kept block the blocks that have merged into it, itself first."""
        return {kept: list(self.members(kept)) for kept in self.kept}

    def describe(self) -> str:
        """Return in a sentence which blocks are left out or merge."""
        merged = [blocks for blocks in self.families.values() if len(blocks) > 1]
        absent = [block for i, block in enumerate(self.chain.blocks) if self.transfer.aggregates[i] < 0]
        parts = [f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} left out"] if absent else []
        parts += [f"{' and '.join(blocks)} merge" for blocks in merged]
        return f"{len(self.kept)} of the {len(self.chain.blocks)} blocks from {self.chain.name} on stay: {'; '.join(parts)}."


def check_depth_by(by: str) -> None:
    """Raise `NetgraphError` for an unknown value of ``depth_by``."""
    if by not in DEPTH_BY:
        raise NetgraphError(f"depth_by is {by!r}. Give {' or '.join(DEPTH_BY)}.")


def coarsen_chain(
    chain: Chain,
    state: Mapping[str, Tensor],
    ratio: float,
    *,
    n_blocks: int | None = None,
    seed: int = 0,
    by: str = "split",
) -> ChainCoarsening | None:
    """Choose the blocks of a chain that merge.

    Parameters
    ----------
    chain : Chain
    state : dict of str to Tensor
        Parameters of the network.
    ratio : float
        Share of blocks that stay.
    n_blocks : int, optional
        Number of blocks that stay, in place of a share. 0 leaves all blocks out, and the chain passes its input on.
    seed : int, default 0
        Order of pairs that are equally alike.
    by : {"split", "copy"}, default "split"
        How a coarse block becomes several again. ``split`` shares its ends out. ``copy`` copies all of it, as for a chain
        without ends.

    Returns
    -------
    ChainCoarsening or None
        None if no blocks merge.
    """
    n = len(chain.blocks)
    n_coarse = math.ceil(n * ratio) if n_blocks is None else n_blocks
    if n_coarse >= n:
        return None
    if n_coarse == 0:
        return ChainCoarsening(chain, Transfer(np.full(n, -1)))
    aggregates = augmented_matching(build_block_graph(chain, state), n_coarse, seed=seed)
    _, first, inverse = np.unique(aggregates, return_index=True, return_inverse=True)
    chain = replace(chain, ends=frozenset()) if by == "copy" else chain
    # np.unique sorts by label: number the aggregates by their first block instead
    return ChainCoarsening(chain, Transfer(np.argsort(np.argsort(first))[inverse]))


def leave_out(chain: Chain, blocks: Iterable[str]) -> ChainCoarsening:
    """Return the chain without some blocks. The others stay as they are.

    Parameters
    ----------
    chain : Chain
    blocks : iterable of str
        Paths of blocks of the chain.
    """
    absent = set(blocks)
    numbers = iter(range(len(chain.blocks)))
    return ChainCoarsening(
        chain, Transfer(np.array([-1 if block in absent else next(numbers) for block in chain.blocks]))
    )


def _has_mean(tensor: Tensor) -> bool:
    """Return True for real and complex numbers. Integers, which count, are copied."""
    return tensor.is_floating_point() or tensor.is_complex()


def _list_numbers(tensor: Tensor) -> Tensor:
    """Return all numbers of a tensor in double precision on the CPU, those of complex ones in pairs."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten().cpu().double()


def build_block_graph(chain: Chain, state: Mapping[str, Tensor]) -> AxisGraph:
    """Return the path graph of the blocks of a chain. An edge weighs (1 + cosine of all their parameters) / 2."""
    names = [name for name in chain.names if _has_mean(state[f"{chain.name}.{name}"])]
    units = torch.stack(
        [torch.cat([_list_numbers(state[f"{block}.{name}"]) for name in names]) for block in chain.blocks]
    )
    cosines = torch.nn.functional.cosine_similarity(units[1:], units[:-1]).numpy()
    weights = np.clip((1 + cosines) / 2, 1e-12, 1.0)
    adjacency = sparse.diags_array([weights, weights], offsets=[1, -1], format="csr")
    return AxisGraph(chain.name, sparse.csr_array(adjacency), np.ones(len(chain.blocks)))


@dataclass(frozen=True)
class ParameterFamily:
    """Parameters of the blocks of one aggregate. The coarse parameter has the name of the first."""

    members: tuple[str, ...]
    is_end: bool


class DepthMap:
    """The maps between a network and the one with shorter chains. Parameters outside chains stay as they are.

    If a vector lacks a member of a family, the result lacks the whole family. Parameters of blocks that are left out have no
    coarse counterpart: no map takes them down or brings them up.

    Parameters
    ----------
    steps : iterable of ChainCoarsening
    """

    def __init__(self, steps: Iterable[ChainCoarsening]) -> None:
        self.families: dict[str, ParameterFamily] = {}  # by the name of every member
        self.left_out: dict[str, bool] = {}  # by the name of a parameter whether it is an end
        self.orders: Orders = {}
        for step in steps:
            self.orders |= step.orders
            absent = np.flatnonzero(step.transfer.aggregates < 0)
            self.left_out |= {
                f"{step.chain.blocks[i]}.{name}": name in step.chain.ends for i in absent for name in step.chain.names
            }
            for name in step.chain.names:
                column = np.array(step.chain.names_in_blocks(name))
                for i in range(step.transfer.n_coarse):
                    members = tuple(column[step.transfer.aggregates == i].tolist())
                    family = ParameterFamily(members, name in step.chain.ends)
                    self.families |= dict.fromkeys(members, family)

    def family(self, name: str) -> tuple[str, ...]:
        """Return the fine parameters that a coarse one stands for."""
        return self.families[name].members if name in self.families else (name,)

    def inject(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take parameters down: members are averaged, ends added up."""
        return self._down(state, ends=False)

    def prolong(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take corrections up: members are copies, ends are shared out."""
        return self._up(state, ends=True)

    def restrict(self, state: Mapping[str, Tensor], *, squared: bool = False) -> dict[str, Tensor]:
        """Take gradients down by the transpose of `prolong`. With ``squared``, take second moments down."""
        return self._down(state, ends=True, power=2 if squared else 1)

    def distribute(self, state: Mapping[str, Tensor], *, squared: bool = False) -> dict[str, Tensor]:
        """Take gradient-like state up by the transpose of `inject`. With ``squared``, take second moments up."""
        return self._up(state, ends=False, power=2 if squared else 1)

    def zero_sum(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return zeros. The blocks of a pair read different inputs, and so diverge by themselves."""
        return {name: torch.zeros_like(tensor) for name, tensor in state.items()}

    # With the members of a family stacked, R is their mean and P copies them. For ends R is their sum and P shares out.
    #
    #     inject = R    prolong = P    restrict = P'    distribute = R'
    #
    # Each map therefore divides by the size of the family either for ends alone or for all others alone. Second moments
    # are moved by the squared entries: ``power`` is 2.

    def _down(self, state: Mapping[str, Tensor], *, ends: bool, power: int = 1) -> dict[str, Tensor]:
        """Add families up. Divide by the size of the family: ends only, or all parameters but ends."""
        out: dict[str, Tensor] = {}
        for name, tensor in state.items():
            family = self.families.get(name)
            if name in self.left_out:
                continue
            if family is None or len(family.members) == 1:
                out[name] = tensor.clone()
            elif name == family.members[0] and all(member in state for member in family.members):
                parts = [_permute_dims(state[member], self.orders.get(member, {})) for member in family.members]
                divisor = len(parts) ** power if family.is_end == ends else 1
                out[name] = _sum_parts(parts, divisor) if _has_mean(tensor) else tensor.clone()
        return out

    def _up(self, state: Mapping[str, Tensor], *, ends: bool, power: int = 1) -> dict[str, Tensor]:
        """Copy coarse parameters to their families, divided like in `_down`."""
        out: dict[str, Tensor] = {}
        for name, tensor in state.items():
            family = self.families.get(name)
            members = self.family(name)
            shared = family is not None and family.is_end == ends and _has_mean(tensor) and len(members) > 1
            part = tensor / len(members) ** power if shared else tensor
            out |= self.copy(name, part)
        return out

    def copy(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Return a coarse parameter as it is for each member of its family, in the member's own order of units.

        Parameters
        ----------
        name : str
        tensor : Tensor
        """
        return {member: _permute_dims(tensor, self.orders.get(member, {}), back=True) for member in self.family(name)}


def _permute_dims(tensor: Tensor, orders: Mapping[int, NDArray[np.int64]], *, back: bool = False) -> Tensor:
    """Return a copy of a tensor with its dimensions in another order, or with ``back`` in the original order."""
    for dim, order in orders.items():
        tensor = tensor.index_select(dim, torch.as_tensor(np.argsort(order) if back else order, device=tensor.device))
    return tensor if orders else tensor.clone()


def _sum_parts(parts: Sequence[Tensor], divisor: int) -> Tensor:
    """Add up, half precision in single precision, and divide."""
    dtype = torch.float32 if parts[0].dtype in HALVES else parts[0].dtype
    return (torch.stack(tuple(parts)).to(dtype).sum(0) / divisor).to(parts[0].dtype)
