"""The dashboard of real agents, looked at in a real browser. Skipped with the reason where there is none."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import meshnode
from tests.mesh.eyes import CONTRAST, CROWD, ORDER, Eyes, chromium, eyes, missing, nameless
from tests.mesh.rig import MODELS, Agent, Rig, rig, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = "<img src=x onerror=alert(1)>"
DRAWN = """() => {
  const it = document.getElementById('map-marks');
  return it.width > 0 && it.getContext('2d').getImageData(0, 0, it.width, it.height).data.some((byte) => byte);
}"""

FRAMES = """(wanted) => new Promise((done) => {
  const began = performance.now();
  let frames = 0;
  const step = (now) => {
    frames++;
    const seconds = (now - began) / 1000;
    if (seconds < wanted) requestAnimationFrame(step);
    else done([frames / seconds, seconds]);
  };
  requestAnimationFrame(step);
})"""
"""Frames a second, over so many."""

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Four agents; the first has the door and a model, and one has a name that would like to be more than text."""
    with rig(tmp_path_factory.mktemp("mesh")) as it:
        first = it.start("first", "--http", "127.0.0.1:0", "--zone", "home")
        for name in (EVIL, "third", "fourth"):
            it.start(name, first.command("invite", "--zone", f"lab/{name[0]}").stdout.strip())
        wait_for(lambda: list(first.states().values()).count("alive") == 4, within_s=30, why="all see each other")
        first.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        first.command("invite", "--uses", "5")
        yield it


def link(agent: Agent) -> str:
    return str(agent.json("dashboard")["link"])


@contextmanager
def opened(browser: Browser, agent: Agent, folder: Path, **options: object) -> Iterator[Eyes]:
    """The page, live."""
    with eyes(browser, folder, **options) as it:
        it.page.goto(link(agent))
        it.until("() => document.getElementById('live').dataset.is === 'live'")
        yield it


@contextmanager
def work(agent: Agent) -> Iterator[None]:
    """Tasks from this agent, one after the other, until the end of the block."""
    ending = threading.Event()

    def go() -> None:
        with meshnode.Client(home=agent.home) as client:
            while not ending.wait(0.01):
                client.infer("echo", {"x": np.zeros((1, 4), np.float32)})

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_a_link_opens_the_page_once(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """It shows the mesh; the code does not stay in the address; a reload needs none; another browser is refused."""
    first = mesh.agents[0]
    with eyes(browser, tmp_path) as it:
        address = link(first)
        it.page.goto(address)
        it.until("() => document.querySelectorAll('#nodes-table tbody').length === 4")
        assert "#" not in it.page.url
        assert "first" in it.page.locator("#mesh-self").inner_text()
        assert ["echo:1"] == it.page.locator("#models-rows th").all_inner_texts()
        assert "0 of 5" in it.page.locator("#invites-rows").inner_text()
        cookies = it.page.context.cookies()
        assert [(True, "Strict")] == [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies]
        assert "" == it.page.evaluate("document.cookie")
        it.page.reload()
        it.until("() => document.getElementById('live').dataset.is === 'live'")
    with eyes(browser, tmp_path) as it:
        it.page.goto(address)
        it.until("() => !document.getElementById('closed').hidden")
        assert "used already" in it.page.locator("#closed").inner_text()
        assert "meshnode dashboard" in it.page.locator("#closed").inner_text()
        assert it.page.locator("#open").is_hidden()
        it.shoot("refused")
        assert 2 == len(it.complaints), it.complaints  # the two answers 401, which the browser itself logs
        it.complaints.clear()


def test_names_are_only_text(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """Wherever a node's name is shown, it is shown as it is written."""
    with opened(browser, mesh.agents[0], tmp_path) as it:
        it.until(f"() => document.body.innerText.includes({EVIL!r})")
        it.page.get_by_role("button", name=EVIL).click()
        assert 1 == it.page.locator("img").count()
        assert EVIL in it.page.locator("#nodes-table").inner_text()
        assert 0 < it.page.locator("#map-svg title").filter(has_text=EVIL).count()


def test_work_is_seen_as_it_flows(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """Rates, latency, and marks that move; who asked for less motion gets the figures without them."""
    first = mesh.agents[0]
    flowing = "() => parseFloat(document.getElementById('f-rate').textContent) > 1"
    with work(first), opened(browser, first, tmp_path) as it:
        it.until(flowing)
        it.until(DRAWN)
        it.until("() => document.querySelectorAll('#chart-rate .area').length > 0")
        assert "ms" in it.page.locator("#f-p99").inner_text()
        assert "now" in str(it.page.locator("#chart-rate").get_attribute("aria-label"))
        box = it.page.locator("#chart-latency").bounding_box()
        assert box is not None
        it.page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 20)
        it.until(
            "() => / s ago: \\d+ tasks?, p50 .* ms, p99 .* ms/.test(document.getElementById('work-hint').textContent)"
        )
        it.shoot("work")
        with opened(browser, first, tmp_path, reduced_motion="reduce") as calm:
            calm.until(flowing)
            calm.until("() => document.querySelectorAll('#chart-rate .area').length > 0")
            assert not calm.page.evaluate(DRAWN)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(browser: Browser, mesh: Rig, tmp_path: Path, scheme: str) -> None:
    """Contrast of every text (AA), headings, landmarks, tables, and a name for everything; light and dark."""
    with opened(browser, mesh.agents[0], tmp_path, color_scheme=scheme) as it:
        it.page.locator("button.more").first.click()
        looked, pale = it.page.evaluate(CONTRAST)
        assert [] == pale
        assert looked > 60
        assert [] == it.page.evaluate(ORDER)
        assert [] == nameless(it.page)
        ground = it.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ("rgb(245, 246, 248)" if scheme == "light" else "rgb(13, 16, 20)") == ground
        it.shoot(scheme, full_page=True)


def test_the_keyboard_is_enough(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """Every stop is seen; the theme, the sorting, a node's facts and the filter are reached and used by keys alone."""
    with opened(browser, mesh.agents[0], tmp_path) as it:
        page = it.page
        page.keyboard.press("Tab")
        assert "Skip to the mesh" == page.evaluate("document.activeElement.textContent")
        stops, used = [], set()
        for _ in range(60):
            page.keyboard.press("Tab")
            stop, outline, kind = page.evaluate(
                """() => {
                  const it = document.activeElement;
                  const outline = parseFloat(getComputedStyle(it).outlineWidth);
                  return [it.textContent.slice(0, 40) || it.id, outline, it.className];
                }"""
            )
            if stop in stops[:1]:
                break
            stops.append(stop)
            assert outline >= 2, f"{stop} does not show that it has the focus"
            if stop.startswith("Theme") and "theme" not in used:
                used.add("theme")
                page.keyboard.press("Enter")
                page.keyboard.press("Enter")
                assert "dark" == page.evaluate("document.documentElement.dataset.theme")
            if stop == "nodes-find":
                used.add("filter")
                page.keyboard.type("third")
                it.until("() => document.querySelectorAll('#nodes-table tbody').length === 1")
            if stop == "State":
                used.add("sort")
                page.keyboard.press("Enter")
                assert "ascending" == page.locator("th", has_text="State").first.get_attribute("aria-sort")
            if kind == "more" and "facts" not in used:
                used.add("facts")
                page.keyboard.press("Enter")
                assert "true" == page.evaluate("document.activeElement.getAttribute('aria-expanded')")
                assert "Address" in page.locator("dl.facts").inner_text()
        assert {"theme", "filter", "sort", "facts"} == used, stops
        page.reload()
        assert "dark" == page.evaluate("document.documentElement.dataset.theme")


def test_a_narrow_screen_scrolls_one_way_only(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """From a small telephone to a tablet, with a node's facts open."""
    with opened(browser, mesh.agents[0], tmp_path, viewport={"width": 390, "height": 844}) as it:
        it.page.locator("button.more").first.click()
        for width in (320, 390, 600, 768, 1024):
            it.page.set_viewport_size({"width": width, "height": 844})
            it.until(f"() => innerWidth === {width}")
            wide = it.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
            assert [width, width] == wide
        it.page.set_viewport_size({"width": 390, "height": 844})
        it.page.locator("button.more").first.click()
        scroll = "[...document.querySelectorAll('.scroll')].map((it) => it.scrollWidth - it.clientWidth)"
        assert [0] == it.page.evaluate(scroll)[:1], "the nodes fit"
        it.shoot("narrow", full_page=True)


def test_two_hundred_nodes_stay_smooth(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """All of them change twice a second and work flows to each; the page has time to spare.

    What it takes of the processor holds anywhere. How many frames are drawn is asked only of a machine that has nothing
    else to do: here they are painted without a graphics card, and painting is what waits when others compute.
    """
    free = os.getloadavg()[0] < (os.cpu_count() or 1)
    with eyes(browser, tmp_path) as it:
        possible, _ = it.page.evaluate(FRAMES, 2)
        it.page.add_init_script(CROWD)
        it.page.goto(link(mesh.agents[0]))
        it.until("() => document.querySelectorAll('#nodes-table tbody').length === 200 && updates > 1", within_s=60)
        session = it.page.context.new_cdp_session(it.page)
        session.send("Performance.enable")

        def spent_s() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return float(next(row["value"] for row in metrics if row["name"] == "ProcessTime"))

        before = spent_s()
        frames, seconds = it.page.evaluate(FRAMES, 5)
        share = (spent_s() - before) / seconds
        print(f"{frames:.0f} frames a second of {possible:.0f}, {share:.0%} of a core in the page's process")
        it.shoot("crowd")
        assert share < 0.9
        assert not free or frames > 0.3 * possible
        assert 200 == it.page.locator("#map-svg .node").count()


def test_a_killed_agent_is_seen_to_die(browser: Browser, mesh: Rig, tmp_path: Path) -> None:
    """Live: in the table, on the map, among the events, and for who listens; and the agent's own end is told."""
    first, *_, fourth = mesh.agents
    with opened(browser, first, tmp_path) as it:
        row = "[...document.querySelectorAll('#nodes-table tbody')].find((row) => row.innerText.includes('fourth'))"
        it.until(f"() => {row}.innerText.includes('alive')")
        fourth.kill()
        it.until(f"() => {row}.innerText.includes('dead')")
        it.until("() => document.querySelectorAll('#map-svg .node.bad').length === 1")
        it.until("() => document.getElementById('events').innerText.includes('declared dead')")
        assert "fourth: dead" in it.page.locator("#said").inner_text()
        assert "1 not alive" == it.page.locator("#f-nodes-sub").inner_text()
        it.shoot("killed")
        first.terminate()
        it.until("() => document.getElementById('live').textContent === 'Reconnecting'")
        it.complaints = [text for text in it.complaints if "ERR_CONNECTION_REFUSED" not in text]
