"""The weights of merged layers that no fit touches, and the reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import fx

from netgraph.coarsen.repair.weight_products import PRODUCTS
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.rules.operator_call import operator_name
from netgraph.tracing.unit_spec import UnitSpec, term_axes

SAME_INPUT = "its inputs have not changed"  # merging gave their best weights
SHARED = "something else reads it too"
REASONS = {
    "aten.embedding": "its vectors are the restricted ones",
    "aten.lstm_cell": "a recurrent cell that is called step by step has no fit",
    "aten.gru_cell": "a recurrent cell that is called step by step has no fit",
    "aten.rnn_tanh_cell": "a recurrent cell that is called step by step has no fit",
    "aten.rnn_relu_cell": "a recurrent cell that is called step by step has no fit",
}


def is_merged(spec: UnitSpec, transfers: Mapping[str, Transfer], name: str) -> bool:
    """Return True if a tensor of at least two dimensions runs over an axis that shrinks."""
    terms = spec.parameters.get(name, ())
    return len(terms) > 1 and any(axis in transfers for term in terms for axis in term_axes(term))


def find_left_weights(spec: UnitSpec, transfers: Mapping[str, Transfer], known: Collection[str]) -> dict[str, str]:
    """Return the weights of merged layers that are not among ``known``, and the operators that keep them from a fit."""
    readers = {
        str(node.target): [user for user in node.users if user.op == "call_function"]
        for node in spec.plans["eval"].graph.nodes
        if node.op == "get_attr"
    }
    return {
        name: _find_reason(users)
        for name, users in readers.items()
        if name not in known and is_merged(spec, transfers, name)
    }


def _find_reason(users: list[fx.Node]) -> str:
    """Return the reason why a weight with these readers is not fitted."""
    names = list(dict.fromkeys(operator_name(user.target) for user in users))
    reasons = [REASONS[name] for name in names if name in REASONS]
    if reasons:
        return reasons[0]
    products = [user for user in users if user.target in PRODUCTS]
    if products and len(users) > 1:
        return SHARED
    if products:
        return f"it is not the second factor of {names[0]}"
    return f"{' and '.join(names) or 'no operator'} has no fit"
