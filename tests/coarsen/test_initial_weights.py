"""Initial weights of coarse levels have the distribution of a network of that size, and are exact for units that are alike."""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.models.cnn import resnet20
from netgraph.models.perceptron import mlp
from netgraph.models.transformer import Encoder

PIXELS, TOKENS = torch.rand(2, 3, 32, 32), torch.arange(1, 17).reshape(2, 8)
SIZES = {"width": 64, "n_heads": 4, "n_hidden": 128, "depth": 2, "length": 8}


def drawn(model, example, **options):
    """Build a hierarchy of random pairs, which are not alike, and initialize its coarse weights."""
    hierarchy = ng.build_hierarchy(model, example, coarsener="random", **options)
    ng.init_coarse_weights(hierarchy)
    return hierarchy


def test_a_layer_is_selected_rows_and_added_columns():
    torch.manual_seed(0)
    model = mlp((20, 32, 24, 5))
    levels = drawn(model, torch.rand(2, 20)).levels
    first, second = (levels[1].transfers[axis.name].aggregates for axis in levels[0].spec.free)
    rows = [np.flatnonzero(second == i)[0] for i in range(second.max() + 1)]
    columns = np.eye(first.max() + 1)[first]
    expected = model[2].weight.detach().double().numpy()[rows] @ columns
    own = dict(levels[1].model.named_parameters())
    np.testing.assert_allclose(own["2.weight"].detach().double().numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(own["2.bias"].detach(), model[2].bias.detach()[rows])


@pytest.mark.parametrize(
    ("make", "example"),
    [
        (lambda: mlp((256, 512, 512, 10)), torch.rand(2, 256)),
        (lambda: Encoder(50, 2, **SIZES), TOKENS),
        (resnet20, PIXELS),
    ],
    ids=["perceptron", "transformer", "residual network"],
)
def test_weights_have_the_variance_of_a_network_of_that_size(make, example):
    torch.manual_seed(0)
    model = make()
    level, fine = drawn(model, example, n_levels=2).levels[1], dict(model.named_parameters())
    seen = 0
    for name, weight in level.model.named_parameters():
        large = weight.ndim > 1 and weight.numel() > 1000 and weight.shape[1] < fine[name].shape[1]
        if large and "embedding" not in name and "positions" not in name:  # drawn by another law than that of fans
            wanted = fine[name].std() * (fine[name].shape[1] / weight.shape[1]) ** 0.5
            assert float((weight.std() / wanted).detach()) == pytest.approx(1, abs=0.08), name
            seen += 1
    assert seen


def test_every_coarser_level_keeps_what_reaches_its_units():
    torch.manual_seed(0)
    model = mlp((256, 512, 512, 512, 10))
    hidden = nn.Sequential(*list(model)[:6])
    inputs = torch.randn(64, 256)
    hierarchy = drawn(model, inputs[:2], n_levels=4)
    wanted = hidden(inputs).square().mean()
    for level in hierarchy.levels[1:]:
        x, own = inputs, dict(level.model.named_parameters())
        for i in (0, 2, 4):
            x = torch.relu(x @ own[f"{i}.weight"].T + own[f"{i}.bias"])
        assert float((x.square().mean() / wanted).detach()) == pytest.approx(1, abs=0.25)


def test_weights_of_units_that_are_alike_do_not_change():
    torch.manual_seed(0)
    model = mlp((10, 16, 4))
    with torch.no_grad():
        model[0].weight[8:] = model[0].weight[:8]
        model[0].bias[8:] = model[0].bias[:8]
    hierarchy = ng.build_hierarchy(model, torch.rand(2, 10))
    before = {name: tensor.clone() for name, tensor in traced_state(hierarchy.levels[1].model).items()}
    ng.init_coarse_weights(hierarchy)
    for name, tensor in traced_state(hierarchy.levels[1].model).items():
        torch.testing.assert_close(tensor, before[name])


def test_a_coarse_head_is_one_of_its_heads():
    torch.manual_seed(0)
    model = Encoder(50, 2, **SIZES)
    spec = ng.trace(model, TOKENS)
    heads = next(axis.name for axis in spec.free if axis.kind == "head")
    hierarchy = drawn(model, TOKENS, ratio={"*": 1.0, heads: 0.5}, spec=spec)
    aggregates = hierarchy.levels[1].transfers[heads].aggregates
    own = dict(hierarchy.levels[1].model.named_parameters())["blocks.0.attention.query.weight"]
    for i, head in enumerate(own.detach().reshape(2, 16, 64)):
        first = int(np.flatnonzero(aggregates == i)[0])
        torch.testing.assert_close(head, model.blocks[0].attention.query.weight.detach().reshape(4, 16, 64)[first])


def test_a_merged_block_is_its_first_and_resolution_changes_no_weight():
    torch.manual_seed(0)
    model = resnet20()
    levels = drawn(model, PIXELS, directions="space+depth").levels
    fine = traced_state(model)
    for name, tensor in traced_state(levels[1].model).items():
        torch.testing.assert_close(tensor, fine[name], rtol=0, atol=0)
