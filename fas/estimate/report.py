"""The report of an estimate: variances, costs and samples of its terms, and its variance compared with that of a plain gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from netgraph.fas.estimate.plan import Choice, Matrix
from netgraph.utils.text import escape_controls


@dataclass(frozen=True)
class VarianceReport:
    """How the gradient of a level is estimated from several levels, and with which variance.

    Variances are traces of covariance matrices. Those of terms and their costs are of one sample.

    Parameters
    ----------
    level : int
        The level whose gradient is estimated.
    kind : str
        ``multilevel``, ``multifidelity``, or ``minibatch`` for a level without a coarser one.
    levels : tuple of int, default empty
        Levels that take part, finest first. A level alone has a plain gradient.
    sizes : tuple of int, default empty
        Samples of each term.
    coefficients : tuple of float, default empty
        Factors of the coarse gradients.
    variances, costs : tuple of float, default empty
        Variance, and operations, of one sample of each term.
    predicted : float, optional
        Variance of the estimate by these figures.
    measured : float, optional
        The same from one step, whose samples were taken in two halves.
    plain : float, optional
        Variance of a plain gradient of the same cost.
    why : str, default ""
        Why no coarse level takes part.
    spreads, correlations : tuple of float, default empty
        For this level and every coarser one, the variance of the gradient of one sample, and its correlation with that of this level.

    Examples
    --------
    >>> from netgraph.fas import VarianceReport
    >>> report = VarianceReport(0, "multilevel", (0, 1), (10, 60), (1.0, 1.0), (0.5, 2.0), (15.0, 3.0), 0.083, 0.085, 0.2)
    >>> print(report)
    gradient of level 0 from levels 0, 1 (multilevel)
       term   samples  coefficient     variance   operations
        0-1        10            1          0.5           15
          1        60            1            2            3
    variance predicted 0.083, measured 0.085; of a plain gradient of the same cost 0.2, 2.4 times as much
    >>> round(report.gain, 1)
    2.4
    """

    level: int
    kind: str
    levels: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()
    costs: tuple[float, ...] = ()
    predicted: float | None = None
    measured: float | None = None
    plain: float | None = None
    why: str = ""
    spreads: tuple[float, ...] = ()
    correlations: tuple[float, ...] = ()

    @property
    def gain(self) -> float:
        """Variance of a plain gradient of the same cost over the predicted one. 1 if no coarse level takes part."""
        return self.plain / self.predicted if self.plain and self.predicted else 1.0

    def __str__(self) -> str:
        if not self.sizes:
            return escape_controls(f"gradient of level {self.level}: plain. {self.why}")
        names = ", ".join(map(str, self.levels))
        plural = "levels" if len(self.levels) > 1 else "level"
        head = f"gradient of level {self.level} from {plural} {names} ({self.kind})"
        lines = [head + (f": plain. {self.why}" if self.why else "")]
        lines += [f"{'term':>7} {'samples':>9} {'coefficient':>12} {'variance':>12} {'operations':>12}"]
        columns = zip(self._name_terms(), self.sizes, self.coefficients, self.variances, self.costs, strict=False)
        lines += [f"{term:>7} {n:>9} {a:>12.3g} {var:>12.3g} {cost:>12.3g}" for term, n, a, var, cost in columns]
        if self.spreads:
            pairs = zip(self.spreads, self.correlations, strict=False)
            parts = [
                f"{var:.3g} on level {i} (correlation {r:.2f})" for i, (var, r) in enumerate(pairs, start=self.level)
            ]
            lines.append(f"variance of one sample: {', '.join(parts)}")
        return "\n".join([*map(escape_controls, lines), self._describe_variance()])

    def _name_terms(self) -> list[str]:
        """Return names of the terms: differences of two levels, or single levels."""
        if self.kind == "multifidelity":
            return [str(level) for level in self.levels]
        return [f"{a}-{b}" for a, b in zip(self.levels, self.levels[1:], strict=False)] + [str(self.levels[-1])]

    def _describe_variance(self) -> str:
        parts = [] if self.predicted is None else [f"predicted {self.predicted:.3g}"]
        parts += [] if self.measured is None else [f"measured {self.measured:.3g}"]
        end = (
            ""
            if self.plain is None
            else f"; of a plain gradient of the same cost {self.plain:.3g}, {self.gain:.2g} times as much"
        )
        return f"variance {', '.join(parts)}{end}"


def make_report(level: int, kind: str, choice: Choice, covariances: Matrix, samples: float) -> VarianceReport:
    """Return the report of a plan for the cost of a number of samples of the smoothed level."""
    plan, moments = choice.plan, choice.moments
    why = "" if len(plan.levels) > 1 else "No choice of coarse levels has a lower variance at this cost."
    figures = (plan.coefficients, tuple(moments.variances), tuple(moments.costs))
    spreads = tuple(row[i] for i, row in enumerate(covariances))
    correlations = tuple(
        c / math.sqrt(max(spreads[0] * v, 1e-300)) for c, v in zip(covariances[0], spreads, strict=True)
    )
    plain = spreads[0] / samples
    return VarianceReport(
        level, kind, plan.levels, plan.sizes, *figures, choice.predicted, None, plain, why, spreads, correlations
    )


def read_report(record: Mapping[str, Any]) -> VarianceReport:
    """Return the report that an ``estimate`` record holds."""
    names = {field.name for field in fields(VarianceReport)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in names
    }
    return VarianceReport(**values)
