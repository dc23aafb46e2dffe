"""Transformers: an encoder that classifies texts, and a decoder that predicts the next token.

Vaswani et al., NeurIPS 2017. Norms stand before or after the layers (Xiong et al., ICML 2020). Positions are learned or
rotary (Su et al., arXiv:2104.09864, 2021). The decoder ties its embeddings (Press and Wolf, EACL 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from netgraph.errors import NetgraphError

PAD = 0


class Attention(nn.Module):
    """Multi-head attention among the tokens of a text.

    Parameters
    ----------
    width : int
        Size of a token.
    n_heads : int
        Number of heads. It divides the width.
    rotary : bool, default False
        Rotate queries and keys by their positions.
    causal : bool, default False
        Hide later tokens from earlier ones.
    """

    speeds: Tensor | None

    def __init__(self, width: int, n_heads: int, *, rotary: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        # A buffer, so that a coarse level merges the angles together with their pairs. Computed in forward, the angles would
        # have the fine size on every level.
        self.register_buffer("speeds", rotary_angles(width // n_heads) if rotary else None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, length, width). ``mask`` (n, length) is True for visible tokens."""
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, self.n_heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.speeds is not None:
            q, k = apply_rotary(q, self.speeds), apply_rotary(k, self.speeds)
        seen = None if mask is None else mask[:, None, None, :]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def rotary_angles(size: int) -> Tensor:
    """Return the angles (size / 2,) by which the pairs of a head of ``size`` numbers rotate from one position to the next."""
    half = size // 2
    return 10_000 ** (-torch.arange(half) / half)


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Return x (n, heads, length, size) with each pair of numbers rotated by its angle times the position."""
    half = angles.shape[0]
    positions = torch.arange(x.shape[2], device=x.device)[:, None]
    angle = positions * angles.float()  # single precision for every dtype of x: half precision has no large angles
    cos, sin = (torch.cat([f, f], -1).to(x.dtype) for f in (angle.cos(), angle.sin()))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Block(nn.Module):
    """Attention and two linear layers, each with a shortcut and a norm before or after it."""

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
    """The common part of `Encoder` and `Decoder`: embedded tokens and blocks.

    Parameters
    ----------
    vocabulary : int
        Number of tokens in the vocabulary.
    width : int, default 128
        Size of a token.
    depth : int, default 2
        Number of blocks.
    n_heads : int, default 4
        Heads of a block. They divide the width.
    n_hidden : int, default 256
        Units between the two linear layers of a block.
    length : int, default 256
        Largest number of tokens of a text, if positions are learned.
    norm : str, default "pre"
        ``pre`` or ``post``: norms before or after the layers.
    positions : str, default "learned"
        ``learned`` or ``rotary``.
    dropout : float, default 0.1
        Dropout of embeddings and layers.

    Raises
    ------
    NetgraphError
        A choice does not exist, or the heads do not divide the width.
    """

    causal = False
    recompute = False  # True: blocks run again in the backward pass, and their activations are not stored

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
        """Return the last block's output (n, length, width) for tokens (n, length)."""
        x = self.embedding(tokens)
        if self.positions is not None:
            if tokens.shape[1] > self.length:
                raise NetgraphError(
                    f"a text has {tokens.shape[1]} tokens, and the network takes {self.length}. Cut the text, or build the network "
                    "with a larger length."
                )
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]


def _check_choices(width: int, n_heads: int, norm: str, positions: str) -> None:
    for choice, choices in ((norm, ("pre", "post")), (positions, ("learned", "rotary"))):
        if choice not in choices:
            raise NetgraphError(f"{choice!r} does not exist. Choose one of {', '.join(choices)}.")
    if width % n_heads or (positions == "rotary" and width // n_heads % 2):
        raise NetgraphError(
            f"{n_heads} heads do not divide a width of {width} into equal sizes (even sizes for rotary positions). Change "
            "one of them."
        )


class Encoder(Transformer):
    """A transformer that classifies texts.

    Parameters
    ----------
    vocabulary : int, default 20,000
        Number of tokens in the vocabulary.
    n_classes : int, default 2
        Number of outputs.
    pooling : str, default "mean"
        ``mean`` over the tokens of a text, or ``cls`` for its first token.
    width : int, default 128
        Size of a token.
    depth : int, default 2
        Number of blocks.
    n_heads : int, default 4
        Heads of a block. They divide the width.
    n_hidden : int, default 256
        Units between the two linear layers of a block.
    length : int, default 256
        Largest number of tokens of a text, if positions are learned.
    norm : str, default "pre"
        ``pre`` or ``post``: norms before or after the layers.
    positions : str, default "learned"
        ``learned`` or ``rotary``.
    dropout : float, default 0.1
        Dropout of embeddings and layers.

    Raises
    ------
    NetgraphError
        A choice does not exist, or the heads do not divide the width.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import Encoder
    >>> Encoder(100, n_classes=3, width=16)(torch.ones(2, 12, dtype=torch.int64)).shape
    torch.Size([2, 3])
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
            raise NetgraphError(f"{pooling!r} does not exist. Choose one of mean, cls.")
        self.pooling = pooling
        self.head = nn.Linear(width, n_classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, n_classes) for tokens (n, length). ``mask`` is True for text, by default for all but padding."""
        mask = tokens != PAD if mask is None else mask.bool()
        x = self.hidden(tokens, mask)
        if self.pooling == "cls":
            return self.head(x[:, 0])  # type: ignore[no-any-return]
        weight = mask[:, :, None].to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1).clamp_min(1))  # type: ignore[no-any-return]


class Decoder(Transformer):
    """A causal transformer that predicts the next token. Its last layer is its embedding.

    Parameters
    ----------
    vocabulary : int
        Number of tokens in the vocabulary.
    width : int, default 128
        Size of a token.
    depth : int, default 2
        Number of blocks.
    n_heads : int, default 4
        Heads of a block. They divide the width.
    n_hidden : int, default 256
        Units between the two linear layers of a block.
    length : int, default 256
        Largest number of tokens of a text, if positions are learned.
    norm : str, default "pre"
        ``pre`` or ``post``: norms before or after the layers.
    positions : str, default "learned"
        ``learned`` or ``rotary``.
    dropout : float, default 0.1
        Dropout of embeddings and layers.

    Raises
    ------
    NetgraphError
        A choice does not exist, or the heads do not divide the width.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import Decoder
    >>> Decoder(100, width=16)(torch.ones(2, 12, dtype=torch.int64)).shape
    torch.Size([2, 12, 100])
    """

    causal = True

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (n, length, vocabulary) of the token that follows each token of (n, length)."""
        return functional.linear(self.hidden(tokens, None), self.embedding.weight)
