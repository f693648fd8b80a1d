"""The clocks of this machine, for those that are told the time."""

from __future__ import annotations

import secrets
import time

from meshnode.membership.waking import Clocks


def read_clocks() -> Clocks:
    """What they say now."""
    boottime = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None
    return Clocks(time.monotonic(), time.time(), boottime)


def birth() -> int:
    """A name for this start of the agent: later starts have greater ones."""
    return int(time.time() * 1000) << 16 | secrets.randbits(16)
