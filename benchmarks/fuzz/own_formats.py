"""Targets of netgraph's own files: bundles, networks, hierarchies, folders of networks, checkpoints and run.json.

Documents are edited and written under a right digest, so that a reader cannot refuse them for the digest alone. An answer is judged
by writing it and reading it back, by laws of partitions, and for bundles by a reader of safetensors of a few lines.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from document_edits import deep_stack, dump, make_mutator, read_edits
from mutations import hash_bundle, mutate_safetensors, split_safetensors
from watching import Target, WrongAnswerError

import netgraph as ng
from netgraph.cli.console.file_contents import read_contents
from netgraph.coarsen import Compressed, from_pretrained, save_pretrained
from netgraph.errors import NetgraphError
from netgraph.fas import Checkpoints, read_run, resume, write_run
from netgraph.fas.monitoring.history import common_loss, summarize_run
from netgraph.io import read_bundle, write_bundle
from netgraph.io.hub.origin import find_origin
from netgraph.models import mlp

SEED = b'{"base":0,"edits":[]}'
X = torch.linspace(-1, 1, 6).reshape(2, 3)
OPERATORS = (
    "aten.relu.default", "aten.linear.default", "aten.view.default", "aten.reshape.default", "aten.expand.default", "aten.cat.default", "aten.arange.default",
    "aten.zeros.default", "aten.full.default", "aten.split.Tensor", "aten.index_select.default", "aten.as_strided.default", "aten.pad.default", "aten.einsum.default",
    "aten.dropout.default", "aten.sym_size.int", "builtin:getitem", "builtin:mul", "builtin:check_decision", "builtin:cumulative_factor", "autocast:enter",
    "placeholder:x", "get_attr:fc1.weight", "output:output", "prim.device.default", "aten.eye.default", "aten.repeat.default", "aten.one_hot.default",
    {"followed": "float32"}, {"torch": "float64"}, {"float": "inf"}, {"dict": {}}, [-1, 2], [2**31, 2**31], {"items": []}, {"was": "types.SimpleNamespace", "dict": {}},
)  # fmt: skip


class Answer(torch.nn.Module):
    """A network with a convolution, a batch norm and an answer by names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = torch.nn.Conv1d(1, 4, 2), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(self.norm(self.conv(x[:, None]))).mean(2)
        return {"logits": self.out(y), "parts": (x + 1, None)}


@cache
def make_hierarchies() -> list[Any]:
    """Return two small hierarchies."""
    torch.manual_seed(0)
    return [ng.build_hierarchy(mlp((3, 6, 2)), X, n_levels=3), ng.build_hierarchy(Answer().eval(), X, n_levels=2)]


@cache
def list_networks() -> list[tuple[dict[str, torch.Tensor], Any]]:
    """Return the tensors and the document of a coarse network of each hierarchy."""
    models = [hierarchy.levels[1].model for hierarchy in make_hierarchies()]
    return [(dict(m.tensors()), json.loads(json.dumps(m.document()))) for m in models]


def list_network_documents() -> list[Any]:
    """Return the documents of networks, to be edited."""
    return [document for _, document in list_networks()]


def check_network(data: bytes, folder: Path) -> None:
    """Open a network, trace it, write it and read it back: the copy must answer the same."""
    number, document = read_edits(data, list_network_documents())
    path, again = folder / "net.safetensors", folder / "again.safetensors"
    _write(path, list_networks()[number][0], document)
    read_contents(path)
    network = ng.load_model(path)
    ng.trace(network, X, prove=False)
    ng.save(network, again)
    copy_of_it = ng.load_model(again)
    if json.dumps(copy_of_it.document(), sort_keys=True) != json.dumps(network.document(), sort_keys=True):
        raise WrongAnswerError("a network that was opened and saved reads back as another document")
    with torch.no_grad():
        if not _are_same(network(X), copy_of_it(X)):
            raise WrongAnswerError("a network that was opened and saved answers otherwise")


def _write(path: Path, tensors: dict[str, torch.Tensor], document: Any) -> None:
    """Write an edited document under a right digest."""
    with deep_stack():
        write_bundle(path, tensors, document if isinstance(document, dict) else {"document": document})


def _are_same(one: Any, other: Any) -> bool:
    """Return True for equal nested answers. Random answers are not compared."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and (one.shape, one.dtype) == (other.shape, other.dtype)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(_are_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_are_same, one, other))
    return bool(one == other or one != one) if isinstance(one, (int, float, str, type(None))) else True


@cache
def list_model_folders() -> list[Any]:
    """Return config.json and netgraph.json of the folder of a compression, to be edited."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        make_compressed().save_pretrained(f"{name}/small")
        return [{file: json.loads(Path(name, "small", file).read_text()) for file in ("config.json", "netgraph.json")}]


@cache
def make_compressed() -> Any:
    """Return a small compression."""
    torch.manual_seed(0)
    return ng.compress(mlp((3, 6, 2)), torch.linspace(-1, 1, 48).reshape(16, 3).sin(), target="parameters=0.7", tune=1)


def check_model_folder(data: bytes, folder: Path) -> None:
    """Open a folder, write it again and open it again: the same must be told of it, on a card whose front matter the hub reads."""
    import yaml

    _, document = read_edits(data, list_model_folders())
    small, again = folder / "small", folder / "again"
    for place in (small, again):
        shutil.rmtree(place, ignore_errors=True)
    make_compressed().save_pretrained(small)
    for file in ("config.json", "netgraph.json"):
        with deep_stack():
            (small / file).write_text(json.dumps(document.get(file) if isinstance(document, dict) else document))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = from_pretrained(small)
        with contextlib.suppress(NetgraphError):
            str(Compressed.from_pretrained(small))
        save_pretrained(network, again)
        told = find_origin(from_pretrained(again))
    if told.to_plain() != find_origin(network).to_plain():
        raise WrongAnswerError("the history of a network that was opened and saved reads back as another one")
    entries = yaml.safe_load((again / "README.md").read_text(encoding="utf8").split("---\n")[1])
    if entries["library_name"] != "netgraph" or set(entries) > {"library_name", "license", "base_model", "tags"}:
        raise WrongAnswerError("the hub reads other entries in the card")


@cache
def list_saved_hierarchies() -> list[dict[str, Any]]:
    """Return the files of each hierarchy: bytes of the levels, tensors and document of the index."""
    import tempfile

    out = []
    for hierarchy in make_hierarchies():
        with tempfile.TemporaryDirectory() as name:
            ng.save(hierarchy, f"{name}/h")
            tensors, document = read_bundle(f"{name}/h/hierarchy.safetensors")
            files = {p.name: p.read_bytes() for p in Path(name, "h").glob("level*")}
        out.append({"files": files, "tensors": tensors, "document": document})
    return out


def list_indices() -> list[Any]:
    """Return the index of each hierarchy as JSON, with its aggregates as lists."""
    return [
        {"document": saved["document"], "aggregates": {n: t.tolist() for n, t in saved["tensors"].items()}}
        for saved in list_saved_hierarchies()
    ]


def _to_tensors(lists: Any) -> dict[str, torch.Tensor]:
    """Return the lists of an edited index as tensors. What is no list of numbers is left out."""
    out = {}
    for name, values in lists.items() if isinstance(lists, dict) else ():
        array = np.array(values) if _is_regular(values) else np.zeros(0)
        if array.dtype.kind in "bif" and array.size < 2**16:
            out[name] = torch.from_numpy(np.ascontiguousarray(array))
    return out


def _is_regular(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) in (int, bool, float) and abs(v) < 2**62 for v in values)


def check_hierarchy(data: bytes, folder: Path) -> None:
    """Open a hierarchy. Its aggregates must be partitions, its levels run, and it reads back as it was."""
    number, index = read_edits(data, list_indices())
    path = folder / "h"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, contents in list_saved_hierarchies()[number]["files"].items():
        (path / name).write_bytes(contents)
    index = index if isinstance(index, dict) else {}
    document = index.get("document")
    _write(path / "hierarchy.safetensors", _to_tensors(index.get("aggregates")), document)
    read_contents(path)
    hierarchy = ng.load(path)
    str(hierarchy)
    for fine, level in zip(hierarchy.levels, hierarchy.levels[1:], strict=False):
        for name, transfer in level.transfers.items():
            _check_partition(np.asarray(transfer.aggregates), fine.spec.axes[name].size, level.spec.axes[name].size)
        with torch.no_grad():
            level.model(X)
    ng.save(hierarchy, folder / "again")
    if read_bundle(folder / "again" / "hierarchy.safetensors")[1]["transfers"] != document["transfers"]:
        raise WrongAnswerError("a hierarchy that was opened and saved has other transfers")
    shutil.rmtree(folder / "again")


def _check_partition(aggregates: Any, n_fine: int, n_coarse: int) -> None:
    if aggregates.ndim == 1 and (
        len(aggregates) != n_fine or sorted(set(aggregates.tolist()) - {-1}) != list(range(n_coarse))
    ):
        raise WrongAnswerError(f"aggregates {aggregates} of {n_fine} units are no partition into {n_coarse}")


def begin_run(callbacks: Any = ()) -> tuple[Any, Any]:
    """Return a solver and a run that has not begun."""
    torch.manual_seed(0)
    hierarchy = copy.deepcopy(make_hierarchies()[0])
    batches = [(X, torch.tensor([0, 1])) for _ in range(2)]
    solver = ng.FAS("v", torch.optim.Adam, 0.1, cycles=2)
    return solver, solver.begin(
        hierarchy, ng.Problem(batches, torch.nn.functional.cross_entropy), callbacks=list(callbacks)
    )


@cache
def make_checkpoint() -> tuple[dict[str, torch.Tensor], Any]:
    """Return tensors and document of a checkpoint that was written in the middle of a run."""
    import tempfile

    def stop(run: Any, record: Any) -> None:
        if record["event"] == "cycle":
            run.stop("enough")

    with tempfile.TemporaryDirectory() as name:
        solver, run = begin_run([stop, Checkpoints(name)])
        solver.finish(run)
        tensors, document = read_bundle(next(Path(name).glob("*.safetensors")))
    return tensors, document


def list_checkpoints() -> list[Any]:
    """Return the document of a checkpoint and the history in its tensors, to be edited."""
    tensors, document = make_checkpoint()
    return [{"document": document, "history": json.loads(bytes(tensors["history"].tolist())), "drop": "", "cut": ""}]


def check_checkpoint(data: bytes, folder: Path) -> None:
    """Resume a run from a checkpoint, take one step, and read its history for a report."""
    _, edited = read_edits(data, list_checkpoints())
    edited = edited if isinstance(edited, dict) else {}
    tensors, document = dict(make_checkpoint()[0]), edited.get("document")
    with deep_stack():
        text = json.dumps(edited.get("history"))
    tensors["history"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    tensors.pop(str(edited.get("drop")), None)
    if (cut := str(edited.get("cut"))) in tensors:
        tensors[cut] = tensors[cut].reshape(-1)[:1].clone()
    path = folder / "run"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    _write(path / "checkpoint-000000002.safetensors", tensors, document)
    read_contents(path)
    with contextlib.suppress(NetgraphError):
        _summarize(read_run(path))
    solver, run = begin_run()
    if resume(run, path) is not None:
        run.stop("one step is enough")
        solver.finish(run)


def list_runs() -> list[Any]:
    """Return the document of a run."""
    solver, run = begin_run()
    solution = solver.finish(run)
    history = ng.fas.History.of(solution, "run")
    document = {
        "network": "mlp",
        "settings": {"lr": 0.1},
        "history": history.records,
        "ledger": {"rows": history.costs},
        "reason": "done",
        "test": {"loss": 1.0},
    }
    return [json.loads(json.dumps(document, default=str))]


def _summarize(history: Any) -> None:
    """Compute everything that `netgraph report` prints of a run."""
    from netgraph.cli.commands.report import format_table

    loss = common_loss([history, history])
    json.dumps([summarize_run(history, loss)])
    format_table([summarize_run(history, loss)], loss)


def check_run_file(data: bytes, folder: Path) -> None:
    """Read run.json and summarize it. What was read is written and read back."""
    _, document = read_edits(data, cached_runs())
    dump(document, folder / "run.json")
    history = read_run(folder / "run.json")
    _summarize(history)
    write_run({"history": list(history.records)}, folder / "again")
    if len(read_run(folder / "again").records) != len(history.records):
        raise WrongAnswerError("a history that was written has another number of records")


@cache
def cached_runs() -> list[Any]:
    """Return `list_runs`, made once."""
    return list_runs()


def list_bundles() -> list[bytes]:
    """Return small files of netgraph, with shared and complex tensors."""
    import tempfile

    ones = torch.ones(2)
    contents: list[dict[str, torch.Tensor]] = [
        {"weight": ones, "bias": ones, "scale": torch.arange(4)},
        {"c": torch.ones(2, dtype=torch.complex128), "none": torch.zeros(0, 3)},
    ]
    out = []
    with tempfile.TemporaryDirectory() as name:
        for tensors in contents:
            write_bundle(f"{name}/a.safetensors", tensors, {"format": 1, "graphs": {}})
            out.append(Path(name, "a.safetensors").read_bytes())
    return out


def check_bundle(data: bytes, folder: Path) -> None:
    """Read a file of netgraph. Names, numbers and document must be those of the bytes, and the digest must be right."""
    path = folder / "b.safetensors"
    path.write_bytes(data)
    read_contents(path)
    tensors, document = read_bundle(path, newest=2)
    header, numbers = split_safetensors(data)
    metadata = header["__metadata__"]
    known = all(header[n]["dtype"] in ("F32", "F64", "I64", "U8") for n in header if n != "__metadata__")
    if known and hash_bundle(header, numbers) != metadata["sha256"]:
        raise WrongAnswerError("a bundle with a wrong digest was read")
    if json.loads(metadata["netgraph"]) != document:
        raise WrongAnswerError("a bundle was read as another document")
    names = {n for n in header if n != "__metadata__"} | set(json.loads(metadata.get("aliases", "{}")))
    if set(tensors) != names:
        raise WrongAnswerError("a bundle was read with other names")
    for name in names & set(header):
        entry = header[name]
        if entry["dtype"] == "F32" and tensors[name].numpy().tobytes() != numbers[slice(*entry["data_offsets"])]:
            raise WrongAnswerError("a bundle was read with other numbers")
    write_bundle(folder / "again.safetensors", tensors, document)
    if read_bundle(folder / "again.safetensors")[1] != document:
        raise WrongAnswerError("a bundle that was read and written has another document")


TARGETS = [
    Target("bundle", check_bundle, list_bundles, mutate_safetensors),
    Target(
        "network_document",
        check_network,
        lambda: [SEED, b'{"base":1,"edits":[]}'],
        make_mutator(list_network_documents, OPERATORS),
    ),
    Target(
        "hierarchy",
        check_hierarchy,
        lambda: [SEED, b'{"base":1,"edits":[]}'],
        make_mutator(list_indices, ["hem", "metis", "channels", "depth", [0, 0, 1, 1, 2, 2], [[2, 3], "float32"]]),
    ),
    Target(
        "model_folder",
        check_model_folder,
        lambda: [SEED],
        make_mutator(
            list_model_folders,
            ["network", "hierarchy", "Compression", "mit", "owner/name", "# head", "---", [64, 31], {"metric": 0.5}],
        ),
    ),
    Target(
        "checkpoint",
        check_checkpoint,
        lambda: [SEED],
        make_mutator(list_checkpoints, ["0/x/fc1.weight", "history", "0/moments/exp_avg/fc1.weight", "random/torch"]),
    ),
    Target(
        "run_file",
        check_run_file,
        lambda: [SEED],
        make_mutator(cached_runs, ["smooth", "up", "down", "evaluate", "cycle", "finish", "coarse", {"accuracy": 1}]),
    ),
]
