"""ATen operators by property."""

from __future__ import annotations

import torch

ATEN = torch.ops.aten
LINEAR = ATEN.linear.default
LAYERS = (LINEAR, ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)
NORM = ATEN.batch_norm.default
