"""Targets of pickles: the pickle inside an archive, files from before PyTorch 1.6, and the zip file itself.

The judge is `torch.load(weights_only=True)`, zipfile for the bytes of a storage, and the sizes of the file: no tensor is larger.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import itertools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mutations import mutate_pickle, mutate_zip, write_archive
from watching import Target, WrongAnswerError

from netgraph.cli.console.file_contents import read_contents
from netgraph.errors import NetgraphError
from netgraph.io.load import load_model
from netgraph.io.weight_files import read_pickle
from netgraph.models import mlp

ARCH, SIZES = "netgraph.models:mlp", (3, 4, 2)
RECORDS = [("data/0", b"\0\0\x80\x3f" * 12), *((f"data/{i}", bytes(range(32))) for i in range(1, 5))]


def list_states() -> list[Any]:
    """Return contents of files that netgraph opens, all small."""
    torch.manual_seed(0)
    state = mlp(SIZES).state_dict()
    base = torch.arange(6.0)
    return [
        {"w": base},
        collections.OrderedDict(state),
        {"state_dict": dict(state), "epoch": 3, "args": argparse.Namespace(lr=0.1), "betas": (0.9, 0.999)},
        {
            "w_orig": base,
            "w_mask": (base > 2),
            "v": base.view(2, 3).T,
            "e": base[:1].expand(5),
            "p": torch.nn.Parameter(base),
        },
        {
            "c": torch.ones(2, dtype=torch.complex64),
            "i": torch.ones(2, dtype=torch.int64),
            "s": {1, 2},
            "z": 1j,
            "size": torch.Size([1]),
        },
    ]


def list_pickles() -> list[bytes]:
    """Return the pickles inside the archives of `list_states`."""
    out = []
    for state in list_states():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with zipfile.ZipFile(buffer) as archive:
            out.append(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
    return out


def list_legacy_files() -> list[bytes]:
    """Return the states in the form from before PyTorch 1.6."""
    out = []
    for state in list_states():
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=False)
        out.append(buffer.getvalue())
    return out


def list_archives() -> list[bytes]:
    """Return small archives."""
    return [write_archive(pickle, RECORDS) for pickle in list_pickles()[:2]]


def iterate_tensors(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict) and depth < 50:
        for part in itertools.chain(value, value.values()):
            yield from iterate_tensors(part, depth + 1)
    elif isinstance(value, (list, tuple, set)) and depth < 50:
        for part in value:
            yield from iterate_tensors(part, depth + 1)


def check_tensors(value: Any, size: int) -> None:
    """Refuse tensors that are not within a storage of the file."""
    for tensor in itertools.islice(iterate_tensors(value), 1000):
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise WrongAnswerError(f"a tensor that is {tensor.layout} passed the scan")
        storage, item = tensor.untyped_storage().nbytes(), tensor.element_size()
        last = tensor.storage_offset() + sum(
            (n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
        )
        if storage > size or (tensor.numel() and not 0 <= last * item < storage):
            raise WrongAnswerError(f"a tensor of {tuple(tensor.shape)} on {storage} bytes in a file of {size}")


def open_pickle(path: Path) -> None:
    """Read a file in all three ways: check, weights, and network. Their answers must agree."""
    contents = read_contents(path)
    problem = contents.problem or contents.trust
    try:
        value = read_pickle(path, trust=False)
    except NetgraphError:
        with contextlib.suppress(NetgraphError):
            _load(path)
            raise WrongAnswerError("a network was loaded from a file that cannot be read") from None
        raise
    if problem:
        raise WrongAnswerError(f"check refuses what is read: {problem[:200]}")
    check_tensors(value, path.stat().st_size)
    with contextlib.suppress(NetgraphError):  # most weights do not fit the network
        _compare_with_torch(path, _load(path))


def _load(path: Path) -> torch.nn.Module:
    """Return a network with the weights of a file."""
    return load_model(path, arch=ARCH, arch_args={"sizes": SIZES})


def _compare_with_torch(path: Path, network: torch.nn.Module) -> None:
    """Compare a network with the tensors that torch.load gives for the same names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plain = torch.load(path, weights_only=True)
        except Exception:  # settings that netgraph reads as stand-ins
            return
    state = network.state_dict()
    if isinstance(plain, dict) and set(plain) == set(state) and all(type(t) is torch.Tensor for t in plain.values()):
        for name, tensor in state.items():
            if not torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(plain[name].to(tensor.dtype))):
                raise WrongAnswerError(f"{name} has other numbers than in the file")


def check_archive_pickle(data: bytes, folder: Path) -> None:
    """Open an archive with this pickle inside."""
    path = folder / "m.pt"
    path.write_bytes(write_archive(data, RECORDS))
    open_pickle(path)


def check_legacy(data: bytes, folder: Path) -> None:
    """Open a file of pickles one after another."""
    path = folder / "m.pth"
    path.write_bytes(data)
    open_pickle(path)


def check_archive(data: bytes, folder: Path) -> None:
    """Open a file as it is. Numbers are those that zipfile finds in its records, and the file stays as it is."""
    path = folder / "m.ckpt"
    path.write_bytes(data)
    value = read_pickle(path, trust=False)
    check_tensors(value, len(data))
    tensors = list(itertools.islice(iterate_tensors(value), 100))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        records = [archive.read(n) for n in names if "/data/" in n]
        swapped = any(n.endswith("/byteorder") and archive.read(n) == b"big" for n in names)
    storages = [tensor.untyped_storage() for tensor in tensors if not swapped]
    if not all(any(record.startswith(bytes(storage.tolist())) for record in records) for storage in storages):
        raise WrongAnswerError("a tensor has numbers that are in no record")
    for tensor in tensors:
        tensor.untyped_storage().fill_(7)  # numbers are mapped, and what is written to them must not reach the file
    if path.read_bytes() != data:
        raise WrongAnswerError("a file changed with the tensors that were read from it")


TARGETS = [
    Target("pickle_in_archive", check_archive_pickle, list_pickles, mutate_pickle),
    Target("legacy_pickle", check_legacy, list_legacy_files, mutate_pickle),
    Target("zip_archive", check_archive, list_archives, mutate_zip),
]
