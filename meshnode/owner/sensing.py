"""All sensors of this machine together. A sensor that is not there or fails is unknown, and hides no other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from meshnode.config import Manners
from meshnode.owner import power
from meshnode.owner.manners import Reading
from meshnode.owner.network import LinuxNetwork
from meshnode.owner.presence import LinuxPresence, MacPresence
from meshnode.owner.processor import LinuxProcessor
from meshnode.owner.sources import Run, run_program
from meshnode.owner.thermal import LinuxThermal, MacThermal

log = logging.getLogger(__name__)

T = TypeVar("T")


class Sensors(Protocol):
    """What can be read. It may take milliseconds, and seconds when a program hangs: not for the event loop."""

    def read(self, now: float) -> Reading:
        """What the sensors say at `now`, monotonic seconds. Never raises."""


class Machine:
    """The sensors of the platform.

    Args:
        manners: what nobody asks about is not read; power always, for others are told of it.
        root: where /sys, /proc, /run and /dev are.
        run: runs the platform's programs.
        platform: as `sys.platform` names it.
    """

    def __init__(
        self, manners: Manners, *, root: Path = Path("/"), run: Run = run_program, platform: str = sys.platform
    ) -> None:
        self._lends, self._polite = manners is not Manners.OFF, manners is Manners.POLITE
        self._root = root
        self._linux = platform == "linux"
        mac = platform == "darwin"
        self._presence = LinuxPresence(root, run) if self._linux else MacPresence(root, run) if mac else None
        self._thermal = LinuxThermal(root) if self._linux else MacThermal(run) if mac else None
        self._network = LinuxNetwork(root, run) if self._linux else None
        self._processor = LinuxProcessor(root) if self._linux else None
        self._failed: set[str] = set()

    def read(self, now: float) -> Reading:
        """See `Sensors.read`."""
        supply = self._try("power", lambda: power.linux(self._root) if self._linux else power.elsewhere())
        supply = supply or power.Supply()
        heat = self._try("thermal", lambda: self._thermal.read(now) if self._thermal and self._lends else None)
        headroom_c, throttled = heat or (None, None)
        display: bool | None = None
        idle_s: float | None = None
        metered: bool | None = None
        others_cpu: float | None = None
        if self._polite:
            presence = self._try("presence", lambda: self._presence.read(now) if self._presence else None)
            display, idle_s = presence or (None, None)
            metered = self._try("network", lambda: self._network.read(now) if self._network else None)
        if display:
            others_cpu = self._try("processor", lambda: self._processor.read(now) if self._processor else None)
        return Reading(
            display=display,
            idle_s=idle_s,
            on_battery=supply.on_battery,
            charge_percent=supply.percent,
            headroom_c=headroom_c,
            throttled=throttled,
            metered=metered,
            others_cpu=others_cpu,
        )

    def _try(self, name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except Exception as error:  # whatever a driver's file or a program's new version says: it is unknown
            if name not in self._failed:
                self._failed.add(name)
                log.warning("the %s sensor failed and counts as unknown: %r", name, error)
            return None
