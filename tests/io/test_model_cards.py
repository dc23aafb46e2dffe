"""Cards of folders, read by a parser of YAML and one of Markdown: no name can leave its place."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from netgraph.errors import LoadError
from netgraph.io.hub.model_card import FolderFacts, render_card
from netgraph.io.hub.origin import Origin, Step, hide_folder

yaml = pytest.importorskip("yaml")
FACTS = FolderFacts("netgraph", "network", "GraphNetwork", (375,), ("input (any x 8)",))
ORIGIN = Origin(
    "hf:owner/net", "Net", "owner/net", "mit",
    (
        Step(
            "Coarsening", {"coarsener": "ward", "command": "netgraph coarsen hf:owner/net -o small"}, {"layer.0": (64, 31)},
            ({"network": "original", "top1": "0.9"}, {"network": "merged", "top1": "0.8"}), ("One layer stayed.",),
            {"metric": "top1", "stages": [{"metric": 0.9}, {"metric": 0.8}]},
        ),
    ),
)  # fmt: skip
PARSER = MarkdownIt("commonmark").enable("table")
HOSTILE = (
    "a|b", "# head", "<script>x</script>", "a\nb\n\n# c", "```", "`x`", "[x](http://y)", "![x](y)", "---", "**bold**", "\\", "\x1b]0;T\x07",
    "a\u2028b", "&lt;", "- item", "1. item", "~~~", "$x$", "| x |", "\\|", '"', "'", ": x", "\U0001f600",
)  # fmt: skip


def parse(card):
    """Return the entries of the front matter, and the tokens of the rest."""
    _, front, rest = card.split("---\n", 2)
    return yaml.safe_load(front), PARSER.parse(rest)


def list_kinds(tokens):
    """Return the kinds of all tokens, those inside lines too, without texts."""
    kinds = [kind.type for token in tokens for kind in (token, *(token.children or ()))]
    return [kind for kind in kinds if kind not in ("text", "text_special")]


def read_texts(tokens):
    """Return the text of each line, as a reader sees it."""
    return ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]


def name_everything(name):
    """Return facts and an origin in which each text of a stranger is a name."""
    step = Step(name, {name: name, "command": name}, {name: (64, 31)}, ({name: name}, {name: name}), (name,), {
        "metric": name, "before": 0.9, "after": 0.8,
    })  # fmt: skip
    facts = dataclasses.replace(FACTS, class_name=name, inputs=(name,), reason=name)
    return facts, Origin(name, name, "owner/net", "mit", (step,))


def test_the_hub_reads_library_license_and_base_from_the_front_matter():
    entries, tokens = parse(render_card(FACTS, ORIGIN, "small"))
    assert entries == {
        "library_name": "netgraph", "license": "mit", "base_model": "owner/net",
        "tags": ["netgraph", "graph-coarsening", "model-compression"],
    }  # fmt: skip
    texts = read_texts(tokens)
    assert "Coarsening: top1 0.9 before, 0.8 after." in texts
    assert texts[texts.index("units after") + 1 :][:3] == ["layer.0", "64", "31"]
    assert "license" not in parse(render_card(FACTS, Origin(), "small"))[0]


def test_the_library_of_the_hub_reads_the_same():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(render_card(FACTS, ORIGIN, "small")).data
    assert (data.library_name, data.license, data.base_model) == ("netgraph", "mit", "owner/net")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_changes_no_other_place(name):
    entries, tokens = parse(render_card(*name_everything(name), name))
    plain, expected = parse(render_card(*name_everything("name"), "name"))
    assert entries == plain
    assert list_kinds(tokens) == list_kinds(expected)
    assert "html" not in " ".join(list_kinds(tokens))


EXPECTED = list_kinds(PARSER.parse(render_card(*name_everything("name"), "name").split("---\n", 2)[2]))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40).filter(str.strip))
def test_no_name_changes_the_form_of_a_card(name):
    front, rest = render_card(*name_everything(name), name).split("---\n", 2)[1:]
    assert list_kinds(PARSER.parse(rest)) == EXPECTED
    assert name not in front or name in render_card(FACTS, ORIGIN, "small")


def test_a_visible_name_is_shown_as_it_is():
    name = "a|b <i> *c* [d](e) `f` \\ # g & _h_"
    facts, origin = name_everything(name)
    assert name in read_texts(parse(render_card(facts, origin, name))[1])


@pytest.mark.parametrize("library", ["netgraph", "transformers", "timm"])
def test_the_lines_that_open_a_folder_are_python(library):
    facts = dataclasses.replace(FACTS, library=library, class_name='x"); import os; ("', has_tokenizer=True)
    for name in ("small", "owner/small", 'a"b\n'):
        (block,) = [token for token in PARSER.parse(render_card(facts, ORIGIN, name)) if token.info == "python"]
        compile(block.content, "card", "exec")
        assert json.dumps(name)[1:-1] in block.content
        assert "import os" not in block.content


def test_a_license_that_is_no_identifier_is_refused():
    with pytest.raises(LoadError, match=r"the license is 'my own\\nx'. Give an identifier of the hub"):
        render_card(FACTS, Origin(license="my own\nx"), "small")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/me/net.pt", "net.pt"), ("~/net.pt", "net.pt"), ("hf:/a/b c/bert/", "hf:bert"), ("C:\\nets\\net.pt", "net.pt"),
        ("--data=/rows.pt", "--data=rows.pt"), ("nets/net.pt", "nets/net.pt"), ("hf:owner/net", "hf:owner/net"), ("s3://x/y", "s3://x/y"),
        ("2x3x8", "2x3x8"), ("models.net:Net", "models.net:Net"),
    ],
)  # fmt: skip
def test_folders_of_this_machine_are_not_told(word, shown):
    assert hide_folder(word) == shown
    assert Origin(source=word).to_plain()["source"] == shown


def test_an_origin_survives_json_without_what_json_lacks():
    step = dataclasses.replace(ORIGIN.steps[0], document={"metric": float("nan"), "errors": {0.5: float("inf")}})
    plain = json.loads(json.dumps(dataclasses.replace(ORIGIN, steps=(step,)).to_plain(), allow_nan=False))
    again = Origin.from_plain(plain)
    assert again.steps[0].sizes == {"layer.0": (64, 31)}
    assert again.steps[0].document == {"metric": None, "errors": {"0.5": None}}
    assert dataclasses.replace(again, steps=()) == dataclasses.replace(ORIGIN, steps=())
