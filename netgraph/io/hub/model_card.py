"""The card of a folder, its README.md: from what, how and with which losses a network was made, and the lines that open it.

A card is made from plain data alone, and some of it comes from files of strangers. Names are therefore escaped for Markdown and YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from netgraph import __version__
from netgraph.io.hub.folder_kind import HIERARCHY, LIBRARY, TIMM, TRANSFORMERS
from netgraph.io.hub.origin import Origin, Step, check_license, hide_folder
from netgraph.utils.text import escape_controls, shorten

TAGS = ("netgraph", "graph-coarsening", "model-compression")
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
MOST_AXES = 40  # rows of a table of axes; netgraph.json has all of them
LONGEST = 400  # characters of a name
BEGINNING = re.compile(r"^(\d*)([-+=.)])(?=[-+=\s]|$)")  # of a list, a rule or a head
PUNCTUATION = re.compile(r"([\\`*_\[\]<>|~#&$!])")


@dataclass(frozen=True)
class FolderFacts:
    """What a folder holds, as its card tells it.

    Parameters
    ----------
    library : str
        The library that opens it: ``netgraph``, ``transformers`` or ``timm``.
    kind : str
        ``network`` or ``hierarchy``.
    class_name : str
        Class of the network, or that of the finest level.
    parameters : tuple of int
        Numbers in the parameters of each level, the finest first.
    inputs : tuple of str, default ()
        Sizes of each input, in words.
    has_tokenizer : bool, default False
    reason : str, default ""
        Why it is a recorded graph, where a library has a class for it.
    """

    library: str
    kind: str
    class_name: str
    parameters: tuple[int, ...]
    inputs: tuple[str, ...] = ()
    has_tokenizer: bool = False
    reason: str = ""


def count_parameters(network: nn.Module) -> int:
    """Return the number of numbers in the parameters of a network. Tied ones count once."""
    return sum(p.numel() for p in network.parameters())


def render_card(facts: FolderFacts, origin: Origin, name: str) -> str:
    """Return the text of a card.

    Parameters
    ----------
    facts : FolderFacts
    origin : Origin
    name : str
        Name of the folder, or OWNER/NAME of its repository.
    """
    lines = [
        *_front_matter(facts, origin), "", f"# {escape_markdown(name)}", "", _summarize(facts, origin), "",
        "## Open it", "", "```python", *_opening_lines(facts, name), "```", "",
    ]  # fmt: skip
    if facts.inputs:
        lines += [f"It takes {' and '.join(map(escape_markdown, facts.inputs))}.", ""]
    lines += ["## How it was made", "", *_describe_source(origin), ""]
    for step in origin.steps:
        lines += _describe_step(step)
    lines += ["## What is lost", "", *(f"- {sentence}" for sentence in _list_losses(facts, origin)), ""]
    if not origin.license:
        lines += ["No license is stated. That of the original may bind this network too.", ""]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    r"""Return a text as one line that Markdown shows as it is, also in a table.

    Examples
    --------
    >>> from netgraph.io.hub.model_card import escape_markdown
    >>> print(escape_markdown("a|b <b> *c*"))
    a\|b \<b\> \*c\*
    """
    line = shorten(escape_controls(str(text)), LONGEST).strip()
    return BEGINNING.sub(r"\1\\\2", PUNCTUATION.sub(r"\\\1", line))


def _front_matter(facts: FolderFacts, origin: Origin) -> list[str]:
    """Return the block of YAML that the hub reads. A text in quotes of JSON is one of YAML too."""
    check_license(origin.license)
    lines = ["---", f"library_name: {facts.library}"]
    lines += [f"license: {json.dumps(origin.license)}"] * bool(origin.license)
    lines += [f"base_model: {json.dumps(origin.base_model)}"] * bool(REPOSITORY.fullmatch(origin.base_model))
    return [*lines, "tags:", *(f"- {tag}" for tag in TAGS), "---"]


def _summarize(facts: FolderFacts, origin: Origin) -> str:
    """Return what the folder holds, in a sentence or two."""
    sizes = [f"{n:,}" for n in facts.parameters]
    source = f" of {escape_markdown(hide_folder(origin.source))}" if hide_folder(origin.source) else ""
    if facts.kind == HIERARCHY:
        return (
            f"A hierarchy of {len(sizes)} levels{source}: networks of {', '.join(sizes)} parameters, with the transfers between them, made by "
            f"netgraph {__version__}."
        )
    what = "recorded graph" if facts.library == LIBRARY else escape_markdown(facts.class_name)
    made = "a smaller network made by" if origin.steps else "written by"
    return f"A {what} of {sizes[0]} parameters, {made} netgraph {__version__}{source and ' from' + source[3:]}."


def _opening_lines(facts: FolderFacts, name: str) -> list[str]:
    """Return the lines of Python that open the folder from the one above it, or its repository."""
    quoted = json.dumps(name)
    if facts.library == TRANSFORMERS:
        cls = facts.class_name if facts.class_name.isidentifier() else "AutoModel"
        lines = ["import transformers", "", f"network = transformers.{cls}.from_pretrained({quoted})"]
        more = f"tokenizer = transformers.AutoTokenizer.from_pretrained({quoted})"
        return [*lines, *[more] * facts.has_tokenizer]
    if facts.library == TIMM:
        scheme = "hf-hub" if "/" in name else "local-dir"
        return ["import timm", "", f"network = timm.create_model({json.dumps(f'{scheme}:{name}')}, pretrained=True)"]
    name = "hierarchy" if facts.kind == HIERARCHY else "network"
    lines = ["import netgraph as ng", "", f"{name} = ng.coarsen.from_pretrained({quoted})"]
    return [*lines, "network = hierarchy.levels[-1].model  # the coarsest"] if facts.kind == HIERARCHY else lines


def _describe_source(origin: Origin) -> list[str]:
    """Return the sentence on the network that all steps began with."""
    kind = f"of the class {escape_markdown(origin.class_name)}" if origin.class_name else "of a class that is not known"
    where = f", opened as {escape_markdown(hide_folder(origin.source))}" if hide_folder(origin.source) else ""
    return [f"The original is a network {kind}{where}."]


def _describe_step(step: Step) -> Iterator[str]:
    """Yield the lines of one step: its command, its facts, what shrank, its table and its notes."""
    yield from (f"### {escape_markdown(step.title)}", "")
    facts = {name: value for name, value in step.facts.items() if name != "command"}
    if command := step.facts.get("command"):
        yield from _fence(command)
    if facts:
        yield from _table(["", ""], list(facts.items()))
    if step.rows:
        heads = list(dict.fromkeys(name for row in step.rows for name in row))
        yield from _table(heads, [[row.get(name, "") for name in heads] for row in step.rows])
    if step.sizes:
        sizes = [(name, f"{before:,}", f"{after:,}") for name, (before, after) in step.sizes.items()]
        yield from _table(["axis", "units before", "units after"], sizes[:MOST_AXES])
        if len(sizes) > MOST_AXES:
            yield from (f"The other {len(sizes) - MOST_AXES:,} axes are in netgraph.json.", "")
    for note in step.notes:
        yield from (escape_markdown(note), "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table of Markdown, and an empty one."""
    yield f"| {' | '.join(map(escape_markdown, head))} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(escape_markdown, row))} |"
    yield ""


def _fence(text: str) -> Iterator[str]:
    """Yield the lines of a block of code. No text can end its fence."""
    text = escape_controls(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    yield from (f"{marks}sh", text, marks, "")


def _list_losses(facts: FolderFacts, origin: Origin) -> Iterator[str]:
    """Yield a sentence for each thing that the small network has lost."""
    measured = False
    for step in origin.steps:
        if sentence := _describe_metric(step):
            measured = True
            yield sentence
    if not measured and facts.kind != HIERARCHY:
        yield "Nobody measured what its answers have lost. `netgraph evaluate` judges it beside the original."
    if facts.library == LIBRARY:
        yield (
            f"A recorded graph has the forward of {escape_markdown(origin.class_name or 'the original')} and its parameters by name. Other methods of "
            "the class are gone, such as generate of a language model."
        )
    if facts.reason:
        yield escape_markdown(facts.reason)


def _describe_metric(step: Step) -> str:
    """Return the sentence on the metric of a compression or a tuning, empty where none was measured."""
    document = step.document
    metric, before, after = (document.get(name) for name in ("metric", "before", "after"))
    if isinstance(stages := document.get("stages"), list) and stages:
        before, after = (_read_metric(stage) for stage in (stages[0], stages[-1]))
    if not metric or not all(isinstance(value, (int, float)) and abs(value) < 1e300 for value in (before, after)):
        return ""
    words = f"{before:.4g} before, {after:.4g} after"
    return f"{escape_markdown(step.title)}: {escape_markdown(str(metric))} {words}."


def _read_metric(stage: Any) -> Any:
    return stage.get("metric") if isinstance(stage, Mapping) else None
