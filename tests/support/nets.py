"""Small networks, one for each thing a trace must understand: (name, network, example)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

IMAGE = torch.randn(2, 3, 16, 16)
WORDS = torch.randn(2, 6, 16)


class Fn(nn.Module):
    """Modules by name and a forward function."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            if isinstance(module, nn.Parameter):
                self.register_parameter(name, module)
            else:
                self.add_module(name, module)

    def forward(self, *args):
        return self.run(self, *args)


def heads(x, n):
    return x.view(x.shape[0], x.shape[1], n, -1).transpose(1, 2)


def attention(m, x):
    q, k, v = (heads(f(x), 4) for f in (m.q, m.k, m.v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return m.out((weights @ v).transpose(1, 2).flatten(2) * 1.0).mean(1)


def fused(m, x):
    qkv = m.qkv(x).reshape(2 * x.shape[0] // 2, 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 6, 16)
    return m.out(m.norm(x + m.proj(y))).sum(1)


def grouped_query(m, x):
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, 6, 4) for t in (k, v))
    half = q.shape[-1] // 2
    angle = torch.arange(6)[:, None] * torch.tensor([1.0, 0.1])
    cos, sin = (torch.cat([f(angle), f(angle)], -1) for f in (torch.cos, torch.sin))
    q, k = (t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin for t in (q, k))
    return m.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def shuffle(m, x):
    x = m.a(x)
    b, c, h, w = x.shape
    x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
    return m.head(m.b(x).relu().mean((2, 3)))


def excite(m, x):
    x = m.a(x)
    gate = m.up(m.down(functional.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
    return m.head((x * gate).amax((2, 3)))


def standardised(m, x):
    w = m.a.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    x = functional.conv2d(m.stem(x), w, m.a.bias, padding=1).relu()
    return m.head(x.mean((2, 3)))


def windows(m, x):
    x = m.stem(x).permute(0, 2, 3, 1)
    x = x.view(x.shape[0], 4, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
    x = m.mix(x).view(-1, 4, 4, 4, 4, 12).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 16, 12)
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    return m.head(m.norm(m.merge(x)).mean((1, 2)))


def experts(m, x):
    gate = m.router(x).softmax(-1)
    hidden = torch.einsum("btd,edh->bteh", x, m.w_in).relu()
    return m.out(torch.einsum("bteh,ehd,bte->btd", hidden, m.w_out, gate))


def conv(n_in, n_out, **k):
    return nn.Conv2d(n_in, n_out, 3, padding=1, **k)


def pool_head(*layers, n=8):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 4))


def cells(m, x):
    a, h, c, r = (x.new_zeros(len(x), n) for n in (8, 6, 6, 8))
    for step in x.unbind(1)[:3]:
        a = m.gru(step, a)
        h, c = m.lstm(a, (h, c))
        r = m.rnn(h, r)
    return m.out(r)


def nets():
    lin = nn.Linear
    rnn = {"num_layers": 2, "batch_first": True}
    table = nn.Embedding(20, 16)
    tied = Fn(lambda m, x: m.head(m.norm(m.mlp(m.embed(x)))), embed=table, mlp=nn.Sequential(lin(16, 24), nn.GELU(), lin(24, 16)),
              norm=nn.LayerNorm(16), head=lin(16, 20))  # fmt: skip
    tied.head.weight = tied.embed.weight
    shared = lin(12, 12)
    ids = torch.randint(0, 20, (2, 6))
    yield "mlp", nn.Sequential(lin(5, 12), nn.ReLU(), lin(12, 8), nn.Tanh(), lin(8, 3)), torch.randn(2, 5)
    yield "flatten", nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), lin(128, 4)), IMAGE
    yield "gated linear units", pool_head(conv(3, 16), nn.GLU(1), conv(8, 16), nn.GLU(1)), IMAGE
    yield (
        "recurrent cells",
        Fn(cells, gru=nn.GRUCell(16, 8), lstm=nn.LSTMCell(8, 6), rnn=nn.RNNCell(6, 8), out=lin(8, 4)),
        WORDS,
    )
    yield "batch norm", pool_head(conv(3, 8), nn.BatchNorm2d(8), nn.PReLU(8)), IMAGE
    yield "group norm", pool_head(conv(3, 8), nn.GroupNorm(4, 8), nn.SiLU()), IMAGE
    yield "instance norm", pool_head(conv(3, 8), nn.InstanceNorm2d(8, affine=True), nn.SiLU()), IMAGE
    yield "grouped conv", pool_head(conv(3, 8), nn.ReLU(), conv(8, 8, groups=4)), IMAGE
    yield "depthwise", pool_head(conv(3, 8), nn.ReLU6(), conv(8, 16, groups=8), conv(16, 8)), IMAGE
    yield (
        "transposed",
        pool_head(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2, groups=2)),
        IMAGE,
    )
    yield (
        "conv1d",
        nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), lin(6, 2)
        ),
        torch.randn(2, 3, 20),
    )
    yield (
        "conv3d",
        nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(8, 4, 1), nn.Flatten(), lin(32, 2)),
        torch.randn(2, 3, 6, 6, 6),
    )
    yield (
        "residual",
        Fn(
            lambda m, x: m.head((m.b(m.a(x).relu()) + m.s(x)).relu().mean((2, 3))),
            a=conv(3, 8),
            b=conv(8, 10),
            s=conv(3, 10),
            head=lin(10, 4),
        ),
        IMAGE,
    )
    yield (
        "zero padded",
        Fn(
            lambda m, x: m.head((functional.pad(m.a(x), (0, 0, 0, 0, 2, 2)) + m.b(x)).relu().mean((2, 3))),
            a=conv(3, 8),
            b=conv(3, 12),
            head=lin(12, 4),
        ),
        IMAGE,
    )
    yield (
        "concat",
        Fn(
            lambda m, x: m.head(m.c(torch.cat([m.a(x), m.b(x)], 1)).relu().mean((2, 3))),
            a=conv(3, 8),
            b=conv(3, 6),
            c=conv(14, 8),
            head=lin(8, 4),
        ),
        IMAGE,
    )
    yield (
        "split",
        Fn(
            lambda m, x: m.out(torch.cat([t.relu() for t in m.a(x).split([4, 8], -1)][::-1], -1)),
            a=lin(16, 12),
            out=lin(12, 4),
        ),
        WORDS,
    )
    yield "slice", Fn(lambda m, x: m.out(m.a(x)[..., 4:] * m.a(x)[..., :8]), a=lin(16, 12), out=lin(8, 4)), WORDS
    yield (
        "glu",
        Fn(
            lambda m, x: m.out(
                functional.glu(m.a(x)) if False else m.a(x).chunk(2, -1)[0] * m.a(x).chunk(2, -1)[1].sigmoid()
            ),
            a=lin(16, 24),
            out=lin(12, 4),
        ),
        WORDS,
    )
    yield (
        "stack",
        Fn(lambda m, x: m.out(torch.stack([m.a(x), m.b(x)]).mean(0)), a=lin(16, 12), b=lin(16, 12), out=lin(12, 4)),
        WORDS,
    )
    yield (
        "squeeze excite",
        Fn(excite, a=conv(3, 8), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), head=lin(8, 4)),
        IMAGE,
    )
    yield "tied", tied, ids
    yield "shared", Fn(lambda m, x: m.out(m.s(m.s(m.a(x)).relu())), a=lin(16, 12), s=shared, out=lin(12, 4)), WORDS
    twice = lin(16, 12)
    yield (
        "one module under two names",
        Fn(lambda m, x: m.out(m.a(x) + m.b(x.flip(1))), a=twice, b=twice, out=lin(12, 4)),
        WORDS,
    )
    yield (
        "bare parameter",
        Fn(
            lambda m, x: m.out((m.a(x) * m.scale + m.shift).relu() @ m.w),
            a=lin(16, 12),
            scale=nn.Parameter(torch.rand(12)),
            shift=nn.Parameter(torch.rand(12)),
            w=nn.Parameter(torch.randn(12, 8)),
            out=lin(8, 4),
        ),
        WORDS,
    )
    yield (
        "einsum",
        Fn(
            experts,
            router=lin(16, 3),
            w_in=nn.Parameter(torch.randn(3, 16, 12)),
            w_out=nn.Parameter(torch.randn(3, 12, 16)),
            out=lin(16, 4),
        ),
        WORDS,
    )
    yield (
        "multihead",
        Fn(
            lambda m, x: m.out(m.a(x, x, x, need_weights=False)[0]),
            a=nn.MultiheadAttention(16, 4, batch_first=True),
            out=lin(16, 4),
        ),
        WORDS,
    )
    yield "attention by hand", Fn(attention, q=lin(16, 16), k=lin(16, 16), v=lin(16, 32), out=lin(32, 4)), WORDS
    yield "fused attention", Fn(fused, qkv=lin(16, 48), proj=lin(16, 16), norm=nn.LayerNorm(16), out=lin(16, 4)), WORDS
    yield "grouped queries", Fn(grouped_query, q=lin(16, 16), k=lin(16, 8), v=lin(16, 8), out=lin(16, 4)), WORDS
    yield (
        "encoder layer",
        Fn(
            lambda m, x: m.out(m.layer(m.stem(x)).mean(1)),
            stem=lin(16, 16),
            layer=nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
            out=lin(16, 4),
        ),
        WORDS,
    )
    yield "rms norm", Fn(lambda m, x: m.out(m.norm(m.a(x))), a=lin(16, 12), norm=nn.RMSNorm(12), out=lin(12, 4)), WORDS
    yield "channel shuffle", Fn(shuffle, a=conv(3, 8), b=conv(8, 8, groups=2), head=lin(8, 4)), IMAGE
    yield (
        "pixel shuffle",
        nn.Sequential(conv(3, 32), nn.PixelShuffle(2), nn.ReLU(), conv(8, 4), nn.PixelUnshuffle(2), conv(16, 4)),
        IMAGE,
    )
    yield (
        "windows",
        Fn(windows, stem=conv(3, 8), mix=lin(8, 12), merge=lin(48, 12), norm=nn.LayerNorm(12), head=lin(12, 4)),
        IMAGE,
    )
    yield (
        "lstm",
        Fn(lambda m, x: m.out(m.r(m.e(x))[0][:, -1]), e=nn.Embedding(20, 8), r=nn.LSTM(8, 12, **rnn), out=lin(12, 4)),
        ids,
    )
    yield (
        "bidirectional gru",
        Fn(lambda m, x: m.out(m.r(x)[0].mean(1)), r=nn.GRU(16, 12, bidirectional=True, **rnn), out=lin(24, 4)),
        WORDS,
    )
    yield (
        "weight norm",
        Fn(
            lambda m, x: m.out(m.a(m.stem(x)).relu()),
            stem=lin(16, 8),
            a=nn.utils.parametrizations.weight_norm(lin(8, 12)),
            out=lin(12, 4),
        ),
        WORDS,
    )
    yield "weight standardised", Fn(standardised, stem=conv(3, 8), a=conv(8, 8), head=lin(8, 4)), IMAGE
    yield (
        "low rank",
        Fn(
            lambda m, x: m.out((x @ (m.u @ m.v)).relu()),
            u=nn.Parameter(torch.randn(16, 6)),
            v=nn.Parameter(torch.randn(6, 12)),
            out=lin(12, 4),
        ),
        WORDS,
    )
