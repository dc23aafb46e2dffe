"""What asks for too much is refused before anything is made: in one sentence, within two seconds and little memory."""

import resource
import time
from contextlib import contextmanager

import pytest
import torch

import netgraph as ng
from netgraph.environment import memory
from netgraph.errors import LoadError, NetgraphError
from netgraph.fas.monitoring.alerts import parse_alerts
from netgraph.io import parse_inputs
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.io.model_zoo import parse_arch_args
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
