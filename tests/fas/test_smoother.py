"""Options of smoothing that change numbers: judged by autocast written out, and by a weighted sum."""

import pytest
import torch
from fasnets import batches, hierarchy_of, network, state
from torch.nn.functional import cross_entropy

from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_in_bfloat16_has_the_loss_and_gradients_of_autocast_around_one_written_out(bf16):
    model, by_hand, several = network(), network(), batches(2)
    smoother = Smoother(model, torch.optim.SGD, 1.0, options=Smoothing(bf16=bf16))
    result = smoother.step(Problem(several, cross_entropy).value, several, {})
    losses = []
    for inputs, targets in several:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = by_hand(inputs)
            losses.append(cross_entropy(outputs, targets))
        assert outputs.dtype == (torch.bfloat16 if bf16 else torch.float32)
        (losses[-1] / 2).backward()
    assert result.loss == pytest.approx(float(sum(losses).detach()) / 2)
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, q - q.grad, rtol=0, atol=1e-7)


def test_bfloat16_differs_from_single_precision_by_its_rounding():
    moves = {}
    for bf16 in (False, True):
        model, start = network(), state(network())
        smoother = Smoother(model, torch.optim.SGD, 1.0, options=Smoothing(bf16=bf16))
        smoother.step(Problem(batches(1), cross_entropy).value, batches(1), {})
        moves[bf16] = torch.cat([(x - start[name]).flatten() for name, x in state(model).items()])
    error = (moves[True] - moves[False]).norm() / moves[False].norm()
    assert 1e-5 < error < 2**-6  # eight bits of each number, and a few products one after the other


@pytest.mark.parametrize("cycle", ["kaskade", "full"])
def test_the_running_mean_is_the_weighted_sum_of_the_iterates_of_the_finest_level(cycle):
    """(1 - d) sum d^(n-k) x_k from the second on, and the rest of the weight on the first."""
    decay, seen = 0.75, []

    def watch(run, record):
        if record["event"] == "smooth" and record["level"] == 0:
            seen.append(state(run.grids[0].model))

    options = Options(Smoothing(ema=decay))
    solver = FAS(cycle, torch.optim.SGD, 0.1, epochs=2, options=options)
    solution = solver.solve(hierarchy_of(network()), Problem(batches(), cross_entropy), callbacks=[watch], every=1)
    assert len(seen) > 3
    mean = dict(solution.mean.named_parameters())
    for name, tensor in mean.items():
        wanted = decay ** (len(seen) - 1) * seen[0][name]
        wanted = wanted + sum((1 - decay) * decay ** (len(seen) - k) * x[name] for k, x in enumerate(seen[1:], start=2))
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
