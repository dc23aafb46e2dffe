"""Example inputs, parsed from text or guessed from the first layer."""

import time

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.errors import LoadError, NetgraphError
from netgraph.io.example_inputs import guess_input, parse_inputs
from netgraph.io.model_zoo import parse_arch_args
from netgraph.models.data.calibration import find_shape
from netgraph.models.data.datasets import IMAGE_SHAPES, load_dataset
from netgraph.models.perceptron import mlp


def test_inputs_are_read_from_text():
    assert parse_inputs(["2x3x8x8"]).shape == (2, 3, 8, 8)
    ids, mask = parse_inputs(["2x16:int64", "2x16:bool"])
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert parse_inputs(["ids=2x4:int64", "x=2x3"])["ids"].shape == (2, 4)
    assert torch.equal(parse_inputs(["2x3"]), parse_inputs(["2x3"]))


@pytest.mark.parametrize(
    "text",
    [
        ["2y3"],
        ["9" * 5000],
        ["a=2x3", "a=2x4"],
        ["2x3:int7"],
        ["2x0"],
        ["a=2x3", "2x3"],
        ["100000x100000"],
        ["x"],
        [""],
        ["x".join(["2"] * 5000)],
    ],
)
def test_wrong_inputs_are_refused_before_memory_is_taken(text):
    started = time.perf_counter()
    with pytest.raises(LoadError, match="--input"):
        parse_inputs(text)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (mlp((6, 8, 3)), "--input 2x6"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 2)), "--input 2x1x28x28"),
        (nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)), "--input 2x16:int64"),
        (nn.LSTM(5, 6, batch_first=True), "--input 2x16x5"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1)), "--input 2x2x64"),
    ],
)
def test_the_input_is_guessed_from_the_first_layer(model, text):
    assert guess_input(model)[1] == text


def test_the_shape_of_the_data_is_tried_first_and_left_where_the_network_does_not_run_on_it():
    anywhere = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    example, text = guess_input(anywhere, ["2x3x32x32"])
    assert text == "--input 2x3x32x32"
    assert example.shape == (2, 3, 32, 32)
    assert guess_input(anywhere, ["2x1x28x28"])[1] == guess_input(anywhere)[1]
    assert guess_input(mlp((64, 8, 3)), ["2x1x8x8"])[1] == "--input 2x64"


@pytest.mark.parametrize(
    ("source", "shape"), [("digits", (1, 8, 8)), ("imdb", None), ("rows.npy", (3, 4)), ("no.npy", None)]
)
def test_a_source_says_its_shape(source, shape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.zeros((5, 3, 4), np.float32))
    assert find_shape(source) == shape


def test_image_shapes_are_those_of_the_data_set():
    assert tuple(load_dataset("digits").train.inputs.shape[1:]) == IMAGE_SHAPES["digits"]


class Looked(nn.Module):
    """Rows of a table by number, through an operator without checks on shapes."""

    def __init__(self):
        super().__init__()
        self.table, self.a, self.out = nn.Parameter(torch.randn(9, 8)), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.a(self.table.index_select(0, ids)).relu())


def test_numbers_of_rows_are_guessed_to_be_integers(tmp_path):
    ids = torch.randint(9, (2,))
    for model in (Looked(), nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))):
        ng.save(ng.build_hierarchy(model, ids).levels[1].model, tmp_path / "small.safetensors")
        network = ng.load_model(tmp_path / "small.safetensors")
        example, text = guess_input(network)
        assert text == "--input 2:int64"
        assert network(example).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_are_guessed_in_the_precision_of_the_network(dtype, tmp_path):
    model = mlp((6, 8, 3)).to(dtype)
    ng.save(ng.build_hierarchy(model, torch.randn(2, 6, dtype=dtype)).levels[1].model, tmp_path / "small.safetensors")
    for network in (model, ng.load_model(tmp_path / "small.safetensors")):
        example, text = guess_input(network)
        assert text == f"--input 2x6:{str(dtype).removeprefix('torch.')}"
        assert network(example).dtype == dtype


def test_verify_names_an_example_of_another_precision():
    model = mlp((6, 8, 3)).double()
    spec = ng.trace(model, torch.randn(2, 6).double())
    with pytest.raises(NetgraphError, match="does not run on the example"):
        ng.verify(model, spec, torch.randn(2, 6))


def test_an_input_that_cannot_be_guessed_is_asked_for():
    with pytest.raises(LoadError, match="Give --input"):
        guess_input(nn.Sequential(nn.Linear(3, 4), nn.Linear(7, 2)))
    with pytest.raises(LoadError, match="key=value"):
        parse_arch_args(["depth"])


class Words(nn.Module):
    """A network of text as those of transformers are called."""

    main_input_name, config = "input_ids", object()

    def __init__(self):
        super().__init__()
        self.vectors = nn.Embedding(10, 4)

    def forward(self, input_ids, attention_mask=None):
        return self.vectors(input_ids)


def test_a_mask_is_guessed_where_rows_may_have_padding():
    example, text = guess_input(Words())
    assert list(example) == ["input_ids", "attention_mask"]
    assert text == "--input input_ids=2x16:int64 --input attention_mask=2x16:int64"
    assert guess_input(Words(), masks=False)[1] == "--input input_ids=2x16:int64"
