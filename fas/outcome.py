"""Outcome: the end of a run, and the reason for a refused step, in PETSc's words.

Balay et al., PETSc/TAO users manual, SNESConvergedReason. A training run goes on where a nonlinear solver would end, so some words are also
reasons for a single step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """Why a run ended, or why a step was refused. Names that begin with CONVERGED are good ends.

    Examples
    --------
    >>> from netgraph.fas import Outcome
    >>> Outcome.CONVERGED_FNORM_RELATIVE.value
    'CONVERGED_FNORM_RELATIVE'
    >>> Outcome.DIVERGED_FNORM_NAN.is_converged
    False
    """

    CONVERGED_FNORM_ABS = "CONVERGED_FNORM_ABS"
    CONVERGED_FNORM_RELATIVE = "CONVERGED_FNORM_RELATIVE"
    CONVERGED_SNORM_RELATIVE = "CONVERGED_SNORM_RELATIVE"
    CONVERGED_USER = "CONVERGED_USER"
    CONVERGED_ITS = "CONVERGED_ITS"
    DIVERGED_MAX_IT = "DIVERGED_MAX_IT"
    DIVERGED_DTOL = "DIVERGED_DTOL"
    DIVERGED_FUNCTION_NAN = "DIVERGED_FUNCTION_NAN"
    DIVERGED_FNORM_NAN = "DIVERGED_FNORM_NAN"
    DIVERGED_USER = "DIVERGED_USER"

    @property
    def is_converged(self) -> bool:
        """True for a good end."""
        return self.name.startswith("CONVERGED")


def judge_refused_step(loss: float, norm: float) -> Outcome:
    """Return the reason for a refused step: its loss, or else its gradient, is not finite."""
    return Outcome.DIVERGED_FNORM_NAN if math.isfinite(loss) else Outcome.DIVERGED_FUNCTION_NAN


def count_refused_steps(history: Iterable[Mapping[str, Any]]) -> dict[Outcome, int]:
    """Return the number of refused steps for each reason, from the records of a run."""
    refused = (record for record in history if record["event"] == "refused")
    return dict(Counter(judge_refused_step(float(record["loss"]), float(record["norm"])) for record in refused))


def describe_refused_steps(history: Iterable[Mapping[str, Any]], steps: int) -> str:
    """Return the sentence for refused steps, empty if there are none."""
    counts = count_refused_steps(history)
    n = sum(counts.values())
    if not n:
        return ""
    words = {
        Outcome.DIVERGED_FUNCTION_NAN: "loss",
        Outcome.DIVERGED_FNORM_NAN: "gradient",
    }
    return (
        f"{n} of {steps} steps were refused, because their {' or '.join(words[key] for key in counts)} was not finite"
    )
