"""Options of ``netgraph sweep``: lists with commas between their words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netgraph.cli.options.compress import (
    METRIC_HELP,
    REPAIRED_ERRORS_HELP,
    RUNGS_TEXT,
    TEST_SAMPLES,
    check_metric_name,
    check_rows,
)
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.sweeps.combinations import (
    AFFINITIES,
    BUDGETS,
    COARSENERS,
    RATIOS,
    REPAIRS,
    check_repaired_errors,
    list_combinations,
    parse_ratios,
)
from netgraph.utils.choices import METRICS, RUNGS, SWEEP_BUDGETS
from netgraph.utils.options import check_options, declare_group, declare_option


def split_words(text: str) -> list[str]:
    """Return the words of a list with commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_ratios(value: str, options: Any) -> None:
    parse_ratios(value)


def _list_option(default: tuple[str, ...], help: str, **flag: Any) -> str:
    """Return the option of a list of words."""
    return declare_option(",".join(default), help=f"{help} Commas between them.", metavar="NAMES", **flag)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What a sweep combines, and how its networks are judged."""

    ratios: str = declare_option(
        RATIOS,
        help="Shares that stay: FIRST:LAST, FIRST:LAST:STEP (by default 0.1), or numbers. Commas between them.",
        metavar="SHARES", check=_check_ratios, check_early=True,
    )  # fmt: skip
    coarseners: str = _list_option(
        COARSENERS, "Methods that merge units, or auto.", plugins="netgraph.coarseners", words=("auto",)
    )
    repairs: str = _list_option(REPAIRS, f"Repairs after merging: {', '.join(RUNGS)}.", words=RUNGS)
    affinities: str = _list_option(AFFINITIES, "Measures of how alike units are.", plugins="netgraph.affinities")
    budgets: str = _list_option(
        BUDGETS,
        "What --ratios are shares of: none (the units of each axis), or parameters, flops, units, spread over the axes by measured errors.",
        words=SWEEP_BUDGETS,
    )
    metric: str | None = declare_option(None, help=METRIC_HELP, metavar="NAME", words=METRICS, check=check_metric_name)
    repaired_errors: bool = declare_option(
        False, help=f"{REPAIRED_ERRORS_HELP} It needs --budgets, and --repairs {RUNGS_TEXT}."
    )
    no_latency: bool = declare_option(False, help="Measure no milliseconds.")
    test_samples: int = declare_option(
        TEST_SAMPLES,
        help="Most rows of the test, which give the metric and the error.",
        metavar="N",
        check=check_rows("--test-samples"),
    )
    coarsening: CoarsenOptions = declare_group(
        CoarsenOptions, ("keep", "outputs", "fixed", "round_to", "inside_heads", "importance", "prove", "seed")
    )

    def check(self) -> None:
        """Check all values, as far as that needs no network.

        Raises
        ------
        NetgraphError
            A name does not exist, or a value is out of range.
        """
        check_options(self)
        self.coarsening.check()
        lists = self.read_lists()
        list_combinations(**lists)
        if self.repaired_errors:
            check_repaired_errors(lists["repairs"], lists["budgets"])

    def read_lists(self) -> dict[str, Any]:
        """Return the lists as `netgraph.coarsen.sweep` takes them."""
        lists: dict[str, Callable[[str], Any] | Any] = {
            name: split_words(getattr(self, name)) for name in ("coarseners", "repairs", "affinities", "budgets")
        }
        return {"ratios": self.ratios, **lists}
