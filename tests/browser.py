"""A headless Chromium for pages that are files: Debian's, driven by Selenium."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
)
DESKTOP, PHONE = (1280, 900), (360, 740)


class Browser:
    """One window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, size: tuple[int, int] = DESKTOP) -> None:
        """Load a file at a window of that many CSS pixels.

        By way of an empty page: where the same file was open, the driver may take the
        old document for the new one, and return while that is still being parsed.
        """
        self.resize(size)
        for address in ("about:blank", page.resolve().as_uri()):
            self.driver.get(address)
            self.wait_for(address)

    def wait_for(self, address: str, seconds: float = 30) -> None:
        """Until the page of that address is loaded as a whole."""
        seen = "return [location.href, document.readyState]"
        deadline = time.monotonic() + seconds
        while (found := self.run(seen)) != [address, "complete"]:
            assert time.monotonic() < deadline, f"{address} is not there: {found}"
            time.sleep(0.02)

    def resize(self, size: tuple[int, int]) -> None:
        """Headless windows have a least width; emulated ones don't."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def call(self, command: str, **values: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, values)

    def run(self, script: str, *values: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *values)

    def find(self, selector: str) -> Any:
        """The one element of a CSS selector."""
        (element,) = self.all(selector)
        return element

    def all(self, selector: str) -> list[Any]:
        """The elements of a CSS selector."""
        elements: list[Any] = self.driver.find_elements("css selector", selector)
        return elements

    def texts(self, selector: str) -> list[str]:
        """The text of each element of a CSS selector, all at one go."""
        texts: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map(e => e.textContent.trim())",
            selector,
        )
        return texts

    def complaints(self) -> list[str]:
        """The console's messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def prefer(self, scheme: str, media: str = "") -> None:
        """Emulate ``light`` or ``dark``, ``print`` or ``screen``; nothing glides."""
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def printed(self) -> bytes:
        """The page as a PDF."""
        pdf = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(pdf["data"])

    def photograph(self, path: Path, *, whole: bool = True) -> None:
        """A screenshot, of the window or of all of the page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its profile in ``folder``; skips where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="Selenium is missing")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(executable_path=driver)
    opened = selenium.Chrome(options=options, service=service)
    try:
        browser = Browser(opened)
        browser.prefer("light")
        yield browser
    finally:
        opened.quit()
