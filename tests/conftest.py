"""What tests share: torchvision made importable; the same random numbers for every test; nothing that needs a data set, a GPU or a browser where there is none."""

from __future__ import annotations

import os
from functools import cache

import pytest
import torch
import typer.testing
from browser import installed
from hypothesis import settings

from netgraph.environment.torchvision_compat import prepare_torchvision

prepare_torchvision()
torch.set_num_threads(1)  # networks of tests are small: a second thread is waited for longer than it works
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)  # not built anew for each command


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


MISSING = {
    "data": ("need real data; set NETGRAPH_DATA to their folder", lambda: bool(os.environ.get("NETGRAPH_DATA"))),
    "gpu": (
        "need a GPU; NETGRAPH_TEST_DEVICE=cpu runs them on a CPU",
        lambda: "NETGRAPH_TEST_DEVICE" in os.environ or torch.cuda.is_available(),
    ),
    "browser": ("need chromium and chromedriver on the PATH; install them", lambda: installed() is not None),
}
_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = {mark for mark, (_, there) in MISSING.items() if not there()}
    left_out = [item for item in items if absent & set(item.keywords)]
    config.stash[_LEFT_OUT] = {mark: sum(mark in item.keywords for item in left_out) for mark in absent}
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not absent & set(item.keywords)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    unknown = {
        mark: "the" for mark, (_, there) in MISSING.items() if not there()
    }  # worker processes have collected them
    for mark, n in config.stash.get(_LEFT_OUT, unknown).items():
        if n:
            terminalreporter.write_line(f"left out: {n} tests that {MISSING[mark][0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape surrogates in what a test wrote to logs and streams: worker processes send reports as UTF-8."""
    report = yield
    report.sections = [
        tuple(text.encode("utf-8", "backslashreplace").decode() for text in section) for section in report.sections
    ]
    return report
