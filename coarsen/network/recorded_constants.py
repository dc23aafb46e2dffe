"""Constants of a recording in the coarse network: one name for each, and one entry for the units that merge.

A constant comes from no parameter or buffer. Both modes count theirs from zero, so that one name may mean two tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.node_graph import is_constant
from netgraph.tracing.unit_spec import Plan, UnitSpec

Names = Mapping[str, Mapping[str, str]]


def collect_constants(spec: UnitSpec, transfers: Mapping[str, Transfer]) -> tuple[Names, dict[str, Tensor]]:
    """Return the names of the constants in the coarse network, and these constants.

    Parameters
    ----------
    spec : UnitSpec
    transfers : dict of str to Transfer

    Returns
    -------
    names : dict of str to dict
        By mode, the name in the coarse network of each constant of the recording.
    constants : dict of str to Tensor
        By the names in the coarse network. Constants that are the same in both modes occur once.
    """
    names: dict[str, dict[str, str]] = {mode: {} for mode in spec.plans}
    constants: dict[str, Tensor] = {}
    for mode, plan in spec.plans.items():
        for name, tensor in list_constants(plan).items():
            if terms := plan.constants.get(name):
                tensor = inject(replace(spec, parameters={name: terms}, sums={}), transfers, {name: tensor})[name]
            names[mode][name] = new = _find_name(name, tensor, constants, spec)
            constants[new] = tensor
    return names, constants


def inject_tables(spec: UnitSpec, transfers: Mapping[str, Transfer]) -> dict[str, Tensor]:
    """Return the constants that modules hold as attributes, by the names of these, with one entry for each coarse unit."""
    return {table: inject(own, transfers, {name: tensor})[name] for table, own, name, tensor in _list_tables(spec)}


def prolong_tables(spec: UnitSpec, transfers: Mapping[str, Transfer]) -> dict[str, Tensor]:
    """Return the constants that modules hold as attributes, by the names of these, with entries of merged units alike."""
    tables = {}
    for table, own, name, tensor in _list_tables(spec):
        coarse = inject(own, transfers, {name: tensor})
        tables[table] = prolong(own, transfers, coarse)[name]
    return tables


def _list_tables(spec: UnitSpec) -> Iterator[tuple[str, UnitSpec, str, Tensor]]:
    """Yield each table whose units may merge: its name, a spec of it alone, its name in this spec, and its numbers."""
    for plan in spec.plans.values():
        for node in plan.graph.nodes:
            name = str(node.target)
            if is_constant(node) and name in plan.constants:
                own = replace(spec, parameters={name: plan.constants[name]}, sums={})
                yield node.meta["table"], own, name, node.meta["val"]


def list_constants(plan: Plan) -> dict[str, Tensor]:
    """Return the constants of a recording by their names in it."""
    return {str(node.target): node.meta["val"] for node in plan.graph.nodes if is_constant(node)}


def _find_name(name: str, tensor: Tensor, constants: Mapping[str, Tensor], spec: UnitSpec) -> str:
    """Return the name of a constant, or another one if that is the name of another tensor."""
    number = 0
    while name in spec.parameters or (name in constants and not _are_same(tensor, constants[name])):
        name = f"constants.{number}"
        number += 1
    return name


def _are_same(a: Tensor, b: Tensor) -> bool:
    """Return True for two tensors of one kind with the same numbers. NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def rename_constants(graph: fx.Graph, names: Mapping[str, str]) -> fx.Graph:
    """Give the constants in a graph other names, in place."""
    for node in graph.nodes:
        if is_constant(node):
            node.target = names.get(str(node.target), node.target)
    return graph
