"""The seven groups of options of the solver, one field for each option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netgraph.fas.options.declaration import declare_option, list_parameters


@list_parameters
@dataclass(frozen=True)
class Smoothing:
    """Optimizer steps on each level."""

    pre: int = declare_option(4, "optimizer steps", "Steps on a level before going down.", least=0)
    post: int = declare_option(4, "optimizer steps", "Steps on a level after coming up.", least=0)
    coarse: int = declare_option(8, "optimizer steps", "Steps on the coarsest level of a cycle.", least=0)
    cycles: int = declare_option(
        0,
        "cycles",
        "Cycles on a coarse level at each visit (PETSc: -snes_fas_cycles). 0 takes the number that belongs to the cycle: one in "
        "V, two in W, and in F an F-cycle followed by a V-cycle. It has no effect on the coarsest level or in additive cycles.",
        least=0,
    )
    clip: float | None = declare_option(
        None, "gradient norm", "Largest norm of a gradient. A longer one is scaled down to it.", above=0
    )
    accumulate: int = declare_option(
        1, "minibatches", "Minibatches that the gradient of one step is the mean over.", least=1
    )
    bf16: bool = declare_option(False, "", "Run matrix products in bfloat16. Parameters keep their type.")
    ema: float | None = declare_option(
        None,
        "decay per step",
        "Decay of a running mean of the finest network's parameters. Solution.mean holds the mean.",
        least=0,
        below=1,
    )
    mup: bool = declare_option(
        False,
        "",
        "Scale the learning rate of each parameter with the width of its level (Yang et al., arXiv:2203.03466, table 8).",
    )
    rewarm: int = declare_option(
        0,
        "optimizer steps",
        "Steps over which the rate climbs again from zero when a coarse network has started the level (nested iteration). 0 goes "
        "on with the rate of the schedule.",
        least=0,
    )
    moments: bool = declare_option(
        True, "", "Carry the optimizer's moments between levels. If false, each visit begins without moments."
    )


@list_parameters
@dataclass(frozen=True)
class Tau:
    """The coarse right-hand side, tau = grad f_c(inject x) - restrict(grad f(x))."""

    kind: str = declare_option(
        "common",
        "",
        "none: no correction. common: one mean over a set of minibatches, which coarse smoothing takes too. several: one "
        "correction for each minibatch of the set. whole: one mean over all the data.",
        choices=("none", "common", "several", "whole"),
    )
    batches: int = declare_option(4, "minibatches", "Minibatches in the set.", least=1)


@list_parameters
@dataclass(frozen=True)
class Gate:
    """Conditions for taking a coarse step, and for accepting its correction."""

    gap: float = declare_option(
        0.1, "share of |f(x)|", "Go down only if f_c(inject x) - f(x) is at most this share of |f(x)|."
    )
    tau: float = declare_option(
        1.0,
        "share of |restrict grad f|",
        "Go down only if |tau| is at most this share of |restrict grad f|.",
        least=0,
    )
    kappa: float = declare_option(
        0.1,
        "share of |grad f|",
        "Go down only if |restrict grad f| is at least this share of |grad f| (Wen and Goldfarb, SIAM J. Optim. 20(3), 2009, "
        "eq. 2.9).",
        least=0,
    )
    search: tuple[float, ...] = declare_option(
        (1.0, 0.5, 0.25),
        "lengths",
        "Lengths of a correction, tried in this order on the common minibatches. The first that lowers f is taken. If none "
        "does, the correction is rejected. With no lengths, every correction is accepted at length 1.",
        above=0,
    )
    patience: int = declare_option(
        2,
        "refusals",
        "Refusals in a row after which a level rests. Each further refusal doubles the rest, and a success ends it. A "
        "correction of the finest level that earned less than smoothing counts as a refusal. With 0 a level never rests.",
        least=0,
    )
    share: float = declare_option(
        0.01,
        "share of the run's FLOPs",
        "Cost that coarse steps of the finest level may lose compared with smoothing it. A step that could exceed this share is "
        "not tried. inf disables this limit. It does not apply to problems with a single minibatch.",
        least=0,
    )
    blend: float = declare_option(
        0.0,
        "share of y",
        "Above 0, x becomes (1 - blend) x + blend prolong(y), without correction or line search (Zou et al., ICLR 2024). 1 "
        "takes the coarse network as it is.",
        least=0,
        most=1,
    )

    @classmethod
    def open(cls, **options: Any) -> Gate:
        """Return a gate that is open: every cycle goes down, at any cost, and the line search alone judges the correction.

        Parameters
        ----------
        **options
            Options of the gate that differ.

        Examples
        --------
        >>> from netgraph.fas import Gate
        >>> Gate.open().share, Gate.open(search=()).search
        (inf, ())
        """
        return cls(**{**OPEN_GATE, **options})


# Values of the gate with which every cycle goes down.
OPEN_GATE: dict[str, Any] = {
    "gap": float("inf"), "tau": float("inf"), "kappa": 0.0, "share": float("inf"), "patience": 0,
}  # fmt: skip


@list_parameters
@dataclass(frozen=True)
class Split:
    """How the new units and blocks of a finer level begin when a coarse network starts it."""

    kind: str = declare_option(
        "zero-sum",
        "",
        "zero-sum: noise on split weights, which adds up to zero over each aggregate. everything: noise on all weights. none: "
        "no noise. zero: no noise, and new units have outgoing weights of zero in place of a share.",
        choices=("zero-sum", "everything", "none", "zero"),
    )
    noise: float = declare_option(
        1.0,
        "root mean squares",
        "Size of the noise, as a multiple of the root mean square of the tensor that it is added to.",
        least=0,
    )
    blocks: str = declare_option(
        "prolonged",
        "",
        "How new blocks begin. prolonged: as the hierarchy's depth_by says. copied: each is the whole coarse block. zero: a copy "
        "whose last projections are zero, which keeps the function (Wu et al., ACL 2024). random: with the first weights of the "
        "fine network. The first block of an aggregate is the coarse block itself in the last three.",
        choices=("prolonged", "copied", "zero", "random"),
    )
    moments: str = declare_option(
        "kept",
        "",
        "Moments of the optimizer when a level starts. kept: prolonged. reset: none. asymmetric: none for new blocks and units alone.",
        choices=("kept", "reset", "asymmetric"),
    )
    rewarm: int = declare_option(
        0,
        "optimizer steps",
        "Steps over which the updates of new units and blocks grow from zero when a level starts: of N, step i = 1 .. N takes i / N of "
        "them. Old units and blocks take whole updates. With 0 all do.",
        least=0,
    )
    gamma: float = declare_option(
        0.0,
        "share of the detail",
        "Share of the fine level's own detail, x0 - prolong(inject x0), that is added.",
        least=0,
    )
    norms: int = declare_option(
        0,
        "minibatches",
        "Minibatches on which the statistics of batch norms are estimated again when a level starts. With 0 the coarse "
        "statistics are prolonged.",
        least=0,
    )


@list_parameters
@dataclass(frozen=True)
class Adapt:
    """Changes of levels and cycles during training."""

    rematch: int = declare_option(
        0, "cycles", "Cycles after which units are matched again. With 0 they never are.", least=0
    )
    steer: bool = declare_option(
        False,
        "",
        "Lengthen coarse visits while they lower the loss more per second than whole cycles do, and shorten them otherwise.",
    )


@list_parameters
@dataclass(frozen=True)
class Tolerance:
    """Tests for convergence and divergence. Nothing is measured unless one of the first four is set."""

    rtol: float = declare_option(
        0.0,
        "share of the first norm",
        "The run has converged if the gradient norm is below this share of the first.",
        least=0,
    )
    atol: float = declare_option(
        0.0, "gradient norm", "The run has converged if the gradient norm is below this number.", least=0
    )
    stol: float = declare_option(
        0.0, "share of |x|", "The run has converged if a cycle moved x by less than this share of its length.", least=0
    )
    max_it: int = declare_option(
        0,
        "cycles",
        "Cycles on the finest level after which the run ends without convergence. 0 sets no limit.",
        least=0,
    )
    divtol: float = declare_option(
        1e4, "first norms", "The run has diverged if the gradient norm is above this multiple of the first.", above=0
    )
    measure: str = declare_option(
        "gradient",
        "",
        "gradient: the norm of the mean gradient over all minibatches. valid: the loss on validation data in its place.",
        choices=("gradient", "valid"),
    )

    @property
    def is_set(self) -> bool:
        """Whether the run is to be measured."""
        return bool(self.rtol or self.atol or self.stol or self.max_it)


@list_parameters
@dataclass(frozen=True)
class Estimate:
    """The gradient of a step: that of a minibatch, or an estimate from a level and its coarser ones."""

    kind: str = declare_option(
        "minibatch",
        "",
        "minibatch: the gradient of a minibatch. multilevel: the coarse gradient of many samples, and the difference of two levels on "
        "fewer (Giles, Oper. Res. 56, 2008). multifidelity: the same with shared samples and coefficients (Peherstorfer et al., "
        "SIAM J. Sci. Comput. 38, 2016). The expectation is that of the level's own gradient. Without a coarser level all are the first.",
        choices=("minibatch", "multilevel", "multifidelity"),
    )
    cost: float = declare_option(
        1.0,
        "share of a plain step",
        "Operations of an estimate, as a share of those of a plain step. Samples of each level are chosen for the least variance.",
        above=0,
        most=1,
    )
    every: int = declare_option(100, "optimizer steps", "Steps after which variances are measured again.", least=1)
    pilot: int = declare_option(32, "samples", "Samples on which variances are measured, one by one.", least=2)
