"""GRAPH to HIERARCHY: coarseners that merge units, transfers between levels, and the smaller networks.

Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.coarsen.coarseners.baselines import adjacent as adjacent
    from netgraph.coarsen.coarseners.baselines import magnitude as magnitude
    from netgraph.coarsen.coarseners.baselines import random_pairs as random_pairs
    from netgraph.coarsen.coarseners.graclus import graclus as graclus
    from netgraph.coarsen.coarseners.kahip import kahip as kahip
    from netgraph.coarsen.coarseners.kahip import mtkahypar as mtkahypar
    from netgraph.coarsen.coarseners.kmeans import kmeans as kmeans
    from netgraph.coarsen.coarseners.local_variation import local_variation as local_variation
    from netgraph.coarsen.coarseners.local_variation import local_variation_edges as local_variation_edges
    from netgraph.coarsen.coarseners.louvain import louvain as louvain
    from netgraph.coarsen.coarseners.metis import metis as metis
    from netgraph.coarsen.coarseners.networkit import leiden as leiden
    from netgraph.coarsen.coarseners.networkit import path_growing as path_growing
    from netgraph.coarsen.coarseners.networkit import plm as plm
    from netgraph.coarsen.coarseners.networkit import suitor as suitor
    from netgraph.coarsen.coarseners.pairwise import pairwise as pairwise
    from netgraph.coarsen.coarseners.spectral import spectral as spectral
    from netgraph.coarsen.coarseners.ward import ward as ward
    from netgraph.coarsen.compression.costs import Costs as Costs
    from netgraph.coarsen.compression.costs import measure_costs as measure_costs
    from netgraph.coarsen.compression.latency import Latency as Latency
    from netgraph.coarsen.compression.latency import measure_latency as measure_latency
    from netgraph.coarsen.compression.metrics import Metric as Metric
    from netgraph.coarsen.compression.metrics import make_metric as make_metric
    from netgraph.coarsen.compression.pipeline import Rows as Rows
    from netgraph.coarsen.compression.pipeline import compress as compress
    from netgraph.coarsen.compression.result import Compressed as Compressed
    from netgraph.coarsen.compression.result import Stage as Stage
    from netgraph.coarsen.compression.target import Target as Target
    from netgraph.coarsen.compression.training.fine_tuning import fine_tune as fine_tune
    from netgraph.coarsen.compression.training.rounds import compress_in_rounds as compress_in_rounds
    from netgraph.coarsen.hierarchy.align_heads import align as align
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy as Hierarchy
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy as build_hierarchy
    from netgraph.coarsen.hierarchy.initial_weights import init_coarse_weights as init_coarse_weights
    from netgraph.coarsen.hierarchy.level import Level as Level
    from netgraph.coarsen.hierarchy.level_maps import LevelMaps as LevelMaps
    from netgraph.coarsen.hierarchy.level_maps import build_level_maps as build_level_maps
    from netgraph.coarsen.hierarchy.options import CoarsenOptions as CoarsenOptions
    from netgraph.coarsen.hierarchy.serialize import load as load
    from netgraph.coarsen.hierarchy.serialize import save as save
    from netgraph.coarsen.hub.pretrained import from_pretrained as from_pretrained
    from netgraph.coarsen.hub.pretrained import push_to_hub as push_to_hub
    from netgraph.coarsen.hub.pretrained import save_pretrained as save_pretrained
    from netgraph.coarsen.matching.axis_graph import AxisGraph as AxisGraph
    from netgraph.coarsen.matching.heavy_edge import augmented_matching as augmented_matching
    from netgraph.coarsen.matching.heavy_edge import heavy_edge_matching as heavy_edge_matching
    from netgraph.coarsen.matching.heavy_edge import random_order_matching as random_order_matching
    from netgraph.coarsen.network.oracles import Verdict as Verdict
    from netgraph.coarsen.network.oracles import verify as verify
    from netgraph.coarsen.network.rewrite import coarse_network as coarse_network
    from netgraph.coarsen.partition.contract import check_aggregates as check_aggregates
    from netgraph.coarsen.partition.contract import check_coarsener as check_coarsener
    from netgraph.coarsen.partition.contract import declare_traits as declare_traits
    from netgraph.coarsen.partition.metrics import Quality as Quality
    from netgraph.coarsen.partition.metrics import quality as quality
    from netgraph.coarsen.repair.pipeline import RepairReport as RepairReport
    from netgraph.coarsen.repair.pipeline import repair_network as repair_network
    from netgraph.coarsen.sweeps.result import Sweep as Sweep
    from netgraph.coarsen.sweeps.sweep import sweep as sweep
    from netgraph.coarsen.transfer.transfer import Transfer as Transfer
    from netgraph.coarsen.tuning.options import TuneOptions as TuneOptions
    from netgraph.coarsen.user_class.convert import own_class as own_class
    from netgraph.coarsen.user_class.convert import save_own_class as save_own_class

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "adjacent": "coarseners.baselines",
        "compress": "compression.pipeline",
        "compress_in_rounds": "compression.training.rounds",
        "fine_tune": "compression.training.fine_tuning",
        "TuneOptions": "tuning.options",
        "Compressed": "compression.result",
        "Costs": "compression.costs",
        "Latency": "compression.latency",
        "make_metric": "compression.metrics",
        "measure_costs": "compression.costs",
        "measure_latency": "compression.latency",
        "Metric": "compression.metrics",
        "Rows": "compression.pipeline",
        "Stage": "compression.result",
        "Target": "compression.target",
        "align": "hierarchy.align_heads",
        "augmented_matching": "matching.heavy_edge",
        "AxisGraph": "matching.axis_graph",
        "build_hierarchy": "hierarchy.hierarchy",
        "build_level_maps": "hierarchy.level_maps",
        "check_aggregates": "partition.contract",
        "check_coarsener": "partition.contract",
        "coarse_network": "network.rewrite",
        "CoarsenOptions": "hierarchy.options",
        "declare_traits": "partition.contract",
        "from_pretrained": "hub.pretrained",
        "graclus": "coarseners.graclus",
        "heavy_edge_matching": "matching.heavy_edge",
        "Hierarchy": "hierarchy.hierarchy",
        "init_coarse_weights": "hierarchy.initial_weights",
        "kahip": "coarseners.kahip",
        "kmeans": "coarseners.kmeans",
        "leiden": "coarseners.networkit",
        "Level": "hierarchy.level",
        "LevelMaps": "hierarchy.level_maps",
        "load": "hierarchy.serialize",
        "local_variation": "coarseners.local_variation",
        "local_variation_edges": "coarseners.local_variation",
        "louvain": "coarseners.louvain",
        "magnitude": "coarseners.baselines",
        "metis": "coarseners.metis",
        "mtkahypar": "coarseners.kahip",
        "own_class": "user_class.convert",
        "pairwise": "coarseners.pairwise",
        "path_growing": "coarseners.networkit",
        "plm": "coarseners.networkit",
        "push_to_hub": "hub.pretrained",
        "Quality": "partition.metrics",
        "quality": "partition.metrics",
        "random_order_matching": "matching.heavy_edge",
        "random_pairs": "coarseners.baselines",
        "repair_network": "repair.pipeline",
        "RepairReport": "repair.pipeline",
        "save": "hierarchy.serialize",
        "save_pretrained": "hub.pretrained",
        "save_own_class": "user_class.convert",
        "spectral": "coarseners.spectral",
        "suitor": "coarseners.networkit",
        "Sweep": "sweeps.result",
        "sweep": "sweeps.sweep",
        "Transfer": "transfer.transfer",
        "Verdict": "network.oracles",
        "verify": "network.oracles",
        "ward": "coarseners.ward",
    },
)
