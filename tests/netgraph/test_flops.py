"""Operations of networks, judged by the counter of PyTorch."""

import pytest
import torch
from nets import Fn
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import netgraph as ng

ROWS = torch.randn(
    3, 5, 8
).double()  # double precision: the fused LSTM of single precision hides its products from the counter


def weights(*shapes):
    return {name: nn.Parameter(torch.randn(*shape)) for name, shape in zip("vwz", shapes, strict=False)}


def einsum(equation, *shapes):
    return Fn(lambda m, x: torch.einsum(equation, x, *m.parameters()), **weights(*shapes))


def attend(query_heads, key_heads, **options):
    def run(m, x):
        q, k, v = (f(x).unflatten(2, (-1, 4)).transpose(1, 2) for f in (m.q, m.k, m.v))
        return functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)

    keys = {name: nn.Linear(8, 4 * key_heads) for name in "kv"}
    return Fn(run, q=nn.Linear(8, 4 * query_heads), **keys)


NETS = {
    "einsum as a linear layer": einsum("btd,de->bte", (8, 7)),
    "einsum with an ellipsis": einsum("...d,de->...e", (8, 7)),
    "einsum in a batch": einsum("btd,td->bt", (5, 8)),
    "einsum without a sum": einsum("btd,d->btd", (8,)),
    "einsum of one operand": Fn(lambda m, x: torch.einsum("btd->bd", x) @ m.v, v=nn.Parameter(torch.randn(8, 2))),
    "einsum with a letter that only one operand has": einsum("btd,de->be", (8, 7)),
    "einsum of a diagonal": Fn(lambda m, x: torch.einsum("bdd,de->be", x[:, :, :5], m.v), v=nn.Parameter(torch.randn(5, 2))),
    "einsum of three": einsum("btd,de,ef->btf", (8, 7), (7, 2)),
    "einsum of four": einsum("btd,de,ef,fg->btg", (8, 7), (7, 2), (2, 3)),
    "einsum without an arrow": einsum("btd,de", (8, 7)),
    "einsum over one index": Fn(lambda m, x: torch.einsum("bti,ie->bte", x[..., :1], m.v), v=nn.Parameter(torch.randn(1, 6))),
    "LSTM": Fn(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)),
    "LSTM with a projection": Fn(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(8, 6, proj_size=3, batch_first=True)),
    "GRU": Fn(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(8, 6, bias=False)),
    "RNN": Fn(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(8, 6, nonlinearity="relu")),
    "LSTM cell": Fn(lambda m, x: m.cell(x[:, 0])[0], cell=nn.LSTMCell(8, 6)),
    "GRU cell": Fn(lambda m, x: m.cell(x[:, 0]), cell=nn.GRUCell(8, 6)),
    "RNN cell": Fn(lambda m, x: m.cell(x[:, 0]), cell=nn.RNNCell(8, 6)),
    "attention": attend(2, 2),
    "causal attention": attend(2, 2, is_causal=True),
    "grouped queries": attend(4, 2, enable_gqa=True),
    "attention of PyTorch with weights": Fn(lambda m, x: m.attention(x, x, x)[0], attention=nn.MultiheadAttention(8, 2, batch_first=True)),
    "encoder layer": nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
    "transposed convolution": nn.Sequential(nn.ConvTranspose1d(5, 6, 3, stride=2), nn.Conv1d(6, 2, 1)),
    "grouped transposed convolution": nn.Sequential(nn.Conv1d(5, 6, 1), nn.ConvTranspose1d(6, 4, 3, groups=2)),
    "grouped convolution": nn.Sequential(nn.Conv1d(5, 6, 3), nn.Conv1d(6, 4, 3, groups=2, padding="same")),
    "matrix and vector": Fn(lambda m, x: (x @ m.v).sum() + m.w(x), v=nn.Parameter(torch.randn(8)), w=nn.Linear(8, 2)),
    "vector and matrix": Fn(lambda m, x: m.v @ x[0], v=nn.Parameter(torch.randn(5))),
    "broadcast matrices": Fn(lambda m, x: x[:, None] @ m.v, v=nn.Parameter(torch.randn(4, 8, 2))),
    "tensordot": Fn(lambda m, x: torch.tensordot(x, m.v, 2), v=nn.Parameter(torch.randn(5, 8, 2))),
    "addmm": Fn(lambda m, x: torch.addmm(m.v, x[:, 0], m.w), v=nn.Parameter(torch.randn(2)), w=nn.Parameter(torch.randn(8, 2))),
    "bilinear": Fn(lambda m, x: m.f(x, x) + m.g(x), f=nn.Bilinear(8, 8, 2), g=nn.Linear(8, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_operations_are_those_that_pytorch_counts(name):
    model = NETS[name].double().eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ROWS)
    assert ng.trace(model, ROWS).flops == counter.get_total_flops()


def test_a_network_of_einsums_takes_a_budget_of_operations():
    def run(m, x):
        return torch.einsum("bte,ec->btc", torch.einsum("btd,de->bte", x, m.v).relu(), m.w)

    model = Fn(run, v=nn.Parameter(torch.randn(8, 32)), w=nn.Parameter(torch.randn(32, 3)))
    fine, coarse = ng.build_hierarchy(model, ROWS.float(), n_levels=2, budget="flops=0.5").levels
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        coarse.model(ROWS.float())
    assert coarse.flops == counter.get_total_flops() <= fine.flops / 2
