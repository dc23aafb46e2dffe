"""Networks with heads, for tests of attention."""

import torch
from torch import nn

TOKENS = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(0))


TOKENS[0, 8:] = 0


SIZES = {"width": 32, "n_heads": 4, "n_hidden": 24, "length": 12, "depth": 2}


def judged(attention, x, mask, causal=False):
    """Return the weights of `torch.nn.MultiheadAttention` with a layer's parameters, (rows, heads, tokens, tokens)."""
    own = nn.MultiheadAttention(32, 4, batch_first=True)
    layers = (attention.query, attention.key, attention.value)
    own.in_proj_weight.data = torch.cat([layer.weight for layer in layers]).data
    own.in_proj_bias.data = torch.cat([layer.bias for layer in layers]).data
    above = nn.Transformer.generate_square_subsequent_mask(12) if causal else None
    hidden = None if mask is None else ~mask
    return own(x, x, x, key_padding_mask=hidden, attn_mask=above, average_attn_weights=False)[1]
