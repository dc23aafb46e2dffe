"""What asks for too much is refused before anything is made: in one sentence, within two seconds and little memory."""

import json
import resource
import time
import zipfile
from contextlib import contextmanager

import pytest
import torch

import netgraph as ng
from netgraph.cli.console.file_contents import read_contents
from netgraph.environment import memory
from netgraph.environment.network_size import limit_size
from netgraph.errors import LoadError, NetgraphError
from netgraph.fas.monitoring.alerts import parse_alerts
from netgraph.io import parse_inputs
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.io.model_zoo import build_network, parse_arch_args
from netgraph.models import mlp
from netgraph.recording.interpreter import Interpreter


@contextmanager
def budget():
    """Fail after two seconds of this process or 512 MiB more than before."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(memory, "measure_free_memory", lambda: 2**29)


@pytest.mark.parametrize(
    "specs",
    [["268435456x2"], ["a=134217728", "b=134217728:int64"], ["100000000:bool", "100000000:float16"]],
    ids=str,
)
def test_inputs_beyond_the_free_memory_are_refused(small_machine, specs):
    with budget(), pytest.raises(LoadError, match=r"--input asks for [\d,]+ bytes, but 536,870,912 are free"):
        parse_inputs(specs)


def test_an_example_of_many_large_tensors_in_a_file_is_refused(small_machine, tmp_path):
    path = tmp_path / "net.hierarchy"
    ng.save(ng.build_hierarchy(mlp((64, 8, 10)), torch.zeros(2, 64)), path)
    tensors, document = read_bundle(path / "hierarchy.safetensors")
    document["options"]["example"]["tensors"] = [[[2**27], "float32"]] * 8
    write_bundle(path / "hierarchy.safetensors", tensors, document)
    with budget(), pytest.raises(LoadError, match="the saved example asks for"):
        ng.load(path)


@pytest.mark.parametrize(
    "step",
    [
        ["size", "aten.zeros.default", [[2**15, 2**15]], {"dict": {}}],
        ["size", "aten.repeat.default", [{"node": "x"}, [2**30, 1]], {"dict": {}}],
        ["size", "aten.expand.default", [{"node": "x"}, [2**15, 2**15]], {"dict": {}}],
        ["size", "aten.arange.default", [2**27], {"dict": {}}],
        ["size", "aten.arange.start", [-(2**27), 0], {"dict": {}}],
    ],
    ids=lambda step: f"{step[1]} {step[2]}",
)
def test_sizes_in_the_graph_of_a_file_are_compared_with_the_free_memory(small_machine, step):
    graph = [
        ["x", "placeholder:x", [], {"dict": {}}],
        step,
        ["output", "output:output", [[{"node": "size"}]], {"dict": {}}],
    ]
    with budget(), pytest.raises(LoadError, match="of the file asks for"):
        Interpreter(graph, ())


X = {"node": "x"}


def refer(*steps, result="out"):
    """Return a graph with the input x and a device, whose sizes are worked out in each run."""
    given = [["x", "placeholder:x", [], {"dict": {}}], ["device", "placeholder:device", [], {"dict": {}}]]
    calls = [[name, operator, list(args), {"dict": {}}] for name, operator, *args in steps]
    for call in calls:
        if call[1].split(".")[1:2] in (["zeros"], ["full"], ["arange"], ["eye"], ["linspace"]):
            call[3]["dict"]["device"] = {"node": "device"}
    return [*given, *calls, ["output", "output:output", [[{"node": result}]], {"dict": {}}]]


def to_node(name):
    return {"node": name}


MANY = [["size", "aten.sym_size.int", X, 0], ["n", "builtin:mul", {"node": "size"}, 10**9]]
N = {"node": "n"}
ROW = [["row", "aten.view.default", X, [-1]], ["rows", "aten.repeat.default", {"node": "row"}, [500]]]  # 64,000 numbers
ROWS = {"node": "rows"}
WHOLE = [
    ["row", "aten.view.default", X, [-1]],
    ["large", "aten.mul.Tensor", {"node": "row"}, 10**9],
    ["whole", "aten.to.dtype", {"node": "large"}, {"torch": "int64"}],
]
COUNTS = {"node": "whole"}
RUN_TIME = {
    "zeros": refer(*MANY, ["out", "aten.zeros.default", [N]]),
    "beyond 64 bits": refer(*MANY, ["out", "aten.zeros.default", [N, N, N]]),
    "full": refer(*MANY, ["out", "aten.full.default", [N], 1.0]),
    "new_zeros": refer(*MANY, ["out", "aten.new_zeros.default", X, [N]]),
    "arange": refer(*MANY, ["out", "aten.arange.default", N]),
    "linspace": refer(*MANY, ["out", "aten.linspace.default", 0, 1, N]),
    "eye": refer(*MANY, ["out", "aten.eye.default", N]),
    "pad": refer(*MANY, ["out", "aten.pad.default", X, [0, N]]),
    "expand": refer(*MANY, ["out", "aten.expand.default", X, [N, 2, 64]]),
    "all pairs": refer(
        *ROW, ["column", "aten.unsqueeze.default", ROWS, 1], ["out", "aten.add.Tensor", ROWS, to_node("column")]
    ),
    "outer": refer(*ROW, ["out", "aten.outer.default", ROWS, ROWS]),
    "cdist": refer(
        *ROW, ["column", "aten.unsqueeze.default", ROWS, 1], ["out", "aten.cdist.default", *[to_node("column")] * 2]
    ),
    "einsum": refer(*ROW, ["out", "aten.einsum.default", "i,j->ij", [ROWS, ROWS]]),
    "diag_embed": refer(*ROW, ["out", "aten.diag_embed.default", ROWS]),
    "upsample": refer(
        ["image", "aten.view.default", X, [1, 1, 2, 64]],
        ["out", "aten.upsample_nearest2d.vec", to_node("image"), None, [5000.0, 5000.0]],
    ),
    "im2col": refer(
        ["image", "aten.view.default", X, [1, 1, 2, 64]],
        ["wide", "aten.repeat.default", to_node("image"), [1, 1, 400, 12]],
        ["out", "aten.im2col.default", to_node("wide"), [256, 256], [1, 1], [0, 0], [1, 1]],
    ),
    "rows of an embedding": refer(
        *ROW,
        ["wide", "aten.repeat.default", X, [1, 100]],
        ["whole", "aten.to.dtype", ROWS, {"torch": "int64"}],
        ["out", "aten.embedding.default", to_node("wide"), COUNTS],
    ),
    "parts": refer(
        *MANY,
        ["one", "aten.narrow.default", X, 1, 0, 1],
        ["first", "aten.narrow.default", to_node("one"), 0, 0, 1],
        ["long", "aten.expand.default", to_node("first"), [{"node": "size"}, 2**21]],
        ["parts", "aten.unbind.int", to_node("long"), 1],
        ["out", "builtin:getitem", to_node("parts"), 0],
    ),
    "doubled lengths": refer(
        *[[f"c{i + 1}", "aten.cat.default", [to_node(f"c{i}" if i else "x")] * 2] for i in range(40)], result="c40"
    ),
    "many tensors": refer(
        *[[f"z{i}", "aten.zeros.default", [2**24]] for i in range(20)],
        ["out", "aten.cat.default", [to_node(f"z{i}") for i in range(20)]],
    ),
    "squared sizes": refer(
        ["s0", "aten.sym_size.int", X, 1],
        *[[f"s{i + 1}", "builtin:mul", *[to_node(f"s{i}")] * 2] for i in range(60)],
        ["out", "aten.zeros.default", [to_node("s60")]],
    ),
    "repeated lists": refer(
        ["parts", "aten.split.Tensor", X, 1],
        ["more", "builtin:mul", to_node("parts"), 10**9],
        ["out", "builtin:getitem", to_node("more"), 0],
    ),
    "bincount": refer(*WHOLE, ["out", "aten.bincount.default", COUNTS]),
    "one_hot": refer(*WHOLE, ["out", "aten.one_hot.default", COUNTS]),
    "counted rows": refer(*WHOLE, ["out", "aten.repeat_interleave.Tensor", COUNTS]),
    "counted copies": refer(*WHOLE, ["out", "aten.repeat_interleave.self_Tensor", to_node("row"), COUNTS]),
    "counted copies of rows": refer(
        *ROW,
        ["wide", "aten.view.default", ROWS, [2, -1]],
        ["counts", "aten.full_like.default", X, 20_000],
        ["whole", "aten.to.dtype", to_node("counts"), {"torch": "int64"}],
        ["first", "aten.select.int", COUNTS, 1, 0],
        ["out", "aten.repeat_interleave.self_Tensor", to_node("wide"), to_node("first"), 0],
    ),
    "after what depends on numbers": refer(
        ["places", "aten.nonzero.default", X],
        ["size", "aten.sym_size.int", to_node("places"), 0],
        *MANY[1:],
        ["out", "aten.zeros.default", [N]],
    ),
}


@pytest.mark.parametrize("graph", RUN_TIME)
def test_sizes_that_a_graph_works_out_in_a_run_are_compared_with_the_free_memory(small_machine, graph):
    document = RUN_TIME[graph]
    run = Interpreter(document, ())
    with budget(), pytest.raises(LoadError, match=r"of the graph (asks for|gets)"):
        run(None, torch.ones(2, 64), torch.device("cpu"))
    with pytest.raises(LoadError):  # again, although the shapes are known by now
        run(None, torch.ones(2, 64), torch.device("cpu"))


def test_measuring_a_run_leaves_results_inputs_and_random_numbers_as_they_are(small_machine):
    graph = refer(
        ["places", "aten.nonzero.default", X],
        ["noise", "aten.rand_like.default", X],
        ["out", "aten.add_.Tensor", X, to_node("noise")],
        ["wide", "aten.mul.Tensor", to_node("out"), 2],
        result="wide",
    )
    x, expected = torch.ones(2, 64), torch.ones(2, 64)
    torch.manual_seed(3)
    (found,) = Interpreter(graph, ())(None, x, torch.device("cpu"))
    torch.manual_seed(3)
    expected += torch.rand_like(expected)
    assert torch.equal(x, expected)
    assert torch.equal(found, 2 * expected)


def test_results_that_are_read_last_make_room_for_others(small_machine):
    steps = [[f"c{i + 1}", "aten.mul.Tensor", to_node(f"c{i}" if i else "wide"), 1] for i in range(20)]
    graph = refer(
        ["wide", "aten.repeat.default", X, [2**12, 2**7]], *steps, result="c20"
    )  # 256 MiB each, two at a time
    run = Interpreter(graph, ())
    run.start_values(None, (torch.ones(2, 64), torch.device("cpu")))  # is not refused
    assert len(run.measured) == 1


def test_free_memory_stays_within_the_limit_of_the_process():
    before = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = memory.measure_free_memory()
    resource.setrlimit(resource.RLIMIT_AS, (2**40, before[1]))
    try:
        assert 0 < memory.measure_free_memory() <= min(unlimited * 2, 2**40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


LITERALS = {
    "brackets": "[" * 1000 + "]" * 1000,
    "signs": "-" * 60_000 + "1",
    "sums": "1" + "+1" * 30_000,
    "negations": "not " * 15_000 + "1",
    "attributes": "x" + ".a" * 30_000,
    "a long text": "'" + "a" * 10**6 + "'",
}


@pytest.mark.parametrize("literal", LITERALS)
def test_long_and_deep_literals_are_refused(literal):
    with budget(), pytest.raises(LoadError, match="Give a shorter value"):
        parse_arch_args([f"depth={LITERALS[literal]}"])
    with budget(), pytest.raises(NetgraphError, match="cannot be read") as error:
        parse_alerts([f"plateau(patience={LITERALS[literal]}):warn"])
    assert len(str(error.value)) < 500


def test_values_that_are_no_literals_stay_texts():
    assert parse_arch_args(["a=[1, 2", "b=[[1], {'x': (2,)}]", "c={[]}", "d= 3"]) == {
        "a": "[1, 2",
        "b": [[1], {"x": (2,)}],
        "c": "{[]}",
        "d": 3,
    }


def write_network(path, change):
    """Write a small coarse network after a change of its tensors and its document."""
    ng.save(ng.build_hierarchy(mlp((64, 8, 10)), torch.zeros(2, 64)).levels[1].model, path)
    tensors, document = read_bundle(path)
    change(tensors, document)
    write_bundle(path, tensors, document)


def nest_deeply(tensors, document):
    tensors[".".join(["a"] * 10_000)] = torch.ones(1)


def name_many_modules(tensors, document):
    tensors |= {".".join([f"a{i}", *"bcdefghijklmnopqrstuvwxyz" * 2]): torch.ones(1) for i in range(3000)}


@pytest.mark.parametrize("change", [nest_deeply, name_many_modules])
def test_names_that_make_too_many_modules_are_refused(tmp_path, change):
    path = tmp_path / "net.safetensors"
    write_network(path, change)
    with budget(), pytest.raises(LoadError, match="modules"):
        ng.load_model(path)


def test_a_document_of_many_empty_values_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    write_network(path, lambda _, document: document.update(more=[[]] * 10**6))
    monkeypatch.setattr(memory, "measure_free_memory", lambda: 2**26)
    with budget(), pytest.raises(LoadError, match="its document asks for"):
        ng.load_model(path)
    with pytest.raises(LoadError, match="its document asks for"):
        read_bundle(path)


def test_an_index_of_many_names_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {str(i): "a.safetensors" for i in range(250_000)}}))
    monkeypatch.setattr(memory, "measure_free_memory", lambda: 2**24)
    with budget(), pytest.raises(LoadError, match=r"index.json asks for"):
        ng.load_model(path, arch="torch.nn:Linear", arch_args={"in_features": 2, "out_features": 2})


def test_tensors_whose_entries_share_places_are_measured_as_their_copies(small_machine, tmp_path):
    wide = torch.ones(1).expand(10**5, 10**5)
    for name, state in {"plain": {"weight": wide}, "masked": {"weight_orig": wide, "weight_mask": wide}}.items():
        torch.save({**state, "bias": torch.zeros(3)}, tmp_path / f"{name}.pt")
        with budget(), pytest.raises(LoadError, match="100000 x 100000 in a file asks for"):
            ng.load_model(
                tmp_path / f"{name}.pt", arch="torch.nn:Linear", arch_args={"in_features": 4, "out_features": 3}
            )
    torch.save({"weight": torch.ones(1).expand(3, 4), "bias": torch.zeros(3)}, tmp_path / "small.pt")
    network = ng.load_model(
        tmp_path / "small.pt", arch="torch.nn:Linear", arch_args={"in_features": 4, "out_features": 3}
    )
    assert network.weight.tolist() == [[1.0] * 4] * 3


@pytest.mark.parametrize("arch", ["netgraph.models:mlp", "torchvision:resnet18"])
def test_a_network_beyond_the_free_memory_is_refused_while_it_is_made(small_machine, arch):
    options = {"sizes": (8, 200_000_000, 2)} if arch.endswith("mlp") else {"num_classes": 1_000_000}
    ng.load_model("torchvision:squeezenet1_1")  # imports the library
    with budget(), pytest.raises(LoadError, match=f"{arch} asks for [0-9,]+ bytes"):
        build_network(arch, options)


def test_a_network_that_is_made_on_shapes_first_is_counted_once(monkeypatch):
    monkeypatch.setattr(memory, "measure_free_memory", lambda: 2**20)

    def make(*sizes, device=None):
        return torch.nn.ModuleList([torch.nn.Linear(2**9, n, bias=False, device=device) for n in sizes])

    with limit_size("it"):
        make(2**9, device="meta")
        make(2**9)  # all that is free
    with pytest.raises(LoadError, match="it asks for 1,050,624 bytes"), limit_size("it"):
        make(2**9, 1)
    with pytest.raises(LoadError, match="it asks for 1,050,624 bytes"), limit_size("it", on_meta=True):
        make(2**9, 1, device="meta")


@pytest.mark.parametrize("name", ["program.pt2", "weights.pt"])
def test_an_archive_that_unpacks_to_more_than_its_size_is_refused_before_it_is_unpacked(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**28))
    with budget():
        contents = read_contents(tmp_path / name)
    assert "unpacks to 268,435,456 bytes" in contents.problem
