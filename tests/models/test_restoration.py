"""Restoration of images: figures against scikit-learn's formulas and closed forms, photographs, and the command."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from netgraph.errors import DataError, NetgraphError
from netgraph.models import (
    Blur,
    Loader,
    LowerResolution,
    Noise,
    ResidualNet,
    UNet,
    evaluate_restoration,
    load_dataset,
    load_photographs,
    make_task,
)
from netgraph.models.data.photographs import cut_tiles
from tests.support.command_line import run


def test_psnr_of_an_idle_network_is_that_of_the_noise():
    data = load_dataset("digits")
    quality = evaluate_restoration(nn.Identity(), data, Noise(0.1))
    assert quality.loss == pytest.approx(0.01, rel=0.02)
    assert quality.psnr == pytest.approx(-10 * math.log10(quality.loss), abs=1e-4)
    assert quality == evaluate_restoration(nn.Identity(), data, Noise(0.1))  # the noise of an evaluation is the same
    assert 0 < quality.ssim < 1
    perfect = evaluate_restoration(nn.Identity(), data, Noise(0.0))
    assert perfect.loss == 0
    assert perfect.ssim == pytest.approx(1)


@pytest.mark.parametrize("build", [ResidualNet, UNet])
def test_networks_run_at_any_resolution_and_begin_near_the_image(build):
    torch.manual_seed(0)
    network = build(2, width=8, more_inputs=1)
    for height, width in ((16, 16), (32, 24)):
        images = torch.rand(2, 4, height, width)
        answers = network(images)
        assert answers.shape == (2, 3, height, width)
        assert float((answers - images[:, :3]).square().mean()) < float(images[:, :3].square().mean())


def test_minibatches_hold_other_noise_in_every_pass_and_the_same_in_every_run():
    data = make_task("residual", load_dataset("digits"), goal="denoise").data
    loader = Loader(data, 32, degradation=Noise(0.2))
    first = [pair[0].clone() for pair in loader]
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, loader, strict=True))
    loader.set_epoch(1)
    inputs, targets = next(iter(loader))
    assert float((inputs - targets).std()) == pytest.approx(0.2, rel=0.1)
    assert not torch.equal(inputs, first[0])


def test_tiles_are_those_of_loops():
    image = torch.arange(3 * 10 * 15).reshape(3, 10, 15)
    tiles = cut_tiles(image, 4)
    wanted = [image[:, r : r + 4, c : c + 4] for r in (0, 4) for c in (0, 4, 8)]
    assert torch.equal(tiles, torch.stack(wanted))


def write_photographs(folder, sizes):
    from PIL import Image

    for i, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_photographs_of_one_split_never_reach_another(tmp_path):
    write_photographs(tmp_path, [(40, 33), (35, 64), (70, 70), (32, 32)])
    data = load_photographs(tmp_path, tile=16)
    whole = [split.inputs.flatten(1).tolist() for split in (data.train, data.valid, data.test)]
    assert sum(map(len, whole)) == 2 * 2 + 2 * 4 + 4 * 4 + 2 * 2
    tiles = [{tuple(tile) for tile in split} for split in whole]
    assert not tiles[0] & tiles[1]
    assert not (tiles[0] | tiles[1]) & tiles[2]


def test_sub_folders_named_like_splits_are_the_splits(tmp_path):
    for i, name in enumerate(("train", "valid", "test")):
        (tmp_path / name).mkdir()
        write_photographs(tmp_path / name, [(16, 16 * (i + 1))])
    data = load_photographs(tmp_path, tile=16)
    assert [len(split.inputs) for split in (data.train, data.valid, data.test)] == [1, 2, 3]
    (tmp_path / "valid").rename(tmp_path / "more")
    with pytest.raises(DataError, match="has the sub-folder train, and none called valid"):
        load_photographs(tmp_path, tile=16)


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        load_photographs(tmp_path)
    write_photographs(tmp_path, [(20, 20), (20, 20)])
    with pytest.raises(DataError, match=r"has 2 photographs\. Give three or more"):
        load_photographs(tmp_path)
    write_photographs(tmp_path, [(20, 20)] * 3)
    with pytest.raises(DataError, match=r"has 128 x 128 pixels\. Give a smaller tile"):
        load_photographs(tmp_path)
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        load_photographs(tmp_path, tile=16)


@pytest.mark.parametrize(
    ("name", "goal", "why"),
    [
        ("residual", "classify", "residual is no network for the task classify. Choose denoise"),
        ("mlp", "denoise", "mlp is no network for the task denoise. Train residual or unet"),
        ("unet", "dehaze", "no task is called 'dehaze'"),
    ],
)
def test_networks_and_tasks_that_do_not_fit_are_refused(name, goal, why):
    with pytest.raises(NetgraphError, match=why):
        make_task(name, load_dataset("digits"), goal=goal)


def test_resolutions_that_cannot_be_lowered_are_refused():
    with pytest.raises(NetgraphError, match="cannot be averaged 3 times lower"):
        LowerResolution(3).degrade(torch.rand(1, 3, 16, 16), torch.Generator())
    assert Blur().degrade(torch.rand(1, 3, 2, 2), torch.Generator()).shape == (1, 3, 2, 2)  # smaller than the blur


def test_command_restores_images_on_levels_in_space(tmp_path):
    write_photographs(tmp_path, [(48, 32)] * 4)
    small = ["--widths", "4", "--network-arg", "n_blocks=1", "--epochs", "4", "--coarsen", "space", "--levels", "2"]
    code, out, _ = run("train", "denoise", "--data", tmp_path, "--tile", 16, *small, "--json")
    assert code == 0
    document = json.loads(out)
    assert set(document["test"]) == {"loss", "psnr", "ssim"}
    assert document["settings"]["task"] == "denoise"
    figures = [record["figures"] for record in document["history"] if record["event"] == "evaluate"]
    assert all(set(f) == {"loss", "psnr", "ssim"} for f in figures)
    _, text, _ = run("train", "unet", "--task", "inpaint", "--data", "digits", *small[:2], "--epochs", 1, "--plain")
    assert "test PSNR" in text
    assert "SSIM" in text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["denoise", "--task", "lm"], "denoise is a task, and --task lm is another"),
        (["denoise", "--one-hot"], "--one-hot is about classes"),
        (["denoise", "--label-smoothing", "0.1"], "--label-smoothing is about classes"),
        (["denoise", "--coarsen", "space", "--levels", "5"], "cannot be averaged"),
    ],
)
def test_options_that_do_not_fit_restoration_are_refused(arguments, why):
    code, _, err = run("train", *arguments, "--data", "digits", "--epochs", 1)
    assert code == 1
    assert why in err
