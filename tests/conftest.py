"""What tests share: torchvision made importable, one thread pool, no data sets unless they are there."""

from __future__ import annotations

import os

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("NETGRAPH_DATA"):
        return
    chosen = [item for item in items if "data" in item.keywords]
    if chosen:
        config.hook.pytest_deselected(items=chosen)
        items[:] = [item for item in items if "data" not in item.keywords]
        print(f"deselected {len(chosen)} tests that need real data: set NETGRAPH_DATA to its folder")
