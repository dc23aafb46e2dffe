"""Affinities: how alike two units are. Each is a plug-in of the group ``netgraph.affinities``.

Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.affinity.all_pairs import AllPairs as AllPairs
    from netgraph.affinity.approximate_neighbors import approximate as approximate
    from netgraph.affinity.approximate_neighbors import approximate_cosine_graph as approximate_cosine_graph
    from netgraph.affinity.contract import check_affinity as check_affinity
    from netgraph.affinity.head_attention import attention as attention
    from netgraph.affinity.head_circuits import circuits as circuits
    from netgraph.affinity.similarity import cosine_graph as cosine_graph
    from netgraph.affinity.similarity import normalize_rows as normalize_rows
    from netgraph.affinity.similarity import radial_graph as radial_graph
    from netgraph.affinity.spatial import fourier as fourier
    from netgraph.affinity.spatial import shifted as shifted
    from netgraph.affinity.weights import both as both
    from netgraph.affinity.weights import correlation as correlation
    from netgraph.affinity.weights import cosine as cosine
    from netgraph.affinity.weights import normed as normed
    from netgraph.affinity.weights import radial as radial
    from netgraph.affinity.weights import relu as relu

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "AllPairs": "all_pairs",
        "approximate": "approximate_neighbors",
        "approximate_cosine_graph": "approximate_neighbors",
        "attention": "head_attention",
        "both": "weights",
        "check_affinity": "contract",
        "circuits": "head_circuits",
        "correlation": "weights",
        "cosine": "weights",
        "cosine_graph": "similarity",
        "fourier": "spatial",
        "normalize_rows": "similarity",
        "normed": "weights",
        "radial": "weights",
        "radial_graph": "similarity",
        "relu": "weights",
        "shifted": "spatial",
    },
)
