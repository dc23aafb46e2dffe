"""Pages and figures that a run leaves: attention, feature maps, reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgraph.cli.console.output import run_document
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import make_folder

if TYPE_CHECKING:
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.models.training.tasks import Task

ROWS = 32  # texts over which the overview of all heads takes its means


def make_page_writers(task: Task, hierarchy: Hierarchy) -> list[Callable[[Path], object]]:
    """Return functions that write pages into a folder: the hierarchy, and for a network of text the attention of its heads."""
    reads_words = task.data.tokenizer is not None and len(hierarchy.levels) > 1
    if reads_words:
        import_package("matplotlib", "drawing attention")  # before training begins

    def page(folder: Path) -> None:
        from netgraph.viz.page.page import write_page

        write_page(hierarchy, folder / "hierarchy.html")

    def attention(folder: Path) -> None:
        device = next(task.network.parameters()).device
        inputs = task.data.ready(task.data.test.inputs[:32]).to(device)
        write_attention(hierarchy, inputs, task.data.tokenizer, folder)

    return [page, attention] if reads_words else [page]


def make_feature_writers(task: Task, hierarchy: Hierarchy) -> list[Callable[[Path], object]]:
    """Return functions that draw feature maps into a folder. The list is empty unless the network reads images and has coarse levels."""
    if task.example.ndim != 4 or len(hierarchy.levels) < 2:
        return []
    import_package("matplotlib", "drawing feature maps")  # before training begins

    def write(folder: Path) -> None:
        from netgraph.viz.figures.features import write_feature_figure

        device = next(task.network.parameters()).device
        write_feature_figure(hierarchy, task.data.ready(task.data.test.inputs[:64]).to(device), folder / "features.png")

    return [write]


def write_attention_page(hierarchy: Hierarchy, inputs: Any, words: Any, row: int, out: Path) -> None:
    """Write the page of a hierarchy with the attention of some texts."""
    from netgraph.viz.page.attention_data import build_attention_data
    from netgraph.viz.page.page import write_page

    texts = [(label_tokens(one, words), one) for one in _select_rows(inputs, row, n=4)]
    write_atomically(partial(write_page, hierarchy, attention=build_attention_data(hierarchy, texts)), out)


def write_heads_figure(hierarchy: Hierarchy, inputs: Any, words: Any, row: int, out: Path, **options: Any) -> None:
    """Draw all heads as means over texts, or with ``head`` one head over the words of a text."""
    from netgraph.coarsen.network.functional_error import split_batches
    from netgraph.viz.figures.attention import write_attention_figure

    if "head" not in options:
        write_attention_figure(hierarchy, split_batches(inputs, ROWS)[0], out, **options)
        return
    one = _select_rows(inputs, row, n=1)[0]
    write_attention_figure(hierarchy, one, out, words=label_tokens(one, words), **options)


def write_attention(hierarchy: Hierarchy, inputs: Any, words: Any, folder: Path) -> None:
    """Write the figure of all heads, the figure of one head over the words of a text, and the page.

    Parameters
    ----------
    hierarchy : Hierarchy
    inputs : Tensor, tuple or dict
        Texts as the network takes them.
    words : tokenizers.Tokenizer or None
    folder : path
        Gets ``heads.png``, ``words.png`` and ``hierarchy.html``.
    """
    write_heads_figure(hierarchy, inputs, words, 0, folder / "heads.png")
    write_heads_figure(hierarchy, inputs, words, 0, folder / "words.png", layer=0, head=0)
    write_attention_page(hierarchy, inputs, words, 0, folder / "hierarchy.html")


def _select_rows(inputs: Any, row: int, *, n: int) -> list[Any]:
    """Return ``n`` texts from a row on, each with a batch dimension of its own."""
    from netgraph.viz.figures.attention_maps import split_texts

    texts = split_texts(inputs, n, start=row) if row >= 0 else []
    if not texts:
        raise NetgraphError(f"there is no text {row}. There are {len(split_texts(inputs, 1 << 30))}, numbered from 0.")
    return texts


def label_tokens(one: Any, words: Any) -> list[str]:
    """Return the words of a single text. Without a tokenizer they are the numbers of its tokens. Other inputs have none."""
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
    """Check before training that the report can be written.

    Raises
    ------
    NetgraphError
        plotly or matplotlib is not installed, or the folder cannot be made.
    """
    from netgraph.viz.reports.charts import import_plotly

    import_plotly()
    import_package("matplotlib", "a report")
    make_folder(folder)


def write_report(document: dict[str, Any], folder: Path, name: str) -> None:
    """Write the document, the page and the sheet of figures of a run into a folder."""
    from netgraph.fas.monitoring.run_file import history_from_run, write_run
    from netgraph.viz.reports.page import write_run_page
    from netgraph.viz.reports.sheet import write_run_figure

    write_run(document, folder)
    history = history_from_run(document, name)
    write_run_figure([history], folder / "report.svg")
    write_run_page([history], folder / "report.html")


def make_report_writer(description: dict[str, Any]) -> tuple[Callable[..., None], Callable[[Path], None]]:
    """Return a callback that notes the run, and a function that writes its report into a folder when it is over."""
    runs: list[Any] = []

    def note_run(run: Any, record: Any) -> None:
        runs[:] = [run]

    def write(folder: Path) -> None:
        write_report(run_document(description, runs[0]), folder, description["network"])

    return note_run, write
