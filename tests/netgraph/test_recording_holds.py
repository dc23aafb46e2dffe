"""What a run decides in Python is burnt into its recording. It holds under other conditions, or it is refused by its cause.

Each network has one kind of decision. The judge of what is accepted is the network's own forward: on another batch, in both modes,
with gradients. What is refused must name the cause.
"""

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from nets import Fn
from torch import nn
from torch.utils.checkpoint import checkpoint

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import TraceError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def layers(run, **more):
    """Return a network of two layers with units that may merge between them."""
    torch.manual_seed(0)
    return Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3), **more)


def check_runs_like(model, spec, *examples):
    """Compare a recorded network with the network itself: outputs in both modes, and gradients."""
    copy = coarse_network(model, spec, {})
    for training in (False, True):
        model.train(training), copy.train(training)
        for example in examples:
            torch.manual_seed(1)
            expected = model(example)
            torch.manual_seed(1)
            found = copy(example)
            torch.testing.assert_close(found, expected)
            gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
            mine = torch.autograd.grad(found.square().sum(), list(copy.parameters()), allow_unused=True)
            for left, right in zip(mine, gradients, strict=True):
                torch.testing.assert_close(left, right)


# Sizes of the batch


def weigh_rows(make):
    return layers(lambda m, x: m.b(torch.relu(m.a(x)) * make(len(x)).reshape(-1, 1)))


def loop_over_rows(m, x):
    return torch.stack([m.b(torch.relu(m.a(x[i]))) for i in range(len(x))])


def halve_the_batch(m, x):
    n = len(x) // 2
    return m.b(torch.relu(m.a(torch.cat([x[:n], x[n:]]))))


def mix_rows(m, x):
    return m.b(torch.relu(m.a(x))) / len(x) ** 2


BURNT_SIZES = {
    "ends of a linspace": weigh_rows(lambda n: torch.linspace(0, n - 1, n)),
    "ends of a logspace": weigh_rows(lambda n: torch.logspace(0, n, n, base=1.3)),
    "loops": layers(loop_over_rows),
    "half of the rows": layers(halve_the_batch),
    "squares": layers(mix_rows),
    "views": layers(lambda m, x: m.b(torch.relu(m.a(x.view(2, -1, 6)))).view(-1, 3) + x.view(2, -1).sum()),
    "powers": layers(lambda m, x: m.b(torch.relu(m.a(x)) ** (1 + 1 / len(x)))),
    "choices": layers(lambda m, x: m.b(torch.relu(m.a(x)) if len(x) % 4 == 0 else torch.tanh(m.a(x)))),
}


@pytest.mark.parametrize("name", BURNT_SIZES)
def test_numbers_of_the_batch_hold_for_others_or_for_this_one_alone(name):
    model = BURNT_SIZES[name]
    spec = ng.trace(model, X)
    check_runs_like(model, spec, X)
    if name == "ends of a logspace":  # the end is linked to the number of rows
        check_runs_like(model, spec, torch.randn(6, 6))
        return
    assert not spec.dynamic
    with pytest.raises(TraceError, match="was traced for 4 x 6"):
        coarse_network(model, spec, {})(torch.randn(6, 6))


@pytest.mark.parametrize("name", ["ends of a linspace", "loops", "squares", "powers", "choices", "views"])
def test_the_reason_why_a_batch_is_fixed_names_operator_and_line(name):
    assert "test_recording_holds.py" in ng.trace(BURNT_SIZES[name], X).one_size
    assert ng.trace(BURNT_SIZES[name], X, prove=False).one_size is None


@pytest.mark.parametrize("rows", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "count", [lambda n: n // 2, lambda n: n // 3, lambda n: n % 2, lambda n: -(-n // 2), lambda n: n.bit_length()]
)
def test_whole_numbers_worked_out_from_the_batch_are_told_from_constants(count, rows):
    """One row more may leave a half or a remainder as it was."""
    model = layers(lambda m, x: m.b(torch.relu(m.a(x))) * (1 + count(len(x))))
    assert ng.trace(model, torch.ones(rows, 6)).one_size is not None


def test_an_example_that_asks_for_gradients_is_like_one_that_does_not():
    """PyTorch composes a product of three dimensions and two otherwise where the smaller one has gradients."""
    model = layers(
        lambda m, x: m.b(
            torch.vmap(lambda w: nn.functional.linear(x, w).relu())(torch.stack([m.a.weight, 2 * m.a.weight]))
        ).sum(0)
    )
    spec = ng.trace(model, X.clone().requires_grad_())
    assert spec.one_size is None
    check_runs_like(model, spec, torch.randn(7, 6))


def test_a_branch_on_the_gradients_of_an_input_is_refused():
    model = layers(lambda m, x: m.b(m.a(x).tanh() if x.requires_grad else m.a(x).relu()))
    with pytest.raises(TraceError, match="differs from the network"):
        ng.build_hierarchy(model, X.clone().requires_grad_(), n_levels=2)


def test_bags_in_their_other_form_are_those_of_the_network():
    """A bag takes a matrix of entries, or a list of entries and where each bag begins."""
    net = nn.EmbeddingBag(10, 6, mode="mean")
    flat, starts = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9]), torch.tensor([0, 4])
    model = Fn(lambda m, entries, starts: m.out(torch.relu(m.bag(entries, starts))), bag=net, out=nn.Linear(6, 3))
    copy = coarse_network(model, ng.trace(model, (flat, starts)), {})
    for begin in (starts, torch.tensor([0, 2])):
        torch.testing.assert_close(copy(flat, begin), model(flat, begin))


# Numbers that are not PyTorch's


def skip_by_random(m, x):
    x = m.a(x)
    return m.b(torch.relu(x) if random.random() < 0.5 else x)


def skip_by_numpy(m, x):
    x = m.a(x)
    return m.b(torch.relu(x) if np.random.rand() < 0.5 else x)


def skip_by_own_generator(m, x):
    x = m.a(x)
    return m.b(torch.relu(x) if m.dice.random() < 0.5 else x)


def mask_by_numpy(m, x):
    keep = torch.from_numpy((np.random.rand(*x.shape) < 0.5).astype(np.float32))
    return m.b(m.a(x * keep))


@pytest.mark.parametrize(
    ("run", "source"),
    [(skip_by_random, "Python"), (skip_by_numpy, "NumPy"), (skip_by_own_generator, "Python"), (mask_by_numpy, "NumPy")],
)
def test_random_numbers_outside_pytorch_are_refused_by_their_source(run, source):
    model = layers(run)
    model.dice = random.Random(3)
    with pytest.raises(TraceError, match=f"random numbers from {source}"):
        ng.trace(model, X)


@pytest.mark.parametrize("run", [skip_by_random, mask_by_numpy])
def test_random_numbers_in_training_alone_leave_the_training_mode_out(run):
    model = layers(lambda m, x: run(m, x) if m.training else m.b(m.a(x)))
    spec = ng.trace(model, X)
    assert "random numbers" in spec.unrecorded["train"]
    torch.testing.assert_close(coarse_network(model, spec, {}).eval()(X), model.eval()(X))


def test_a_run_leaves_the_random_generators_as_they_were():
    model = layers(lambda m, x: skip_by_random(m, x) if m.training else m.b(m.a(x)))
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    ng.trace(model, X)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


# Gradients


class Straight(torch.autograd.Function):
    """Signs, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_function_with_another_backward_is_refused_by_its_name():
    model = layers(lambda m, x: m.b(Straight.apply(m.a(x))))
    with pytest.raises(TraceError, match="Straight"):
        ng.build_hierarchy(model, X)


def test_a_function_whose_operators_have_its_backward_is_recorded():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    model = layers(lambda m, x: m.b(torch.relu(Twice.apply(m.a(x)))))
    hierarchy = ng.build_hierarchy(model, X)
    check_runs_like(model, hierarchy.levels[0].spec, X, torch.randn(3, 6))


def test_a_reentrant_checkpoint_keeps_its_gradients():
    def run(m, x):
        return m.b(checkpoint(lambda y: torch.relu(m.a(y)), x, use_reentrant=True))

    plain = layers(lambda m, x: m.b(torch.relu(m.a(x))))
    spec = ng.trace(layers(run), X)
    check_runs_like(plain, spec, X, torch.randn(3, 6))


# Assignments


def test_numbers_that_are_assigned_by_data_are_assigned_by_the_recording():
    def run(m, x):
        m.a.weight.data = m.a.weight.data * m.mask
        return m.b(torch.relu(m.a(x)))

    def build():
        model = layers(run)
        model.mask = nn.Buffer((torch.arange(48).reshape(8, 6) % 3 > 0).float())
        return model

    model, twin = build(), build()
    spec = ng.trace(model, X)
    torch.testing.assert_close(model.a.weight, twin.a.weight)  # the trace wrote nothing
    copy = coarse_network(model, spec, {})
    torch.testing.assert_close(copy(X), twin(X))


def test_an_average_of_weights_moves_as_in_the_network():
    def run(m, x):
        with torch.no_grad():
            for slow, fast in zip(m.slow.parameters(), m.a.parameters(), strict=True):
                slow.data = slow.data * 0.9 + fast.data * 0.1
        return m.b(torch.relu(m.slow(x)) + torch.relu(m.a(x)))

    model = layers(run, slow=nn.Linear(6, 8))
    copy = coarse_network(model, ng.trace(model, X), {})
    for _ in range(3):
        torch.testing.assert_close(copy(X), model(X))


# Keys, counters and caches


def test_keys_of_an_answer_stay_what_they_are():
    model = layers(lambda m, x: {0: m.b(m.a(x)), ("logits", 1): m.a(x)})
    assert coarse_network(model, ng.trace(model, X), {})(X).keys() == {0, ("logits", 1)}


def test_keys_that_count_runs_are_refused():
    def run(m, x):
        m.step = getattr(m, "step", 0) + 1
        return {f"step {m.step}": m.b(torch.relu(m.a(x)))}

    with pytest.raises(TraceError, match="step"):
        ng.trace(layers(run), X)


def test_a_warm_up_that_counts_in_an_attribute_is_refused():
    def run(m, x):
        m.step += 1
        return m.b(torch.relu(m.a(x)) if m.step > 1 else m.a(x))

    model = layers(run)
    model.step = 0
    with pytest.raises(TraceError, match="keeps step in attributes"):
        ng.trace(model, X)
    assert model.step == 0


def remember_in_attribute(m, x):
    if getattr(m, "table", None) is None:
        m.table = torch.arange(8.0, device=x.device)
    return m.b(m.a(x) + m.table)


def remember_in_dict(m, x):
    key = x.shape[1]
    if key not in m.cache:
        m.cache[key] = torch.arange(8.0, device=x.device)
    return m.b(m.a(x) + m.cache[key])


@functools.lru_cache
def make_table(n, device):
    return torch.arange(float(n), device=device)


@functools.lru_cache
def give_store():
    return {}


def remember_in_function(m, x):
    return m.b(m.a(x) + make_table(8, x.device))


def remember_in_store(m, x):
    store = give_store()
    if "table" not in store:
        store["table"] = torch.arange(8.0, device=x.device)
    return m.b(m.a(x) + store["table"])


@pytest.mark.parametrize("warm", [False, True], ids=["new", "used before"])
@pytest.mark.parametrize("run", [remember_in_attribute, remember_in_dict, remember_in_function, remember_in_store])
def test_what_a_network_remembers_is_no_constant_of_the_recording_and_stays_usable(run, warm):
    class Remembering(Fn):
        pass  # in this file, so that the functions with caches of this file are its own

    torch.manual_seed(0)
    model = Remembering(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    model.cache = {}
    make_table.cache_clear(), give_store.cache_clear()
    expected = X @ model.a.weight.T + model.a.bias + torch.arange(8.0)
    expected = expected @ model.b.weight.T + model.b.bias
    if warm:
        torch.testing.assert_close(model(X), expected)
    for _ in range(2):  # the second trace finds what the first has left behind
        spec = ng.trace(model, X)
        torch.testing.assert_close(coarse_network(model, spec, {})(X), expected)
        torch.testing.assert_close(model(X), expected)


def test_an_attribute_that_a_run_makes_is_gone_after_a_trace():
    model = layers(remember_in_attribute)
    names = set(vars(model))
    ng.trace(model, X)
    assert set(vars(model)) == names


# Branches on numbers


def route(m, x):
    """Rows go to one of two layers by their sign, and a layer without rows does not run."""
    out = torch.zeros(len(x), 8)
    for expert, chosen in ((m.a, x[:, 0] > 0), (m.c, x[:, 0] <= 0)):
        if chosen.any():
            out[chosen] = expert(x[chosen])
    return m.b(out)


@pytest.mark.parametrize("rows", [X.abs(), X], ids=["one is idle", "none is idle"])
def test_an_expert_that_was_idle_runs_or_is_guarded(rows):
    model = layers(route, c=nn.Linear(6, 8))
    copy = coarse_network(model, ng.trace(model, rows), {})
    for other in (rows, X, -X.abs()):
        try:
            found = copy(other)
        except ng.errors.GuardError:
            continue
        torch.testing.assert_close(found, model(other))


def test_training_that_makes_more_calls_than_evaluation_is_proven_in_both():
    """Dropped paths, running statistics and their counters are calls of the training mode alone."""

    def run(m, x):
        y = m.norm(m.a(x))
        if m.training:
            y = y * (torch.rand(len(x), 1, device=x.device) < 0.5) / 0.5
        return m.b(torch.relu(y))

    model = layers(run, norm=nn.BatchNorm1d(8))
    spec = ng.trace(model, X)
    assert spec.one_size is None
    assert not spec.unrecorded
    check_runs_like(model, spec, X)
    check_runs_like(model.eval(), spec, torch.randn(7, 6))


def test_a_number_that_evaluation_alone_takes_from_the_batch_is_found():
    def run(m, x):
        y = torch.relu(m.a(x))
        return m.b(y) if m.training else m.b(y) / len(x) ** 2

    spec = ng.trace(layers(run), X)
    assert spec.one_size is not None


def test_without_a_proof_nothing_is_compared():
    model = layers(skip_by_random)
    assert ng.trace(model, X, prove=False).one_size is None
    hierarchy = ng.build_hierarchy(model, X, prove=False)
    assert any("not proven" in line for line in hierarchy.describe_recording())


# Backwards that a recording loses, and draws of the network's own


def double_gradients(m, x):
    h = m.a(x)
    if h.requires_grad:
        h.register_hook(lambda gradient: 2 * gradient)
    return m.b(h.relu())


def recompute_without_gradients(m, x):
    return m.b(checkpoint(lambda h: m.a(h).relu(), x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("run", "cause"), [(double_gradients, "register_hook at "), (recompute_without_gradients, "use_reentrant=False")]
)
def test_a_backward_that_a_recording_loses_is_refused_by_its_cause(run, cause):
    with pytest.raises(TraceError, match=cause):
        ng.build_hierarchy(layers(run), X, n_levels=2)


def infer_the_first_layer(m, x):
    with torch.inference_mode():
        h = m.a(x).relu()
    return m.b(h.clone())


def square_positive(x):
    return torch.relu(x) * x


def double_positive(x):
    return torch.relu(x) * 2


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    double_positive = torch.jit.script(double_positive)


@pytest.mark.parametrize("run", [infer_the_first_layer, lambda m, x: m.b(double_positive(m.a(x)))])
def test_gradients_behind_switches_and_scripts_are_those_of_the_network(run):
    model = layers(run)
    check_runs_like(model, ng.trace(model, X), X, torch.randn(7, 6))
    with torch.inference_mode():
        assert torch.is_inference(torch.ones(1))


def test_a_script_that_was_trained_before_the_trace_keeps_its_gradients():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(square_positive)
    model = layers(lambda m, x: m.b(script(m.a(x))))
    for _ in range(4):  # after the second call TorchScript has a backward of its own
        model(X).sum().backward()
    model.zero_grad()
    check_runs_like(model, ng.trace(model, X), X, torch.randn(7, 6))


def test_a_generator_of_the_networks_own_is_named_as_the_cause():
    own = random.Random(0)
    model = layers(lambda m, x: m.b(m.a(x).relu() if own.random() < 0.5 else m.a(x).tanh()))
    with pytest.raises(TraceError, match=r"random generator of its own|random numbers outside PyTorch|two runs"):
        ng.build_hierarchy(model, X, n_levels=2)


@pytest.mark.parametrize("size", [5, 64, 10**6])
def test_parts_of_a_fixed_size_that_the_example_does_not_fill_keep_the_batch(size):
    net = Fn(lambda m, x: torch.cat([part - part.mean(0) for part in m.a(x).split(size)]), a=nn.Linear(6, 8))
    coarse, x = coarsen_alike(net, torch.randn(4, 6))
    torch.testing.assert_close(coarse(x), net(x))
    with pytest.raises(TraceError, match=r"traced for 4 x 6"):
        coarse(torch.randn(size + 1 if size < 100 else 9, 6))


@pytest.mark.parametrize("end", [64, 10**6])
def test_an_end_beyond_the_example_holds_for_every_batch(end):
    net = Fn(lambda m, x: m.b(m.a(x).relu()[:, :end])[:end].sum(0), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    coarse, _ = coarsen_alike(net, torch.randn(4, 6))
    for rows in (1, 4, 70):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(coarse(x), net(x))


def coarsen_alike(net, x):
    """Return the network itself as its recording, in evaluation mode, with its example."""
    net.eval()
    return ng.coarse_network(net, ng.trace(net, x), {}).eval(), x
