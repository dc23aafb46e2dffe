"""Feature maps equal the responses that hooks see. Receptive patterns equal a loop over every position."""

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError
from netgraph.models.cnn import resnet
from netgraph.models.perceptron import mlp
from netgraph.viz.figures.features import (
    collect_feature_maps,
    compute_receptive_patterns,
    plot_features,
    write_feature_figure,
)


def network():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    model = network().eval()
    model(torch.randn(8, 3, 16, 16))
    return ng.build_hierarchy(model, torch.randn(2, 3, 16, 16), n_levels=3)


def test_maps_equal_the_inputs_that_hooks_on_the_layers_see(hierarchy):
    finest, x = hierarchy.levels[0], torch.randn(3, 3, 16, 16)
    seen = {}
    for i in (3, 5):
        finest.model[i].register_forward_pre_hook(lambda module, inputs, i=i: seen.__setitem__(i, inputs[0]))
    with torch.no_grad():
        finest.model(x)
    found = collect_feature_maps(coarse_network(finest.model, finest.spec, {}), finest.spec, x)
    assert {name: tuple(maps.shape[1:]) for name, maps in found.items() if name in ("0", "3")} == {
        "0": (8, 16, 16),
        "3": (12, 8, 8),
    }
    torch.testing.assert_close(found["0"], seen[3])
    torch.testing.assert_close(found["3"], seen[5])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_patterns_equal_a_loop_over_every_patch(stride):
    torch.manual_seed(1)
    inputs = torch.randn(2, 3, 9, 9)
    n = 9 // stride
    maps = torch.randn(2, 4, n, n)
    maps[:, 3] = -1.0
    padded = nn.functional.pad(inputs, (2, 2, 2, 2))
    mean = torch.stack(
        [padded[i, :, y : y + 5, x : x + 5] for i in range(2) for y in range(0, 9, stride) for x in range(0, 9, stride)]
    ).mean(0)
    found = compute_receptive_patterns(maps, inputs, side=5)
    places = (9 - 1) // stride + 1
    answers = nn.functional.interpolate(maps.clamp(min=0), size=(places, places), mode="nearest")
    for unit in range(3):
        summed, total = torch.zeros(3, 5, 5), 0.0
        for i in range(2):
            for y in range(places):
                for x in range(places):
                    patch = padded[i, :, y * stride : y * stride + 5, x * stride : x * stride + 5]
                    summed, total = summed + answers[i, unit, y, x] * patch, total + answers[i, unit, y, x]
        torch.testing.assert_close(found[unit], summed / total - mean, rtol=1e-4, atol=1e-5)
    assert not found[3].any()


def test_a_row_holds_an_aggregate_and_exactly_the_channels_that_it_merged(hierarchy):
    x = torch.randn(4, 3, 16, 16)
    drawn = plot_features(hierarchy, x, axis="0", level=1, image=2)
    labels = [ax.get_xlabel() for ax in drawn.subfigs[1].axes]
    aggregates = hierarchy.levels[1].transfers["0"].aggregates
    n = len(labels) // len(np.unique(aggregates))
    rows = [labels[i : i + n] for i in range(0, len(labels), n)]
    found = {int(row[0]): [int(word) for word in row[1:] if word] for row in rows}
    assert found == {g: np.flatnonzero(aggregates == g).tolist() for g in found}
    finest = hierarchy.levels[0]
    maps = collect_feature_maps(coarse_network(finest.model, finest.spec, {}).eval(), finest.spec, x)["0"]
    shown = drawn.subfigs[1].axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, maps[2, found[int(rows[0][0])][0]], rtol=1e-5)


def test_a_level_of_lower_resolution_shows_each_channel_next_to_its_fine_version():
    torch.manual_seed(0)
    model, x = resnet(2, width=4).eval(), torch.randn(3, 3, 32, 32)
    lower = ng.build_hierarchy(model, x[:2], directions="space")
    drawn = plot_features(lower, x, axis="stage1.0.conv1", image=1)
    pairs = list(drawn.subfigs[1].axes)
    answers = []
    hook = model.stage1[0].relu.register_forward_hook(lambda module, inputs, out: answers.append(out.detach().clone()))
    with torch.no_grad():
        model(torch.nn.functional.avg_pool2d(x, 2)), model(x)
    hook.remove()
    coarse, fine = answers[0][1], answers[2][1]  # the block's first activation runs twice
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        assert left.get_xlabel() == right.get_xlabel()
        np.testing.assert_allclose(left.images[0].get_array(), coarse[int(left.get_xlabel())], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(right.images[0].get_array(), fine[int(left.get_xlabel())], rtol=1e-4, atol=1e-5)
    assert pairs[1].get_title(loc="left") == "level 0"


def test_a_level_with_fewer_blocks_only_is_refused():
    shorter = ng.build_hierarchy(resnet(3, width=4), torch.randn(2, 3, 16, 16), directions="depth")
    with pytest.raises(NetgraphError, match="only depth was coarsened"):
        plot_features(shorter, torch.randn(2, 3, 16, 16))


def test_a_missing_axis_level_or_image_is_named(hierarchy):
    x = torch.randn(2, 3, 16, 16)
    for options, message in (
        ({"axis": "9"}, "axis '9' is not merged, or no convolution reads it. Axes to choose: 0"),
        ({"level": 3}, "no level 3"),
        ({"image": 2}, "there is no image 2. There are 2"),
    ):
        with pytest.raises(NetgraphError, match=message):
            plot_features(hierarchy, x, **options)
    with pytest.raises(NetgraphError, match="feature maps need images"):
        plot_features(hierarchy, x[0])
    dense = ng.build_hierarchy(nn.Sequential(nn.Flatten(), *mlp((12, 8, 4))), torch.randn(2, 3, 2, 2), n_levels=2)
    with pytest.raises(NetgraphError, match="no feature maps"):
        plot_features(dense, torch.randn(2, 3, 2, 2))


def test_the_command_draws_figures_and_asks_for_images(tmp_path, hierarchy):
    ng.save(coarse_network(hierarchy.levels[0].model, hierarchy.levels[0].spec, {}), tmp_path / "net.safetensors")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype("float32"))
    words = ("features", tmp_path / "net.safetensors", tmp_path / "maps.png", "--image", 1, "--level", 2)
    code, _, err = run(*words)
    assert (code, "Give --data" in err) == (1, True)
    code, _, err = run(*words, "--data", tmp_path / "images.npy")
    assert code == 0, err
    assert len(np.unique(np.asarray(Image.open(tmp_path / "maps.png").convert("L")))) > 10


def test_images_of_one_channel_are_drawn(tmp_path):
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4, 2))
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 1, 8, 8), n_levels=2)
    write_feature_figure(hierarchy, torch.randn(3, 1, 8, 8), tmp_path / "maps.svg")
    assert (tmp_path / "maps.svg").stat().st_size > 1000
