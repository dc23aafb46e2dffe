#!/usr/bin/env bash
# torch 2.13.0: for a row that is all padding, MultiheadAttention returns 0 or NaN, depending on whether gradients are on.
#
# Batches of fixed size have rows of padding alone. In evaluation mode, with key_padding_mask, such a row comes out as 0 with
# gradients enabled, and as NaN without. With need_weights=True it is NaN both ways. Other rows agree. A reference output
# taken without gradients therefore never equals the one that training sees, and a NaN spreads through any mean over the batch.
# scaled_dot_product_attention itself returns 0 in both.
#
# Seen: [True, False, True, True] for "NaN", in the order of the lines below. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-compile --target "$folder" torch==2.13.0 numpy==2.4.6
PYTHONPATH=$folder python3 - <<'PYTHON'
import sys

import torch

torch.manual_seed(0)
attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
words = torch.randn(2, 5, 16)
padding = torch.tensor([[False] * 5, [True] * 5])
found, first_rows = [], []
for weights in (False, True):
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            out = attention(words, words, words, key_padding_mask=padding, need_weights=weights)[0].detach()
        found.append(bool(out[1].isnan().all()))
        first_rows.append(out[0])
        print(f"need_weights={weights} gradients={gradients}: NaN {found[-1]}, {out[1, 0, :2].tolist()}")
agree = all(torch.allclose(row, first_rows[0], atol=1e-6) for row in first_rows)
print(torch.__version__, "the other row agrees:", agree)
sys.exit(not (agree and found == [True, False, True, True]))
PYTHON
