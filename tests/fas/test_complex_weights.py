"""Complex weights in the solver. The judge is the same network with pairs of real weights, which gradients treat alike."""

import pytest
import torch
from torch import nn

import netgraph as ng


class Frequencies(nn.Module):
    """A layer on low frequencies between two real ones, with complex weights or with pairs of real ones."""

    def __init__(self, *, pairs):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a, self.b = nn.Linear(5, 8).double(), nn.Linear(6, 3).double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
        weight = torch.randn(8, 6, 3, 2, generator=generator).double() * 0.3
        self.w = nn.Parameter(weight if pairs else torch.view_as_complex(weight))

    def forward(self, x):
        weight = self.w if self.w.is_complex() else torch.view_as_complex(self.w)
        low = torch.fft.rfft(self.a(x).transpose(1, 2))[..., :3]
        out = torch.fft.irfft(torch.einsum("bix,iox->box", low, weight), n=6)
        return self.b(out.transpose(1, 2).tanh())


@pytest.mark.parametrize(
    ("cycle", "options"), [("v", {"cycles": 2}), ("full", {"cycles": 1}), ("kaskade", {"epochs": 3})]
)
def test_complex_weights_are_trained_as_pairs_of_real_ones(cycle, options):
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(4, 6, 5, generator=generator), torch.randn(4, 6, 3, generator=generator)) for _ in range(3)]
    answers = []
    for pairs in (False, True):
        model = Frequencies(pairs=pairs)
        data = [(x.double(), y.double()) for x, y in batches]
        hierarchy = ng.build_hierarchy(model, data[0][0], n_levels=2)
        assert len(hierarchy.levels[1].transfers) == 2  # the incoming and the outgoing units of the complex weights
        solution = ng.FAS(cycle, torch.optim.SGD, 0.05, **options).solve(
            hierarchy, ng.Problem(data, nn.functional.mse_loss)
        )
        state = dict(solution.model.named_parameters())
        weight = state["w"].detach()
        answers.append([state["a.weight"].detach(), torch.view_as_real(weight) if weight.is_complex() else weight])
    torch.testing.assert_close(answers[0], answers[1])
