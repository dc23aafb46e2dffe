"""Options of files that a runtime runs."""

from __future__ import annotations

from dataclasses import dataclass

from netgraph.utils.options import declare_option


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """What a file for a runtime holds, and how far its answers may be from those of the network."""

    level: int | None = declare_option(
        None, help="Level of a *.hierarchy for a runtime. By default the coarsest.", metavar="N", minimum=0
    )
    batch: int | None = declare_option(
        None,
        help="Rows of every batch in a file for a runtime. By default their number is free.",
        metavar="N",
        minimum=1,
    )
    tolerance: float = declare_option(
        1e-4, help="Largest relative difference between the answers of a runtime and of the network.", metavar="ERROR"
    )
    aot: bool = declare_option(False, help="Compile a .pt2 file for this kind of machine, with AOTInductor.")
