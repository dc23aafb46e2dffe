"""A coarse network that is cast to another precision runs in it as the network itself does. The judge is the network after the same cast."""

import copy
import json

import pytest
import torch
from nets import Fn
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.errors import LoadError
from netgraph.recording.forward.followed_dtype import OwnDtype, OwnLimit, read_followed
from netgraph.recording.graph_module import network_from_document

WORDS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))
HALVES = (torch.bfloat16, torch.float16)
PRECISIONS = (torch.float64, *HALVES)


def read_rnn(m, x):
    return m.out(m.rnn(x)[0].mean(1))


def mask_by_least(m, x):
    scores = m.a(x) @ m.b(x).mT
    hidden = torch.full((x.shape[1], x.shape[1]), torch.finfo(scores.dtype).min, dtype=scores.dtype).triu(1)
    return m.out((scores + hidden).softmax(-1) @ m.v(x).relu())


def mask_by_half_of_least(m, x):
    scores = m.a(x) @ m.b(x).mT
    seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    return m.out(scores.masked_fill(~seen, torch.finfo(x.dtype).min / 2).softmax(-1) @ m.v(x).relu())


def mask_by_least_tensor(m, x):
    scores = m.a(x) @ m.b(x).mT
    least = torch.tensor(torch.finfo(x.dtype).min, dtype=x.dtype)
    seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    return m.out(torch.where(seen, scores, least).softmax(-1) @ m.v(x).relu())


def add_places(m, x):
    places = torch.arange(x.shape[1], dtype=torch.float32)
    waves = places[:, None] * torch.tensor([1.0, 0.1, 0.01])  # single precision, whatever that of the network is
    return m.out(m.a(x + torch.cat([waves.sin(), waves.cos()], -1).to(x.dtype)).relu())


def norm_widely(m, x):
    h = m.a(x)
    wide = h.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    return m.out(h + wide.to(h.dtype) * 3)  # h after the cast is still h


def divide_by_spacing(m, x):
    h = m.a(x)
    return m.out(h / (h.norm(dim=-1, keepdim=True) + torch.finfo(h.dtype).eps))


def softmax_widely(m, x):
    weights = (m.a(x) @ m.b(x).mT).softmax(-1, dtype=torch.float32).to(x.dtype)
    return m.out(weights @ m.a(x))


def start_from_zeros(m, x):
    state = torch.zeros(len(x), 8, dtype=m.out.weight.dtype, device=x.device)
    for t in range(x.shape[1]):
        state = torch.tanh(m.a(x[:, t]) + m.b(state))
    return m.out(state)


def rnn(kind, **options):
    return Fn(read_rnn, rnn=kind(6, 8, batch_first=True, **options), out=nn.Linear(8, 3))


def linears(run, inner=6):
    return Fn(run, a=nn.Linear(6, 8), b=nn.Linear(inner, 8), v=nn.Linear(6, 8), out=nn.Linear(8, 3))


NETS = {
    "lstm": lambda: rnn(nn.LSTM),
    "two layers of lstm": lambda: rnn(nn.LSTM, num_layers=2),
    "gru": lambda: rnn(nn.GRU),
    "rnn": lambda: rnn(nn.RNN, nonlinearity="relu"),
    "least number in a mask": lambda: linears(mask_by_least),
    "half of it": lambda: linears(mask_by_half_of_least),
    "least number as a tensor": lambda: linears(mask_by_least_tensor),
    "positions in single precision": lambda: linears(add_places),
    "norm in single precision": lambda: linears(norm_widely),
    "spacing of numbers": lambda: linears(divide_by_spacing),
    "softmax in single precision": lambda: linears(softmax_widely),
    "state of zeros": lambda: linears(start_from_zeros, inner=8),
}


def record(net):
    """Return the recorded network, with all its units."""
    return ng.coarse_network(net, ng.trace(net, WORDS.to(net.out.weight.dtype)), {})


def run(net, dtype, x=WORDS):
    """Return the outputs of a copy of a network in another precision, and their gradient with respect to the input."""
    x = x.to(dtype).requires_grad_()
    y = copy.deepcopy(net).to(dtype)(x)
    return y.detach(), torch.autograd.grad(y.float().sum(), x)[0]


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_a_recorded_network_follows_a_cast(name, dtype):
    net = NETS[name]().eval()
    coarse = record(net)
    for mode in (False, True):
        for x in (WORDS, torch.randn(7, 5, 6)):
            for ours, own in zip(run(coarse.train(mode), dtype, x), run(net.train(mode), dtype, x), strict=True):
                assert ours.dtype == own.dtype == dtype
                torch.testing.assert_close(ours, own)


@pytest.mark.parametrize("name", NETS)
def test_a_network_recorded_in_half_precision_follows_a_cast_to_single(name):
    net = NETS[name]().to(torch.bfloat16).eval()
    coarse = record(net)
    torch.testing.assert_close(coarse(WORDS.bfloat16()), net(WORDS.bfloat16()), rtol=0.05, atol=0.05)
    torch.testing.assert_close(run(coarse, torch.float32)[0], run(net, torch.float32)[0])


@pytest.mark.parametrize("name", ["lstm", "gru", "least number in a mask", "norm in single precision"])
def test_merged_units_follow_a_cast(name):
    net = NETS[name]().eval()
    coarse = ng.build_hierarchy(net, WORDS, n_levels=2).levels[1].model
    single = coarse(WORDS)
    double = copy.deepcopy(coarse).double()(WORDS.double())
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)
    for half in HALVES:
        assert copy.deepcopy(coarse).to(half)(WORDS.to(half)).dtype == half


def test_a_cast_back_gives_the_first_outputs_again():
    coarse = record(rnn(nn.LSTM).eval())
    before = coarse(WORDS)
    coarse.double()(WORDS.double())
    torch.testing.assert_close(coarse.float()(WORDS), before)


def test_a_constant_of_a_precision_named_in_the_code_keeps_it():
    coarse = record(linears(add_places).eval()).to(torch.float16)
    kept = [buffer.dtype for name, buffer in coarse.named_buffers() if name.startswith("constants.")]
    assert kept == [torch.float32]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
@pytest.mark.parametrize("name", ["lstm", "least number as a tensor", "positions in single precision"])
def test_a_saved_network_follows_a_cast(name, suffix, tmp_path):
    net = NETS[name]().eval()
    coarse = ng.build_hierarchy(net, WORDS, n_levels=2).levels[1].model
    path = tmp_path / f"coarse{suffix}"
    if suffix == ".pt2":
        torch.export.save(torch.export.export(copy.deepcopy(coarse).double(), (WORDS.double(),)), path)
        loaded = torch.export.load(path).module()
    else:
        ng.save(coarse, path)
        loaded = ng.load_model(path).double()
    torch.testing.assert_close(loaded(WORDS.double()), copy.deepcopy(coarse).double()(WORDS.double()))


def test_a_recorded_network_that_is_recorded_again_follows_a_cast():
    for name in ("lstm", "positions in single precision", "least number as a tensor"):
        net = NETS[name]().eval()
        again = record(record(net).eval())
        for dtype in PRECISIONS:
            torch.testing.assert_close(run(again, dtype)[0], run(net, dtype)[0])


def test_networks_without_dtypes_are_written_as_before():
    net = Fn(lambda m, x: m.out(m.a(x).relu()), a=nn.Linear(6, 8), out=nn.Linear(8, 3)).eval()
    document = json.dumps(record(net).document())
    assert "own_" not in document
    assert '"fixed"' not in document


@pytest.mark.parametrize(
    "value", [["own_dtype", "int64"], ["own_dtype", "nn"], ["own_dtype", ["min", 1.0, "float32"]], ["own_limit", ["bits", 1.0, "float32"]],
              ["own_limit", ["min", "x", "float32"]], ["own_limit", "float32"], ["own_limit", ["min", 1.0, 3]]],
)  # fmt: skip
def test_a_file_with_another_dtype_or_limit_is_refused(value):
    with pytest.raises(LoadError, match="The file is refused"):
        read_followed(*value)


def test_what_follows_a_precision_is_read_as_it_was_written():
    for value in (OwnDtype(torch.float32), OwnLimit("min", 0.5, torch.bfloat16)):
        ((kind, content),) = json.loads(json.dumps(value.to_data())).items()
        assert read_followed(kind, content) == value
    assert OwnLimit("max", -0.5, torch.float32).resolve(torch.float16) == torch.finfo(torch.float16).min / 2
    assert OwnDtype(torch.float32).resolve(None) == torch.float32


def test_a_document_holds_the_precision_that_follows():
    net = NETS["lstm"]().eval()
    coarse = record(net)
    loaded = network_from_document(json.loads(json.dumps(coarse.document())), coarse.tensors())
    torch.testing.assert_close(run(loaded, torch.float64)[0], run(net, torch.float64)[0])


def test_a_cast_that_is_none_here_does_not_stand_for_its_input():
    def forward(m, x):
        h = m.a(x)
        h.float()  # an unused cast
        return m.out(functional.relu(h))

    net = linears(forward).eval()
    torch.testing.assert_close(run(record(net), torch.float16)[0], run(net, torch.float16)[0])
