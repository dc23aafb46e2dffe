#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts 0 for operators that multiply as many numbers as others that it counts.
#
# The same attention layer, on the same input, has millions of operations with gradients and none without: evaluation without
# gradients takes a fused operator that has no formula. The same holds for the fused attention of processors, LSTMs there (GRUs
# are counted), products with a vector, addbmm, bilinear layers, products of sparse COO matrices, conv_tbc and grouped_mm. The
# operators are left out silently, so a budget or a comparison by this counter is off by whole layers.
#
# Seen, on a processor: attention 4194304 with gradients and 0 without, GRU 6291456 and LSTM 0, and 0 for all others below.
# Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-compile --target "$folder" torch==2.13.0 numpy==2.4.6
PYTHONPATH=$folder python3 - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode


def count(function, gradients=True):
    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


rows, words, W = torch.randn(8, 64), torch.randn(8, 16, 64), torch.randn(64, 64)
attention = nn.MultiheadAttention(64, 4, batch_first=True).eval()
q = torch.randn(2, 4, 16, 8)
half, offsets = torch.bfloat16, torch.tensor([4, 8], dtype=torch.int32)
counted = {
    "attention with gradients": count(lambda: attention(words, words, words, need_weights=False)),
    "GRU": count(lambda: nn.GRU(64, 64)(words)),
    "product with a matrix": count(lambda: W @ W),
}
left_out = {
    "attention without gradients": count(lambda: attention(words, words, words, need_weights=False), False),
    "scaled_dot_product_attention": count(lambda: F.scaled_dot_product_attention(q, q, q)),
    "LSTM": count(lambda: nn.LSTM(64, 64)(words)),
    "product with a vector": count(lambda: W @ rows[0]),
    "addbmm": count(lambda: torch.addbmm(torch.zeros(16, 16), words, words.mT)),
    "bilinear": count(lambda: F.bilinear(rows, rows, torch.randn(10, 64, 64))),
    "sparse COO": count(lambda: torch.sparse.mm(W.to_sparse(), W)),
    "conv_tbc": count(lambda: torch.conv_tbc(torch.randn(16, 2, 4), torch.randn(3, 4, 8), torch.zeros(8))),
    "grouped_mm": count(lambda: F.grouped_mm(rows.to(half), torch.randn(2, 64, 64, dtype=half), offs=offsets)),
}
print(torch.__version__, counted, left_out, sep="\n")
sys.exit(not (all(counted.values()) and not any(left_out.values())))
PYTHON
