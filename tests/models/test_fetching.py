"""IMDB fetched from a local server: read as published, and refused if it is not the published archive."""

import io
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from datafolders import sha256, write_imdb

from netgraph.errors import DataError
from netgraph.models.data.datasets import load_dataset
from netgraph.models.data.readers import imdb
from netgraph.models.data.readers import imdb as fetching


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder whose files are served in place of the address of the authors."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "URL", f"http://127.0.0.1:{server.server_port}/aclImdb_v1.tar.gz")
    yield folder
    server.shutdown()
    server.server_close()


def packed(served, monkeypatch, *more):
    """Serve reviews as the published archive and return texts and labels. ``more`` are further members and their contents."""
    archive = served / "aclImdb_v1.tar.gz"
    expected = write_imdb(served, monkeypatch, unpacked=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(served / "aclImdb", "aclImdb")
        for member, data in more:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    shutil.rmtree(served / "aclImdb")
    monkeypatch.setattr(fetching, "SIZE", archive.stat().st_size)
    monkeypatch.setattr(fetching, "SHA256", sha256(archive.read_bytes()))
    return expected


def test_the_archive_is_fetched_once_and_read_as_it_was_written(served, tmp_path, monkeypatch):
    more = tarfile.TarInfo("aclImdb/train/unsup/0_0.txt")
    expected, root = packed(served, monkeypatch, (more, b"no rating")), tmp_path / "data"
    data = load_dataset("imdb", root=root, download=True)
    assert len(data.train) + len(data.valid) == len(data.test) == len(expected[0])
    assert imdb.read_folder(root / "aclImdb", "test") == expected
    assert [path.name for path in root.iterdir()] == ["aclImdb"]
    assert sorted(path.name for path in (root / "aclImdb" / "train").iterdir()) == ["neg", "pos"]
    shutil.rmtree(served)
    assert len(load_dataset("imdb", root=root, download=True).test) == len(data.test)


@pytest.mark.parametrize("damage", ["one bit", "cut short", "longer", "missing"])
def test_another_archive_is_refused_and_leaves_nothing(served, tmp_path, monkeypatch, damage):
    packed(served, monkeypatch)
    archive, root = served / "aclImdb_v1.tar.gz", tmp_path / "data"
    data = archive.read_bytes()
    bit = data[:90] + bytes([data[90] ^ 1]) + data[91:]
    archive.write_bytes({"one bit": bit, "cut short": data[:-1], "longer": data + b"0", "missing": data}[damage])
    if damage == "missing":
        archive.unlink()
    with pytest.raises(DataError, match=r"not the published file|HTTPError: .*404") as caught:
        load_dataset("imdb", root=root, download=True)
    assert "\n" not in str(caught.value)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["aclImdb/train/pos/../../../../out.txt", "/tmp/out.txt", "aclImdb/train/pos/1_9.txt"])
def test_members_that_would_leave_the_folder_or_are_links_are_not_unpacked(served, tmp_path, monkeypatch, name):
    member, root = tarfile.TarInfo(name), tmp_path / "data"
    if name.startswith("aclImdb/train/pos/1"):
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    packed(served, monkeypatch, (member, b""))
    load_dataset("imdb", root=root, download=True)
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert not list(tmp_path.rglob("out.txt"))


def test_a_host_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")
    with pytest.raises(
        DataError, match=r"imdb cannot be fetched from http://127.0.0.1:9/.*Try again, or unpack aclImdb_v1"
    ):
        load_dataset("imdb", root=tmp_path, download=True)
