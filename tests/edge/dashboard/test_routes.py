"""The dashboard's part of the HTTP door of a real agent: what is served, to whom, and what it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshnode.agent import Agent
from meshnode.doors import Http
from meshnode.errors import ConfigError
from meshnode.tasks.outcomes import Ended
from meshnode.wire.messages import Digest, TaskId
from tests.edge.living import ask, founder, joiner

PAGE = resources.files("meshnode.edge.dashboard").joinpath("page")
FILES = sorted(entry.name for entry in PAGE.iterdir())
WITHIN_S = 20.0
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    """With the door open on loopback."""
    async with founder(tmp_path / "ann", http=Http(listen="127.0.0.1:0")) as it:
        yield it


def base(agent: Agent) -> str:
    return f"http://{agent.ready()['http']}"


@asynccontextmanager
async def browser(agent: Agent) -> AsyncIterator[aiohttp.ClientSession]:
    """With the cookie of a link."""
    link = (await ask(agent.node.home, "dashboard"))["link"]
    async with aiohttp.ClientSession(base(agent), cookie_jar=aiohttp.CookieJar(unsafe=True)) as web:
        async with web.post("/dashboard/session", json={"code": link.partition("#")[2]}) as answer:
            assert 204 == answer.status
        yield web


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Of a stream."""
    async with asyncio.timeout(WITHIN_S):
        name = ""
        async for line in answer.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                yield name, json.loads(text.removeprefix("data: "))


async def test_the_page_is_served_to_all_and_may_do_nothing_else(agent: Agent) -> None:
    """No token is asked for what holds no secret; each file has the strict headers and a tag by which it is kept."""
    async with aiohttp.ClientSession(base(agent)) as web:
        async with web.get("/dashboard", allow_redirects=False) as answer:
            assert (308, "/dashboard/") == (answer.status, answer.headers["Location"])
        for name in FILES:
            path = "/dashboard/" + ("" if name == "index.html" else name)
            async with web.get(path) as answer:
                assert (200, (PAGE / name).read_bytes()) == (answer.status, await answer.read()), name
                policy = answer.headers["Content-Security-Policy"]
                assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
                assert "unsafe" not in policy
                assert ("nosniff", "no-referrer") == (
                    answer.headers["X-Content-Type-Options"],
                    answer.headers["Referrer-Policy"],
                )
                tag = answer.headers["ETag"]
            async with web.get(path, headers={"If-None-Match": tag}) as answer:
                assert (304, b"") == (answer.status, await answer.read())
        async with web.get("/dashboard/", headers={"Host": "evil.example"}) as answer:
            assert 403 == answer.status
        async with web.get("/dashboard/../http.token") as answer:
            assert 401 == answer.status


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """It works offline, has no inline script, style or handler, and sets text as text only."""
    for name in FILES:
        text = (PAGE / name).read_text()
        assert {"http://www.w3.org/2000/svg"} >= set(re.findall(r"https?://[^\"'\s)<]+", text)), name
        assert not MARKUP.search(text), name
        for wanted in re.findall(r"""(?:from|import) "\./([\w.]+)";""", text):
            assert wanted in FILES, f"{name} imports {wanted}"
    index = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", index)


async def test_a_link_is_good_once(agent: Agent) -> None:
    """Its cookie is for this page alone, and no script reads it."""
    link = (await ask(agent.node.home, "dashboard"))["link"]
    where, _, code = link.partition("#")
    assert f"{base(agent)}/dashboard/" == where
    async with aiohttp.ClientSession(base(agent)) as web:
        async with web.post("/dashboard/session", json={"code": code}) as answer:
            assert 204 == answer.status
            cookie = answer.headers["Set-Cookie"]
        assert re.search(r"; HttpOnly;.*Path=/dashboard; SameSite=Strict", cookie), cookie
        assert code not in cookie
        async with web.post("/dashboard/session", json={"code": code}) as answer:
            assert 401 == answer.status
            assert "used" in (await answer.json())["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{}", {"Content-Type": "application/json"}, 400),
        (b'{"code": 7}', {"Content-Type": "application/json"}, 400),
        (b"[" * 400, {"Content-Type": "application/json"}, 400),
        (b'{"code": "' + b"x" * 1000 + b'"}', {"Content-Type": "application/json"}, 400),
        (b'{"code": "GOOD"}', {"Content-Type": "text/plain"}, 400),
        (b'{"code": "nonsense"}', {"Content-Type": "application/json"}, 401),
        (b'{"code": "GOOD"}', {"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        (b'{"code": "GOOD"}', {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_nothing_else_opens_it(agent: Agent, body: bytes, headers: dict[str, str], status: int) -> None:
    """Not even a good code from another page."""
    code = (await ask(agent.node.home, "dashboard"))["link"].partition("#")[2]
    async with aiohttp.ClientSession(base(agent)) as web:
        given = body.replace(b"GOOD", code.encode())
        async with web.post("/dashboard/session", data=given, headers=headers) as answer:
            assert status == answer.status
            assert "Set-Cookie" not in answer.headers
        async with web.get("/dashboard/feed") as answer:
            assert 401 == answer.status


async def test_the_feed_tells_the_mesh_and_what_changes_in_it(agent: Agent, tmp_path: Path) -> None:
    """Everything once, then a node that joins, its load, and tasks that went astray; and no secret."""
    token = (await ask(agent.node.home, "invite", {"uses": 3}))["token"]
    async with browser(agent) as web, web.get("/dashboard/feed") as answer:
        assert (200, "text/event-stream") == (answer.status, answer.content_type)
        stream = events(answer)
        name, whole = await anext(stream)
        me = agent.node.keeper.id
        assert ("whole", me, {me}) == (name, whole["self"], set(whole["nodes"]))
        assert ("ann", "self", "alive") == tuple(whole["nodes"][me][key] for key in ("name", "path", "state"))
        assert whole["nodes"][me]["load"] >= 0
        assert [(3, 0, "batch")] == [(it["uses"], it["used"], it["kind"]) for it in whole["invites"].values()]
        assert token not in json.dumps(whole)
        async with joiner(tmp_path / "bob", agent.node) as bob:
            seen: dict[str, Any] = {}
            async for name, patch in stream:
                assert "changed" == name
                seen |= patch.get("nodes", {}).get(bob.node.keeper.id, {})
                if {"name", "path", "load"} <= set(seen) and seen["path"] == "direct":
                    break
            lately, digest = agent.node.lately, Digest("d" * 64)
            lately.ended(Ended(TaskId("t"), digest, None, None, "no_capacity", 0, 0.1, 9, detail="nobody is there"))
            async for _, patch in stream:
                if patch.get("stories"):
                    break
            [story] = patch["stories"].values()
            assert ("failed", "nobody is there", "no_capacity", 1) == tuple(
                story[key] for key in ("kind", "reason", "outcome", "count")
            )


async def test_streams_end_with_the_agent(tmp_path: Path) -> None:
    """An open page does not hold it up."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        async with founder(tmp_path / "ann", http=Http(listen="127.0.0.1:0")) as agent:
            web = await stack.enter_async_context(browser(agent))
            stream = events(await web.get("/dashboard/feed"))
            await anext(stream)
            began = loop.time()
        assert loop.time() - began < WITHIN_S / 2
        assert [] == [name async for name, _ in stream if name != "changed"]


async def test_a_closed_door_has_no_dashboard(tmp_path: Path) -> None:
    """The error says how to open it."""
    async with founder(tmp_path / "ann") as agent:
        with pytest.raises(ConfigError) as caught:
            await ask(agent.node.home, "dashboard")
    assert "--http" in caught.value.hint
