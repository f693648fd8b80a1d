"""One feed for all browsers."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest

from meshnode.edge.dashboard import feed as feeds
from meshnode.edge.dashboard.feed import WAITING_MAX, WATCHERS_MAX, Feed, event
from meshnode.errors import Refused
from tests.waiting import until


class Mesh:
    """A document that the test changes."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"nodes": {"ann": {"load": 1}}}
        self.looks = 0

    async def look(self) -> dict[str, Any]:
        self.looks += 1
        if self.document.get("broken"):
            raise RuntimeError("broken")
        return copy.deepcopy(self.document)


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    monkeypatch.setattr(feeds, "EVERY_S", 0.01)
    return Mesh()


def said(sent: bytes) -> tuple[str, Any]:
    first, second, *rest = sent.decode().split("\n")
    assert ["", ""] == rest
    return first.removeprefix("event: "), json.loads(second.removeprefix("data: "))


async def test_first_all_then_what_changed(mesh: Mesh) -> None:
    """Each browser gets the whole once; both get the same changes; nothing is sent while nothing changes."""
    feed = Feed(mesh.look)
    one = feed.watch()
    name, whole = said(await anext(one))
    assert ("whole", {"ann": {"load": 1}}) == (name, whole["nodes"])
    assert "at" in whole
    await until(lambda: mesh.looks > 3, "it looks again and again")
    mesh.document["nodes"]["bob"] = {"load": 2}
    assert ("changed", {"nodes": {"bob": {"load": 2}}}) == said(await anext(one))
    two = feed.watch()
    assert {"ann", "bob"} == set(said(await anext(two))[1]["nodes"])
    del mesh.document["nodes"]["ann"]
    for it in (one, two):
        assert ("changed", {"nodes": {"ann": None}}) == said(await anext(it))
        await it.aclose()  # type: ignore[attr-defined]


async def test_nobody_looks_while_nobody_watches(mesh: Mesh) -> None:
    """When the last one goes, the looking ends."""
    feed = Feed(mesh.look)
    watching = feed.watch()
    await anext(watching)
    await until(lambda: mesh.looks > 2, "it looks")
    await watching.aclose()  # type: ignore[attr-defined]
    looks = mesh.looks
    await asyncio.sleep(0.1)
    assert looks == mesh.looks
    assert not [task for task in asyncio.all_tasks() if "Feed" in repr(task)]


async def test_who_does_not_keep_up_is_dropped(mesh: Mesh) -> None:
    """And holds nobody else up; what waits for it is bounded."""
    feed = Feed(mesh.look)
    slow, fast = feed.watch(), feed.watch()
    await anext(slow)
    await anext(fast)
    for number in range(WAITING_MAX + 4):
        mesh.document["number"] = number
        assert ("changed", {"number": number}) == said(await anext(fast))
    assert len([sent async for sent in slow]) <= WAITING_MAX
    mesh.document["number"] = "more"
    assert ("changed", {"number": "more"}) == said(await anext(fast))
    await fast.aclose()  # type: ignore[attr-defined]


async def test_browsers_are_bounded(mesh: Mesh) -> None:
    """One too many is told to come again."""
    feed = Feed(mesh.look)
    open_ones = [feed.watch() for _ in range(WATCHERS_MAX)]
    for it in open_ones:
        await anext(it)
    with pytest.raises(Refused):
        await anext(feed.watch())
    for it in open_ones:
        await it.aclose()  # type: ignore[attr-defined]


async def test_an_error_ends_the_streams_and_not_the_feed(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    """Browsers come back by themselves, to a feed that looks anew."""
    feed = Feed(mesh.look)
    watching = feed.watch()
    await anext(watching)
    mesh.document["broken"] = True
    with pytest.raises(StopAsyncIteration):
        await anext(watching)
    assert "the dashboard's feed ended" in caplog.text
    del mesh.document["broken"]
    again = feed.watch()
    assert "whole" == said(await anext(again))[0]
    await again.aclose()  # type: ignore[attr-defined]


async def test_the_end_of_the_agent_ends_all(mesh: Mesh) -> None:
    """At once."""
    feed = Feed(mesh.look)
    watching = feed.watch()
    await anext(watching)
    feed.end()
    with pytest.raises(StopAsyncIteration):
        await anext(watching)


def test_an_event_is_one_line_of_json() -> None:
    """Line breaks in names do not break out of it."""
    assert b'event: whole\ndata: {"name":"a\\nevent: evil\\r"}\n\n' == event("whole", {"name": "a\nevent: evil\r"})
