"""The clocks of this machine, and the names and keys that are new with each start."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.membership.waking import Clocks

log = logging.getLogger(__name__)


def read_clocks() -> Clocks:
    """What they say now."""
    boottime = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None
    return Clocks(time.monotonic(), time.time(), boottime)


def tell_if_set(set_s: float, wall: float) -> None:
    """Say that the wall clock was set, with both clocks: certificates and tokens are judged by it."""
    if set_s:
        was, now = (time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) for at in (wall - set_s, wall))
        log.warning(
            "this machine's clock was set by %+.0f s: it says %s UTC, and by the old one it is %s", set_s, now, was
        )


def birth() -> int:
    """A name for this start of the agent: later starts have greater ones."""
    return int(time.time() * 1000) << 16 | secrets.randbits(16)


@dataclass(frozen=True, slots=True)
class Source:
    """Where all this comes from; the simulator gives another."""

    clocks: Callable[[], Clocks] = read_clocks
    birth: Callable[[], int] = birth
    epoch_key: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate
