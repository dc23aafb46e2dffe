"""Rules of operators, each in a small network, judged by the network's own forward: equal units merge and dead units go.

The recorded graph also answers as the network does for one more row than it was traced for.
"""

import pytest
import torch
from nets import Fn
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import netgraph as ng
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.recording.operators.stand_ins import multiply_groups

IMAGE = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
ROWS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1)).double()


def convolutions(run, **modules):
    return Fn(run, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 3, 1), **modules), IMAGE


def layers(run, width=8, **modules):
    return Fn(run, a=nn.Linear(6, 8), b=nn.Linear(width, 3), **modules), ROWS


def with_loss(loss, **options):
    """A network that adds the loss between two activations to its answer."""
    return layers(lambda m, x: m.b(m.a(x).relu()) + loss(m.a(x).sigmoid(), m.a(x.flip(1)).sigmoid(), **options))


def matrix_of(x):
    return x @ x.transpose(1, 2) + 9 * torch.eye(5, dtype=x.dtype)


def sample(m, x):
    theta = m.c(x.mean((2, 3))).view(-1, 2, 3)
    return m.b(
        functional.grid_sample(
            m.a(x), functional.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False
        )
    )


def operate_on_frequencies(m, x):
    spectrum = torch.fft.rfft2(m.a(x))[:, :, :4, :3]
    spectrum = torch.einsum("bixy,ioxy->boxy", spectrum, torch.view_as_complex(m.w))
    return m.b((torch.fft.irfft2(spectrum, s=(8, 8)) + m.c(m.a(x))).relu())


NETS = {
    "an empty block that is reshaped": layers(lambda m, x: torch.cat([m.b(m.a(x).relu()), x[:, :0].unflatten(-1, (2, 3)).flatten(2)[..., :3]], 1)),
    "spectral norm": (nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 1)), nn.ReLU(), nn.Conv2d(8, 3, 1)), IMAGE),
    "orthogonal": (nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)), ROWS),
    "affine grid of the input": convolutions(sample, c=nn.Linear(3, 6)),
    "unpooling in two dimensions": convolutions(lambda m, x: m.b(functional.max_unpool2d(*functional.max_pool2d(m.a(x), 2, return_indices=True), 2))),
    "unpooling in one dimension": (
        Fn(lambda m, x: m.b(functional.max_unpool1d(*functional.max_pool1d(m.a(x), 2, return_indices=True), 2)), a=nn.Conv1d(5, 8, 3, padding=1), b=nn.Conv1d(8, 3, 1)),
        ROWS,
    ),
    "cosines": layers(lambda m, x: functional.cosine_similarity(m.a(x), m.a(x.flip(1)).relu(), dim=-1)),
    "cosines of all pairs": layers(lambda m, x: functional.cosine_similarity(m.a(x[:, None]), m.a(x[:, :, None]), dim=-1)),
    "pairwise distance": layers(lambda m, x: functional.pairwise_distance(m.a(x), m.a(x.flip(1)), p=3)),
    "distance of tensors": layers(lambda m, x: m.b(m.a(x)) * torch.dist(m.a(x), m.a(x.flip(1)))),
    "triplet loss": layers(lambda m, x: functional.triplet_margin_loss(m.a(x), m.a(x.flip(1)), m.a(x.flip(2)))),
    "mse loss": with_loss(functional.mse_loss),
    "mse loss as a sum": with_loss(functional.mse_loss, reduction="sum"),
    "l1 loss": with_loss(functional.l1_loss),
    "smooth l1 loss": with_loss(functional.smooth_l1_loss),
    "huber loss": with_loss(functional.huber_loss, delta=0.3),
    "kl loss": with_loss(functional.kl_div),
    "binary cross entropy": with_loss(functional.binary_cross_entropy),
    "binary cross entropy with logits": with_loss(functional.binary_cross_entropy_with_logits),
    "losses kept number by number": layers(lambda m, x: m.b(functional.smooth_l1_loss(m.a(x), m.a(x.flip(1)), reduction="none"))),
    "cross entropy": layers(
        lambda m, x: functional.cross_entropy(m.b(m.a(x).relu()).transpose(1, 2), torch.zeros(x.shape[:2], dtype=torch.long), label_smoothing=0.1)
    ),
    "cross entropy of probabilities": layers(lambda m, x: functional.cross_entropy(m.b(m.a(x).relu()).flatten(0, 1), m.b(m.a(x)).softmax(-1).flatten(0, 1))),
    "negative log likelihood": layers(
        lambda m, x: functional.nll_loss(m.b(m.a(x).relu())[:, 0].log_softmax(-1), x[:, 0, 0].long().abs() % 3, reduction="none")
    ),
    "multi margin loss": layers(lambda m, x: functional.multi_margin_loss(m.b(m.a(x).relu())[:, 0], x[:, 0, 0].long().abs() % 3)),
    "polar": layers(lambda m, x: m.b(torch.view_as_real(torch.polar(m.a(x).abs(), m.a(x)))[..., 0])),
    "complex": layers(lambda m, x: m.b(torch.complex(m.a(x), m.a(x).relu()).abs())),
    "transform along a sequence": layers(lambda m, x: m.b(torch.fft.irfft(torch.fft.rfft(m.a(x), dim=1) * 2, n=5, dim=1))),
    "Fourier operator": (
        Fn(operate_on_frequencies, a=nn.Conv2d(3, 8, 1), w=nn.Parameter(torch.randn(8, 8, 4, 3, 2)), c=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 3, 1)),
        IMAGE,
    ),
    "tensordot": layers(lambda m, x: m.b(torch.tensordot(m.a(x), m.w, dims=2)), width=7, w=nn.Parameter(torch.randn(5, 8, 7))),
    "inner": layers(lambda m, x: m.b(torch.inner(m.a(x), m.w).relu()), width=7, w=nn.Parameter(torch.randn(7, 8))),
    "sum of products": layers(lambda m, x: m.b(m.a(x)) + torch.addbmm(m.w, m.a(x), m.v.expand(x.shape[0], 8, 3)), w=nn.Parameter(torch.randn(5, 3)), v=nn.Parameter(torch.randn(8, 3))),
    "kron": layers(lambda m, x: m.b(torch.kron(m.a(x), torch.ones(1, 1, 2, dtype=x.dtype))), width=16),
    "column stack": layers(lambda m, x: m.b(torch.column_stack([m.a(x[:, 0]), m.a(x[:, 1]).relu()])), width=16),
    "hstack": layers(lambda m, x: m.b(torch.hstack([m.a(x[:, 0]), m.a(x[:, 1]).relu()])), width=16),
    "dstack": layers(lambda m, x: m.b(torch.dstack([m.a(x), m.a(x).relu()])), width=16),
    "vstack": layers(lambda m, x: m.b(torch.vstack([m.a(x), m.a(x).relu()]))),
    "hsplit": layers(lambda m, x: m.b(torch.cat(torch.dsplit(m.a(x), 2)[::-1], -1))),
    "triangular solve": layers(lambda m, x: m.b(torch.linalg.solve_triangular(matrix_of(x).tril(), m.a(x), upper=False))),
    "solve": layers(lambda m, x: m.b(torch.linalg.solve(matrix_of(x), m.a(x)))),
    "inverse": layers(lambda m, x: m.b(torch.linalg.inv(matrix_of(x)) @ m.a(x))),
    "cholesky": layers(lambda m, x: m.b(torch.linalg.cholesky(matrix_of(x)) @ m.a(x))),
    "determinant": layers(lambda m, x: m.b(m.a(x)) * torch.linalg.det(matrix_of(x))[:, None, None]),
    "matrix exponential": layers(lambda m, x: m.b(torch.matrix_exp(x[:, :5, :5]) @ m.a(x))),
    "norm of linalg": layers(lambda m, x: m.b(m.a(x) / torch.linalg.norm(m.a(x), dim=-1, keepdim=True))),
    "cross product": layers(lambda m, x: m.b(m.a(x)).cross(x[..., :3], dim=-1)),
    "feature dropout in place": layers(lambda m, x: m.b(functional.dropout1d(m.a(x).relu(), 0.5, m.training, inplace=True))),
    "repeats with their sum": layers(lambda m, x: m.b(m.a(x).unflatten(2, (4, 2)).repeat_interleave(3, dim=2, output_size=12).flatten(2)), width=24),
    "repeats of all numbers": layers(lambda m, x: m.b(m.a(x).repeat_interleave(2).view(len(x), 5, 16)), width=16),
    "repeats by a table": layers(lambda m, x: m.b(m.a(x).repeat_interleave(torch.tensor([1, 2, 0, 1, 1]), dim=1, output_size=5))),
    "median": layers(lambda m, x: m.b(m.a(x).median(1).values)),
    "aminmax": layers(lambda m, x: m.b(m.a(x)) * torch.aminmax(m.a(x), dim=-1, keepdim=True).max),
    "search": layers(lambda m, x: m.b(m.a(x).relu() * torch.searchsorted(torch.linspace(-1, 1, 5, dtype=x.dtype), m.a(x)))),
    "halves by the numbers of their ends": layers(lambda m, x: m.b(m.a(x)[..., 4:8].relu()) + m.b(m.a(x)[..., 0:4]) + m.c(m.a(x)[..., 0:8]), 4, c=nn.Linear(8, 3)),
    "gates and values in turn": layers(lambda m, x: m.b(m.a(x)[..., ::2].sigmoid() * m.a(x)[..., 1::2]), 4),
    "softmax over units": layers(lambda m, x: m.b(m.a(x).softmax(-1))),
    "the largest units": layers(lambda m, x: m.b(m.a(x)) * m.a(x).topk(4, -1)[0].sum(-1, keepdim=True)),
    "comparison in place": layers(lambda m, x: m.b(m.a(x).relu().gt_(0.1).xlogy_(m.a(x).exp()))),
    "embeddings of bounded norm": (
        Fn(lambda m, x: m.b(m.a(m.e(x)).relu()), e=nn.Embedding(9, 6, max_norm=1.0), a=nn.Linear(6, 8), b=nn.Linear(8, 3)),
        torch.tensor([[1, 3, 8], [0, 3, 3]]),
    ),
    "steps of a quantiser": layers(lambda m, x: m.b(torch.fake_quantize_per_tensor_affine(m.a(x), 0.1, 0, -128, 127).relu())),
    "sequences padded to the longest": layers(lambda m, x: m.b(nn.utils.rnn.pad_sequence([m.a(x[:, 0]), m.a(x[:, 1]).relu()]))),
    "an entry and a stretch that are written": layers(
        lambda m, x: m.b(m.a(x).select_scatter(m.a(x)[:, 0], 1, 2).slice_scatter(m.a(x)[:, :2].tanh(), 1, 1, 5, 2))
    ),
    "a quarter turn": convolutions(lambda m, x: m.b(torch.rot90(m.a(x), 1, (2, 3))[..., :5])),
    "half a turn": convolutions(lambda m, x: m.b(torch.rot90(m.a(x), 2, (3, 2)).relu())),
    "entries along a dimension": layers(lambda m, x: m.b(torch.take_along_dim(m.a(x), m.a(x).argsort(1), 1))),
    "entries along a dimension, of one index for all": layers(
        lambda m, x: m.b(torch.take_along_dim(m.a(x), torch.tensor([2, 0])[None, :, None], dim=1))
    ),
    "rows by how often they repeat": layers(lambda m, x: m.b(m.a(x)[:, torch.repeat_interleave(torch.tensor([2, 0, 1, 1, 1]))])),
    "transposed convolution by its general operator": convolutions(
        lambda m, x: m.b(torch.convolution(m.a(x), m.w, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)), w=nn.Parameter(torch.randn(8, 8, 3, 3))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_alike_units_merge_and_dead_units_go(name):
    model, example = NETS[name]
    model = model.double().eval()
    spec = ng.trace(model, example)
    assert spec.free, spec
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-10
    dead = check_dead_units(model, spec, example, spec.free)
    assert dead.error is None or dead.error < 1e-10


@pytest.mark.parametrize("name", NETS)
def test_the_recording_answers_as_the_network_for_one_more_row(name):
    model, example = NETS[name]
    model = model.double().eval()
    longer = torch.cat([example, example[:1]])
    torch.testing.assert_close(coarse_network(model, ng.trace(model, example), {})(longer), model(longer))


@pytest.mark.parametrize(("inner", "columns"), [(8, 16), (7, 5), (8, 5), (6, 16)])
def test_a_grouped_product_is_a_product_for_each_group_at_any_width(inner, columns):
    """`torch._grouped_mm` refuses rows that do not begin at multiples of 16 bytes. The second group is empty."""
    a, b, ends = torch.randn(8, inner), torch.randn(3, inner, columns), torch.tensor([3, 3, 8], dtype=torch.int32)
    torch.testing.assert_close(multiply_groups(a, b, ends), torch.cat([a[:3] @ b[0], a[3:] @ b[2]]))


def test_units_between_grouped_products_merge_to_any_number():
    def run(m, x):
        ends = torch.tensor([3, 8], dtype=torch.int32)
        return m.b(torch._grouped_mm(m.a(x), m.w.transpose(1, 2), offs=ends).relu())

    model = Fn(run, a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(2, 16, 8)), b=nn.Linear(16, 3))
    example = torch.randn(8, 6)
    spec = ng.trace(model, example)
    assert {axis.size for axis in spec.free} == {8, 16}
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-5
    assert check_dead_units(model, spec, example, spec.free).error < 1e-5
