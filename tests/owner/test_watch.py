"""The shell: readings off the loop, at once known to those who act, spared to those who listen."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshnode.config import Manners, Owner, Settings
from meshnode.errors import InvalidInput
from meshnode.owner import watch
from meshnode.owner.manners import METERED, OFF, OWNER, TELL_S, UNSURE, Reading
from meshnode.owner.watch import Watch

WAIT_S = 20.0
HERE = Reading(display=True, idle_s=1.0, on_battery=False, headroom_c=40.0, metered=False)
SERVER = Reading(display=False, on_battery=False, headroom_c=40.0, metered=False)


class Pretended:
    """Sensors that say what they are told to; closed, they hang."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.threads: set[int] = set()
        self.open = threading.Event()
        self.open.set()

    def read(self, now: float) -> Reading:
        self.threads.add(threading.get_ident())
        assert self.open.wait(WAIT_S)
        return self.reading


class Heard:
    """What those who listen were told, and when."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.told: list[tuple[float, str]] = []


@asynccontextmanager
async def watching(
    home: Path, sensors: Pretended, settings: Settings | None = None
) -> AsyncIterator[tuple[Watch, Heard]]:
    heard = Heard()
    it = Watch(
        home,
        settings or Settings(),
        sensors,
        changed=lambda: heard.changed.append(it.reason),
        tell=lambda: heard.told.append((time.monotonic(), it.told)),
    )
    await it.start()
    try:
        yield it, heard
    finally:
        sensors.open.set()
        await it.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - a condition of several parts
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings follow each other quickly."""
    monkeypatch.setattr(watch, "WATCHFUL_S", 0.02)
    monkeypatch.setattr(watch, "CALM_S", 0.02)


async def test_the_state_is_known_before_the_first_advert(tmp_path: Path) -> None:
    """`start` returns when the sensors were read once, in another thread."""
    sensors = Pretended(HERE)
    async with watching(tmp_path, sensors) as (it, heard):
        assert OWNER == it.reason == it.told
        assert [OWNER] == heard.changed
        assert threading.get_ident() not in sensors.threads


async def test_sensors_that_hang_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start goes on after a moment, on the owner's side, and the reading counts when it comes."""
    monkeypatch.setattr(watch, "FIRST_S", 0.05)
    sensors = Pretended(SERVER)
    sensors.open.clear()
    async with watching(tmp_path, sensors, Settings(owner=Owner(settle_s=0.0))) as (it, _):
        assert UNSURE == it.reason
        sensors.open.set()
        await until(lambda: it.reason == "")


async def test_what_changes_is_acted_on_at_once_and_told_with_patience(tmp_path: Path) -> None:
    """Switching on and off as fast as one can makes one word to the others in two seconds, and the last one is true."""
    async with watching(tmp_path, Pretended(SERVER)) as (it, heard):
        for _ in range(20):
            it.pause(None)
            assert "paused by hand" == it.reason
            it.resume()
            assert "" == it.reason
        it.pause(None)
        await until(lambda: it.told == it.reason)
        assert 41 == len(heard.changed)
        assert len(heard.told) <= 2
        assert all(b[0] - a[0] >= TELL_S * 0.99 for a, b in zip(heard.told, heard.told[1:], strict=False))


async def test_a_pause_outlives_the_agent_and_ends_by_itself(tmp_path: Path) -> None:
    """The next agent of the home is paused before it is told anything else, until the time is up."""
    async with watching(tmp_path, Pretended(SERVER)) as (it, _):
        it.pause(0.6)
        assert it.by_hand
        assert it.until is not None
    async with watching(tmp_path, Pretended(SERVER)) as (it, heard):
        assert it.reason.startswith("paused by hand until ")
        assert heard.changed == [it.reason]
        await until(lambda: it.reason == "")
        assert it.until is None
        assert not it.by_hand


async def test_an_impossible_pause_changes_nothing(tmp_path: Path) -> None:
    """The error reaches who asked."""
    async with watching(tmp_path, Pretended(SERVER)) as (it, heard):
        with pytest.raises(InvalidInput):
            it.pause(-1.0)
        assert "" == it.reason
        assert [] == heard.changed


async def test_the_log_has_changes_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Many readings of one state are one line."""
    sensors = Pretended(HERE)
    with caplog.at_level(logging.INFO, "meshnode.owner"):
        async with watching(tmp_path, sensors, Settings(owner=Owner(settle_s=0.0))) as (it, _):
            await until(lambda: it.reading is sensors.reading)
            sensors.reading = Reading(display=False, metered=True)
            await until(lambda: it.reason == METERED)
            sensors.reading = SERVER
            await until(lambda: it.reason == "")
    assert [f"foreign work: none, {OWNER}", f"foreign work: none, {METERED}", "foreign work: taken"] == caplog.messages


async def test_manners_off_decides_nothing_by_sensors(tmp_path: Path) -> None:
    """They are read all the same: others are told of mains or battery."""
    sensors = Pretended(HERE)
    async with watching(tmp_path, sensors, Settings(manners=Manners.OFF)) as (it, _):
        assert OFF == it.reason == it.told
        it.resume()
        assert OFF == it.reason
        assert it.reading is sensors.reading
        assert [] == it.unknown()


async def test_what_no_sensor_says_is_named(tmp_path: Path) -> None:
    """For `doctor`: the unknown, as far as the manners would ask."""
    async with watching(tmp_path, Pretended(Reading(display=True))) as (it, _):
        assert ["power", "heat", "metered link", "input", "other programs"] == it.unknown()
    free = Settings(manners=Manners.FREE)
    async with watching(tmp_path, Pretended(Reading(on_battery=False)), free) as (it, _):
        assert ["heat"] == it.unknown()
