"""What tests share: torchvision made importable; the same random numbers for every test."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from netgraph.torchvision_ops import prepare_torchvision

prepare_torchvision()
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
