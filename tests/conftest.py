"""What tests share: torchvision made importable; the same random numbers for every test; no data sets unless given."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from netgraph.torchvision_ops import prepare_torchvision

prepare_torchvision()
torch.set_num_threads(1)  # networks of tests are small: a second thread is waited for longer than it works
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


_N_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if os.environ.get("NETGRAPH_DATA") else [item for item in items if "data" in item.keywords]
    config.stash[_N_LEFT_OUT] = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    n = config.stash.get(_N_LEFT_OUT, 0)
    if n:
        terminalreporter.write_line(f"left out: {n} tests that need real data; set NETGRAPH_DATA to their folder")
