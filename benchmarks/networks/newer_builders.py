"""Builders of networks whose examples or classes need more than a line: written by hand, or put together from parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from networks import EDGES, BuiltNetwork
from torch import Tensor, nn
from torch.nn import functional

GRAPH = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


class Builder(Protocol):
    """A function that builds a network and its example."""

    def __call__(self) -> BuiltNetwork:
        """Return the network and its example."""
        ...


def x_encoder() -> nn.Module:
    """Return an encoder of x-transformers with rotary positions, gated feed-forward layers and RMS norms."""
    from x_transformers import Encoder, TransformerWrapper

    layers = Encoder(dim=32, depth=2, heads=2, rotary_pos_emb=True, ff_glu=True, use_rmsnorm=True, attn_dim_head=16)
    return TransformerWrapper(num_tokens=128, max_seq_len=32, attn_layers=layers)


def x_decoder() -> nn.Module:
    """Return a decoder of x-transformers with ALiBi and one head of keys and values."""
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=32, depth=2, heads=2, alibi_pos_bias=True, attn_one_kv_head=True, attn_dim_head=16)
    return TransformerWrapper(num_tokens=128, max_seq_len=32, attn_layers=layers)


def x_continuous() -> nn.Module:
    """Return an encoder of x-transformers on features."""
    from x_transformers import ContinuousTransformerWrapper, Encoder

    layers = Encoder(dim=32, depth=2, heads=2, attn_dim_head=16, sandwich_norm=True, macaron=True)
    return ContinuousTransformerWrapper(dim_in=32, dim_out=4, max_seq_len=32, attn_layers=layers)


def rtdl_transformer() -> nn.Module:
    """Return an FT-Transformer of its authors' package."""
    from rtdl_revisiting_models import FTTransformer

    return FTTransformer(
        n_cont_features=4, cat_cardinalities=[5, 6, 4], d_out=2, n_blocks=2, d_block=32, attention_n_heads=2,
        attention_dropout=0.1, ffn_d_hidden_multiplier=2.0, ffn_dropout=0.1, residual_dropout=0.0,
    )  # fmt: skip


def lukemelas_efficientnet() -> nn.Module:
    """Return an EfficientNet-B0 of the package efficientnet-pytorch."""
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-b0")


def flow_network() -> nn.Module:
    """Return optical flow of torchvision in its small form."""
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    from torchvision.models.optical_flow import raft_small

    return raft_small()


def graph_unet() -> BuiltNetwork:
    """Return Graph U-Net."""
    from torch_geometric.nn import GraphUNet

    return GraphUNet(10, 32, 4, depth=2), (torch.randn(8, 10), EDGES)


def jumping_knowledge() -> BuiltNetwork:
    """Return a GCN whose layers are concatenated."""
    from torch_geometric.nn import GCN

    return GCN(10, 32, 3, 4, jk="cat", norm="batch_norm"), (torch.randn(8, 10), EDGES)


def jumping_lstm() -> BuiltNetwork:
    """Return GraphSAGE whose layers are weighed by an LSTM."""
    from torch_geometric.nn import GraphSAGE

    return GraphSAGE(10, 32, 3, 4, jk="lstm"), (torch.randn(8, 10), EDGES)


def attentive_fp() -> BuiltNetwork:
    """Return AttentiveFP on two molecules."""
    from torch_geometric.nn import AttentiveFP

    return AttentiveFP(10, 32, 4, 3, num_layers=2, num_timesteps=2), (
        torch.randn(8, 10),
        EDGES,
        torch.randn(10, 3),
        GRAPH,
    )


class GraphTransformer(nn.Module):
    """GPS: message passing beside attention over all nodes of a graph."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GINConv, GPSConv, global_add_pool

        self.first, self.last, self.pool = nn.Linear(10, 32), nn.Linear(32, 4), global_add_pool
        mlp = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.layer = GPSConv(32, GINConv(mlp), heads=2, attn_type="multihead")

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        """Return scores of the graphs."""
        scores: Tensor = self.last(self.pool(self.layer(self.first(x), edges, batch), batch))
        return scores


def graph_transformer() -> BuiltNetwork:
    """Return GPS on two graphs."""
    return GraphTransformer(), (torch.randn(8, 10), EDGES, GRAPH)


class Relational(nn.Module):
    """Two layers of RGCN: a weight for each kind of edge."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import RGCNConv

        self.a, self.b = RGCNConv(10, 32, 3), RGCNConv(32, 4, 3, num_bases=2)

    def forward(self, x: Tensor, edges: Tensor, kinds: Tensor) -> Tensor:
        """Return scores of the nodes."""
        scores: Tensor = self.b(self.a(x, edges, kinds).relu(), edges, kinds)
        return scores


def relational() -> BuiltNetwork:
    """Return RGCN on a graph with three kinds of edges."""
    return Relational(), (torch.randn(8, 10), EDGES, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]))


class EdgeFeatures(nn.Module):
    """GINE, NNConv and CGConv: edges have features."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import CGConv, GINEConv, NNConv

        mlp = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.first, self.gine = nn.Linear(10, 32), GINEConv(mlp, edge_dim=3)
        self.cg, self.nn = CGConv(32, 3), NNConv(32, 4, nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 128)))

    def forward(self, x: Tensor, edges: Tensor, features: Tensor) -> Tensor:
        """Return scores of the nodes."""
        h = self.gine(self.first(x), edges, features).relu()
        scores: Tensor = self.nn(self.cg(h, edges, features), edges, features)
        return scores


def edge_features() -> BuiltNetwork:
    """Return layers that read features of edges."""
    return EdgeFeatures(), (torch.randn(8, 10), EDGES, torch.randn(10, 3))


class PooledGraphs(nn.Module):
    """A GCN that pools nodes by scores, and whole graphs in three ways."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv, SAGPooling, global_max_pool, global_mean_pool

        self.conv, self.pool, self.last = GCNConv(10, 32), SAGPooling(32, 0.5), nn.Linear(64, 4)
        self.mean, self.max = global_mean_pool, global_max_pool

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        """Return scores of the graphs."""
        h, edges, _, batch, *_ = self.pool(self.conv(x, edges).relu(), edges, None, batch)
        scores: Tensor = self.last(torch.cat([self.mean(h, batch), self.max(h, batch)], 1))
        return scores


def pooled_graphs() -> BuiltNetwork:
    """Return a network that leaves nodes out."""
    return PooledGraphs(), (torch.randn(8, 10), EDGES, GRAPH)


class SetPooling(nn.Module):
    """Set2Set and attention as aggregations of graphs."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import AttentionalAggregation, GCNConv, Set2Set

        self.conv, self.set, self.last = GCNConv(10, 32), Set2Set(32, 2), nn.Linear(96, 4)
        self.attention = AttentionalAggregation(nn.Linear(32, 1))

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        """Return scores of the graphs."""
        h = self.conv(x, edges).relu()
        scores: Tensor = self.last(torch.cat([self.set(h, batch), self.attention(h, batch)], 1))
        return scores


def set_pooling() -> BuiltNetwork:
    """Return a network with aggregations that have parameters."""
    return SetPooling(), (torch.randn(8, 10), EDGES, GRAPH)


class GraphNorms(nn.Module):
    """Norms over the nodes of each graph."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GraphNorm, GraphSizeNorm, InstanceNorm, PairNorm, SAGEConv

        self.a, self.b, self.last = SAGEConv(10, 32), SAGEConv(32, 32, aggr="max"), nn.Linear(32, 4)
        self.norms = nn.ModuleList([GraphNorm(32), InstanceNorm(32), PairNorm(), GraphSizeNorm()])

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        """Return scores of the nodes."""
        h = self.norms[0](self.a(x, edges), batch).relu()
        h = self.norms[2](self.norms[1](self.b(h, edges), batch), batch)
        scores: Tensor = self.last(self.norms[3](h, batch))
        return scores


def graph_norms() -> BuiltNetwork:
    """Return a network with norms of graphs."""
    return GraphNorms(), (torch.randn(8, 10), EDGES, GRAPH)


class MixedAggregation(nn.Module):
    """Messages summed up in several ways: mean, maximum, deviation, softmax, median."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import SAGEConv

        self.a = SAGEConv(10, 32, aggr=["mean", "max", "std"])
        self.b, self.c = SAGEConv(32, 32, aggr="softmax"), SAGEConv(32, 4, aggr="median")

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return scores of the nodes."""
        scores: Tensor = self.c(self.b(self.a(x, edges).relu(), edges).relu(), edges)
        return scores


def mixed_aggregation() -> BuiltNetwork:
    """Return GraphSAGE with many aggregations."""
    return MixedAggregation(), (torch.randn(8, 10), EDGES)


class MixerBlock(nn.Module):
    """Linear layers over time, then over features."""

    def __init__(self, length: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.time_norm, self.time = nn.BatchNorm1d(length * channels), nn.Linear(length, length)
        self.norm, self.wide, self.narrow = (
            nn.LayerNorm(channels),
            nn.Linear(channels, hidden),
            nn.Linear(hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return mixed series."""
        batch, length, channels = x.shape
        h = self.time_norm(x.reshape(batch, -1)).reshape(batch, length, channels)
        x = x + functional.relu(self.time(h.transpose(1, 2))).transpose(1, 2)
        return x + self.narrow(functional.dropout(functional.relu(self.wide(self.norm(x))), 0.1, self.training))


class TSMixer(nn.Module):
    """TSMixer (Chen et al. 2023) with reversible instance normalization."""

    def __init__(self, length: int = 24, horizon: int = 6, channels: int = 5, hidden: int = 32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([MixerBlock(length, channels, hidden) for _ in range(2)])
        self.head, self.scale, self.shift = (
            nn.Linear(length, horizon),
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a forecast."""
        mean = x.mean(1, keepdim=True).detach()
        deviation = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5).detach()
        h = (x - mean) / deviation * self.scale + self.shift
        for block in self.blocks:
            h = block(h)
        h = self.head(h.transpose(1, 2)).transpose(1, 2)
        return (h - self.shift) / (self.scale + 1e-10) * deviation + mean


class BeatsBlock(nn.Module):
    """A block of N-BEATS with a basis of the trend or of seasons, or with a learned one."""

    def __init__(self, length: int, horizon: int, kind: str) -> None:
        super().__init__()
        size = {"trend": 3, "season": 4, "generic": 8}[kind]
        self.layers = nn.Sequential(nn.Linear(length, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.theta_b, self.theta_f = nn.Linear(32, size, bias=False), nn.Linear(32, size, bias=False)
        self.kind = kind
        if kind == "generic":
            self.back, self.fore = nn.Linear(size, length), nn.Linear(size, horizon)
        else:
            time = torch.arange(length + horizon) / (length + horizon)
            powers = (
                [time**k for k in range(size)]
                if kind == "trend"
                else [f(2 * torch.pi * k * time) for k in (1, 2) for f in (torch.cos, torch.sin)]
            )
            self.register_buffer("basis_b", torch.stack(powers)[:, :length])
            self.register_buffer("basis_f", torch.stack(powers)[:, length:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return backcast and forecast."""
        h = self.layers(x)
        if self.kind == "generic":
            return self.back(self.theta_b(h)), self.fore(self.theta_f(h))
        return torch.einsum("bk,kl->bl", self.theta_b(h), self.basis_b), self.theta_f(h).mm(self.basis_f)


class NBeats(nn.Module):
    """N-BEATS (Oreshkin et al. 2020)."""

    def __init__(self, length: int = 24, horizon: int = 6) -> None:
        super().__init__()
        self.horizon = horizon
        self.stacks = nn.ModuleList(
            [nn.ModuleList([BeatsBlock(length, horizon, k) for _ in range(2)]) for k in ("trend", "season", "generic")]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a forecast."""
        forecast = torch.zeros(x.size(0), self.horizon, device=x.device)
        for stack in self.stacks:
            for block in stack:
                back, fore = block(x)
                x, forecast = x - back, forecast + fore
        return forecast


class PeriodBlock(nn.Module):
    """A block of N-HiTS: pooling, a perceptron, interpolation."""

    def __init__(self, length: int, horizon: int, pool: int) -> None:
        super().__init__()
        self.pool, self.length, self.horizon = nn.MaxPool1d(pool, ceil_mode=True), length, horizon
        self.layers = nn.Sequential(nn.Linear(-(-length // pool), 32), nn.ReLU(), nn.Linear(32, length + horizon // 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return backcast and forecast."""
        theta = self.layers(self.pool(x.unsqueeze(1)).squeeze(1))
        knots = theta[:, self.length :].unsqueeze(1)
        return theta[:, : self.length], functional.interpolate(knots, size=self.horizon, mode="linear").squeeze(1)


class NHits(nn.Module):
    """N-HiTS (Challu et al. 2023)."""

    def __init__(self, length: int = 24, horizon: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([PeriodBlock(length, horizon, p) for p in (8, 4, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Return a forecast."""
        level = x[:, -1:]
        x, forecast = x - level, level
        for block in self.blocks:
            back, fore = block(x)
            x, forecast = x - back, forecast + fore
        return forecast


class DLinear(nn.Module):
    """DLinear (Zeng et al. 2023): trend and rest, each by one linear layer."""

    def __init__(self, length: int = 24, horizon: int = 6, hidden: int = 32) -> None:
        super().__init__()
        self.average = nn.AvgPool1d(5, stride=1, padding=0)
        self.trend = nn.Sequential(nn.Linear(length, hidden), nn.GELU(), nn.Linear(hidden, horizon))
        self.rest = nn.Linear(length, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Return a forecast."""
        front, end = x[:, 0:1, :].repeat(1, 2, 1), x[:, -1:, :].repeat(1, 2, 1)
        trend = self.average(torch.cat([front, x, end], dim=1).permute(0, 2, 1)).permute(0, 2, 1)
        out = self.trend(trend.permute(0, 2, 1)) + self.rest((x - trend).permute(0, 2, 1))
        return out.permute(0, 2, 1)


class TimesBlock(nn.Module):
    """Convolutions over a series folded by two fixed periods."""

    def __init__(self, channels: int, periods: tuple[int, ...]) -> None:
        super().__init__()
        self.periods = periods
        self.conv = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a series of the same length."""
        batch, length, channels = x.shape
        folded = []
        for period in self.periods:
            rest = (-length) % period
            padded = torch.cat([x, torch.zeros(batch, rest, channels, device=x.device)], 1) if rest else x
            grid = padded.reshape(batch, (length + rest) // period, period, channels).permute(0, 3, 1, 2).contiguous()
            folded.append(self.conv(grid).permute(0, 2, 3, 1).reshape(batch, -1, channels)[:, :length])
        weights = functional.softmax(torch.fft.rfft(x, dim=1).abs().mean(-1)[:, 1 : len(folded) + 1], dim=1)
        return x + (torch.stack(folded, -1) * weights[:, None, None, :]).sum(-1)


class TimesNet(nn.Module):
    """TimesNet (Wu et al. 2023) with given periods."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Linear(5, 16), TimesBlock(16, (5, 8))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return a series."""
        return self.head(self.norm(self.block(self.embed(x))))


class CausalConv(nn.Module):
    """A gated causal convolution of WaveNet."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.pad = dilation
        self.filter, self.gate = (
            nn.Conv1d(width, width, 2, dilation=dilation),
            nn.Conv1d(width, width, 2, dilation=dilation),
        )
        self.skip, self.rest = nn.Conv1d(width, 24, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual and the skip connection."""
        h = functional.pad(x, (self.pad, 0))
        h = torch.tanh(self.filter(h)) * torch.sigmoid(self.gate(h))
        return x + self.rest(h), self.skip(h)


class WaveNet(nn.Module):
    """WaveNet (van den Oord et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 16, 1)
        self.layers = nn.ModuleList([CausalConv(16, 2**k) for k in range(3)])
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 24, 1), nn.ReLU(), nn.Conv1d(24, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of each step."""
        x, total = self.first(x), 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.last(total)


class DeepAR(nn.Module):
    """An LSTM that feeds itself, with a mean and a deviation for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(10, 4), nn.LSTM(3 + 4, 32, 2, batch_first=True, dropout=0.1)
        self.mean, self.deviation = nn.Linear(64, 1), nn.Linear(64, 1)

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and deviations."""
        scale = x[..., :1].abs().mean(1, keepdim=True) + 1
        steps = torch.cat([x / scale, self.embed(ids)[:, None].expand(-1, x.size(1), -1)], -1)
        _, (hidden, _) = self.cell(steps)
        state = hidden.permute(1, 2, 0).contiguous().view(x.size(0), -1)
        return self.mean(state) * scale[:, 0], functional.softplus(self.deviation(state))


class SpectralLayer(nn.Module):
    """A Fourier layer with complex weights."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.rand(width, width, modes, dtype=torch.cfloat) / width)
        self.local = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a function on the same grid."""
        spectrum = torch.fft.rfft(x)
        out = torch.zeros(x.size(0), x.size(1), spectrum.size(-1), dtype=torch.cfloat, device=x.device)
        out[:, :, : self.modes] = torch.einsum("bix,iox->box", spectrum[:, :, : self.modes], self.weight)
        return functional.gelu(torch.fft.irfft(out, n=x.size(-1)) + self.local(x))


class FourierOperator(nn.Module):
    """FNO in one dimension (Li et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.layers, self.project = (
            nn.Linear(2, 16),
            nn.ModuleList([SpectralLayer(16, 5) for _ in range(2)]),
            nn.Linear(16, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a function on the grid of the input."""
        grid = torch.linspace(0, 1, x.size(1), device=x.device).reshape(1, -1, 1).repeat(x.size(0), 1, 1)
        h = self.lift(torch.cat([x, grid], -1)).permute(0, 2, 1)
        for layer in self.layers:
            h = layer(h)
        return self.project(h.permute(0, 2, 1))


WRITTEN: dict[str, tuple[type[nn.Module], Any]] = {
    "TSMixer": (TSMixer, torch.randn(4, 24, 5)),
    "NBeats": (NBeats, torch.randn(4, 24)),
    "NHits": (NHits, torch.randn(4, 24)),
    "DLinear": (DLinear, torch.randn(4, 24, 5)),
    "TimesNet": (TimesNet, torch.randn(4, 24, 5)),
    "WaveNet": (WaveNet, torch.randn(2, 3, 20)),
    "DeepAR": (DeepAR, (torch.randn(4, 12, 3), torch.tensor([1, 2, 3, 4]))),
    "FourierOperator": (FourierOperator, torch.randn(2, 16, 1)),
}


def written_networks() -> Iterator[tuple[str, Builder]]:
    """Yield networks as people write them after papers."""
    for name, (network, example) in WRITTEN.items():
        yield f"written:{name}", lambda network=network, example=example: (network(), example)
