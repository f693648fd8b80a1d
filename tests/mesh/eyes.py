"""A real browser for the tests that look at the dashboard, and what is asked of a page there.

The browser is the system's Chromium (Debian's package `chromium`), driven by playwright; nothing is downloaded.
Screenshots go to the folder that MESHNODE_SCREENSHOTS names, or to the test's own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PLACES = ("chromium", "chromium-browser", "google-chrome")


def script(name: str) -> str:
    """What is run in the page."""
    return (Path(__file__).parent / "looks" / f"{name}.js").read_text()


def missing() -> str:
    """Why there is no browser here; empty when there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    if not any(shutil.which(name) for name in PLACES):
        return "no Chromium on this machine: `apt-get install chromium`"
    return ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
    if why := missing():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    path = next(found for name in PLACES if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Eyes:
    """A page, and what it complained of."""

    page: Page
    folder: Path
    complaints: list[str] = field(default_factory=list)

    def shoot(self, name: str, **options: Any) -> None:
        """Keep a picture."""
        folder = Path(os.environ.get("MESHNODE_SCREENSHOTS") or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png", **options)

    def until(self, script: str, within_s: float = 30.0) -> None:
        """Wait until a script says so."""
        self.page.wait_for_function(script, timeout=within_s * 1000, polling=100)


@contextmanager
def eyes(browser: Browser, folder: Path, **options: Any) -> Iterator[Eyes]:
    """A page of its own, with nobody's cookies; whatever it complains of fails the test."""
    context = browser.new_context(**({"viewport": {"width": 1440, "height": 1000}} | options))
    page = context.new_page()
    it = Eyes(page, folder)
    page.on("console", lambda said: it.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: it.complaints.append(str(error)))
    page.on("dialog", lambda dialog: it.complaints.append(f"dialog: {dialog.message}"))
    try:
        yield it
        assert [] == it.complaints, f"the page complained: {it.complaints}"
    finally:
        context.close()


CONTRAST = script("contrast")
"""Texts whose contrast is less than WCAG's AA asks (4.5), and how many were looked at."""

ORDER = script("order")
"""What is wrong with headings, landmarks, tables and pictures."""

NAMED = {"button", "link", "searchbox", "textbox", "img", "image", "table", "region", "navigation", "columnheader"}


def nameless(page: Page) -> list[str]:
    """What a screen reader would call by no name, by the browser's own account."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    seen = {node["role"]["value"] for node in nodes if not node.get("ignored")}
    assert {"button", "table", "main", "navigation", "heading", "rowheader"} <= seen, seen
    return [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in NAMED and not node.get("name", {}).get("value")
    ]


CROWD = script("crowd")
"""A browser-side stand-in for the feed of 200 nodes, all of which change twice a second."""
