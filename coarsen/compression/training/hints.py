"""Hints: outputs of hidden layers of the original, as targets for those of a small network.

A coarse unit is the mean of the units that merged into it. The hierarchy therefore gives the target: ``R t``. Without a hierarchy a
linear regressor takes the layer of the small network to that of the original, and is trained with it.

Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015, section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from netgraph.analysis.attention_heads import find_heads
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.coarsen.tuning.batches import Batch
from netgraph.coarsen.tuning.loop import Pair
from netgraph.coarsen.tuning.losses import Answer, hint_loss
from netgraph.coarsen.user_class.factor_folding import find_parameter_factors
from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.seeds import make_generator

Widths = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Hints:
    """The maps between layers of two networks.

    Parameters
    ----------
    names : tuple of str
        Weights of the layers.
    restrictions : dict of str to Tensor, default {}
        R' of a layer (n, k): multiplies outputs of the original.
    regressors : dict of str to torch.nn.Parameter, default {}
        W' of a layer (k, n): multiplies outputs of the small network, and is trained.
    """

    names: tuple[str, ...]
    restrictions: Mapping[str, Tensor] = field(default_factory=dict)
    regressors: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def measure(self, layers: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the layers."""
        return hint_loss(_multiply(layers, self.regressors), _multiply(expected, self.restrictions))


def _multiply(layers: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs of layers (rows, units), each times its matrix if it has one."""
    return {name: x.to(matrices[name]) @ matrices[name] if name in matrices else x for name, x in layers.items()}


def make_hints(pair: Pair, batch: Batch, hierarchy: Hierarchy | None, chosen: Sequence[str], seed: int) -> Hints:
    """Return the hints of a network and its original.

    Parameters
    ----------
    pair : Pair
    batch : Batch
        Both networks run on it.
    hierarchy : Hierarchy, optional
        From the original to the network.
    chosen : sequence of str
        Weights of layers. By default all layers with fewer units than in the original, or without a hierarchy the middle one.
    seed : int
        Of the first weights of regressors.

    Raises
    ------
    NetgraphError
        A layer is not in both networks, or the hierarchy is that of others.
    """
    widths = _find_widths(pair, batch)
    unknown = [name for name in chosen if name not in widths]
    if unknown or not widths:
        raise NetgraphError(
            f"the networks have no layer {unknown[0] if unknown else ''} in common. Choose among {', '.join(widths) or 'other losses'}."
        )
    if hierarchy is not None:
        return _restrict_by(hierarchy, pair, widths, chosen)
    names = tuple(chosen) or (list(widths)[(len(widths) - 1) // 2],)
    random, like = make_generator(seed), next(pair.network.parameters())
    regressors = {
        name: nn.Parameter((torch.randn(k, n, generator=random) / k**0.5).to(like))
        for name, (n, k) in widths.items()
        if name in names and n != k
    }
    return Hints(names, regressors=regressors)


def _find_widths(pair: Pair, batch: Batch) -> Widths:
    """Return the units of each layer that both networks have, in the original and in the small one."""
    assert pair.original is not None
    names = [name for name, _ in pair.original.named_parameters()]
    widths: Widths = {}

    def compare(actual: Answer, expected: Answer | None, _: Tensor | None) -> Tensor:
        assert expected is not None
        small, large = actual.layers, expected.layers
        widths.update(
            {name: (large[name].shape[1], small[name].shape[1]) for name in names if name in small and name in large}
        )
        return torch.zeros(())

    with torch.no_grad():
        replace(pair, layers=names).measure(batch, compare)
    return widths


def _restrict_by(hierarchy: Hierarchy, pair: Pair, widths: Widths, chosen: Sequence[str]) -> Hints:
    """Return hints whose targets are restricted by the transfers of a hierarchy."""
    first, last = hierarchy.levels[0], hierarchy.levels[-1]
    if any(level.chains or level.pool > 1 for level in hierarchy.levels):
        raise NetgraphError(
            "hints follow merged units, and the hierarchy has fewer blocks or another resolution. Give no hierarchy, and name layers."
        )
    transfers: dict[str, Transfer] = {}
    for level in hierarchy.levels[1:]:
        transfers = compose_transfers(transfers, level.transfers)
    left = {
        part.weight
        for axis in transfers
        for heads in find_heads(first.spec, axis)  # merged heads have turned to one basis
        for part in (heads.query, heads.key, heads.value)
    }
    if not isinstance(pair.network, GraphNetwork):  # its own class has factors of the graph in its weights
        left |= find_parameter_factors(first.spec, last.spec.sizes).keys()
    merged = [name for name, (n, k) in widths.items() if n != k and name not in left]
    names = tuple(chosen or merged or [name for name in widths if name not in left])
    like, restrictions = next(pair.network.parameters()), {}
    for name in names:
        n, k = widths[name]
        terms = first.spec.parameters.get(name)
        if terms is None or name in left:
            raise NetgraphError(
                f"the layer {name} has no units of its own that merged. Choose among {', '.join(merged)}."
            )
        spec = replace(first.spec, parameters={name: ((), terms[0])}, sums={})
        matrix = inject(spec, transfers, {name: torch.eye(n)})[name]
        if matrix.shape != (n, k):
            raise NetgraphError(
                f"the hierarchy takes {name} to {matrix.shape[1]} units, and the network has {k}. Give the hierarchy that it came from."
            )
        restrictions[name] = matrix.to(like)
    return Hints(names, restrictions=restrictions)
