"""The pages and figures that a run leaves: attention, features, reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from netgraph.errors import NetgraphError
from netgraph.io.output_files import make_folder, write_atomically


def make_page_writers(task: Any, hierarchy: Any) -> list[Any]:
    """Return what draws the page, and for a network of text what heads attend to in the first of the test split."""
    reads_words = task.data.tokenizer is not None and len(hierarchy.levels) > 1

    def page(folder: Path) -> None:
        from netgraph.viz.page.page import write_page

        write_page(hierarchy, folder / "hierarchy.html")

    def attention(folder: Path) -> None:
        from netgraph.cli.console.artifacts import write_attention

        device = next(task.network.parameters()).device
        inputs = task.data.ready(task.data.test.inputs[:32]).to(device)
        write_attention(hierarchy, inputs, task.data.tokenizer, folder)

    return [page, attention] if reads_words else [page]


def make_feature_writers(task: Any, hierarchy: Any) -> list[Any]:
    """Return what draws the feature maps of a network of images on the test split, where a level is coarse."""
    if task.example.ndim != 4 or len(hierarchy.levels) < 2:
        return []

    def write(folder: Path) -> None:
        from netgraph.viz.figures.features import write_feature_figure

        device = next(task.network.parameters()).device
        write_feature_figure(hierarchy, task.data.ready(task.data.test.inputs[:64]).to(device), folder / "features.png")

    return [write]


ROWS = 32  # texts that the heads of the overview are means over


def write_attention_page(hierarchy: Any, inputs: Any, words: Any, row: int, out: Path) -> None:
    from netgraph.viz.page.attention_data import build_attention_data
    from netgraph.viz.page.page import write_page

    texts = [(label_tokens(one, words), one) for one in _select_rows(inputs, row, n=4)]
    write_atomically(partial(write_page, hierarchy, attention=build_attention_data(hierarchy, texts)), out)


def write_heads_figure(hierarchy: Any, inputs: Any, words: Any, row: int, out: Path, **options: Any) -> None:
    from netgraph.coarsen.network.functional_error import split_batches
    from netgraph.viz.figures.attention import write_attention_figure

    if "head" not in options:
        write_attention_figure(hierarchy, split_batches(inputs, ROWS)[0], out, **options)
        return
    one = _select_rows(inputs, row, n=1)[0]
    write_attention_figure(hierarchy, one, out, words=label_tokens(one, words), **options)


def write_attention(hierarchy: Any, inputs: Any, words: Any, folder: Path) -> None:
    """Write all heads, the first head of the first layer over a text's words, and the page with some texts.

    Parameters
    ----------
    hierarchy : Hierarchy
    inputs : Tensor, tuple or dict
        As the network takes them.
    words : tokenizers.Tokenizer or None
    folder : path
        Gets ``heads.png``, ``words.png`` and ``hierarchy.html``.
    """
    write_heads_figure(hierarchy, inputs, words, 0, folder / "heads.png")
    write_heads_figure(hierarchy, inputs, words, 0, folder / "words.png", layer=0, head=0)
    write_attention_page(hierarchy, inputs, words, 0, folder / "hierarchy.html")


def _select_rows(inputs: Any, row: int, *, n: int) -> list[Any]:
    """Return some texts, each by itself, from a row on."""
    from netgraph.viz.figures.attention_maps import split_texts

    found = split_texts(inputs, n, start=row) if row >= 0 else []
    if not found:
        raise NetgraphError(
            f"text {row} is asked for, and there are {len(split_texts(inputs, 1 << 30))}, numbered from 0"
        )
    return found


def label_tokens(one: Any, words: Any) -> list[str]:
    """Return the words of a single text, its tokens' numbers without a tokenizer, or empty where the inputs are no tokens."""
    from netgraph.models.data.tokenizer import decode_tokens, padding_id
    from netgraph.utils.pytree import normalize_example

    args, kwargs = normalize_example(one)
    tokens = next(iter([*args, *kwargs.values()]))[0]
    if tokens.is_floating_point() or tokens.ndim != 1:
        return []
    kept = tokens.tolist()
    while len(kept) > 1 and kept[-1] == padding_id(words):
        kept.pop()
    return [str(token) for token in kept] if words is None else decode_tokens(words, kept)


def check_report(folder: Path) -> None:
    """Refuse a report that could not be written when the run is over.

    Raises
    ------
    NetgraphError
        plotly is not installed, or the folder cannot be made.
    """
    from netgraph.viz.reports.charts import import_plotly

    import_plotly()
    make_folder(folder)


def write_report(document: dict[str, Any], folder: Path, name: str) -> None:
    """Write a run's document, its page and its sheet of figures into a folder."""
    from netgraph.fas.monitoring.run_file import history_from_run, write_run
    from netgraph.viz.reports.page import write_run_page
    from netgraph.viz.reports.sheet import write_run_figure

    write_run(document, folder)
    history = history_from_run(document, name)
    write_run_figure([history], folder / "report.svg")
    write_run_page([history], folder / "report.html")


def make_report_writer(about: dict[str, Any]) -> tuple[Callable[..., None], Callable[[Path], None]]:
    """Return a callback that takes note of a run, and what writes the run's report into a folder when it is over."""
    from netgraph.cli.console.output import run_document

    seen: list[Any] = []

    def notice(run: Any, record: Any) -> None:
        seen[:] = [run]

    def write(folder: Path) -> None:
        write_report(run_document(about, seen[0]), folder, about["network"])

    return notice, write
