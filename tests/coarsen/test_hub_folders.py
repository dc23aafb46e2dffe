"""Folders of networks, hierarchies and compressions: written, opened, replaced, uploaded to a hub, and refused in one sentence."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen import Compressed, fine_tune, from_pretrained, push_to_hub, save_pretrained
from netgraph.errors import LoadError, LoadWarning
from netgraph.io.hub.origin import find_origin
from netgraph.models import mlp
from netgraph.recording.graph_module import GraphNetwork
from tests.support.command_line import run_main
from tests.support.hub_server import serve_hub

ROWS = torch.linspace(-1, 1, 24 * 6).reshape(24, 6).sin()


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    return ng.build_hierarchy(mlp((6, 16, 3)), ROWS[:2], n_levels=3)


@pytest.fixture(scope="module")
def compressed():
    torch.manual_seed(0)
    targets = torch.arange(24) % 3
    return ng.compress(mlp((6, 16, 3)), ROWS, targets=targets, target="parameters=0.5", tune=2)


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recorded_graph_comes_back_bit_for_bit(hierarchy, inside):
    network = hierarchy.levels[1].model
    network.save_pretrained("out/small")
    assert {path.name for path in (inside / "out" / "small").iterdir()} == {
        "config.json", "model.safetensors", "netgraph.json", "README.md",
    }  # fmt: skip
    for opened in (
        GraphNetwork.from_pretrained("out/small"), from_pretrained("out/small"), ng.load_model("out/small"), ng.load("out/small"),
        ng.load_model("hf:out/small"),
    ):  # fmt: skip
        assert torch.equal(opened(ROWS), network(ROWS))
        assert not opened.training
    assert json.loads((inside / "out/small/config.json").read_text())["library_name"] == "netgraph"


def test_a_hierarchy_comes_back_with_its_transfers(hierarchy, inside):
    hierarchy.save_pretrained("levels")
    again = ng.Hierarchy.from_pretrained("levels")
    assert [level.n_units for level in again.levels] == [16, 8, 4]
    for level, expected in zip(again.levels[1:], hierarchy.levels[1:], strict=True):
        assert torch.equal(level.model(ROWS), expected.model(ROWS))
        for name, transfer in level.transfers.items():
            assert (transfer.aggregates == expected.transfers[name].aggregates).all()
    own = from_pretrained("levels", arch=lambda: mlp((6, 16, 3)))
    assert isinstance(own.levels[0].model, nn.Sequential)
    assert torch.equal(own.levels[0].model(ROWS), hierarchy.levels[0].model(ROWS))


def test_a_compression_comes_back_with_its_table(compressed, inside):
    compressed.save_pretrained("small")
    again = Compressed.from_pretrained("small")
    assert again.stages == compressed.stages
    assert again.document() == {**compressed.document(), "class": "GraphNetwork"}
    assert str(again) == str(compressed).replace("is a Sequential", "is a GraphNetwork")
    torch.testing.assert_close(again.model(ROWS), compressed.model(ROWS))
    with pytest.raises(ng.NetgraphError, match="holds the small network and not the original"):
        again.require_hierarchy()
    again.save_pretrained("again")
    assert Compressed.from_pretrained("again").stages == compressed.stages


def test_the_card_says_from_what_how_and_with_which_losses(compressed, inside):
    torch.save(mlp((6, 16, 3)).state_dict(), "net.pt")
    network = ng.load_model("net.pt", arch="netgraph.models:mlp", arch_args={"sizes": [6, 16, 3]})
    small = ng.build_hierarchy(network, ROWS[:2], ratio=0.5, seed=3).levels[1].model
    fine_tune(small, network, ROWS, epochs=2, losses=("knowledge",))
    small.save_pretrained("small", license="mit")
    card = (inside / "small" / "README.md").read_text()
    for part in (
        "opened as net.pt", "| coarsener | hem |", "| ratio | 0.5 |", "| seed | 3 |", "| 0 | 16 | 8 |",
        "| losses | knowledge with weight 1 |", 'license: "mit"', "| parameters | 163 before, 83 after |",
    ):  # fmt: skip
        assert part in card, part
    compressed.save_pretrained("judged")
    card = (inside / "judged" / "README.md").read_text()
    first, last = compressed.stages[0], compressed.stages[-1]
    assert f"Compression: top1 {first.metric:.4g} before, {last.metric:.4g} after." in card
    assert card.count("\n| tuned |") == 1
    assert "They are others on yours." in card


def test_the_lines_on_the_card_open_the_folder(hierarchy, compressed, inside):
    for name, obj in (("levels", hierarchy), ("small", compressed)):
        obj.save_pretrained(name)
        (code,) = re.findall(r"```python\n(.*?)```", (inside / name / "README.md").read_text(), re.S)
        names = {}
        exec(code, names)
        expected = hierarchy.levels[-1].model if name == "levels" else compressed.model
        torch.testing.assert_close(names["network"](ROWS), expected(ROWS))


def test_what_was_done_before_goes_along_with_a_network_that_is_opened_and_coarsened_again(hierarchy, inside):
    hierarchy.levels[1].model.save_pretrained("half")
    (inside / "half" / "tokenizer.json").write_text("{}")
    again = ng.build_hierarchy(from_pretrained("half"), ROWS[:2])
    again.levels[1].model.save_pretrained("quarter")
    card = (inside / "quarter" / "README.md").read_text()
    assert card.count("### Coarsening") == 2
    assert (inside / "quarter" / "tokenizer.json").read_text() == "{}"
    assert find_origin(from_pretrained("quarter")).class_name == "Sequential"
    assert "GraphNetwork" not in card


def test_a_command_writes_a_name_without_suffix_as_a_folder_that_commands_open(hierarchy, inside):
    ng.save(hierarchy.levels[1].model, "small.safetensors")
    (inside / "empty").mkdir()
    for name in ("half", "half-0.5", "empty"):
        code, out, err = run_main("coarsen", "small.safetensors", "--input", "2x6", "-o", name)
        assert (code, bool(out), f"wrote {name}, the recorded graph, with its card" in err) == (0, True, True)
        assert from_pretrained(name)(ROWS).shape == (24, 3)
        code, _, err = run_main("export", name, f"{name}.json", "--input", "2x6")
        assert (code, (inside / f"{name}.json").is_file()) == (0, True), err


def test_a_folder_is_replaced_and_files_of_others_stay(hierarchy, inside):
    network = hierarchy.levels[1].model
    network.save_pretrained("small")
    for name in (".gitattributes", "LICENSE", "tokenizer.json"):
        (inside / "small" / name).write_text(name)
    (inside / "small" / ".git").mkdir()
    hierarchy.levels[2].model.save_pretrained("small")
    assert torch.equal(from_pretrained("small")(ROWS), hierarchy.levels[2].model(ROWS))
    assert {".git", ".gitattributes", "LICENSE", "tokenizer.json"} <= set(os.listdir("small"))
    hierarchy.save_pretrained("small")
    assert "model.safetensors" not in os.listdir("small")


class Words:
    """A tokenizer."""

    def save_pretrained(self, folder):
        with open(f"{folder}/tokenizer.json", "w") as file:
            file.write("words")
        os.mkdir(f"{folder}/additional_chat_templates")
        with open(f"{folder}/additional_chat_templates/rag.jinja", "w") as file:
            file.write("template")


def test_a_tokenizer_saves_itself_into_the_folder(hierarchy, inside):
    for given in (Words(), [Words()]):
        hierarchy.levels[1].model.save_pretrained("small", processing=given)
        assert (inside / "small" / "tokenizer.json").read_text() == "words"
        assert (inside / "small" / "additional_chat_templates" / "rag.jinja").read_text() == "template"
    again = ng.build_hierarchy(from_pretrained("small"), ROWS[:2]).levels[1].model
    again.save_pretrained("next")
    assert (inside / "next" / "additional_chat_templates" / "rag.jinja").read_text() == "template"


def test_a_link_out_of_a_folder_is_not_followed(hierarchy, inside):
    (inside / "secret").write_text("secret")
    hierarchy.levels[1].model.save_pretrained("half")
    (inside / "half" / "vocab.txt").symlink_to(inside / "secret")
    ng.build_hierarchy(from_pretrained("half"), ROWS[:2]).levels[1].model.save_pretrained("quarter")
    assert "vocab.txt" not in os.listdir("quarter")


def write_entries(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def damage(inside, case):
    """Make a folder that is wrong in one way, and return its name."""
    config = inside / "small" / "config.json"
    if case == "future":
        write_entries(config, format=99, version="9.0")
    elif case == "kind":
        write_entries(config, kind="tower")
    elif case == "no config":
        config.unlink()
    elif case == "not json":
        config.write_text("{")
    elif case == "no weights":
        (inside / "small" / "model.safetensors").unlink()
    elif case == "other library":
        config.write_text('{"library_name": "keras"}')
    return {"missing": "nowhere/at/all", "a file": "small/config.json"}.get(case, "small")


OPENING = {
    "future": "has format 99 of netgraph 9.0, and this is netgraph",
    "kind": "has the kind 'tower', and netgraph has network and hierarchy",
    "no config": "has no config.json of netgraph, transformers or timm",
    "not json": "cannot be read (JSONDecodeError",
    "no weights": "model.safetensors is missing",
    "other library": "has no config.json of netgraph, transformers or timm",
    "missing": "is no folder. Give a folder, or OWNER/NAME of a repository",
    "a file": "is no folder. Give a folder, or OWNER/NAME of a repository",
}


@pytest.mark.parametrize("case", OPENING)
def test_a_folder_that_does_not_open_is_refused_in_one_sentence(case, hierarchy, inside):
    hierarchy.levels[1].model.save_pretrained("small")
    with pytest.raises(LoadError, match=re.escape(OPENING[case])) as refused:
        from_pretrained(damage(inside, case))
    assert "\n" not in str(refused.value)


def test_another_class_than_asked_for_is_named(hierarchy, inside):
    hierarchy.save_pretrained("levels")
    hierarchy.levels[1].model.save_pretrained("small")
    with pytest.raises(LoadError, match=r"levels holds a Hierarchy and no GraphNetwork"):
        GraphNetwork.from_pretrained("levels")
    with pytest.raises(LoadError, match=r"small holds a GraphNetwork and no Hierarchy"):
        ng.Hierarchy.from_pretrained("small")
    with pytest.raises(LoadError, match=r"small holds a network that no compression made"):
        Compressed.from_pretrained("small")
    with pytest.raises(
        LoadError, match=r"levels holds a hierarchy, and one network is asked for. Give levels/level1.safetensors"
    ):
        ng.load_model("hf:levels")
    with pytest.raises(LoadError, match=r"arch is for a hierarchy"):
        from_pretrained("small", arch=mlp)
    with pytest.raises(LoadError, match=r"revision 'v2' is for a repository"):
        from_pretrained("small", revision="v2")


def test_a_damaged_history_is_told_and_the_network_opens(hierarchy, inside):
    network = hierarchy.levels[1].model
    network.save_pretrained("small")
    for text in ("{", '{"format": 99}', '{"format": 1, "version": "0", "facts": {}, "origin": [], "card": ""}'):
        (inside / "small" / "netgraph.json").write_text(text)
        with pytest.warns(LoadWarning, match="what was done to small before is not known"):
            assert torch.equal(from_pretrained("small")(ROWS), network(ROWS))


SAVING = {
    "others": (lambda: Path("small/notes.txt").touch(), "holds 'notes.txt', which netgraph has not written"),
    "card": (lambda: Path("small/README.md").write_text("mine"), "its README.md is not as netgraph wrote it"),
    "no network": (lambda: os.remove("small/config.json"), "and no config.json, so that it is no folder of a network"),
    "an original": (
        lambda: (os.remove("small/netgraph.json"), os.remove("small/README.md")),
        "small holds 'config.json' and no netgraph.json, so that it is no folder of a network that netgraph wrote",
    ),
    "work": (
        lambda: (os.rename("small", "old"), os.mkdir("small"), os.chdir("small")),
        "is the folder that you work in",
    ),
    "file": (lambda: (os.rename("small", "old"), Path("small").touch()), "small is a file, and a folder"),
}


@pytest.mark.parametrize("case", SAVING)
def test_a_place_that_is_taken_is_refused_and_stays(case, hierarchy, inside):
    network = hierarchy.levels[1].model
    network.save_pretrained("small")
    prepare, sentence = SAVING[case]
    prepare()
    before = sorted(path.name for path in (inside / "small").iterdir()) if case != "file" else []
    with pytest.raises(LoadError, match=re.escape(sentence)):
        network.save_pretrained("." if case == "work" else "small")
    assert case == "file" or sorted(path.name for path in (inside / "small").iterdir()) == before


def test_objects_that_no_folder_holds_are_refused(hierarchy, inside):
    with pytest.raises(LoadError, match=r"a Sequential has no config that a folder could hold"):
        save_pretrained(mlp(), "small")
    with pytest.raises(LoadError, match=r"a Tensor is no network"):
        save_pretrained(ROWS, "small")
    with pytest.raises(LoadError, match=r"the license is 'all rights'"):
        hierarchy.save_pretrained("small", license="all rights")
    with pytest.raises(LoadError, match=r"processing has a int, which has no save_pretrained"):
        hierarchy.save_pretrained("small", processing=[3])
    with pytest.raises(LoadError, match=r"processing is 'tokenizer.json'"):
        hierarchy.save_pretrained("small", processing="tokenizer.json")
    assert not os.listdir()
    hierarchy.save_pretrained("levels")
    with pytest.raises(LoadError, match=r"levels has a card, which would not fit any more. Use save_pretrained"):
        ng.save(hierarchy, "levels")


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "-x", "x--y", "../x", "a" * 200])
def test_a_malformed_name_of_a_repository_is_refused_before_anything_is_written(name, hierarchy, inside):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(LoadError, match=r"is no name of a repository. Give OWNER/NAME"):
        hierarchy.push_to_hub(name)
    assert not os.listdir()


def test_a_folder_without_config_is_not_uploaded(hierarchy, inside):
    pytest.importorskip("huggingface_hub")
    ng.save(hierarchy, "levels")
    with pytest.raises(LoadError, match=r"levels holds no config.json of netgraph"):
        push_to_hub("levels", "me/levels")
    with pytest.raises(LoadError, match=r"nowhere is no folder. Give one that save_pretrained wrote"):
        push_to_hub("nowhere", "me/levels")


@pytest.fixture
def hub(inside, monkeypatch):
    """Run a hub on this machine, and let huggingface_hub ask it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with serve_hub() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(inside / "cache"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("NO_PROXY", "*")
        yield server


def test_a_hub_takes_a_network_and_gives_it_back(hierarchy, hub, inside):
    small = hierarchy.levels[1].model
    address = small.push_to_hub("me/small", private=True, license="mit", commit_message="first")
    assert address.startswith(f"{hub.url}/me/small/commit/")
    assert set(hub.repositories["me/small"]) == {"README.md", "config.json", "model.safetensors", "netgraph.json"}
    card = hub.repositories["me/small"]["README.md"].decode()
    assert 'from_pretrained("me/small")' in card
    assert 'license: "mit"' in card
    made = [body for path, (body, *_) in hub.posted if path == "/api/repos/create"]
    assert "private" in json.dumps(made)
    (first,) = [body for path, body in hub.posted if path == "/api/models/me/small/commit/main"]
    assert first[0]["value"]["summary"] == "first"
    for opened in (
        from_pretrained("me/small"), GraphNetwork.from_pretrained("hf:me/small", local_files_only=True),
        ng.load_model("hf:me/small"), from_pretrained("me/small@main", local_files_only=True),
    ):  # fmt: skip
        assert torch.equal(opened(ROWS), small(ROWS))
    again = ng.build_hierarchy(from_pretrained("me/small"), ROWS[:2]).levels[1].model
    again.save_pretrained("again")
    assert 'base_model: "me/small"' in (inside / "again" / "README.md").read_text()


def test_a_hub_takes_a_folder_as_it_is_with_its_own_name_on_the_card(hierarchy, hub, inside):
    hierarchy.save_pretrained("levels")
    before = {path.name: path.read_bytes() for path in (inside / "levels").iterdir()}
    push_to_hub("levels", "levels")
    stored = hub.repositories["me/levels"]
    assert 'from_pretrained("me/levels")' in stored["README.md"].decode()
    assert {path.name: path.read_bytes() for path in (inside / "levels").iterdir()} == before
    assert [level.n_units for level in ng.Hierarchy.from_pretrained("me/levels").levels] == [16, 8, 4]
    (inside / "levels" / "README.md").write_text("---\nlicense: mit\n---\nmine")
    push_to_hub("levels", "me/levels")
    assert stored["README.md"].decode().endswith("mine")


def test_what_a_hub_refuses_is_told_in_one_sentence(hierarchy, hub):
    small = hierarchy.levels[1].model
    with pytest.raises(LoadError, match=r"fetching hf:me/nothing fails \(RepositoryNotFoundError"):
        from_pretrained("me/nothing")
    with pytest.raises(LoadError, match=r"the weights of hf:me/nothing are not on this machine"):
        from_pretrained("me/nothing", local_files_only=True)
    with pytest.raises(LoadError, match=r"uploading to me/small fails \(HfHubHTTPError.*`hf auth login` stores one"):
        small.push_to_hub("me/small", token="hf_other")
    assert not hub.repositories
