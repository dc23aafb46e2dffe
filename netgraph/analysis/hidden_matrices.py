"""Matrices between hidden layers: both of their dimensions run over units that the network computes and reads again."""

from __future__ import annotations

from collections.abc import Iterable

from netgraph.tracing.unit_spec import UnitSpec, term_axes


def list_hidden_matrices(spec: UnitSpec) -> list[str]:
    """Return the weights of layers that lie between hidden units.

    A hidden axis is one that some parameter sums over and another one does not: its units are computed, and read. Inputs
    are only read. Outputs are not read, and neither are the rows of an embedding, which are looked up. The first layer, the last
    one, embeddings and tied last layers are therefore left out.

    Parameters
    ----------
    spec : UnitSpec

    Returns
    -------
    list of str
        Names of parameters with two dimensions, one of which the layer sums over.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.models import mlp
    >>> list_hidden_matrices(ng.trace(mlp((4, 8, 8, 3)), torch.zeros(2, 4)))
    ['2.weight']
    """
    read = {axis for axes in spec.sums.values() for axis in axes}
    computed = {
        axis
        for name, terms in spec.parameters.items()
        for dim, term in enumerate(terms)
        for axis in {*term_axes(term)} - spec.sums.get((name, dim), frozenset())
    }
    hidden = read & computed

    def runs_over_hidden(axes: Iterable[str]) -> bool:
        return any(axis in hidden for axis in axes)

    return [
        name
        for name, terms in spec.parameters.items()
        if name in spec.trainable
        and len(terms) == 2
        and sum(bool(spec.sums.get((name, dim))) for dim in range(2)) == 1
        and all(runs_over_hidden(term_axes(term)) for term in terms)
    ]
