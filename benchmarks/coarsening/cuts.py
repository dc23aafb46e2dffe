"""Claim: on public mesh graphs the coarsener `metis` cuts at most 1.05 times what METIS itself does, in as equal parts.

Meshes that packages of the index bring: the airfoil of 4,253 points (PyGSP; airfoil1 of the partitioning literature), a
cortex of 10,242 (nilearn, fsaverage5) and the Stanford bunny of 50,000 (pymeshfix), into 64 and 256 parts. METIS itself is
pymetis in its k-way mode, as gpmetis by default, on the bare graph; ours get an `AxisGraph`, as every coarsener. KaHIP and
Mt-KaHyPar where they are installed, and `hem` to show that repeated matching is no partitioner. Seeds 0, 1, 2; cuts,
balance (the heaviest part over the mean) and processor seconds as median, least and most; ratios are of medians.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/pip install --no-deps pygsp==0.6.1 nilearn==0.14.1 pymeshfix==0.18.1      # for their files only
    .venv/bin/python benchmarks/coarsening/cuts.py
"""

from __future__ import annotations

import base64
import gzip
import json
import platform
import statistics
import time
import zlib
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from scipy import sparse

from netgraph import plugins
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.metrics import quality
from netgraph.errors import PluginError

RESULTS = Path(__file__).parent.parent / "results" / "cuts.json"
PARTS, SEEDS = (64, 256), (0, 1, 2)
OURS = ("metis", "kahip", "mtkahypar", "hem")


def package_file(package: str, path: str) -> Path:
    """Return a file that a package brought, without importing it."""
    return Path(str(distribution(package).locate_file(path)))


def airfoil() -> Any:
    """Return the ends of the airfoil's edges, (m, 2)."""
    from scipy.io import loadmat

    found = loadmat(package_file("pygsp", "pygsp/data/pointclouds/airfoil.mat"))
    return np.stack([found["i_inds"].ravel(), found["j_inds"].ravel()], axis=1).astype(np.int64) - 1


def cortex() -> Any:
    """Return the edges of the left hemisphere's triangles (a GIFTI file)."""
    path = package_file("nilearn", "nilearn/datasets/data/fsaverage5/pial_left.gii.gz")
    arrays = ElementTree.fromstring(gzip.decompress(path.read_bytes())).iter("DataArray")
    found = next(a for a in arrays if a.get("Intent") == "NIFTI_INTENT_TRIANGLE").findtext("Data") or ""
    return triangle_sides(np.frombuffer(zlib.decompress(base64.b64decode(found)), "<i4").reshape(-1, 3))


def bunny() -> Any:
    """Return the edges of the bunny's triangles (a PLY file)."""
    head, body = (
        package_file("pymeshfix", "pymeshfix/examples/StanfordBunny.ply").read_bytes().split(b"end_header\n", 1)
    )
    vertices, faces = (int(head.split(b"element %s " % what)[1].split()[0]) for what in (b"vertex", b"face"))
    kind = np.dtype([("corners", "u1"), ("vertices", "<i4", 3)])
    return triangle_sides(np.frombuffer(body, kind, faces, vertices * 12)["vertices"])


def triangle_sides(triangles: Any) -> Any:
    """Return the three sides of each triangle."""
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64)


def mesh_graph(edges: Any) -> AxisGraph:
    """Return the graph in which each edge weighs one."""
    n = int(edges.max()) + 1
    i, j = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0).T
    adjacency = sparse.csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(n, n))
    return AxisGraph("mesh", adjacency, np.ones(n))


def partition_with_pymetis(graph: AxisGraph, n_parts: int, *, seed: int) -> Any:
    """Return METIS' own parts, by way of pymetis."""
    import pymetis

    neighbours = pymetis.CSRAdjacency(graph.adjacency.indptr, graph.adjacency.indices)
    return pymetis.part_graph(n_parts, neighbours, recursive=False, options=pymetis.Options(seed=seed)).vertex_part


def measure_cuts(cut: Callable[..., Any], graph: AxisGraph, n_parts: int) -> dict[str, Any]:
    """Return cuts, balance and seconds over the seeds."""
    found, seconds = [], []
    for seed in SEEDS:
        started = time.process_time()
        parts = np.asarray(cut(graph, n_parts, seed=seed))
        seconds.append(time.process_time() - started)
        found.append(quality(graph, np.unique(parts, return_inverse=True)[1]))
    return {
        "parts": min(q.n_aggregates for q in found),
        "cut": spread([q.cut for q in found]),
        "balance": spread([q.balance for q in found]),
        "seconds": spread(seconds),
    }


def spread(values: list[float]) -> list[float]:
    """Return median, least and most."""
    return [float(f"{f(values):.5g}") for f in (statistics.median, min, max)]


def measure_mesh(name: str, graph: AxisGraph, n_parts: int) -> list[dict[str, Any]]:
    """Return the measurements of all ways to cut one mesh."""
    out = [{"way": "METIS itself", **measure_cuts(partition_with_pymetis, graph, n_parts)}]
    for way in OURS:
        try:
            out.append({"way": way, **measure_cuts(plugins.load_plugin("netgraph.coarseners", way), graph, n_parts)})
        except PluginError as error:  # a library that is not installed is a result
            out.append({"way": way, "refused": str(error)})
    for row in out:
        if "cut" in row:
            row["times_metis"] = round(row["cut"][0] / out[0]["cut"][0], 4)
    sizes = {"mesh": name, "vertices": graph.n_units, "edges": graph.adjacency.nnz // 2, "asked": n_parts}
    return [{**sizes, **row} for row in out]


def main() -> None:
    """Run the benchmark."""
    packages = ("numpy", "scipy", "pymetis", "kahip", "mtkahypar", "pygsp", "nilearn", "pymeshfix")
    versions = {p: version(p) for p in packages}
    machine = {"machine": platform.platform(), "versions": versions, "seeds": SEEDS}
    found: list[dict[str, Any]] = []
    for make in (airfoil, cortex, bunny):
        graph = mesh_graph(make())
        for n_parts in PARTS:
            for row in measure_mesh(make.__name__, graph, n_parts):
                found.append(row)
                print(json.dumps(row), flush=True)
            RESULTS.write_text(json.dumps({**machine, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
