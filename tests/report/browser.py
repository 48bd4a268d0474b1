"""Open the report in headless Chromium; used by tests and by the benchmark of the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""Names under which the browser is installed."""
WIDE, PHONE = (1280, 900), (390, 844)


def missing_browser() -> str | None:
    """Why no page can be opened, in words; None where one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "needs selenium: pip install weaksam[dev]"
    if not any(map(shutil.which, CHROMIUM)) or shutil.which("chromedriver") is None:
        return "needs Chromium and its driver: apt-get install chromium chromium-driver"
    return None


@contextmanager
def browser(downloads: Path, *, size: tuple[int, int] = WIDE) -> Iterator[Any]:
    """A headless Chromium that saves what it downloads in the folder ``downloads``; see `missing_browser`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = next(path for path in map(shutil.which, CHROMIUM) if path)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        show_as(driver, size)
        yield driver
    finally:
        driver.quit()


def show_as(driver: Any, size: tuple[int, int] = WIDE, scheme: str = "light") -> None:
    """Give the page a width and height in pixels, and prefer a ``scheme``: light or dark."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def complaints(driver: Any) -> list[str]:
    """What the page wrote to the console as warnings and errors since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
