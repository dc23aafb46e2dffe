"""Tuning of a small network: each loss against closed forms and finite differences, and what training does and leaves alone."""

import copy
import math

import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.special import log_softmax, softmax
from torch import nn

import netgraph as ng
from netgraph.coarsen import TuneOptions, fine_tune, make_metric, own_class
from netgraph.coarsen.tuning.losses import hint_loss, knowledge_loss, label_loss, relational_loss
from netgraph.coarsen.tuning.options import parse_weights
from netgraph.errors import NetgraphError
from netgraph.models import Decoder, fit, load_dataset, mlp


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(ratio=0.5, widths=(6, 16, 16, 3)):
    torch.manual_seed(0)
    network, inputs = mlp(widths), torch.randn(96, widths[0])
    hierarchy = ng.build_hierarchy(network, inputs[:2], ratio=ratio)
    return network, hierarchy, hierarchy.levels[1].model, inputs


# Each loss, by hand


def test_the_gradient_of_knowledge_is_the_temperature_times_the_difference_of_the_probabilities():
    s, t, T = rows(5, 4).requires_grad_(), rows(5, 4, seed=1), 3.0
    knowledge_loss([s], [t], temperature=T).backward()
    p, q = (softmax(x.detach().numpy() / T, axis=1) for x in (s, t))
    torch.testing.assert_close(s.grad, torch.from_numpy(T * (p - q) / 5))  # Hinton et al., eq. 2, times T²


def test_knowledge_of_values_is_the_relative_squared_error_with_its_gradient():
    s, t = rows(5, 4).requires_grad_(), rows(5, 4, seed=1)
    loss = knowledge_loss([s], [t], temperature=None)
    loss.backward()
    assert math.isclose(loss.item(), float(((s - t).detach() ** 2).sum() / (t**2).sum()))
    torch.testing.assert_close(s.grad, 2 * (s.detach() - t) / (t**2).sum())


def test_labels_are_cross_entropy_with_classes_last_or_second_and_without_ignored_ones():
    s, y = rows(4, 6, 5), torch.randint(0, 5, (4, 6), generator=torch.Generator().manual_seed(0))
    y[0, :3] = -100
    counted = y >= 0
    by_hand = -log_softmax(s.numpy(), axis=-1)[counted.numpy(), y[counted].numpy()].mean()
    assert math.isclose(float(label_loss(s, y)), by_hand)
    assert math.isclose(float(label_loss(s.movedim(-1, 1), y)), by_hand)


def test_relational_compares_distances_that_are_divided_by_their_mean():
    s, t = rows(6, 3), rows(6, 8, seed=1)
    d, e = (pdist(x.numpy()) / pdist(x.numpy()).mean() for x in (s, t))
    huber = [0.5 * x * x if x < 1 else x - 0.5 for x in abs(d - e)]
    assert math.isclose(float(relational_loss(s, t)), sum(huber) / len(huber))
    assert float(relational_loss(7 * t, t)) < 1e-28  # a scale is no difference


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: knowledge_loss([s], [t], temperature=2.0),
        lambda s, t: knowledge_loss([s], [t], temperature=None),
        lambda s, t: hint_loss({"a": s}, {"a": t}),
        relational_loss,
    ],
)
def test_a_student_that_equals_its_teacher_has_no_loss_and_gradients_are_those_of_differences(loss):
    s, t = rows(4, 3).requires_grad_(), rows(4, 3, seed=1)
    assert abs(float(loss(t, t))) < 1e-12
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,))


# Hints follow the units


def test_a_hint_is_the_mean_of_the_units_that_merged_into_a_coarse_one():
    network, hierarchy, coarse, inputs = small()
    own = own_class(hierarchy, inputs[:2])
    transfers, spec = hierarchy.levels[1].transfers, hierarchy.levels[0].spec
    names = [name for name, p in coarse.named_parameters() if name.endswith("weight")][:2]
    wanted = []
    with torch.no_grad():
        for name in names:
            (axis,) = transfers.keys() & {name.removesuffix(".weight")} or {spec.parameters[name][0][0]}
            index = int(name.split(".")[0])
            large, little = (net[: index + 1](inputs) for net in (network, own))
            goal = large @ torch.from_numpy(transfers[axis].R.toarray()).float().T
            wanted.append(float((little - goal).square().sum() / goal.square().sum()))
    for net in (copy.deepcopy(coarse), own):  # recorded, and in its own class
        losses = fine_tune(
            net, network, inputs, epochs=1, batch=96, losses=("hint",), hierarchy=hierarchy, augment=lambda x, _: x
        )
        assert math.isclose(losses[0], sum(wanted) / 2, rel_tol=1e-5)


def test_without_a_hierarchy_a_regressor_learns_the_hint():
    network, _, coarse, inputs = small()
    losses = fine_tune(coarse, network, inputs, epochs=60, lr=1e-2, losses=("hint",))
    assert losses[-1] < losses[0] / 2


def test_a_copy_of_the_original_has_no_loss_and_stays():
    network, _, _, inputs = small()
    twin = copy.deepcopy(network)
    losses = fine_tune(
        twin,
        network,
        inputs,
        epochs=1,
        losses=("knowledge", "hint", "relational"),
        layers=("2.weight",),
        weight_decay=0,
    )
    assert losses == [0.0]
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), network.parameters(), strict=True))


# What training does, and what it leaves alone


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits").flat()
    torch.manual_seed(0)
    network = mlp((64, 64, 32, 10))
    fit(network, data, epochs=15, lr=5e-3)
    return data, network, ng.build_hierarchy(network, data.train.inputs[:2], ratio=0.2)


@pytest.mark.parametrize(("labelled", "losses"), [(True, ()), (False, ()), (True, ("labels",))])
def test_tuning_wins_back_most_of_what_merging_lost_on_digits(digits, labelled, losses):
    data, network, hierarchy = digits
    metric = make_metric("top1", network, data.test.inputs, data.test.targets)
    coarse = copy.deepcopy(hierarchy.levels[1].model)
    before, merged = metric.evaluate(network), metric.evaluate(coarse)
    fine_tune(
        coarse, network, data.train.inputs, data.train.targets if labelled else None, epochs=15, lr=3e-3, losses=losses
    )
    assert merged < before - 0.1
    assert metric.evaluate(coarse) > before - 0.4 * (before - merged)


def test_the_same_seed_gives_the_same_weights_and_leaves_generators_modes_and_the_original_alone():
    inputs = torch.randn(96, 6)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    network[1].eval()
    y, state = torch.arange(96) % 3, copy.deepcopy(network.state_dict())
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))
        generator, student = torch.get_rng_state(), copy.deepcopy(network)
        fine_tune(student, network, inputs, y, epochs=2, seed=seed)
        assert torch.equal(torch.get_rng_state(), generator)
        assert [m.training for m in student.modules()] == [m.training for m in network.modules()]
        results.append(student.state_dict())
    same = [all(torch.equal(results[0][k], r[k]) for k in r) for r in results[1:]]
    assert same == [True, False]
    assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("labelled", "mode", "moves"), [(True, "", True), (False, "", False), (False, "train", True), (True, "eval", False)]
)
def test_batch_norm_measures_its_batches_in_training_mode_alone(labelled, mode, moves):
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    student, inputs = copy.deepcopy(network), torch.randn(64, 6)
    fine_tune(student, network, inputs, torch.arange(64) % 3 if labelled else None, epochs=1, mode=mode)
    assert torch.equal(student[1].running_mean, network[1].running_mean) is not moves


def test_next_tokens_are_learned():
    torch.manual_seed(0)
    network = Decoder(12, width=16, n_heads=2, n_hidden=16, depth=1, length=8)
    tokens = (torch.arange(8)[None] + torch.randint(0, 12, (64, 1))) % 12
    targets = (tokens + 1) % 12
    targets[:, -2:] = -100
    metric = make_metric("perplexity", network, tokens, targets)
    before = metric.evaluate(network)
    fine_tune(network, None, tokens, targets, epochs=20, lr=1e-2)
    assert metric.evaluate(network) < before / 3


def test_a_coarse_language_model_wins_perplexity_back_in_both_of_its_forms():
    torch.manual_seed(0)
    network = Decoder(12, width=32, n_heads=4, n_hidden=32, depth=1, length=8, dropout=0.0)
    tokens = (torch.arange(8)[None] + torch.randint(0, 12, (96, 1))) % 12
    targets = (tokens + 1) % 12
    fine_tune(network, None, tokens, targets, epochs=20, lr=1e-2)
    hierarchy = ng.build_hierarchy(network.eval(), tokens[:2], n_levels=2, ratio=0.5)
    metric = make_metric("perplexity", network, tokens, targets)
    for small in (hierarchy.levels[1].model, own_class(hierarchy, tokens[:2])):
        before = metric.evaluate(small)
        fine_tune(
            small,
            network,
            tokens,
            targets,
            epochs=10,
            lr=5e-3,
            losses=("labels", "knowledge", "hint"),
            hierarchy=hierarchy,
        )
        assert 1 <= metric.evaluate(small) < 1 + (before - 1) / 2
    with pytest.raises(NetgraphError, match="no units of its own"):  # heads turn before they merge
        fine_tune(
            small,
            network,
            tokens,
            targets,
            losses=("hint",),
            hierarchy=hierarchy,
            layers=("blocks.0.attention.query.weight",),
        )


def test_no_epoch_changes_nothing_and_progress_counts_the_steps():
    network, _, coarse, inputs = small()
    before, calls = copy.deepcopy(coarse.state_dict()), []
    assert fine_tune(coarse, network, inputs, epochs=0) == []
    assert all(torch.equal(before[k], v) for k, v in coarse.state_dict().items())
    assert len(fine_tune(coarse, network, inputs, epochs=2, batch=32, progress=lambda *call: calls.append(call))) == 2
    assert calls == [("tuning", i + 1, 6) for i in range(6)]


def test_a_rate_that_is_too_large_is_told_and_the_weights_stay():
    network, _, coarse, inputs = small()
    before = copy.deepcopy(coarse.state_dict())
    with pytest.raises(NetgraphError, match=r"not finite from step \d+ on, and the network is as it was"):
        fine_tune(coarse, network, inputs, epochs=20, lr=1e30, optimizer="sgd", clip=None)
    assert all(torch.equal(before[k], v) for k, v in coarse.state_dict().items())


class Frozen(nn.Module):
    """A network without parameters."""

    def forward(self, x):
        return x[:, :3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"losses": ("labels",)}, "needs targets"),
        ({"original": None}, "neither targets nor an original"),
        ({"original": None, "losses": ("hint",)}, "hint needs the original"),
        ({"original": mlp((6, 4, 5))}, "of the same answer"),
        ({"original": mlp((7, 4, 3))}, "does not run on inputs of"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"losses": ("label",)}, "Choose among labels"),
        ({"weights": {"labels": -1.0}}, "weight -1.0"),
        ({"optimizer": "lion"}, "lion"),
        ({"schedule": "step"}, "step"),
        ({"network": Frozen()}, "no parameter to train"),
        ({"inputs": torch.zeros(0, 6)}, "no rows"),
        ({"inputs": torch.zeros(1, 6), "losses": ("relational",)}, "two rows or more"),
        ({"targets": torch.zeros(5, dtype=torch.long)}, "one for each row"),
        ({"targets": torch.full((96,), 3)}, "answers 3 classes"),
        ({"targets": torch.zeros(96, 2)}, "targets of the answer's shape"),
        ({"losses": ("hint",), "layers": ("9.weight",)}, "no layer 9.weight"),
        ({"losses": ("hint",), "original": nn.Bilinear(6, 6, 3)}, "does not run"),
    ],
)
def test_what_does_not_fit_is_told_before_a_weight_changes(change, says):
    network, _, coarse, inputs = small()
    given = {"network": coarse, "original": network, "inputs": inputs, "targets": None, **change}
    before = copy.deepcopy(given["network"].state_dict())
    with pytest.raises(NetgraphError, match=says):
        fine_tune(**given)
    assert all(torch.equal(before[k], v) for k, v in given["network"].state_dict().items())


def test_weights_are_read_from_text():
    assert parse_weights("labels=0.5,hint=2") == {"labels": 0.5, "hint": 2.0}
    assert TuneOptions(weights={"hint": 2.0}).weight_of("hint") == 2.0
    with pytest.raises(NetgraphError, match="LOSS=WEIGHT"):
        parse_weights("labels")


def test_a_graph_is_taken_whole():
    class Nodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, nodes, edges):
            return self.layer(nodes).index_add(0, edges[:, 0], self.layer(nodes)[edges[:, 1]])

    torch.manual_seed(0)
    network, graph = Nodes(), (torch.randn(30, 4), torch.randint(0, 30, (70, 2)))
    losses = fine_tune(network, None, graph, torch.arange(30) % 2, epochs=50, lr=1e-2)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": {"knowledge": 2.0}}, "the weight of knowledge would have no effect: the losses are labels"),
        ({"temperature": 4.0}, "the temperature would have no effect"),
        ({"layers": ("0.weight",)}, "the choice of hint layers would have no effect"),
    ],
)
def test_options_of_losses_that_are_not_asked_for_are_refused_before_a_weight_changes(options, sentence):
    network, inputs, labels = mlp((6, 8, 3)), torch.randn(20, 6), torch.zeros(20, dtype=torch.long)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NetgraphError, match=sentence):
        fine_tune(network, None, inputs, labels, epochs=1, **options)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
