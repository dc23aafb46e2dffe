"""Write down what a trace found: atoms become named axes, spaces become terms, and plain data remains."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from netgraph.recording.recorder import Recording
from netgraph.rules import index_space as sp
from netgraph.rules.index_space import Atom, Space
from netgraph.rules.operator_call import ParameterUse, SizeEdit, SizeFactor, Spaces, TraceState
from netgraph.tracing.flops import find_products
from netgraph.tracing.unit_spec import Axis, Factor, Join, Plan, Rewrite, Term, UnitSpec

ORDERED = ("convolved over", "a position in space", "a gate")  # counts places, not units


def build_unit_spec(
    captures: Mapping[str, Recording],
    trails: Mapping[str, TraceState],
    leaves: Mapping[str, Spaces],
    inputs: list[Spaces],
    state: Mapping[str, Tensor],
    ties: dict[str, str],
    trainable: frozenset[str],
) -> UnitSpec:
    """Return the `UnitSpec` of two walked recordings."""
    read = {str(n.target) for c in captures.values() for n in c.graph.nodes if n.op == "get_attr"}
    for name in set(leaves) - read:
        for space in leaves[name]:
            sp.pin(space, "never read in the run on the example")
    summed = _find_summed_atoms(trails, leaves)
    _pin_squares(leaves)
    parameters = frozenset(name for name, tensor in state.items() if isinstance(tensor, nn.Parameter))
    inside = {a for t in trails.values() if t.inside_heads for space in t.inner for a in sp.iter_atoms(space)}
    naming = _AxisNames(state, leaves, summed, parameters, inside)
    plans = {mode: _build_plan(captures[mode], trails[mode], naming) for mode in captures}
    terms = {name: tuple(naming.term(s) for s in spaces) for name, spaces in leaves.items()}
    sums = {key: frozenset(naming.name(a) for a in found) for key, found in summed.items() if found}
    dynamic = frozenset(axis for plan in plans.values() for axis in plan.sources)
    input_terms = tuple(tuple(naming.term(s) for s in spaces) for spaces in inputs)
    return UnitSpec(
        axes=naming.axes(),
        parameters=terms,
        sums=sums,
        plans=plans,
        inputs=captures["eval"].inputs,
        input_terms=input_terms,
        ties=ties,
        trainable=trainable,
        untraced=tuple(name for name in state if name not in read),
        dynamic=dynamic,
        inside_heads=frozenset(naming.name(atom) for atom in inside if not atom.pinned and atom in naming.made),
    )


def _find_summed_atoms(
    trails: Mapping[str, TraceState], leaves: Mapping[str, Spaces]
) -> dict[tuple[str, int], set[Atom]]:
    """Decide for every parameter dimension along which atoms its entries add up.

    Where one reader sums over an atom and another takes it as it is (a tied embedding), the entries are averaged,
    and the summing reader multiplies by fine / coarse size, which is one number if aggregates have equal size.
    """
    by_dim: dict[tuple[str, int], list[tuple[TraceState, ParameterUse, set[Atom]]]] = {}
    for trail in trails.values():
        for use in trail.uses:
            found = {a for space in use.dual for a in sp.iter_atoms(space)}
            by_dim.setdefault((use.leaf, use.dim), []).append((trail, use, found))
    summed: dict[tuple[str, int], set[Atom]] = {}
    for key, uses in by_dim.items():
        every = set(sp.iter_atoms(leaves[key[0]][key[1]]))
        by_all = every.intersection(*(found for _, _, found in uses))
        summed[key] = by_all
        for trail, use, found in uses:
            for atom in (found & every) - by_all:
                sp.require_equal((atom,), f"{use.leaf} is both summed over and taken as it is")
                trail.scales.setdefault(use.node, []).append(SizeFactor(use.operand, (atom,), 1.0))
    return summed


def _pin_squares(leaves: Mapping[str, Spaces]) -> None:
    """A product of an axis with itself has no one transfer per factor; keep it."""
    for name, spaces in leaves.items():
        for space in spaces:
            seen = [f for f in sp.resolve(space) if isinstance(f, Atom)]
            for atom in seen:
                if seen.count(atom) > 1:
                    sp.pin((atom,), f"{name} runs over its square")


class _AxisNames:
    """Names for atoms: after the first parameter that makes the units, or a number."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        leaves: Mapping[str, Spaces],
        summed: Mapping[tuple[str, int], set[Atom]],
        parameters: frozenset[str],
        inside: set[Atom],
    ) -> None:
        self.inside = inside  # numbers inside heads that may merge
        self.names: dict[Atom, str] = {}
        self.parameters = parameters
        self.taken: set[str] = set()
        self.kinds: dict[Atom, str] = {}
        self.inner: dict[Atom, Atom] = {}
        self.made: set[Atom] = set()
        for incoming in (False, True):
            for leaf, spaces in leaves.items():
                for dim, space in enumerate(spaces):
                    self._name_atoms(leaf, state[leaf], space, summed.get((leaf, dim), set()), incoming)

    def _name_atoms(self, leaf: str, tensor: Tensor, space: Space, summed: set[Atom], incoming: bool) -> None:
        resolved = sp.resolve(space)
        for atom in sp.iter_atoms(resolved):
            if tensor.is_floating_point() and leaf in self.parameters:
                self.made.add(atom)
            if atom not in self.names and (atom in summed) == incoming:
                self.names[atom] = self._unique(leaf.removesuffix(".weight").removesuffix(".bias") + ".in" * incoming)
            if tensor.ndim > 2 and atom not in summed:
                self.kinds.setdefault(atom, "channel")
        self._record_nesting(resolved)

    def _record_nesting(self, space: Space) -> None:
        """Note which atoms lie inside a unit of another: whole outer units merge."""
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

    def _unique(self, name: str) -> str:
        candidate, n = name, 1
        while candidate in self.taken:
            n += 1
            candidate = f"{name}#{n}"
        self.taken.add(candidate)
        return candidate

    def name(self, atom: Atom) -> str:
        if atom not in self.names:
            self.names[atom] = self._unique(f"index{len(self.names)}")
        return self.names[atom]

    def term(self, space: Space) -> Term:
        return tuple(
            self.name(f) if isinstance(f, Atom) else Join(self.term(part) for part in f) for f in sp.resolve(space)
        )

    def _is_outermost(self, atom: Atom, outer: Atom) -> bool:
        """Where a shuffle puts two axes inside each other, the larger one merges."""
        return self.inner.get(outer) is atom and (atom.size, atom.id) > (outer.size, outer.id)

    def axes(self) -> dict[str, Axis]:
        return {name: self._build_axis(atom, name) for atom, name in self.names.items()}

    def _build_axis(self, atom: Atom, name: str) -> Axis:
        kept = atom.pinned
        if kept is None and atom not in self.made:
            kept = "no parameter runs over it"
        outer = self.inner.get(atom)
        free = outer is None or outer.pinned or self._is_outermost(atom, outer) or atom in self.inside
        if kept is None and not free:
            assert outer is not None
            kept = f"inside {self.name(outer)}, whose units merge whole"
        ordered = kept is not None and kept.startswith(ORDERED)
        kind = self.kinds.get(atom, "neuron") if atom in self.made and not ordered else "index"
        return Axis(name, atom.size, kind, kept, atom.equal)


def _build_plan(taken: Recording, trail: TraceState, naming: _AxisNames) -> Plan:
    multiplied = [naming.term(space) for space in find_products(taken.graph, trail.spaces)]
    plan = Plan(taken.graph, outputs=taken.outputs, products=multiplied)
    for space, node, dim in trail.sources:
        factors = sp.resolve(space)
        if factors and isinstance(factors[0], Atom) and factors[0].dynamic:
            plan.sources.setdefault(naming.name(factors[0]), (node.name, dim, naming.term(factors[1:])))
    for node, edits in trail.edits.items():
        plan.rewrites[node.name] = [_build_rewrite(edit, naming) for edit in edits]
    for node, scales in trail.scales.items():
        plan.factors[node.name] = [
            Factor(s.operand.name if s.operand is not None else None, naming.term(s.space), s.power)
            for s in scales
            if any(not a.pinned for a in sp.iter_atoms(s.space))
        ]
    plan.retarget = {node.name: change for node, change in trail.retarget.items()}
    return plan


def _build_rewrite(edit: SizeEdit, naming: _AxisNames) -> Rewrite:
    terms = tuple(None if space is None else naming.term(space) for space in edit.spaces)
    return Rewrite(edit.argument, terms, edit.compute, edit.single)
