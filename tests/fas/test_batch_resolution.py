"""Minibatches at the resolution of a level, against slow twins, and the levels of networks that answer images."""

from collections import Counter

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas import Problem, restrict_batch
from netgraph.models import Blur, Holes, LowerResolution, Noise, ResidualNet, UNet


def relative(a, b):
    return float((a - b).norm() / b.norm())


IMAGES = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(0))
LABELS = (torch.arange(4 * 16 * 24) % 5).reshape(4, 16, 24)


def slow_squares(value, divisor):
    """Return the pixels of each square by loops."""
    height, width = value.shape[-2:]
    return {
        (i, j): value[..., i * divisor : (i + 1) * divisor, j * divisor : (j + 1) * divisor].flatten(-2)
        for i in range(height // divisor)
        for j in range(width // divisor)
    }


@seed(7619)
@settings(max_examples=25, deadline=None)
@given(
    divisor=st.sampled_from([1, 2, 3, 4]), rows=st.integers(1, 3), columns=st.integers(1, 3), draw=st.integers(0, 99)
)
def test_each_way_is_that_of_its_slow_twin(divisor, rows, columns, draw):
    generator = torch.Generator().manual_seed(draw)
    image = torch.rand(2, 3, rows * divisor, columns * divisor, generator=generator)
    labels = torch.randint(3, (2, rows * divisor, columns * divisor), generator=generator)
    inputs, mean = restrict_batch((image, image), {"inputs": "strided", "targets": "average"}, divisor)
    _, majority = restrict_batch((image, labels), "majority", divisor)
    for (i, j), square in slow_squares(image, divisor).items():
        torch.testing.assert_close(mean[..., i, j], square.mean(-1))
        fine = inputs[..., i * divisor : (i + 1) * divisor, j * divisor : (j + 1) * divisor]
        assert torch.equal(fine, square[..., :1, None].expand_as(fine))
    for (i, j), square in slow_squares(labels, divisor).items():
        for n in range(2):
            counts = Counter(square[n].tolist())
            assert int(majority[n, i, j]) == min(label for label, m in counts.items() if m == max(counts.values()))


def test_a_restriction_may_mark_pixels_to_ignore():
    def restrict(inputs, targets, n):
        return inputs, torch.where(targets[..., ::n, ::n] == 0, -100, targets[..., ::n, ::n])

    _, targets = restrict_batch((IMAGES, LABELS), restrict, 2)
    assert int(targets.min()) == -100


@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_averaging_undoes_enlarging(divisor):
    """The coarse network averages. What it sees is the restricted input, up to the rounding of a sum."""
    inputs, _ = restrict_batch((IMAGES, IMAGES), {"inputs": "strided"}, divisor)
    strided = IMAGES[..., ::divisor, ::divisor]
    torch.testing.assert_close(functional.avg_pool2d(inputs, divisor), strided, rtol=1e-6, atol=0)


def test_names_reach_tensors_within_tuples_and_dicts():
    labels = torch.randint(5, (4, 16, 24))
    batch = ({"image": IMAGES, "time": torch.ones(4)}, (IMAGES, labels))
    inputs, targets = restrict_batch(
        batch, {"inputs.image": "strided", "targets.0": "average", "targets.1": "majority"}, 2
    )
    assert torch.equal(inputs["image"][..., ::2, ::2], IMAGES[..., ::2, ::2])
    assert torch.equal(inputs["time"], torch.ones(4))
    assert targets[0].shape == (4, 3, 8, 12)
    assert targets[1].shape == (4, 8, 12)


@pytest.mark.parametrize(
    ("batch", "restrict", "divisor", "why"),
    [
        ((IMAGES, torch.zeros(4)), "average", 2, r"targets of shape \(4,\) have no resolution"),
        ((IMAGES, IMAGES[..., :15]), "average", 2, "targets of 16 x 15 pixels cannot be restricted by 2"),
        ((IMAGES, IMAGES.long()), "average", 2, "which have no average. Give majority"),
        ((IMAGES, IMAGES), "majority", 2, "a majority is one of labels. Give average"),
        ((IMAGES, IMAGES), "median", 2, "no way to restrict targets is called 'median'"),
        ((IMAGES, IMAGES), {"target": "average"}, 2, "restrict names 'target', and no tensor"),
        ((IMAGES, IMAGES), lambda x, y, n: (x, y[:, :2, ::n, ::n]), 2, "nothing else may change"),
        ((IMAGES, IMAGES), lambda x, y, n: (x, y[..., ::n, ::n].double()), 2, "nothing else may change"),
        (
            (IMAGES, LABELS),
            lambda x, y, n: (x, y[..., ::n, ::n] + 1),
            2,
            "made the label 5 of targets, which go up to 4. It has to keep the classes",
        ),
        ((IMAGES, IMAGES), lambda x, y, n: y, 2, "has to return a pair"),
        (((IMAGES,), IMAGES), lambda x, y, n: ([*x], y), 2, "which nest as a tuple"),
    ],
)
def test_minibatches_that_do_not_fit_are_refused_by_name(batch, restrict, divisor, why):
    with pytest.raises(NetgraphError, match=why):
        restrict_batch(batch, restrict, divisor)


NETWORKS = {"residual": lambda: ResidualNet(2, width=6), "unet": lambda: UNet(1, width=4)}


@pytest.mark.parametrize("directions", ["space", "channels+space", "space,channels"])
@pytest.mark.parametrize("name", NETWORKS)
def test_levels_in_space_answer_at_their_resolution(name, directions):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    hierarchy = ng.build_hierarchy(model, IMAGES, n_levels=3, directions=directions)
    problem = Problem([(IMAGES, IMAGES)], functional.mse_loss, restrict="average")
    for level in hierarchy.levels:
        assert level.model(IMAGES).shape == (4, 3, 16 // level.pool, 24 // level.pool)
        averaged = functional.avg_pool2d(IMAGES, level.pool)
        if not any(above.transfers for above in hierarchy.levels[: hierarchy.levels.index(level) + 1]):
            assert relative(level.model(IMAGES), model(averaged)) < 1e-5
        wanted = functional.mse_loss(level.model(IMAGES), averaged)
        torch.testing.assert_close(problem.value(level.model, (IMAGES, IMAGES)), wanted)


def test_nested_iteration_trains_a_network_of_images_and_a_saved_hierarchy_goes_on(tmp_path):
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(ResidualNet(2, width=8), IMAGES, n_levels=2, directions="space")
    ng.save(hierarchy, tmp_path / "levels")
    opened = ng.load(tmp_path / "levels", arch=lambda: ResidualNet(2, width=8))
    noise = Noise(0.1)
    inputs = noise.degrade(IMAGES, torch.Generator().manual_seed(1))
    ends = []
    for levels in (hierarchy, opened):
        problem = Problem([(inputs, IMAGES)], functional.mse_loss, restrict=noise.restrict)
        before = float(problem.value(levels.levels[0].model, (inputs, IMAGES)).detach())
        solution = ng.FAS("kaskade", torch.optim.Adam, 1e-2, epochs=40, schedule="wsd").solve(levels, problem)
        ends.append(float(problem.value(solution.model, (inputs, IMAGES)).detach()))
        assert ends[-1] < before / 1.5
    assert ends[0] == ends[1]


def test_cycles_compare_levels_at_their_own_resolution():
    """Tau, gap and line search restrict the minibatches of the finer level's set."""
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(ResidualNet(1, width=4), IMAGES, n_levels=2, directions="space")
    problem = Problem([(IMAGES, IMAGES)] * 20, functional.mse_loss, restrict="average")
    options = ng.fas.parse_options({"gate.share": "inf", "gate.gap": "inf", "gate.tau": "inf", "gate.kappa": "0"})
    solution = ng.FAS("v", torch.optim.Adam, 1e-3, epochs=2, options=options).solve(hierarchy, problem)
    assert solution.events("up")


def test_levels_of_images_without_a_restriction_are_refused_before_the_first_step():
    hierarchy = ng.build_hierarchy(ResidualNet(1, width=4), IMAGES, n_levels=2, directions="space")
    problem = Problem([(IMAGES, IMAGES)], functional.mse_loss)
    with pytest.raises(NetgraphError, match=r"Give Problem\(restrict=...\)"):
        ng.FAS("kaskade", epochs=1).begin(hierarchy, problem)
    with pytest.raises(NetgraphError, match="have no resolution"):
        ng.FAS("kaskade", epochs=1).begin(
            hierarchy, Problem([(IMAGES, torch.zeros(4))], functional.mse_loss, restrict="average")
        )


def test_classifiers_need_no_restriction_and_take_one_for_their_inputs():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    level = ng.build_hierarchy(model, IMAGES, directions="space").levels[1]
    targets = torch.arange(4)
    plain = Problem([(IMAGES, targets)], functional.cross_entropy)
    torch.testing.assert_close(
        plain.value(level.model, (IMAGES, targets)),
        functional.cross_entropy(model(functional.avg_pool2d(IMAGES, 2)), targets),
    )
    strided = Problem([(IMAGES, targets)], functional.cross_entropy, restrict={"inputs": "strided"})
    torch.testing.assert_close(
        strided.value(level.model, (IMAGES, targets)),
        functional.cross_entropy(model(IMAGES[..., ::2, ::2]), targets),
    )


@pytest.mark.parametrize(
    "degradation", [Noise(0.2), Holes(), Blur(), LowerResolution()], ids=lambda d: type(d).__name__
)
def test_degradations_restrict_to_the_same_degradation_of_averaged_images(degradation):
    """Inputs at half the resolution are the averaged images, degraded as the fine ones: by the same noise or the same holes."""
    generator = torch.Generator().manual_seed(3)
    inputs = degradation.degrade(IMAGES, generator)
    coarse_inputs, coarse = degradation.restrict(inputs, IMAGES, 2)
    torch.testing.assert_close(coarse, functional.avg_pool2d(IMAGES, 2))
    assert coarse_inputs.shape == (4, 3 + degradation.more_inputs, 8, 12)
    match degradation:
        case Noise():
            assert float((coarse_inputs - coarse).std()) == pytest.approx(0.2, rel=0.1)
            assert float((functional.avg_pool2d(inputs, 2) - coarse).std()) == pytest.approx(0.1, rel=0.1)
        case Holes():
            mask = coarse_inputs[:, 3:]
            assert set(mask.unique().tolist()) == {0.0, 1.0}
            assert torch.equal(coarse_inputs[:, :3], coarse * mask)
            assert float(mask.mean()) == pytest.approx(float(inputs[:, 3:].mean()), abs=0.1)
        case Blur():
            noise = coarse_inputs - Blur(sigma=0.0).degrade(coarse, generator)
            assert float(noise.std()) == pytest.approx(degradation.sigma, rel=0.1)
        case LowerResolution():
            torch.testing.assert_close(coarse_inputs, degradation.degrade(coarse, generator))


def test_blur_is_that_of_scipy():
    from scipy.ndimage import gaussian_filter

    blurred = Blur(radius=1.0, sigma=0.0).degrade(IMAGES, torch.Generator())
    wanted = gaussian_filter(IMAGES.numpy(), (0, 0, 1.0, 1.0), mode="mirror", truncate=3.0)
    torch.testing.assert_close(blurred, torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)
