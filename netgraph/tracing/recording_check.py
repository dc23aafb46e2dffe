"""A recording holds if a second one, made under other conditions, is the same.

A recording contains what Python decided while it was made: loops that ran once for each row, numbers that were computed from the
batch, blocks that a random number skipped, an expert that no row went to. The network is therefore recorded a second time, with
another batch size, other seeds of all random generators, other numbers where numbers were needed, and the plain attributes that
the first run left behind. The two graphs are compared call by call. Sizes may differ as far as the trace explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import TraceError, describe_error
from netgraph.recording.forward.followed_dtype import find_own_dtype
from netgraph.recording.operators.guards import list_decisions
from netgraph.recording.operators.idle_rows import skip_rows, tidy_graph
from netgraph.recording.recorder import Recording, record_network
from netgraph.tracing.compare_recordings import MODE_FLAGS, find_difference, find_wrong_size
from netgraph.tracing.dtype_links import choose_other_dtype, copy_links, link_dtypes
from netgraph.tracing.other_examples import (
    GUARDED_FILLS,
    NUMBER_FILLS,
    SEED,
    Fill,
    fill_example,
    make_empty,
    resize_example,
)
from netgraph.tracing.unit_spec import UnitSpec


def check_recordings(
    model: nn.Module,
    example: Any,
    recordings: Mapping[str, Recording],
    spec: UnitSpec,
    before: Callable[[Tensor], Tensor] | None = None,
) -> UnitSpec:
    """Record a network again under other conditions, and keep what holds.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs of the recordings.
    recordings : dict of str to Recording
        By mode, ``"train"`` and ``"eval"``.
    spec : UnitSpec
        Trace of the recordings.
    before : callable, optional
        Map of the inputs, as `netgraph.trace` takes it.

    Returns
    -------
    UnitSpec
        The same trace. If the recordings hold for the batch size of the example alone, that size is fixed. If the training
        mode does not hold, ``unrecorded`` names the reason, and the coarse network refuses to run in that mode.

    Raises
    ------
    TraceError
        The recording of the evaluation mode does not hold.
    """
    for mode, recording in recordings.items():
        wrong = find_wrong_size(recording, spec.plans[mode], spec)
        if wrong is not None:
            raise TraceError(f"a rule of netgraph reads a size wrongly: {wrong}. Please report the network.")
    checkers = {mode: _Checker(model, example, recordings[mode], mode, before) for mode in recordings}
    if "train" in spec.unrecorded:
        return checkers["eval"].check(spec)
    if find_difference(recordings["eval"], recordings["train"], ignored=MODE_FLAGS) is None:
        checked = checkers["train"].check(spec)  # evaluation makes the same calls
        if "train" not in checked.unrecorded:
            return _share_dtypes(checked)
    return checkers["train"].check(checkers["eval"].check(spec))


def _share_dtypes(spec: UnitSpec) -> UnitSpec:
    """Return a spec whose evaluation mode follows the network's precision where its training mode does, which makes the same calls."""
    plans = spec.plans
    links = plans["train"].dtypes
    if links is None:
        return spec
    copied = copy_links(links, plans["train"].graph, plans["eval"].graph)
    return replace(spec, plans={**plans, "eval": replace(plans["eval"], dtypes=copied)})


@dataclass(frozen=True)
class _Checker:
    """Records one mode again and compares."""

    model: nn.Module
    example: Any
    first: Recording
    mode: str
    before: Callable[[Tensor], Tensor] | None

    def check(self, spec: UnitSpec) -> UnitSpec:
        """Return the spec as far as the recording holds."""
        if self.first.draws:
            return self._refuse(spec, f"it draws random numbers from {' and '.join(self.first.draws)}")
        if self.first.assumed and (difference := self._compare_idle()) is not None:
            return self._refuse(spec, difference)
        other = choose_other_dtype(self.model, self.first)
        for example in resize_example(self.example, spec, self._fills):
            if other is not None and (linked := self._check_in(other, example, spec)) is not None:
                return linked
            second = self._record_again(example)
            if second is not None:
                difference = find_difference(self.first, second, spec.plans[self.mode], spec)
                return spec if difference is None else self._find_cause(spec, difference)
        difference = self._compare_same_size()
        return spec if difference is None else self._refuse(spec, self._explain(difference))

    def _check_in(self, dtype: torch.dtype, example: Any, spec: UnitSpec) -> UnitSpec | None:
        """Return the spec with what follows the network's precision, if the recording holds in another one too."""
        second = self._record_again(example, dtype)
        own = find_own_dtype(self.model.parameters())
        if second is None or own is None:
            return None
        plan = spec.plans[self.mode]
        links = link_dtypes(self.first, second, own, dtype)
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
        other = self._compare_same_size()
        if other is not None:
            return self._refuse(spec, self._explain(other))
        return replace(spec, dynamic=frozenset(), one_size=difference)

    def _compare_same_size(self) -> str | None:
        """Return the first difference from a recording on an example of the same sizes."""
        for example in fill_example(self.example, self._fills):
            second = self._record_again(example)
            difference = None if second is None else find_difference(self.first, second)
            if difference is not None:
                return difference
        return None

    def _compare_idle(self) -> str | None:
        """Return what a run does otherwise where no row chose any expert, apart from the work on these rows, or None."""
        place = self.first.assumed[0]
        rest = skip_rows(self.first.graph)
        if rest is None:
            return (
                f"rows that a mask lets through are used otherwise than at their places, and there may be none{place}"
            )
        try:
            idle = record_network(
                self.model, self.example, training=self.mode == "train", before=self.before, idle=True
            )
        except Exception as error:  # the network may not run so, in many ways
            return f"it does not run where a mask of activations holds nowhere{place} ({describe_error(error)})"
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
        alone = record_network(
            self.model, self.example, training=self.mode == "train", before=self.before, way=self.first.way
        )
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

    def _record_again(self, example: Any, dtype: torch.dtype | None = None) -> Recording | None:
        """Return a recording under other conditions, or None if the network does not run so."""
        try:
            second = record_network(
                self.model, example, training=self.mode == "train", before=self.before, seed=SEED,
                attributes=self.first.changed, way=self.first.way, dtype=dtype,
            )  # fmt: skip
        except Exception:  # the network itself may refuse other sizes or numbers, in many ways
            return None
        same_way = list_decisions(second.graph) == list_decisions(self.first.graph)
        return second if same_way else None  # the coarse network refuses inputs with other decisions
