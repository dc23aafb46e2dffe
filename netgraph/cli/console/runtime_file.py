"""What a file for a runtime holds, and how far its answers are from those of the network, as text and as data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netgraph.cli.console.terminal import echo, echo_json

if TYPE_CHECKING:
    from netgraph.coarsen.runtimes.write_network import RuntimeReport


def print_runtime_file(report: RuntimeReport, as_json: bool) -> None:
    """Print inputs, outputs and differences of a file, and on stderr why its batch is fixed where nobody asked for that."""
    if report.fixed_by:
        rows = "no batch" if report.batch == 0 else f"a batch of {report.batch}"
        echo(f"netgraph: {report.path} takes {rows}: {report.fixed_by}", err=True)
    if report.left_out:
        echo(
            f"netgraph: {report.path} answers without {', '.join(report.left_out)}, which no runtime returns", err=True
        )
    if as_json:
        echo_json(report.as_data())
        return
    details = "".join(f", {name} {value}" for name, value in report.details.items())
    echo(f"{report.path}: {report.runtime}{details}, {report.bytes:,} bytes")
    for kind, ports in (("input", report.inputs), ("output", report.outputs)):
        for port in ports:
            echo(f"{kind:<6} {port['name']}  {port['dtype']} {' x '.join(map(str, port['shape'])) or 'number'}")
    for what, comparison in (("random rows", report.example), ("rows of data", report.data)):
        if comparison is not None:
            echo(
                f"largest difference from the network on {comparison.rows} {what}: {comparison.absolute:.1e}, "
                f"relative {comparison.relative:.1e} (up to {report.tolerance:.1e} passes)"
            )
