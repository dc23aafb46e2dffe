"""Calibration data: the rows of a source reach the network unchanged, or an error says why they cannot."""

import numpy as np
import pytest
import torch
from datafolders import write_cifar, write_imdb
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from netgraph.errors import DataError, LoadError, NetgraphError
from netgraph.models.data.calibration import draw_rows, load_calibration
from netgraph.models.data.datasets import load_dataset

VECTORS = torch.zeros(2, 6)


def write(path, inputs, targets=None):
    """Write inputs, and targets where the layout has room for them."""
    if path.suffix == ".npy":
        np.save(path, inputs.numpy())
    elif path.suffix == ".pt":
        torch.save(inputs if targets is None else (inputs, targets), path)
    else:
        save_file({"inputs": inputs} | ({} if targets is None else {"targets": targets}), path)
    return path


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 99))
def test_rows_are_drawn_without_repetition_and_by_the_seed_alone(n_rows, n, seed):
    rows = draw_rows(n_rows, n, seed).tolist()
    assert len(rows) == len(set(rows)) == min(n, n_rows)
    assert set(rows) <= set(range(n_rows))
    assert rows == sorted(rows) == draw_rows(n_rows, n, seed).tolist()


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_tensor_file_gives_its_own_rows_in_the_networks_dtype(suffix, dtype, tmp_path):
    inputs = torch.arange(60).reshape(10, 6).to(dtype)
    path = write(tmp_path / f"x{suffix}", inputs)
    found, targets, _ = load_calibration(path, example=VECTORS, n=4, seed=3)
    assert targets is None
    assert found.dtype == torch.float32
    assert found[:, 0].div(6).tolist() == draw_rows(10, 4, 3).tolist()
    torch.testing.assert_close(found, inputs[draw_rows(10, 4, 3)].float())
    assert len(load_calibration(path, example=VECTORS).inputs) == 10


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_targets_stay_with_their_inputs(suffix, tmp_path):
    inputs = torch.arange(60.0).reshape(10, 6)
    path = write(tmp_path / f"x{suffix}", inputs, torch.arange(10))
    found, targets, _ = load_calibration(path, example=(VECTORS,), n=5)
    assert isinstance(found, tuple)
    torch.testing.assert_close(inputs[targets], found[0])


def test_a_dict_example_gives_a_dict(tmp_path):
    path = write(tmp_path / "x.npy", torch.ones(3, 6))
    assert load_calibration(path, example={"x": VECTORS}).inputs["x"].shape == (3, 6)


BAD = {
    "shape": (torch.ones(4, 5), r"holds rows × 5 inputs, and the network takes rows × 6"),
    "kind": (torch.ones(4, 6).int(), r"holds torch.int32 inputs, and the network takes torch.float32"),
    "complex": (torch.ones(4, 6, dtype=torch.complex64), r"holds torch.complex64 inputs"),
    "nan": (torch.tensor([[1.0] * 6, [float("nan")] * 6]), r"not finite, in 1 of 2 rows"),
    "infinite once narrowed": (torch.full((2, 6), 1e300, dtype=torch.float64), r"not finite, in 2 of 2 rows"),
    "no rows": (torch.ones(0, 6), r"holds no rows"),
    "no dimension": (torch.ones(()), r"holds single-number inputs"),
}


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("what", BAD)
def test_inputs_of_another_shape_or_kind_are_refused_with_the_name_of_the_file(suffix, what, tmp_path):
    inputs, match = BAD[what]
    path = write(tmp_path / f"x{suffix}", inputs)
    with pytest.raises(DataError, match=match) as caught:
        load_calibration(path, example=VECTORS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
def test_a_file_cut_anywhere_is_refused(suffix, tmp_path):
    path = write(tmp_path / f"x{suffix}", torch.ones(4, 6))
    data = path.read_bytes()
    for length in (0, 1, 9, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(NetgraphError, match="x" + suffix):
            load_calibration(path, example=VECTORS)


def test_files_of_anything_but_tensors_are_refused_and_run_nothing(tmp_path):
    witness = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (type(witness).touch, (witness,))

    np.save(tmp_path / "a.npy", np.array([Bomb()], object), allow_pickle=True)
    torch.save({"inputs": Bomb()}, tmp_path / "a.pt")
    for name in ("a.npy", "a.pt"):
        with pytest.raises(NetgraphError, match=name):
            load_calibration(tmp_path / name, example=VECTORS)
    assert not witness.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)  # it is a bomb
    assert witness.exists()
    for value in ({"a": torch.ones(2, 6), "b": torch.ones(2, 6)}, [torch.ones(2, 6)] * 3, {"inputs": 3}, 3):
        torch.save(value, tmp_path / "b.pt")
        with pytest.raises(NetgraphError, match=r"b\.pt holds"):
            load_calibration(tmp_path / "b.pt", example=VECTORS)
    torch.save((torch.ones(3, 6), torch.ones(2)), tmp_path / "c.pt")
    with pytest.raises(DataError, match="one target for each input"):
        load_calibration(tmp_path / "c.pt", example=VECTORS)


def test_a_header_that_promises_more_than_the_file_holds_takes_no_memory(tmp_path):
    head = np.lib.format
    with (tmp_path / "x.npy").open("wb") as file:
        head.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 6)})
    with pytest.raises(DataError, match=r"x\.npy cannot be read"):
        load_calibration(tmp_path / "x.npy", example=VECTORS)
    header = b"{" + b"(" * 199 + b"'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n"
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="too many brackets"):
        load_calibration(tmp_path / "y.npy", example=VECTORS)
    torch.save(torch.ones(1, 6).expand(2**40, 6), tmp_path / "z.pt")
    with pytest.raises(LoadError, match="asks for 26,388,279,066,624 bytes"):
        load_calibration(tmp_path / "z.pt", example=VECTORS)
    torch.save(torch.ones(1, 6).expand(2**20, 6), tmp_path / "x.pt")
    assert load_calibration(tmp_path / "x.pt", example=VECTORS, n=3).inputs.tolist() == [[1.0] * 6] * 3
    with pytest.raises(DataError, match="Change n"):
        load_calibration(tmp_path / "x.pt", example=VECTORS, n=2**31)


def test_images_are_flattened_with_a_warning_only_for_a_network_on_vectors(recwarn):
    pictures, targets, _ = load_calibration("digits", example=torch.zeros(2, 1, 8, 8), n=20)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="rows × 1 × 8 × 8 are flattened to 64 numbers"):
        vectors, same, _ = load_calibration("digits", example=torch.zeros(2, 64), n=20)
    assert torch.equal(pictures.flatten(1), vectors)
    assert torch.equal(targets, same)
    own = {x.numpy().tobytes(): int(y) for x, y in zip(*vars(load_dataset("digits").train).values(), strict=True)}
    assert [own[x.numpy().tobytes()] for x in pictures] == targets.tolist()
    with pytest.raises(
        DataError, match="digits holds rows × 1 × 8 × 8 inputs, and the network takes rows × 3 × 32 × 32"
    ):
        load_calibration("digits", example=torch.zeros(2, 3, 32, 32))


def test_rows_of_a_data_set_are_standardised_as_in_training(tmp_path, monkeypatch):
    monkeypatch.setattr("netgraph.models.data.datasets._split_rows", lambda n, _: (torch.arange(n), torch.arange(0)))
    images, labels = write_cifar(tmp_path, monkeypatch)
    found, targets, _ = load_calibration("cifar10", example=torch.zeros(2, 3, 32, 32), n=5, root=tmp_path)
    rows = draw_rows(60, 5, 7619)
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    wanted = (images[rows].transpose(0, 2, 3, 1) / 255 - mean) / std
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), wanted, atol=1e-5)
    assert targets.tolist() == labels[rows].tolist()


def test_texts_become_tokens_of_the_examples_length_and_a_mask_if_it_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr("netgraph.models.data.datasets._split_rows", lambda n, _: (torch.arange(n), torch.arange(0)))
    write_imdb(tmp_path, monkeypatch)
    example = {"ids": torch.zeros(2, 7, dtype=torch.int64), "mask": torch.zeros(2, 7)}
    found, targets, _ = load_calibration("imdb", example=example, n=9, root=tmp_path)
    assert found["ids"].shape == (9, 7)
    assert torch.equal(found["mask"], (found["ids"] != 0).float())
    assert set(targets.tolist()) == {0, 1}
    alone, *_ = load_calibration("imdb", example=example["ids"], n=9, root=tmp_path)
    assert torch.equal(alone, found["ids"])
    with pytest.raises(DataError, match="imdb is text, as whole numbers"):
        load_calibration("imdb", example=torch.zeros(2, 7), root=tmp_path)
    with pytest.raises(DataError, match="digits is images"):
        load_calibration("digits", example=example["ids"])
    with pytest.raises(DataError, match="takes 2 tensors, and digits gives one"):
        load_calibration("digits", example=example)


def pictures(folder, sizes, *, mode="RGB", ending="png"):
    """Write pictures of one colour each, and return the colours."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = [(20 * i, 255 - 20 * i, 7 * i) for i in range(len(sizes))]
    for i, (size, colour) in enumerate(zip(sizes, colours, strict=True)):
        Image.new("RGB", size, colour).convert(mode).save(folder / f"{i}.{ending}")
    return torch.tensor(colours) / 255


def test_pictures_keep_their_colours_when_cut_and_resized(tmp_path):
    colours = pictures(tmp_path, [(40, 30), (8, 8), (5, 90)])
    (tmp_path / "notes.txt").write_text("no picture")
    found, targets, _ = load_calibration(tmp_path, example=torch.zeros(2, 3, 16, 12))
    assert targets is None
    assert found.shape == (3, 3, 16, 12)
    torch.testing.assert_close(found, colours[:, :, None, None].expand(3, 3, 16, 12))


def test_a_picture_of_the_networks_size_is_what_torchvision_makes_of_it(tmp_path):
    from torchvision.transforms.functional import pil_to_tensor

    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / "a.png")
    wanted = pil_to_tensor(Image.open(tmp_path / "a.png")) / 255
    torch.testing.assert_close(load_calibration(tmp_path, example=torch.zeros(2, 3, 9, 7)).inputs[0], wanted)


def test_subfolders_of_images_are_classes(tmp_path):
    for name, n in (("cat", 2), ("ant", 3)):
        pictures(tmp_path / name, [(8, 8)] * n)
    with pytest.warns(UserWarning, match="flattened to 64"):
        found, targets, _ = load_calibration(tmp_path, example=torch.zeros(2, 64))
    assert found.shape == (5, 64)
    assert targets.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("example", "match"),
    [
        (torch.zeros(2, 5, 8, 8), "takes 5 channels"),
        (torch.zeros(2, 65), "holds images, and the network takes torch.float32 of rows × 65"),
        (torch.zeros(2, 16, dtype=torch.int64), "holds images, and the network takes torch.int64"),
    ],
)
def test_images_are_refused_for_a_network_that_takes_none(example, match, tmp_path):
    pictures(tmp_path, [(8, 8)])
    with pytest.raises(DataError, match=match):
        load_calibration(tmp_path, example=example)


def test_an_image_that_is_damaged_or_huge_is_named(tmp_path, monkeypatch):
    pictures(tmp_path, [(64, 64)])
    data = (tmp_path / "0.png").read_bytes()
    example = torch.zeros(2, 3, 8, 8)
    for contents in (data[:-40], b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "0.png").write_bytes(contents)
        with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
            load_calibration(tmp_path, example=example)
    (tmp_path / "0.png").write_bytes(data)
    monkeypatch.setattr("netgraph.models.data.readers.image_folder.PIXELS", 4095)
    with pytest.raises(DataError, match=r"0\.png has 64 × 64 pixels, at most 4,095"):
        load_calibration(tmp_path, example=example)


def test_unknown_sources_and_examples_are_refused_before_anything_is_read(tmp_path):
    for source, match in (
        ("svhn", "neither a data set"),
        (tmp_path / "x.csv", "neither a data set"),
        (tmp_path / "x.npy", "does not exist"),
        (tmp_path, "holds no image"),
    ):
        with pytest.raises(DataError, match=match):
            load_calibration(source, example=VECTORS)
    with pytest.raises(DataError, match="at least 1 row"):
        load_calibration("digits", example=VECTORS, n=0)
    for example in (3.0, torch.zeros(3), (), {}):
        with pytest.raises(DataError, match="the example must be a tensor of shape"):
            load_calibration("digits", example=example)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_targets_that_are_not_finite_are_refused_with_their_rows(value, tmp_path):
    targets = torch.zeros(4, 2).index_fill(0, torch.tensor([1, 3]), value)
    torch.save({"inputs": torch.ones(4, 6), "targets": targets}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"x.pt holds targets that are not finite, in 2 of 4 rows"):
        load_calibration(tmp_path / "x.pt", example=VECTORS)
