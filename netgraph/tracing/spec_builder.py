"""Build the `UnitSpec` of a trace: atoms become named axes, spaces become terms, and the result is plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from netgraph.recording.forward.named_outputs import list_others, list_results
from netgraph.recording.recorder import Recording
from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Atom, Space
from netgraph.rules.operator_call import (
    ParameterUse,
    SizeEdit,
    SizeFactor,
    Spaces,
    TraceState,
    operator_name,
    source_line,
)
from netgraph.tracing.choices import Follower, count_fewest, count_together, find_expert_layers, find_followers
from netgraph.tracing.flops import find_products
from netgraph.tracing.nested_units import find_nested_units
from netgraph.tracing.unit_spec import Axis, Factor, ForeignRule, Join, Plan, Rewrite, Term, UnitSpec

ORDERED = ("convolved over", "a position in space", "a gate")  # counts places, not units


def build_unit_spec(
    recordings: Mapping[str, Recording],
    traces: Mapping[str, TraceState],
    leaves: Mapping[str, Spaces],
    inputs: list[Spaces],
    state: Mapping[str, Tensor],
    ties: dict[str, str],
    trainable: frozenset[str],
) -> UnitSpec:
    """Return the `UnitSpec` of two recordings whose spaces are known.

    Parameters
    ----------
    recordings : dict of str to Recording
        The recordings under ``"train"`` and ``"eval"``.
    traces : dict of str to TraceState
        The spaces and statements of each recording.
    leaves : dict of str to list of Space
        The space of each dimension of each parameter and buffer.
    inputs : list of list of Space
        The same for each input tensor.
    state : dict of str to Tensor
        Parameters and buffers.
    ties : dict of str to str
        Other names of tied tensors.
    trainable : frozenset of str
        Names of the parameters that require gradients.

    Returns
    -------
    UnitSpec
    """
    read = {str(n.target) for r in recordings.values() for n in r.graph.nodes if n.op == "get_attr"}
    for name in set(leaves) - read:
        for space in leaves[name]:
            sp.pin(space, "never read in the run on the example")
    _pin_inside_heads(traces.values(), leaves)
    summed = _find_summed_atoms(traces, leaves)
    _pin_squares(leaves)
    followers = find_followers(traces.values(), leaves)
    parameters = frozenset(name for name, tensor in state.items() if isinstance(tensor, nn.Parameter))
    inside = {
        a for trace in traces.values() if trace.inside_heads for space in trace.head_dims for a in sp.iter_atoms(space)
    }
    names = _AxisNames(state, leaves, summed, parameters, inside, followers)
    names.group_of = _find_norm_groups(traces.values())
    names.fewest = count_fewest(traces.values())
    names.nested = find_nested_units(traces.values(), leaves)
    plans = {mode: _build_plan(recordings[mode], traces[mode], names) for mode in recordings}
    terms = {name: tuple(names.build_term(s) for s in spaces) for name, spaces in leaves.items()}
    sums = {key: frozenset(names.axis_name(a) for a in atoms) for key, atoms in summed.items() if atoms}
    experts = tuple(find_expert_layers(traces["eval"], leaves, names.build_term))
    dynamic = frozenset(axis for plan in plans.values() for axis in plan.sources)
    input_terms = tuple(tuple(names.build_term(s) for s in spaces) for spaces in inputs)
    axes = names.build_axes()
    return UnitSpec(
        axes=axes,
        parameters=terms,
        sums=sums,
        plans=plans,
        inputs=recordings["eval"].inputs,
        input_terms=input_terms,
        ties=ties,
        trainable=trainable,
        untraced=tuple(name for name in state if name not in read),
        dynamic=dynamic,
        inside_heads=frozenset(
            names.axis_name(atom) for atom in inside if not atom.pinned and atom in names.parametrized
        ),
        follows={names.axis_name(f.ranks): names.axis_name(f.units) for f in followers},
        experts=experts,
        functions={name: line for recording in recordings.values() for name, line in recording.functions.items()},
        outputs=traces["eval"].outputs,
        other_outputs=_find_other_outputs(recordings["eval"], traces["eval"], names),
        gradients=next((r.gradients for r in recordings.values() if r.gradients is not None), None),
        foreign_rules=_list_foreign_rules(traces, names, axes),
    )


def _list_foreign_rules(
    traces: Mapping[str, TraceState], names: _AxisNames, axes: Mapping[str, Axis]
) -> tuple[ForeignRule, ...]:
    """Return the rules of users and of other distributions, each with the axes of its operands and results that may merge."""
    rules: dict[str, ForeignRule] = {}
    for mode, trace in traces.items():
        for node, described in trace.foreign.items():
            operator = operator_name(node.target)
            atoms = (atom for near in (node, *node.all_input_nodes) for atom in _list_atoms(trace.spaces.get(near, [])))
            touched = {names.names[atom] for atom in atoms if atom in names.names}
            free = frozenset(axis for axis in touched if axes[axis].kept is None)
            known = rules.get(operator, ForeignRule(described, operator, source_line(node), free, frozenset()))
            rules[operator] = replace(known, axes=known.axes | free, modes=known.modes | {mode})
    return tuple(rules.values())


def _list_atoms(spaces: Any) -> Iterator[Atom]:
    """Yield the atoms of the spaces of one tensor, or of several."""
    for entry in spaces:
        yield from _list_atoms(entry) if isinstance(entry, list) else sp.iter_atoms(entry)


def _find_summed_atoms(
    traces: Mapping[str, TraceState], leaves: Mapping[str, Spaces]
) -> dict[tuple[str, int], set[Atom]]:
    """Return for every parameter dimension the atoms along which merged entries add up.

    They add up along an atom if every reader sums over it. In a tied embedding one reader sums over an atom and another
    one does not. Such entries are averaged, and the summing reader multiplies by fine size / coarse size. This is one
    number only if all aggregates have the same size, so equal sizes are required.
    """
    by_dim: dict[tuple[str, int], list[tuple[TraceState, ParameterUse, set[Atom]]]] = {}
    for trace in traces.values():
        for use in trace.uses:
            atoms = {a for space in use.summed for a in sp.iter_atoms(space)}
            by_dim.setdefault((use.parameter, use.dim), []).append((trace, use, atoms))
    summed: dict[tuple[str, int], set[Atom]] = {}
    for key, uses in by_dim.items():
        parameter, dim = key
        dim_atoms = set(sp.iter_atoms(leaves[parameter][dim]))
        summed[key] = dim_atoms.intersection(*(atoms for _, _, atoms in uses))
        for trace, use, atoms in uses:
            for atom in (atoms & dim_atoms) - summed[key]:
                sp.require_equal((atom,), f"{use.parameter} is both summed over and taken as it is")
                trace.scales.setdefault(use.node, []).append(SizeFactor(use.operand, (atom,), 1.0))
    return summed


def _pin_inside_heads(traces: Iterable[TraceState], leaves: Mapping[str, Spaces]) -> None:
    """Pin atoms over which two activations are contracted if they lie inside units that merge whole, as those of heads do."""
    inside: set[Atom] = set()
    for space in (space for spaces in leaves.values() for space in spaces):
        inside |= _list_inner_atoms(sp.resolve(space))
    for trace in traces:
        for space, reason in trace.contracted:
            for atom in sp.iter_atoms(space):
                if atom in inside:
                    sp.pin((atom,), reason)


def _list_inner_atoms(space: Space) -> set[Atom]:
    """Return the atoms of a space that lie inside units of another atom, which may merge."""
    inner: set[Atom] = set()
    outer = False
    for factor in space:
        if not isinstance(factor, Atom):
            inner |= {atom for part in factor for atom in _list_inner_atoms(part)}
        elif outer:
            inner.add(factor)
        else:
            outer = not factor.pinned and factor.size > 1
    return inner


def _pin_squares(leaves: Mapping[str, Spaces]) -> None:
    """Pin atoms that occur twice in one dimension: a product of an axis with itself cannot be merged factor by factor."""
    for name, spaces in leaves.items():
        for space in spaces:
            factors = [f for f in sp.resolve(space) if isinstance(f, Atom)]
            for atom in factors:
                if factors.count(atom) > 1:
                    sp.pin((atom,), f"{name} runs over its square")


def _find_norm_groups(traces: Iterable[TraceState]) -> dict[Atom, Atom]:
    """Return for the channels inside the groups of a group norm the atom of the groups, where both may merge."""
    group_of: dict[Atom, Atom] = {}
    for trace in traces:
        for groups, each in trace.norm_groups:
            outer, inner = sp.resolve(groups), sp.resolve(each)
            if len(outer) == len(inner) == 1 and isinstance(outer[0], Atom) and isinstance(inner[0], Atom):
                group_of[inner[0]] = outer[0]
    return group_of


class _AxisNames:
    """Names and properties of the axes that atoms become.

    An axis has the name of the first parameter that makes its units, else of the first one that reads them with ``.in``
    appended, else a number.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        leaves: Mapping[str, Spaces],
        summed: Mapping[tuple[str, int], set[Atom]],
        parameters: frozenset[str],
        inside: set[Atom],
        followers: list[Follower],
    ) -> None:
        self.inside = inside  # atoms inside heads that may merge
        self.followers = followers
        self.group_of: dict[Atom, Atom] = {}  # channels inside a group of a group norm: the groups
        self.nested: dict[Atom, Atom] = {}  # axes that merge in a way of their own in each unit of an outer axis
        self.fewest: dict[Atom, int] = {}  # axes of units that are chosen by rank, and how many of them must stay
        self.names: dict[Atom, str] = {}
        self.parameters = parameters
        self.used_names: set[str] = set()
        self.kinds: dict[Atom, str] = {f.units: "expert" for f in followers}
        self.inner: dict[Atom, Atom] = {}  # inner atom: the atom whose units contain it
        self.parametrized: set[Atom] = set()  # atoms that a parameter of real or complex numbers runs over
        constants = {name for name in leaves if name.startswith("constants.")}
        # The constants of a recorded network that is traced again have names, too. They come last, so that axes keep their names.
        for group in (leaves.keys() - constants, constants):
            for incoming in (False, True):
                for leaf in (name for name in leaves if name in group):
                    for dim, space in enumerate(leaves[leaf]):
                        self._name_atoms(leaf, state[leaf], space, summed.get((leaf, dim), set()), incoming)
        self.alone = self._find_atoms_alone(leaves)

    def _find_atoms_alone(self, leaves: Mapping[str, Spaces]) -> set[Atom]:
        """Return inner atoms that a parameter runs over without the outer atom, such as those of a mean over heads."""
        alone: set[Atom] = set()
        for leaf in self.parameters & leaves.keys():
            atoms = {atom for space in leaves[leaf] for atom in sp.iter_atoms(space)}
            alone |= {a for a in atoms if a in self.inner and self.inner[a] not in atoms and a in self.parametrized}
        return alone

    def _name_atoms(self, leaf: str, tensor: Tensor, space: Space, summed: set[Atom], incoming: bool) -> None:
        """Name the atoms of one dimension of a parameter, in the pass for outgoing or for incoming atoms."""
        resolved = sp.resolve(space)
        for atom in sp.iter_atoms(resolved):
            if leaf in self.parameters and (tensor.is_floating_point() or tensor.is_complex()):
                self.parametrized.add(atom)
            if atom not in self.names and (atom in summed) == incoming:
                self.names[atom] = self._unique_name(
                    leaf.removesuffix(".weight").removesuffix(".bias") + ".in" * incoming
                )
            if tensor.ndim > 2 and atom not in summed:
                self.kinds.setdefault(atom, "channel")
        self._record_nesting(resolved)

    def _record_nesting(self, space: Space) -> None:
        """Record which atoms lie inside the units of another. Units of the outer atom merge as a whole."""
        outer: Atom | None = None
        for factor in space:
            if isinstance(factor, Atom):
                if outer is not None and not factor.pinned:
                    self.inner.setdefault(factor, outer)
                if outer is None and not factor.pinned and factor.size > 1:
                    outer = factor
            else:
                for part in factor:
                    self._record_nesting(part)
        if outer is not None and len(space) > 1:
            self.kinds.setdefault(outer, "head")

    def _unique_name(self, name: str) -> str:
        """Return a name with a number appended if it is in use."""
        candidate, n = name, 1
        while candidate in self.used_names:
            n += 1
            candidate = f"{name}#{n}"
        self.used_names.add(candidate)
        return candidate

    def axis_name(self, atom: Atom) -> str:
        """Return the name of an atom, and give it a number if no parameter named it."""
        if atom not in self.names:
            self.names[atom] = self._unique_name(f"index{len(self.names)}")
        return self.names[atom]

    def build_term(self, space: Space) -> Term:
        """Return the term of a space."""
        return tuple(
            self.axis_name(f) if isinstance(f, Atom) else Join(self.build_term(part) for part in f)
            for f in sp.resolve(space)
        )

    def _is_outermost(self, atom: Atom, outer: Atom) -> bool:
        """Return True for the larger of two atoms that lie inside each other. It counts as the outer one."""
        return self.inner.get(outer) is atom and (atom.size, atom.id) > (outer.size, outer.id)

    def build_axes(self) -> dict[str, Axis]:
        """Return all named axes."""
        return {name: self._build_axis(atom, name) for atom, name in self.names.items()}

    def _build_axis(self, atom: Atom, name: str) -> Axis:
        """Return the axis of an atom, with the reason why it is kept."""
        kept = atom.pinned
        if kept is None and atom not in self.parametrized:
            kept = "no parameter runs over it"
        outer = self.inner.get(atom)
        free = outer is None or outer.pinned or self._is_outermost(atom, outer) or atom in self.inside
        free = free or self.group_of.get(atom) is outer or atom in self.alone
        if kept is None and not free:
            assert outer is not None
            kept = f"inside {self.axis_name(outer)}, whose units merge whole"
        ordered = kept is not None and kept.startswith(ORDERED)
        kind = self.kinds.get(atom, "neuron") if atom in self.parametrized and not ordered else "index"
        inner = next(
            (i for i, o in self.group_of.items() if o is atom and not i.pinned and self.inner.get(i) is o), None
        )
        inner_name = None if inner is None or kept is not None else self.axis_name(inner)
        within = self.nested.get(atom) if kept is None and atom not in self.inside else None
        return Axis(
            name,
            atom.size,
            kind,
            kept,
            atom.equal,
            count_together(atom, self.followers),
            inner_name,
            None if within is None else self.axis_name(within),
            self.fewest.get(atom, 0) if atom in self.parametrized else 0,
        )


def _build_plan(recording: Recording, trace: TraceState, names: _AxisNames) -> Plan:
    """Return the plan of one recording, with names in place of atoms."""
    products = find_products(recording.graph, trace.spaces)
    plan = Plan(
        recording.graph,
        outputs=recording.outputs,
        products=[names.build_term(space) for _, space in products],
        product_nodes=[node for node, _ in products],
    )
    for space, node, dim in trace.sources:
        factors = sp.resolve(space)
        if factors and isinstance(factors[0], Atom) and factors[0].dynamic:
            plan.sources.setdefault(names.axis_name(factors[0]), (node.name, dim, names.build_term(factors[1:])))
    for node, edits in trace.edits.items():
        plan.rewrites[node.name] = [_build_rewrite(edit, names) for edit in edits]
    for node, scales in trace.scales.items():
        plan.factors[node.name] = [
            Factor(s.operand.name if s.operand is not None else None, names.build_term(s.space), s.power)
            for s in scales
            if any(not a.pinned for a in sp.iter_atoms(s.space))
        ]
    for node in recording.graph.nodes:
        spaces = trace.tables.get(node.meta.get("table", ""), ())
        if any(not atom.pinned for space in spaces for atom in sp.iter_atoms(space)):
            plan.constants[str(node.target)] = tuple(names.build_term(space) for space in spaces)
    plan.retarget = {node.name: change for node, change in trace.replacements.items()}
    return plan


def _find_other_outputs(recording: Recording, trace: TraceState, names: _AxisNames) -> dict[str, tuple[Term, ...]]:
    """Return for each output that does not matter the term of each dimension."""
    results = list_results(next(node for node in recording.graph.nodes if node.op == "output"))
    return {
        name: tuple(names.build_term(space) for space in trace.spaces[results[i]])
        for name, i in list_others(recording.outputs, trace.outputs).items()
        if isinstance(results[i], fx.Node)
    }


def _build_rewrite(edit: SizeEdit, names: _AxisNames) -> Rewrite:
    """Return an edit with terms in place of spaces."""
    terms = tuple(None if space is None else names.build_term(space) for space in edit.spaces)
    return Rewrite(edit.argument, terms, edit.compute, edit.single)
