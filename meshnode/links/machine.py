"""What links take from the machine that they run on: its clock, its dice, its sockets.

The simulator gives them another machine, on which time and network exist in memory only.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshnode.accepting import spoken
from meshnode.links.sockets import listening, unacknowledged
from meshnode.wire.rng import Rng


@dataclass(frozen=True, slots=True)
class Machine:
    """`now` is the event loop's own clock, `stopwatch` a finer one for the length of a turn."""

    now: Callable[[], float] = time.monotonic
    stopwatch: Callable[[], float] = time.perf_counter
    rng: Rng = field(default_factory=random.Random)
    listening: Callable[[str, int, socket.SocketKind], Awaitable[socket.socket]] = listening
    pair: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair
    spoken: Callable[[socket.socket, float], Awaitable[None]] = spoken
    unacknowledged: Callable[[socket.socket | None], int] = unacknowledged
