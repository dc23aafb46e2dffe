"""Exporters of users and of other distributions: what they may do is checked, and an older file stays whole."""

import errno
import sys

import pytest
import torch

import netgraph as ng
from netgraph import plugins
from netgraph.errors import NetgraphError, PluginError
from netgraph.models.perceptron import mlp

MODULE = """
import asyncio, errno, shutil, sys
from netgraph.errors import NetgraphError

def refuse(hierarchy, path):
    raise NetgraphError("this format has no such level")

def fill(hierarchy, path):
    raise OSError(errno.ENOSPC, "No space left on device")

def leave(hierarchy, path):
    sys.exit(3)

def half(hierarchy, path):
    path.write_text("half")
    raise KeyError("axis")

def cancel(hierarchy, path):
    raise asyncio.CancelledError

WRITERS = {
    "link": lambda hierarchy, path: path.symlink_to(__file__),
    "vanish": lambda hierarchy, path: shutil.rmtree(path.parent),
    "cancel": cancel,
    "right": lambda hierarchy, path: path.write_text("all"),
    "none": lambda hierarchy, path: None,
    "folder": lambda hierarchy, path: path.mkdir(),
    "beside": lambda hierarchy, path: (path.write_text("a"), path.with_suffix(".idx").write_text("b")),
    "half": half, "leave": leave, "refuse": refuse, "fill": fill, "text": "no function",
}
globals().update(WRITERS)
"""


@pytest.fixture
def hierarchy():
    return ng.build_hierarchy(mlp((6, 8, 4)), torch.randn(2, 6))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution ``their-formats`` whose exporters have the names of its functions."""

    def forget():
        for cached in (plugins._find_entry_points, plugins.load_plugin):
            cached.cache_clear()
        sys.modules.pop("their_formats", None)

    info = tmp_path / "their_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-formats\nVersion: 1.0\n")
    names = ("right", "link", "vanish", "cancel", "none", "folder", "beside", "half", "leave", "refuse", "fill", "text")
    lines = [f"{name} = their_formats:{name}" for name in names]
    (info / "entry_points.txt").write_text("[netgraph.exporters]\n" + "\n".join(lines) + "\n")
    (tmp_path / "their_formats.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


FAULTS = {
    "none": (PluginError, r"exporter .* wrote no file for .*net\.none"),
    "folder": (PluginError, r"exporter .* wrote no file for .*net\.folder"),
    "link": (PluginError, r"exporter .* wrote no file for .*net\.link"),
    "vanish": (PluginError, r"exporter .* wrote no file for .*net\.vanish"),
    "cancel": (PluginError, r"exporter 'cancel' of their-formats fails on .*net\.cancel \(CancelledError\)"),
    "beside": (PluginError, r"exporter .* wrote net\.idx beside net\.beside"),
    "half": (PluginError, r"exporter 'half' of their-formats fails on .*net\.half \(KeyError: 'axis'\)"),
    "leave": (PluginError, r"exporter 'leave' of their-formats fails on .*net\.leave \(SystemExit: 3\)"),
    "text": (PluginError, r"exporter is 'no function'"),
    "refuse": (NetgraphError, r"^this format has no such level$"),
    "fill": (NetgraphError, r"net\.fill cannot be written \(No space left on device\)"),
}


@pytest.mark.parametrize("suffix", FAULTS)
def test_an_exporter_that_fails_is_named_and_the_older_file_stays(hierarchy, installed, suffix):
    error, message = FAULTS[suffix]
    place = installed / f"net.{suffix}"
    place.write_text("older")
    with pytest.raises(error, match=message):
        ng.export(hierarchy, place)
    assert place.read_text() == "older"
    assert not list(installed.glob(".netgraph-*"))


def test_an_exporter_of_another_distribution_writes_its_file(hierarchy, installed):
    ng.export(hierarchy, installed / "net.right")
    assert (installed / "net.right").read_text() == "all"


def change(hierarchy, path):
    next(iter(hierarchy.levels[0].model.parameters())).data.zero_()
    path.write_text("all")


def count_calls():
    calls = []

    def write(hierarchy, path):
        calls.append(1)
        path.write_text(str(len(calls)))

    return write


def refuse_all(hierarchy, path):
    raise NetgraphError("no")


def refuse_blocks(hierarchy, path):
    if hierarchy.levels[1].chains:
        raise NetgraphError("this format has no blocks")
    path.write_text("all")


def test_the_check_finds_each_broken_rule():
    ng.check_exporter(refuse_blocks, "txt")
    for write, message in (
        (change, r"exporter 'change' changed the hierarchy"),
        (count_calls(), r"exporter 'write' wrote two files of other bytes"),
        (lambda hierarchy, path: None, r"wrote no file for trial0\.txt"),
        (lambda hierarchy: None, r"exporter '<lambda>' fails on trial0\.txt \(TypeError"),
    ):
        with pytest.raises(PluginError, match=message):
            ng.check_exporter(write, ".txt")
    with pytest.raises(NetgraphError, match=r"^no$"):
        ng.check_exporter(refuse_all, "txt")


def test_the_exporters_of_netgraph_keep_the_contract():
    for name in ("graphml", "npz", "json", "dot"):
        ng.check_exporter(plugins.load_plugin("netgraph.exporters", name), name)


def test_a_full_disk_is_an_error_of_the_system_and_not_of_the_exporter():
    def fill(hierarchy, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        ng.check_exporter(fill, "txt")
