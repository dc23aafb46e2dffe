"""Pages, figures and files of a hierarchy, and reports of training runs.

Names load on first use. `export` chooses the writer by the suffix of the file. The functions ``plot_*`` return a
`matplotlib.figure.Figure`, and the functions ``write_*`` write a file.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.viz.exporters import check_exporter as check_exporter
    from netgraph.viz.exporters import export as export
    from netgraph.viz.figures.attention import plot_heads as plot_heads
    from netgraph.viz.figures.attention import plot_words as plot_words
    from netgraph.viz.figures.attention import write_attention_figure as write_attention_figure
    from netgraph.viz.figures.features import plot_features as plot_features
    from netgraph.viz.figures.features import write_feature_figure as write_feature_figure
    from netgraph.viz.figures.hierarchy import plot_hierarchy as plot_hierarchy
    from netgraph.viz.figures.hierarchy import write_figure as write_figure
    from netgraph.viz.page.attention_data import build_attention_data as build_attention_data
    from netgraph.viz.page.page import write_page as write_page
    from netgraph.viz.reports.compression import plot_compression as plot_compression
    from netgraph.viz.reports.compression import write_compression_figure as write_compression_figure
    from netgraph.viz.reports.page import write_run_page as write_run_page
    from netgraph.viz.reports.sheet import plot_runs as plot_runs
    from netgraph.viz.reports.sheet import write_run_figure as write_run_figure
    from netgraph.viz.reports.sweep_figure import plot_sweep as plot_sweep
    from netgraph.viz.reports.sweep_files import write_sweep as write_sweep

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "build_attention_data": "page.attention_data",
        "check_exporter": "exporters",
        "export": "exporters",
        "plot_compression": "reports.compression",
        "plot_features": "figures.features",
        "plot_heads": "figures.attention",
        "plot_hierarchy": "figures.hierarchy",
        "plot_runs": "reports.sheet",
        "plot_sweep": "reports.sweep_figure",
        "plot_words": "figures.attention",
        "write_attention_figure": "figures.attention",
        "write_compression_figure": "reports.compression",
        "write_feature_figure": "figures.features",
        "write_figure": "figures.hierarchy",
        "write_page": "page.page",
        "write_run_figure": "reports.sheet",
        "write_run_page": "reports.page",
        "write_sweep": "reports.sweep_files",
    },
)
