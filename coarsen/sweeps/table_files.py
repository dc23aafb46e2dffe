"""The table of a sweep as CSV with all digits, as JSON, and as a LaTeX table of the package booktabs with four digits."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

from netgraph.coarsen.sweeps.result import Row, Sweep
from netgraph.utils.text import format_json, shorten

DIGITS = 4  # of a number in LaTeX
SPECIAL = {  # of LaTeX
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip


def format_csv(sweep: Sweep) -> str:
    """Return the table as CSV: all columns, and numbers by which they are read back exactly. What is missing is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, sweep.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sweep.list_table())
    return text.getvalue()


def format_document(sweep: Sweep) -> str:
    """Return everything as JSON."""
    return format_json(sweep.document(), indent=1) + "\n"


def format_latex(sweep: Sweep) -> str:
    """Return the rows that have a network as a table of the package booktabs.

    Rows in the Pareto set of the parameters have a bold metric.
    """
    table = [row for row in sweep.list_table() if row["reason"] is None]
    names = ["coarsener", *sweep.several, "ratio", "repair"]
    names += [name for name in sweep.columns if name in (*sweep.costs, sweep.metric, "error")]
    head = [_name_column(name) for name in names]
    lines = [" & ".join(head), *(" & ".join(_format_cells(row, names, sweep.metric)) for row in table)]
    columns = "".join("l" if name in ("coarsener", "affinity", "budget", "repair") else "r" for name in names)
    return (
        f"% needs \\usepackage{{booktabs}}. Bold: no other row has as good a value with as few parameters\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]} \\\\\n\\midrule\n"
        + "".join(f"{line} \\\\\n" for line in lines[1:])
        + "\\bottomrule\n\\end{tabular}\n"
    )


def _name_column(name: str) -> str:
    """Return the head of a column."""
    heads = {"flops_per_sample": "MFLOPs/sample"}
    return escape_latex(heads.get(name, name.replace("ms_batch_", "ms, batch ")))


def _format_cells(row: Row, names: list[str], metric: str) -> list[str]:
    """Return the cells of a row."""
    cells = {name: _format_cell(name, row[name]) for name in names}
    if "parameters" in row["pareto"].split():
        cells[metric] = f"\\textbf{{{cells[metric]}}}"
    return list(cells.values())


def _format_cell(name: str, value: Any) -> str:
    """Return a value as text for LaTeX."""
    if name == "coarsener":
        return escape_latex(value or "original")
    if value is None:
        return "--"
    if name in ("affinity", "budget", "repair"):
        return escape_latex(value)
    return f"{value:g}" if name == "ratio" else format_digits(value / 1e6 if name == "flops_per_sample" else value)


def format_digits(value: float) -> str:
    """Return a number without an exponent, whole numbers in full and others with four digits.

    Examples
    --------
    >>> from netgraph.coarsen.sweeps.table_files import format_digits
    >>> format_digits(123456), format_digits(0.00123456), format_digits(1814.07)
    ('123456', '0.001235', '1814')
    """
    if isinstance(value, int) or value == 0:
        return f"{value:.0f}"
    return f"{value:.{max(DIGITS - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def escape_latex(text: str) -> str:
    r"""Return text for LaTeX, on one line.

    Examples
    --------
    >>> from netgraph.coarsen.sweeps.table_files import escape_latex
    >>> escape_latex("my_coarsener 50%")
    'my\\_coarsener 50\\%'
    """
    return re.sub(r"[\\~^&%$#_{}]", lambda m: SPECIAL[m[0]], shorten(text, 60))
