#!/usr/bin/env bash
# torch 2.13.0: torch.export keeps the forward of a custom autograd.Function and loses its backward.
#
# A straight-through estimator rounds or takes signs in its forward, and lets gradients through in its backward. The exported
# module has the operator of the forward alone, whose gradient is 0. Nothing warns, and the outputs agree. Trained after
# export, the layers before it stay as they are.
#
# Seen: the network's gradient is 3.0 for each weight, the exported module's 0.0. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-compile --target "$folder" torch==2.13.0 numpy==2.4.6
PYTHONPATH=$folder python3 - <<'PYTHON'
import sys

import torch


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x):
        return Sign.apply(self.weight * x)


network, x = Network(), torch.full((4,), 3.0)
exported = torch.export.export(network, (x,)).module()
gradients = [torch.autograd.grad(f(x).sum(), f.get_parameter("weight"))[0] for f in (network, exported)]
print(torch.__version__, "outputs agree:", torch.equal(network(x), exported(x)))
print("gradient of the network:", gradients[0].tolist(), "of the exported module:", gradients[1].tolist())
sys.exit(not (torch.equal(network(x), exported(x)) and gradients[0].eq(3).all() and gradients[1].eq(0).all()))
PYTHON
