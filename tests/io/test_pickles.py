"""Files that would make PyTorch waste memory or time are refused before they are unpickled, and honest files pass."""

import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from netgraph.errors import LoadError, UntrustedError
from netgraph.io.load import load_model
from netgraph.io.pickle_scan import scan_pickle

ARCH = "netgraph.models:mlp"


class HugeTensor:
    def __reduce__(self):
        return torch.Tensor, (2**40,)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_runs_nothing_without_trust(tmp_path, legacy):
    torch.save(
        {"w": torch.ones(2), "x": Payload(tmp_path / "ran")},
        tmp_path / "m.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(UntrustedError, match=r"posix\.mkdir"):
        load_model(tmp_path / "m.pt", arch=ARCH)
    assert not (tmp_path / "ran").exists()


def _number(n):
    return b"\x8a\x08" + n.to_bytes(8, "little")


def _storage(numel, key=b"X\1\0\0\0000"):
    return b"(X\7\0\0\0storagectorch\nFloatStorage\n" + key + b"X\3\0\0\0cpu" + _number(numel) + b"tQ"


def _tensor(claimed=4, size=4):
    """Return the opcodes of a tensor on a storage of four floats, which the file holds."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + _storage(claimed) + b"K\0" + _number(size) + b"\x85K\1\x85\x89}tR"


def _archive(contents, compression=zipfile.ZIP_STORED, extra=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in [("a/data.pkl", contents), ("a/version", b"3\n"), ("a/data/0", b"\0" * 16), *extra]:
            archive.writestr(name, data)
    return buffer.getvalue()


def _weights(value):
    return _archive(b"\x80\2}X\1\0\0\0w" + value + b"s.")


def _legacy_claim():
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue().replace(b"K\x03Nt", _number(2**40) + b"Nt", 1)


def _doubled(depth):
    """Return the opcodes of a tuple that holds a tuple twice, and so on: few bytes, 2**depth values."""
    return b"K\1\x85q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))


HOSTILE = {
    "a storage larger than its record": _weights(_tensor(claimed=2**40)),
    "a tensor larger than its storage": _weights(_tensor(size=2**33)),
    "a tensor put on more memory by its state": _weights(_tensor() + b"(" + _storage(4) + b"K\0" + _number(2**33) + b"\x85K\1\x85tb"),
    "a storage made and not read": _weights(b"ctorch.storage\nUntypedStorage\n" + _number(2**33) + b"\x85R"),
    "a tensor class called": _archive(pickle.dumps({"w": HugeTensor()})),
    "a legacy storage larger than the file": _legacy_claim(),
    "a legacy file that ends like a harmless archive": _legacy_claim() + _weights(_tensor()),
    "an archive after an archive": _weights(_tensor()) * 2,
    "names that differ by case alone": _archive(b"\x80\2N.", extra=[("a/DATA.PKL", b"\x80\2N.")]),
    "a compressed archive": _archive(b"\x80\2N.", zipfile.ZIP_DEFLATED, [("a/data/1", b"\0" * 2**28)]),
    "a memo of a thousand million entries": _archive(b"\x80\2}r" + (2**30).to_bytes(4, "little") + b"."),
    "bytes longer than the file": _archive(b"\x80\4\x8e" + (2**46).to_bytes(8, "little") + b"abc."),
    "a million dicts": _archive(b"\x80\2(" + b"}" * 2**22 + b"t."),
    "a claim behind a million globals": _archive(b"\x80\2](" + b"ctorch\nSize\n" * 990_000 + _tensor(2**40) + b"e."),
    "a claim behind a million dicts": _archive(b"\x80\2](" + b"}" * 990_000 + _tensor(2**40) + b"e."),
    "a key that takes for ever to hash": _archive(b"\x80\2}" + _doubled(60) + b"K\1s."),
    "a key deeper than the stack": _archive(b"\x80\2}K\1" + b"\x85" * 900_000 + b"K\1s."),
    "a number repeated many times to a gigabyte": _archive(b"\x80\2](" + _tensor(size=2**20).replace(b"K\1\x85\x89", b"K\0\x85\x89") * 300 + b"e."),
    "a storage whose name takes for ever to print": _weights(_storage(4, key=_doubled(60))),
}  # fmt: skip

CHILD = """
import resource, sys, time
from pathlib import Path
import netgraph.models.perceptron
from netgraph.io.load import load_model
from netgraph.errors import LoadError
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 512 * 2**20,) * 2)
for path in sys.argv[1:]:
    started = time.process_time()
    try:
        load_model(path, arch="netgraph.models:mlp")
    except LoadError as error:
        print(f"{time.process_time() - started:.3f} {error}")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measures memory as Linux does")
def test_files_that_ask_for_terabytes_are_refused_in_two_seconds_and_half_a_gigabyte(tmp_path):
    paths = [tmp_path / f"{name}.pt" for name in HOSTILE] + [tmp_path / "a header of terabytes.safetensors"]
    for path, data in zip(paths, [*HOSTILE.values(), (2**40).to_bytes(8, "little") + b"{}"], strict=True):
        path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    refusals = done.stdout.splitlines()
    assert len(refusals) == len(paths)  # one line each
    for path, line in zip(paths, refusals, strict=True):
        seconds, _, message = line.partition(" ")
        assert message.startswith(str(path))
        assert float(seconds) < 2, line
        # refused for what it is, and not by the allocator, nor by torch, which would have read it
        assert "emory" not in message.replace(path.name, ""), line
        assert "does not fit netgraph" not in line, line


def test_the_harmless_twin_of_the_hostile_files_is_read(tmp_path):
    (tmp_path / "m.pt").write_bytes(_weights(_tensor()))
    (tmp_path / "one.py").write_text(
        "import torch\nclass One(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = torch.nn.Parameter(torch.ones(4))\n"
    )
    assert load_model(tmp_path / "m.pt", arch="one:One", code_dir=tmp_path).w.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("archive", [False, True])
def test_no_protocol_of_pickle_runs_a_payload(tmp_path, protocol, archive):
    data = pickle.dumps({"x": Payload(tmp_path / "ran")}, protocol)
    (tmp_path / "m.pt").write_bytes(_archive(data) if archive else data)
    with pytest.raises(LoadError):
        load_model(tmp_path / "m.pt", arch=ARCH)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.complex64])
def test_honest_files_of_every_kind_of_number_pass_the_scan(tmp_path, dtype, legacy):
    base = torch.ones(4, 6).to(dtype)
    views = {
        "base": base,
        "view": base[1:, ::2],
        "transposed": base.T,
        "expanded": base[:1].expand(9, 6),
        "none": base[:0],
    }
    state = collections.OrderedDict({**views, "scalar": base[0, 0], "parameter": nn.Parameter(torch.ones(2))})
    torch.save({"state_dict": state, "epoch": 3, "betas": (0.9, 0.999), "best": None}, tmp_path / "m.pt",
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    scan_pickle(tmp_path / "m.pt")
