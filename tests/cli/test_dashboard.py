"""`meshnode dashboard`: the link reaches the owner's browser, and nobody else."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from meshnode.cli import dashboard
from tests.cli.conftest import Command
from tests.client.door import Door

LINK = "http://127.0.0.1:8080/dashboard/#the-code"


class Browser(webbrowser.BaseBrowser):
    """What it was told to open."""

    def __init__(self, works: bool = True) -> None:
        super().__init__("test")
        self.opened: list[str] = []
        self.works = works

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        self.opened.append(url)
        return self.works


def at_a_desk(monkeypatch: pytest.MonkeyPatch, browser: Browser) -> None:
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")


def test_a_browser_opens_it_through_a_file_of_the_owner(
    meshnode: Command, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code stands neither on the browser's command line nor on the terminal; the file is for its owner alone."""
    browser = Browser()
    at_a_desk(monkeypatch, browser)
    code, out, _ = meshnode("dashboard")
    assert (0, 1) == (code, len(browser.opened))
    assert "the-code" not in out + browser.opened[0]
    step = Path(unquote(urlsplit(browser.opened[0]).path))
    assert 0o600 == step.stat().st_mode & 0o777
    assert f'url={LINK}"' in step.read_text()


def test_without_a_screen_the_link_is_printed(meshnode: Command, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over SSH, where a browser that is started would be on another desk, or when none starts."""
    browser = Browser()
    at_a_desk(monkeypatch, browser)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.2 1 10.0.0.1 22")
    assert (0, LINK) == (meshnode("dashboard")[0], meshnode("dashboard")[1].strip())
    at_a_desk(monkeypatch, browser)
    assert LINK == meshnode("dashboard", "--print")[1].strip()
    assert [] == browser.opened
    browser.works = False
    assert LINK == meshnode("dashboard")[1].strip()


def test_programs_get_the_link_as_json(meshnode: Command, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no browser."""
    browser = Browser()
    at_a_desk(monkeypatch, browser)
    code, out, _ = meshnode("dashboard", "--json")
    assert (0, {"link": LINK, "within_s": 60.0}) == (code, json.loads(out))
    assert [] == browser.opened


def test_without_an_agent_there_is_none(meshnode: Command) -> None:
    """Exit code 3, as of all that needs the agent."""
    assert 3 == meshnode("dashboard")[0]


def test_the_file_is_markup_that_a_link_cannot_leave() -> None:
    """Whatever an agent answers."""
    assert '"><script>' not in dashboard.page('http://x/"><script>alert(1)</script>')
