"""Rows in three parts: none is in two of them, and an error says what is missing."""

import numpy as np
import pytest
import torch
from datafolders import write_imdb
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from netgraph.errors import DataError
from netgraph.models import load_dataset, load_splits
from netgraph.models.data.row_splits import _divide_rows

VECTORS = torch.zeros(2, 3)


@given(st.integers(4, 500), st.integers(0, 99))
def test_rows_are_divided_into_a_half_and_two_quarters_by_the_seed_alone(n, seed):
    parts = _divide_rows(n, seed, None)
    numbers = torch.cat([*parts.values()]).tolist()
    assert sorted(numbers) == list(range(n))
    assert len(parts["valid"]) == len(parts["test"]) == n // 4
    again = _divide_rows(n, seed, None)
    assert all(torch.equal(parts[name], again[name]) for name in parts)


def test_a_file_gives_rows_with_their_targets_and_each_once(tmp_path):
    rows = torch.arange(120.0).reshape(40, 3)
    torch.save((rows, torch.arange(40)), tmp_path / "rows.pt")
    splits = load_splits(tmp_path / "rows.pt", example=VECTORS)
    parts = splits.calibration, splits.validation, splits.test
    assert [len(part.inputs) for part in parts] == [20, 10, 10]
    assert sorted(int(target) for part in parts for target in part.targets) == list(range(40))
    for part in parts:
        torch.testing.assert_close(part.inputs, rows[part.targets])
    assert splits.origin == ("20 of 40 rows", "10 of 40 rows", "10 of 40 rows")
    fewer = load_splits(tmp_path / "rows.pt", example=VECTORS, n=5)
    assert len(fewer.calibration.inputs) == 5
    assert torch.equal(fewer.test.inputs, splits.test.inputs), "the test does not depend on the calibration"
    assert not torch.equal(load_splits(tmp_path / "rows.pt", example=VECTORS, seed=1).test.inputs, splits.test.inputs)


def test_a_data_set_has_its_own_splits():
    digits = load_dataset("digits")
    splits = load_splits("digits", example=torch.zeros(2, 1, 8, 8), n=5000)
    for part, split in zip(splits[:3], (digits.train, digits.valid, digits.test), strict=True):
        assert torch.equal(part.inputs, split.inputs)
        assert torch.equal(part.targets, split.targets)


def test_a_language_model_gets_the_next_tokens(tmp_path, monkeypatch):
    write_imdb(tmp_path, monkeypatch)
    monkeypatch.setattr("netgraph.models.data.datasets._split_rows", lambda n, _: (torch.arange(1, n), torch.arange(1)))
    example = torch.zeros(2, 6, dtype=torch.int64)
    test = load_splits("imdb", example=example, root=tmp_path, next_tokens=True).test
    assert test.inputs.shape == test.targets.shape
    assert test.inputs.shape[1] == 6
    following = test.inputs[:, 1:]
    counted = test.targets[:, :-1] != -100
    assert counted.any()
    assert torch.equal(test.targets[:, :-1][counted], following[counted])


def write_images(folder, shades):
    """Write a picture of one shade for each number."""
    for name, shade in shades.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), shade, np.uint8)).save(path)


EXAMPLE = torch.zeros(2, 1, 4, 4)


def list_shades(part):
    return sorted((part.inputs[:, 0, 0, 0] * 255).round().int().tolist())


def test_folders_train_valid_and_test_are_the_parts(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        write_images(tmp_path / part, {"cat/a.png": 40 * i, "cat/b.png": 40 * i + 10, "dog/a.png": 40 * i + 20})
    splits = load_splits(tmp_path, example=EXAMPLE)
    assert [list_shades(part) for part in splits[:3]] == [[0, 10, 20], [40, 50, 60], [80, 90, 100]]
    assert splits.test.targets.tolist() == [0, 0, 1]
    assert splits.origin == ("3 rows of train", "3 rows of val", "3 rows of test")


def test_without_a_valid_folder_a_quarter_of_train_is_left_out_of_the_calibration(tmp_path):
    write_images(tmp_path / "train", {f"{i}.png": i for i in range(8)})
    write_images(tmp_path / "test", {"x.png": 200})
    splits = load_splits(tmp_path, example=EXAMPLE)
    assert len(splits.validation.inputs) == 2
    assert sorted(list_shades(splits.calibration) + list_shades(splits.validation)) == list(range(8))
    assert list_shades(splits.test) == [200]


def test_a_folder_without_parts_is_divided(tmp_path):
    write_images(tmp_path, {f"{kind}/{i}.png": 10 * i + j for i in range(4) for j, kind in enumerate(("cat", "dog"))})
    splits = load_splits(tmp_path, example=EXAMPLE)
    shades = [shade for part in splits[:3] for shade in list_shades(part)]
    assert sorted(shades) == sorted(10 * i + j for i in range(4) for j in range(2))
    for part in splits[:3]:
        assert torch.equal((part.inputs[:, 0, 0, 0] * 255).round().int() % 10, part.targets.int())


def test_parts_with_other_classes_are_refused(tmp_path):
    write_images(tmp_path / "train", {"cat/a.png": 1, "dog/a.png": 2})
    write_images(tmp_path / "test", {"cat/a.png": 3, "fox/a.png": 4})
    with pytest.raises(DataError, match="different classes, such as 'dog'"):
        load_splits(tmp_path, example=EXAMPLE)


@pytest.mark.parametrize(
    ("counts", "match"), [({"n": 0}, "0 rows"), ({"n_valid": 0}, "0 rows"), ({"n_test": -1}, "-1 rows")]
)
def test_numbers_of_rows_below_one_are_refused(counts, match):
    with pytest.raises(DataError, match=match):
        load_splits("digits", example=torch.zeros(2, 64), **counts)


def test_too_few_rows_and_other_shapes_are_refused(tmp_path):
    torch.save(torch.zeros(3, 3), tmp_path / "few.pt")
    with pytest.raises(DataError, match="four rows or more"):
        load_splits(tmp_path / "few.pt", example=VECTORS)
    torch.save(torch.zeros(9, 5), tmp_path / "other.pt")
    with pytest.raises(DataError, match="network takes rows × 3"):
        load_splits(tmp_path / "other.pt", example=VECTORS)
    with pytest.raises(DataError, match="next tokens"):
        load_splits(tmp_path / "few.pt", example=VECTORS, next_tokens=True)
