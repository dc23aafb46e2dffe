"""A recording holds if a second one, made under other conditions, is the same.

A recording contains what Python decided while it was made: loops that ran once for each row, numbers that were computed from the
batch, blocks that a random number skipped, an expert that no row went to. The network is therefore recorded a second time, with
another batch size, other seeds of all random generators, other numbers where numbers were needed, and the plain attributes that
the first run left behind. The two graphs are compared call by call. Sizes may differ as far as the trace explains them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from netgraph.errors import TraceError, describe_error
from netgraph.recording.forward.followed_dtype import find_own_dtype
from netgraph.recording.operators.idle_rows import skip_rows, tidy_graph
from netgraph.recording.recorder import Recording, record_network
from netgraph.tracing.compare_recordings import align_modes, find_difference, find_wrong_size
from netgraph.tracing.dtype_links import choose_other_dtype, copy_links, link_dtypes
from netgraph.tracing.other_examples import (
    COUNTED_FILLS,
    GUARDED_FILLS,
    NUMBER_FILLS,
    Fill,
    OtherRecordings,
    changes_alike,
    fill_example,
    make_empty,
    resize_alone,
    resize_apart,
    resize_example,
)
from netgraph.tracing.unit_spec import UnitSpec


class SizeDifferenceError(Exception):
    """A recording on other sizes differs, for a reason that is not known yet."""


def check_recordings(others: OtherRecordings, example: Any, spec: UnitSpec, *, explain: bool = True) -> UnitSpec:
    """Record a network again under other conditions, and keep what holds.

    Parameters
    ----------
    others : OtherRecordings
        The network and its first recordings, by mode, ``"train"`` and ``"eval"``.
    example : Tensor, tuple or dict
        Inputs of the recordings.
    spec : UnitSpec
        Trace of the recordings.
    explain : bool, default True
        Find out why a recording on other sizes differs, which costs more recordings.

    Returns
    -------
    UnitSpec
        The same trace. If the recordings hold for the batch size of the example alone, that size is fixed. If the training
        mode does not hold, ``unrecorded`` names the reason, and the coarse network refuses to run in that mode.

    Raises
    ------
    TraceError
        The recording of the evaluation mode does not hold.
    SizeDifferenceError
        A recording on other sizes differs, without ``explain``.
    """
    for mode, recording in others.first.items():
        wrong = find_wrong_size(recording, spec.plans[mode], spec)
        if wrong is not None:
            raise TraceError(f"a rule of netgraph reads a size wrongly: {wrong}. Please report the network.")
    checkers = {mode: _Checker(others, example, mode, explain) for mode in others.first}
    if "train" in spec.unrecorded:
        return checkers["eval"].check(spec)
    names = align_modes(others.first["eval"], others.first["train"])
    if names is not None:
        checked = checkers["train"].check(spec)  # evaluation makes the same calls
        if "train" not in checked.unrecorded:
            return _share_dtypes(checked, names)
    return checkers["train"].check(checkers["eval"].check(spec))


def _share_dtypes(spec: UnitSpec, names: Mapping[str, str]) -> UnitSpec:
    """Return a spec whose evaluation mode follows the network's precision where its training mode does, which makes the same calls."""
    plans = spec.plans
    links = plans["train"].dtypes
    if links is None:
        return spec
    return replace(spec, plans={**plans, "eval": replace(plans["eval"], dtypes=copy_links(links, names))})


@dataclass(frozen=True)
class _Checker:
    """Records one mode again and compares."""

    others: OtherRecordings
    example: Any
    mode: str
    explain: bool

    @property
    def first(self) -> Recording:
        return self.others.first[self.mode]

    def check(self, spec: UnitSpec) -> UnitSpec:
        """Return the spec as far as the recording holds."""
        checked = self._check_sizes(spec)
        if "train" in checked.unrecorded or not getattr(self.first.graph, "counts_kinds", False):
            return checked
        for example in fill_example(self.example, COUNTED_FILLS):
            second = self.others.record(self.mode, example)
            if second is not None and (difference := find_difference(self.first, second, spec.plans[self.mode], spec)):
                return self._refuse(spec, f"it takes another way for other numbers: {difference}")
        return checked

    def _check_sizes(self, spec: UnitSpec) -> UnitSpec:
        """Return the spec as far as the recording holds for other sizes."""
        if self.first.draws:
            return self._refuse(spec, f"it draws random numbers from {' and '.join(self.first.draws)}")
        if self.first.assumed and (difference := self._compare_idle()) is not None:
            return self._refuse(spec, difference)
        other = choose_other_dtype(self.others.model, self.first)
        for example in resize_example(self.example, spec, self._fills):
            if other is not None and (linked := self._check_in(other, example, spec)) is not None:
                return linked
            second = self.others.record(self.mode, example)
            if second is not None:
                difference = find_difference(self.first, second, spec.plans[self.mode], spec)
                if difference is None:
                    difference = self._compare_apart(spec, alone=changes_alike(second, spec))
                if difference is None:
                    return spec
                if not self.explain:
                    raise SizeDifferenceError(difference)
                return self._find_cause(spec, difference)
        difference = self._compare_same_size(spec)
        return spec if difference is None else self._refuse(spec, self._explain(difference))

    def _compare_apart(self, spec: UnitSpec, *, alone: bool) -> str | None:
        """Return the first difference from a recording in which sizes of inputs change apart from one another, or None."""
        examples = resize_apart(self.example, spec, self._fills)
        for example in chain(examples, resize_alone(self.example, spec, self._fills)) if alone else examples:
            second = self.others.record(self.mode, example)
            if second is not None and (difference := find_difference(self.first, second, spec.plans[self.mode], spec)):
                return f"a number follows from the sizes of several inputs: {difference}"
        return None

    def _check_in(self, dtype: torch.dtype, example: Any, spec: UnitSpec) -> UnitSpec | None:
        """Return the spec with the values that follow the network's precision, if the recording holds in another one too."""
        second = self.others.record(self.mode, example, dtype)
        own = find_own_dtype(self.others.model.parameters())
        if second is None or own is None:
            return None
        plan = spec.plans[self.mode]
        links = self.others.links.get(id(second))
        if links is None:
            links = self.others.links[id(second)] = link_dtypes(self.first, second, own, dtype)
        if find_difference(self.first, second, plan, spec) is not None:
            return None
        return replace(spec, plans={**spec.plans, self.mode: replace(plan, dtypes=links)})

    @property
    def _fills(self) -> tuple[Fill, ...]:
        """How other examples are filled. Numbers count only if the recording needed them."""
        if self.first.way == "numbers":
            return GUARDED_FILLS
        return NUMBER_FILLS if self.first.way.endswith("real") else (make_empty,)

    def _find_cause(self, spec: UnitSpec, difference: str) -> UnitSpec:
        """Tell a recording that holds for one batch size from one that does not hold at all."""
        other = self._compare_same_size(spec)
        if other is not None:
            return self._refuse(spec, self._explain(other))
        return replace(spec, dynamic=frozenset(), one_size=difference)

    def _compare_same_size(self, spec: UnitSpec) -> str | None:
        """Return the first difference from a recording on an example of the same sizes. Sizes that depend on numbers may follow them."""
        plan = spec.plans[self.mode] if self.first.way == "numbers" else None
        for example in fill_example(self.example, self._fills):
            second = self.others.record(self.mode, example)
            difference = None if second is None else find_difference(self.first, second, plan, spec)
            if difference is not None:
                return difference
        return None

    def _compare_idle(self) -> str | None:
        """Return the first difference of a run in which no row chose any expert, apart from the work on these rows, or None."""
        place = self.first.assumed[0]
        rest = skip_rows(self.first.graph)
        if rest is None:
            return (
                f"rows that a mask lets through are used otherwise than at their places, and there may be none{place}"
            )
        try:
            idle = self._record_first(idle=True)
        except Exception as error:  # the network may not run so, in many ways
            return f"it does not run where a mask of activations holds nowhere{place} ({describe_error(error)})"
        asked, idly = Counter(self.first.assumed), Counter(idle.assumed)
        cut = next((place for place, n in idly.items() if n < asked[place]), None)
        if cut is not None:  # later experts may have rows where this one has none
            return (
                f"it stops at the first mask of activations that holds nowhere{cut}, after {idly[cut]} of {asked[cut]}. Go on with the next "
                "one (continue), without break or return"
            )
        for graph in (rest, idle.graph):
            tidy_graph(graph)
        difference = find_difference(replace(self.first, graph=rest), idle)
        return (
            None
            if difference is None
            else f"it takes another way where a mask of activations holds nowhere{place}: {difference}"
        )

    def _explain(self, difference: str) -> str:
        """Return the reason why two recordings on examples of the same sizes differ."""
        names = sorted({name for _, name, _ in self.first.changed})
        alone = self._record_first(way=self.first.way)
        if find_difference(self.first, alone) is not None:
            return f"two runs on the same example differ: {difference}"
        if self._fills != (make_empty,):
            return f"it takes another way for other numbers: {difference}"
        if names:
            return (
                f"its first run differs from the next, because it keeps {', '.join(names[:3])} in attributes: {difference}. "
                "If only the first run is special, run the network once before it is traced"
            )
        return f"it depends on random numbers outside PyTorch: {difference}"

    def _refuse(self, spec: UnitSpec, reason: str) -> UnitSpec:
        """Leave the training mode out, or raise for the evaluation mode."""
        if self.mode == "train":
            return replace(spec, unrecorded={**spec.unrecorded, "train": reason})
        raise TraceError(
            f"the recording of the network does not hold: {reason}. Take that out of forward, or trace the parts before "
            "and after it separately."
        )

    def _record_first(self, **conditions: Any) -> Recording:
        """Return another recording on the example itself."""
        others = self.others
        return record_network(
            others.model, self.example, training=self.mode == "train", before=others.before, **conditions
        )
