"""Claim: on public mesh graphs, the coarsener `metis` cuts at most 1.05 times as much as METIS itself, with equal balance.

The meshes come with packages of the index: the airfoil of 4,253 points (PyGSP, airfoil1 of the partitioning literature), a cortex of
10,242 (nilearn, fsaverage5) and the Stanford bunny of 50,000 (pymeshfix), each into 64 and 256 parts. METIS itself is pymetis in its
k-way mode, the default of gpmetis, on the bare graph. Our coarseners get an `AxisGraph`. KaHIP and Mt-KaHyPar run if they are
installed. `hem` shows that repeated matching is no partitioner. Seeds are 0, 1, 2. Cuts, balance (heaviest part over the mean)
and processor seconds are median, minimum and maximum. Ratios are of medians.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/pip install --no-deps pygsp==0.6.1 nilearn==0.14.1 pymeshfix==0.18.1      # for their files only
    .venv/bin/python benchmarks/coarsening/cuts.py
"""

from __future__ import annotations

import base64
import gzip
import json
import platform
import sys
import time
import zlib
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import spread

from netgraph import plugins
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.metrics import quality
from netgraph.errors import PluginError

RESULTS = Path(__file__).parent.parent / "results" / "cuts.json"
PARTS, SEEDS = (64, 256), (0, 1, 2)
OURS = ("metis", "kahip", "mtkahypar", "hem")


def package_file(package: str, path: str) -> Path:
    """Return the path of a file of an installed package, without importing the package."""
    return Path(str(distribution(package).locate_file(path)))


def airfoil() -> Any:
    """Return the edges of the airfoil, (m, 2)."""
    from scipy.io import loadmat

    arrays = loadmat(package_file("pygsp", "pygsp/data/pointclouds/airfoil.mat"))
    return np.stack([arrays["i_inds"].ravel(), arrays["j_inds"].ravel()], axis=1).astype(np.int64) - 1


def cortex() -> Any:
    """Return the edges of the left hemisphere's triangles (a GIFTI file)."""
    path = package_file("nilearn", "nilearn/datasets/data/fsaverage5/pial_left.gii.gz")
    arrays = ElementTree.fromstring(gzip.decompress(path.read_bytes())).iter("DataArray")
    text = next(a for a in arrays if a.get("Intent") == "NIFTI_INTENT_TRIANGLE").findtext("Data") or ""
    return triangle_sides(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").reshape(-1, 3))


def bunny() -> Any:
    """Return the edges of the bunny's triangles (a PLY file)."""
    head, body = (
        package_file("pymeshfix", "pymeshfix/examples/StanfordBunny.ply").read_bytes().split(b"end_header\n", 1)
    )
    vertices, faces = (int(head.split(b"element %s " % name)[1].split()[0]) for name in (b"vertex", b"face"))
    kind = np.dtype([("corners", "u1"), ("vertices", "<i4", 3)])
    return triangle_sides(np.frombuffer(body, kind, faces, vertices * 12)["vertices"])


def triangle_sides(triangles: Any) -> Any:
    """Return the three sides of each triangle."""
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64)


def mesh_graph(edges: Any) -> AxisGraph:
    """Return the graph of these edges, each of weight one."""
    n = int(edges.max()) + 1
    i, j = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0).T
    adjacency = sparse.csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(n, n))
    return AxisGraph("mesh", adjacency, np.ones(n))


def partition_with_pymetis(graph: AxisGraph, n_parts: int, *, seed: int) -> Any:
    """Return the parts of METIS itself, through pymetis."""
    import pymetis

    neighbours = pymetis.CSRAdjacency(graph.adjacency.indptr, graph.adjacency.indices)
    return pymetis.part_graph(n_parts, neighbours, recursive=False, options=pymetis.Options(seed=seed)).vertex_part


def measure_cuts(cut: Callable[..., Any], graph: AxisGraph, n_parts: int) -> dict[str, Any]:
    """Return cuts, balance and seconds over the seeds."""
    qualities, seconds = [], []
    for seed in SEEDS:
        started = time.process_time()
        parts = np.asarray(cut(graph, n_parts, seed=seed))
        seconds.append(time.process_time() - started)
        qualities.append(quality(graph, np.unique(parts, return_inverse=True)[1]))
    return {
        "parts": min(q.n_aggregates for q in qualities),
        "cut": spread([q.cut for q in qualities], 5),
        "balance": spread([q.balance for q in qualities], 5),
        "seconds": spread(seconds, 5),
    }


def measure_mesh(name: str, graph: AxisGraph, n_parts: int) -> list[dict[str, Any]]:
    """Return a row for each partitioner of one mesh."""
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
    rows: list[dict[str, Any]] = []
    for make in (airfoil, cortex, bunny):
        graph = mesh_graph(make())
        for n_parts in PARTS:
            for row in measure_mesh(make.__name__, graph, n_parts):
                rows.append(row)
                print(json.dumps(row), flush=True)
            RESULTS.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
