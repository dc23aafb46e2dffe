"""Transformers: an encoder that classifies texts, and a decoder that predicts the next token.

Vaswani et al., NeurIPS 2017; norms before or after (Xiong et al., ICML 2020); rotary positions (Su et al.,
arXiv:2104.09864, 2021); tied embeddings (Press and Wolf, EACL 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from netgraph.errors import NetgraphError

PAD = 0


class Attention(nn.Module):
    """Attention of several heads among the tokens of a text.

    Parameters
    ----------
    width, n_heads : int
    rotary : bool
        Turn queries and keys by their positions.
    causal : bool
        Let no token see later ones.
    """

    speeds: Tensor | None

    def __init__(self, width: int, n_heads: int, *, rotary: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        # pairs merge with their speeds; counted out in forward, they would be as many on every level
        self.register_buffer("speeds", speeds(width // n_heads) if rotary else None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, length, width); ``mask`` (n, length) is true where a token may be seen."""
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, self.n_heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.speeds is not None:
            q, k = apply_rotary(q, self.speeds), apply_rotary(k, self.speeds)
        seen = None if mask is None else mask[:, None, None, :]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def speeds(size: int) -> Tensor:
    """Return the angles, (size / 2), by which the pairs of a head of ``size`` numbers turn from one position to the next."""
    half = size // 2
    return 10_000 ** (-torch.arange(half) / half)


def apply_rotary(x: Tensor, speeds: Tensor) -> Tensor:
    """Return (n, heads, length, size) with pairs of numbers turned by angles that grow with the position."""
    half = speeds.shape[0]
    angle = (
        torch.arange(x.shape[2], device=x.device)[:, None] * speeds.float()
    )  # whatever x is: halves hold no large angles
    cos, sin = (torch.cat([f, f], -1).to(x.dtype) for f in (angle.cos(), angle.sin()))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Block(nn.Module):
    """Attention and two linear layers, each beside a shortcut and with a norm before or after it."""

    def __init__(
        self, width: int, n_heads: int, n_hidden: int, *, before: bool, rotary: bool, causal: bool, dropout: float
    ) -> None:
        super().__init__()
        self.before = before
        self.attention = Attention(width, n_heads, rotary=rotary, causal=causal)
        self.up, self.down = nn.Linear(width, n_hidden), nn.Linear(n_hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, length, width)."""
        if self.before:
            x = x + self.dropout(self.attention(self.norm1(x), mask))
            return x + self.dropout(self._feed_forward(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        return self.norm2(x + self.dropout(self._feed_forward(x)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(functional.gelu(self.up(x))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Embedded tokens through blocks: what `Encoder` and `Decoder` have in common.

    Parameters
    ----------
    vocabulary : int
    width, depth, n_heads, n_hidden : int
        Numbers of a token, blocks, heads, and units between a block's two linear layers.
    length : int
        Tokens of a text at most, where positions are learned.
    norm : str
        ``pre`` or ``post``.
    positions : str
        ``learned`` or ``rotary``.
    dropout : float

    Raises
    ------
    NetgraphError
        A choice of another name, or heads that do not divide the width.
    """

    causal = False
    recompute = False  # whether blocks run again in the backward pass in place of keeping activations

    def __init__(
        self, vocabulary: int, *, width: int = 128, depth: int = 2, n_heads: int = 4, n_hidden: int = 256,
        length: int = 256, norm: str = "pre", positions: str = "learned", dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_choices(width, n_heads, norm, positions)
        rotary, before = positions == "rotary", norm == "pre"
        self.length = length
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = None if rotary else nn.Embedding(length, width)
        options = {"before": before, "rotary": rotary, "causal": self.causal, "dropout": dropout}
        self.blocks = nn.ModuleList(Block(width, n_heads, n_hidden, **options) for _ in range(depth))  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width) if before else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for table in (self.embedding, self.positions):
            if table is not None:
                nn.init.normal_(table.weight, std=width**-0.5)

    def hidden(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return (n, length, width) of tokens (n, length)."""
        x = self.embedding(tokens)
        if self.positions is not None:
            if tokens.shape[1] > self.length:
                raise NetgraphError(
                    f"a text of {tokens.shape[1]} tokens meets a network for {self.length}; cut it, or give length"
                )
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            again = self.recompute and torch.is_grad_enabled()
            x = checkpoint(block, x, mask, use_reentrant=False) if again else block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]


def _check_choices(width: int, n_heads: int, norm: str, positions: str) -> None:
    for given, choices in ((norm, ("pre", "post")), (positions, ("learned", "rotary"))):
        if given not in choices:
            raise NetgraphError(f"{given!r} is none of {', '.join(choices)}; give one of them")
    if width % n_heads or (positions == "rotary" and width // n_heads % 2):
        raise NetgraphError(
            f"{n_heads} heads do not part a width of {width} into equal (for rotary positions, even) sizes; change one"
        )


class Encoder(Transformer):
    """A classifier of texts; parameters as `Transformer`'s, and these.

    Parameters
    ----------
    n_classes : int
    pooling : str
        ``mean`` of the text's tokens, or ``cls``, its first token.
    """

    def __init__(
        self, vocabulary: int = 20_000, n_classes: int = 2, *, pooling: str = "mean", width: int = 128, depth: int = 2,
        n_heads: int = 4, n_hidden: int = 256, length: int = 256, norm: str = "pre", positions: str = "learned",
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(
            vocabulary, width=width, depth=depth, n_heads=n_heads, n_hidden=n_hidden, length=length, norm=norm,
            positions=positions, dropout=dropout,
        )  # fmt: skip
        if pooling not in ("mean", "cls"):
            raise NetgraphError(f"{pooling!r} is none of mean, cls; give one of them")
        self.pooling = pooling
        self.head = nn.Linear(width, n_classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, classes) of tokens (n, length); ``mask`` is true where there is text, by default off padding."""
        mask = tokens != PAD if mask is None else mask.bool()
        x = self.hidden(tokens, mask)
        if self.pooling == "cls":
            return self.head(x[:, 0])  # type: ignore[no-any-return]
        weight = mask[:, :, None].to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1).clamp_min(1))  # type: ignore[no-any-return]


class Decoder(Transformer):
    """A language model whose last layer is its embedding; parameters as `Transformer`'s."""

    causal = True

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (n, length, vocabulary): what may follow each token of (n, length)."""
        return functional.linear(self.hidden(tokens, None), self.embedding.weight)
