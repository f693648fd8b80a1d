"""The shell of owner first: reads the sensors off the event loop, keeps the switch, and tells those who act on it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from meshnode.config import Manners, Settings
from meshnode.owner.manners import ByHand, Changed, Event, Politeness, Reading, Sensed, Tell
from meshnode.owner.sensing import Sensors
from meshnode.owner.switch import Switch

log = logging.getLogger(__name__)

WATCHFUL_S = 1.0
"""Between two readings where an owner may come back at any moment…"""
CALM_S = 5.0
"""…and where none sits at a display."""
FIRST_S = 1.0
"""The start waits so long for the first reading; after that, a display is assumed until it comes."""


class Watch:
    """Whether this machine takes foreign work now.

    Args:
        changed: called when `reason` changed.
        tell: called when the others should hear `told`.
    """

    def __init__(
        self,
        home: Path,
        settings: Settings,
        sensors: Sensors,
        *,
        changed: Callable[[], None] = lambda: None,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self.manners = settings.manners
        self.reading = Reading()
        self._sensors = sensors
        self._switch = Switch(home)
        self._core = Politeness(settings.manners, settings.owner, settings.routing.battery_percent_min)
        self._changed, self._tell = changed, tell
        self._wake, self._read_once = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def reason(self) -> str:
        """Why no foreign work is taken, or "" when it is."""
        return self._core.reason

    @property
    def told(self) -> str:
        """The reason that others are to know; at most `TELL_S` behind."""
        return self._core.told

    @property
    def until(self) -> float | None:
        """When a pause by hand ends, in seconds since 1970; None without one or without an end."""
        pause = self._switch.pause
        return pause.until if pause is not None and pause.reason(time.time()) else None

    @property
    def by_hand(self) -> bool:
        """Whether the owner said so himself."""
        return bool(self._switch.reason(time.time()))

    def unknown(self) -> list[str]:
        """What no sensor of this machine says, and the manners would ask about."""
        it, asked = self.reading, {}
        if self.manners is not Manners.OFF:
            asked = {"power": it.on_battery, "heat": it.throttled if it.headroom_c is None else it.headroom_c}
        if self.manners is Manners.POLITE:
            asked |= {"display": it.display, "metered link": it.metered}
            if it.display:
                asked |= {"input": it.idle_s, "other programs": it.others_cpu}
        return [name for name, value in asked.items() if value is None]

    async def start(self) -> None:
        """Know the state before anybody else hears of this node."""
        await asyncio.to_thread(self._switch.load)
        self._task = asyncio.ensure_future(self._run())
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_S):
                await self._read_once.wait()
            return
        self._apply(Sensed(Reading(display=True)))

    async def stop(self) -> None:
        """End the readings."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def pause(self, duration_s: float | None) -> None:
        """The owner pauses; for good without a duration. Raises InvalidInput, HomeError."""
        try:
            self._switch.set(duration_s, time.time())
        finally:
            self._by_hand()

    def resume(self) -> None:
        """The owner ends his pause; the sensors may know other reasons. Raises HomeError."""
        try:
            self._switch.clear()
        finally:
            self._by_hand()

    def document(self) -> dict[str, Any]:
        """As the doors show it."""
        return {"paused": self.reason or None, "until": self.until, "manners": self.manners.value}

    async def _run(self) -> None:
        due = 0.0
        while True:
            self._by_hand()
            if (now := time.monotonic()) >= due:
                self.reading = await asyncio.to_thread(self._sensors.read, now)
                if self.manners is not Manners.OFF:
                    self._apply(Sensed(self.reading))
                due = now + (WATCHFUL_S if self.reading.display else CALM_S)
                self._read_once.set()
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s(due)):
                    await self._wake.wait()
            self._apply(None)

    def _rest_s(self, due: float) -> float:
        """Until the next reading, the next word to the others, or the end of a pause."""
        now = time.monotonic()
        ends = [due - now]
        if (deadline := self._core.next_deadline()) is not None:
            ends.append(deadline - now)
        if (until := self.until) is not None:
            ends.append(until - time.time())
        return max(0.0, min(ends))

    def _by_hand(self) -> None:
        self._apply(ByHand(self._switch.reason(time.time())))
        self._wake.set()

    def _apply(self, event: Event | None) -> None:
        for effect in self._core.handle(time.monotonic(), event):
            match effect:
                case Changed(reason):
                    log.info("foreign work: %s", f"none, {reason}" if reason else "taken")
                    self._changed()
                case Tell():
                    self._tell()
