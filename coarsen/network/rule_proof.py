"""Rules of users and of other distributions, tried on the network that they are used on.

The rules of netgraph are tested before they are published. A rule of someone else may call a cumulative sum elementwise. The
coarse network would then run and answer wrongly. Both oracles (`netgraph.coarsen.network.oracles`) therefore run on the axes
that such rules touch, before anything merges.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netgraph.coarsen.network.compare_outputs import fixed_seed, max_relative_error
from netgraph.coarsen.network.oracles import ALONE, check_dead_units, check_duplicate_units, check_example
from netgraph.errors import TraceError, describe_error
from netgraph.tracing.unit_spec import Axis, ForeignRule, UnitSpec
from netgraph.utils.module_state import set_training_mode, swap_state
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import normalize_example

TOLERANCE = 1e-4
TRIALS = ((check_duplicate_units, "equal units merge"), (check_dead_units, "a unit with zero weights is left out"))
logger = logging.getLogger("netgraph.rules")


@dataclass(frozen=True)
class Trial:
    """Outcome of the oracles on some axes.

    Parameters
    ----------
    axes : tuple of str
    problem : str or None, default None
        What is wrong, in words.
    conclusive : bool, default True
        False if the oracles say nothing, because no output moves or none is a number.
    """

    axes: tuple[str, ...]
    problem: str | None = None
    conclusive: bool = True


def prove_foreign_rules(model: nn.Module, spec: UnitSpec, example: Any, *, seed: int = 0) -> None:
    """Run both oracles on the axes that rules of users and of other distributions touch.

    Parameters
    ----------
    model : torch.nn.Module
        The network. It stays as it is.
    spec : UnitSpec
        Trace of the network.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    seed : int, default 0
        Seed of the weights and of the units that merge.

    Raises
    ------
    TraceError
        A coarse network answers otherwise than the network, or does not run. The message names the rules.
    """
    for training in (False, True):
        # A call that both modes make is tried in evaluation, where most networks draw no random numbers.
        rules = [rule for rule in spec.foreign_rules if rule.axes and ("eval" not in rule.modes) == training]
        if rules:
            _prove(model, spec, example, rules, seed, training)


def _prove(
    model: nn.Module, spec: UnitSpec, example: Any, rules: Sequence[ForeignRule], seed: int, training: bool
) -> None:
    """Try the axes of some rules in one mode. Raise if a rule is wrong, and warn if that cannot be said."""
    reason = _explain_no_trial(model, example, training)
    if reason is None:
        touched = set().union(*(rule.axes for rule in rules))
        axes = [axis for axis in spec.free if axis.name in touched]
        trial = try_axes(model, spec, example, axes, seed=seed, training=training)
        if trial.problem is not None:
            raise TraceError(_describe_wrong(rules, trial))
        reason = None if trial.conclusive else "no output moves with the units that it touches, or none is a number"
    if reason is not None:
        names = " and ".join(rule.described for rule in rules)
        logger.warning("%s: not proven on this network: %s. ng.check_rule tries a rule alone", names, reason)


def try_axes(
    model: nn.Module, spec: UnitSpec, example: Any, axes: Sequence[Axis], *, seed: int, training: bool = False
) -> Trial:
    """Run both oracles on some axes: on all of them together and, if that fails or says nothing, on each of them."""
    together = _run_oracles(model, spec, example, axes, seed, training)
    if len(axes) < 2 or (together.problem is None and together.conclusive):
        return together
    trials = [_run_oracles(model, spec, example, [axis], seed, training) for axis in axes]
    wrong = next((trial for trial in trials if trial.problem is not None), together)
    return Trial(wrong.axes, wrong.problem, any(trial.conclusive for trial in trials))


def _run_oracles(
    model: nn.Module, spec: UnitSpec, example: Any, axes: Sequence[Axis], seed: int, training: bool
) -> Trial:
    """Run both oracles on some axes together."""
    names, conclusive = tuple(axis.name for axis in axes), False
    for oracle, words in TRIALS:
        try:
            verdict = oracle(model, spec, example, axes, seed=seed, training=training)
        except Exception as error:  # a coarse network that a wrong rule made may fail in any way
            reason = describe_error(error.__cause__ or error)
            return Trial(names, f"the coarse network does not run where {words} ({reason})")
        if not verdict.passes(TOLERANCE):
            return Trial(names, f"the outputs differ by {verdict.error:.2g} of their norm where {words}")
        conclusive = conclusive or verdict.error is not None or verdict.note == ALONE
    return Trial(names, None, conclusive)


def _explain_no_trial(model: nn.Module, example: Any, training: bool) -> str | None:
    """Return why a network cannot be tried, or None."""
    if any(p.is_meta for p in model.parameters()):
        return "the network has no numbers"
    check_example(model, example)
    return "training alone calls it, and draws random numbers" if training and _draws_numbers(model, example) else None


def _draws_numbers(model: nn.Module, example: Any) -> bool:
    """Return True if two runs in training mode differ for two seeds."""
    args, kwargs = normalize_example(example)
    answers = []
    for seed in (0, 1):
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # training counts batches
        with preserve_attributes(model), swap_state(model, buffers), torch.no_grad(), fixed_seed(seed):
            set_training_mode(model, training=True)
            answers.append(model(*args, **kwargs))
    return max_relative_error(*answers) > 0


def _describe_wrong(rules: Sequence[ForeignRule], trial: Trial) -> str:
    """Return the message about a wrong rule: the rules that touch the axis, what was seen and what to do."""
    near = [rule for rule in rules if rule.axes & set(trial.axes)]
    named = " and ".join(rule.described + rule.line for rule in near)
    subject = f"the {named} is wrong" if len(near) == 1 else f"one of these rules is wrong: {named}"
    axes = " and ".join(repr(name) for name in trial.axes[:3])
    return (
        f"{subject}. On axis {axes} {trial.problem}. Relate the spaces as the operator does, or keep the units by "
        "call.pin(space, reason). ng.check_rule tries a rule alone."
    )
