"""A real headless Chromium for the tests of pages, and what it logged."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TWO_FRAMES = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(true)))"


def installed() -> tuple[str, str] | None:
    """Return the paths of a browser and its driver, None where either is missing."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """Run the browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = installed()
    assert found is not None, "these tests are left out where there is no browser"
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(found[1]))
    try:
        yield driver
    finally:
        driver.quit()


def opened(driver: Any, path: Path) -> Any:
    """Open a page, wait for it to stand, and give the driver back with its logs emptied of what came before."""
    logged(driver)
    driver.get(path.as_uri())
    waited = time.monotonic() + 60
    while driver.execute_script("return document.documentElement.dataset.ready") != "yes":
        assert time.monotonic() < waited, f"the page did not stand: {driver.get_log('browser')}"
        time.sleep(0.05)
    driver.execute_async_script(TWO_FRAMES)
    return driver


def logged(driver: Any) -> tuple[list[str], list[str]]:
    """Return messages on the console, and addresses of all requests but the page itself and inline data."""
    messages = [entry["message"] for entry in driver.get_log("browser")]
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return messages, [url for url in asked if not url.startswith(("file:", "data:"))]


def press(driver: Any, *keys: str) -> None:
    """Press keys, by their names in the DOM, where the focus is."""
    script = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}));"
    for key in keys:
        driver.execute_script(script, key)
