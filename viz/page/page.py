"""The HTML page of a hierarchy: one offline file with levels as columns and aggregates that open.

The page is ``assets/`` and cytoscape.js (Franz et al., Bioinformatics 39(1), 2023; MIT, in ``vendor/``) in one file.
Its content security policy lists the digests of its two scripts and its style, and allows nothing else. Names from the
network are stored as JSON and shown as text only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.viz.page.page_data import build_page_data

HERE = Path(__file__).parent
SCRIPTS = ("model.js", "layout.js", "elements.js", "graph.js", "panels.js", "attention.js", "controls.js")


def write_page(hierarchy: Hierarchy, path: str | Path, *, attention: list[dict[str, Any]] | None = None) -> None:
    """Write a hierarchy as one HTML file.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    path : path
        The file to write.
    attention : list of dict, optional
        Attention maps to show with the units, from `netgraph.viz.build_attention_data`.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import write_page
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> write_page(ng.build_hierarchy(net, torch.randn(2, 8), n_levels=2), "net.html")
    """
    check_output_file(Path(path))
    data = build_page_data(hierarchy) | ({"attention": attention} if attention else {})
    write_atomically(lambda place: place.write_text(render_page(data), encoding="utf-8"), Path(path))


def render_page(data: dict[str, Any]) -> str:
    """Return the HTML of the page for the data from `netgraph.viz.page.page_data.build_page_data`."""
    library = (HERE / "vendor" / "cytoscape.min.js").read_text(encoding="utf-8")
    style, script = (
        read_asset("theme.css") + read_asset("page.css") + read_asset("attention.css"),
        join_scripts(*SCRIPTS),
    )
    policy = (
        f"default-src 'none'; script-src {policy_digest(library)} {policy_digest(script)}; style-src {policy_digest(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "library": library, "script": script, "data": escape_json(data)}
    return fill_template("page.html", parts)


def read_asset(name: str) -> str:
    """Return a file of ``assets/``."""
    return (HERE / "assets" / name).read_text(encoding="utf-8")


def join_scripts(*names: str) -> str:
    """Return files of ``assets/`` as one script that defines no global names."""
    return f'(() => {{\n"use strict";\n{"".join(map(read_asset, names))}}})();\n'


def fill_template(name: str, parts: Mapping[str, str]) -> str:
    """Return a template of ``assets/`` with each ``{{name}}`` replaced. Replacements are not searched for further names."""
    pieces = [piece.partition("}}") for piece in read_asset(name).split("{{")]
    return pieces[0][0] + "".join(parts[part] + rest for part, _, rest in pieces[1:])


def policy_digest(text: str) -> str:
    """Return the digest by which a content security policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def escape_json(data: Any) -> str:
    """Return data as ASCII JSON in which no HTML tag can begin or end."""
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NetgraphError(
            f"a page cannot hold its data ({error}). Give finite numbers, texts, lists and dicts."
        ) from error
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
