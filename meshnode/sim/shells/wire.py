"""What joins the machines of a simulated network: its faults, its time, and what is noted of it.

A packet passes or is lost as the seeded world says; who sends what over it is `streams`, `sockets` and `stations`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

from meshnode.sim.shells.trace import Row, Trace
from meshnode.sim.world import Faults, World


class _Sky(World):
    """The world, whose queue is the loop's."""

    later: Callable[[float, Callable[[], object]], None]

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Something will happen."""
        self.later(when, action)


class Place:
    """A machine as the wire sees it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.host = f"10.0.{index // 250}.{index % 250 + 1}"
        self.powered = True
        self.asleep = False

    @property
    def hears(self) -> bool:
        """Whether a packet finds somebody."""
        return self.powered and not self.asleep


class Wire:
    """See the module's docstring."""

    def __init__(self, seed: int, faults: Faults, trace: Trace) -> None:
        self.world = _Sky(seed, faults=faults)
        self.world.later = self.at
        self.trace = trace
        self.messages = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._time: Callable[[], float] = lambda: 0.0
        self._nobody = Context()

    def attach(self, loop: asyncio.AbstractEventLoop, time: Callable[[], float]) -> None:
        """The loop on which all happens, and the time that no process changes."""
        self._loop, self._time = loop, time

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The same."""
        assert self._loop is not None, "no loop yet"
        return self._loop

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._time()

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Something will happen, in no process."""
        self.loop.call_at(when, action, context=self._nobody)

    def note(self, what: str, node: int, other: int, nbytes: int = 0) -> None:
        """Something went over the wire, or was done: into the trace."""
        self.trace.note(Row(self.now, node, other, what, nbytes))

    def passes(self, sender: Place, receiver: Place) -> bool:
        """Whether a packet gets there, of a stream that needs its answer, too."""
        faults, a, b = self.world.faults, sender.index, receiver.index
        if not sender.hears or not receiver.hears or faults.cuts(a, b) or faults.cuts(b, a):
            return False
        loss = faults.loses(a, b)
        return not loss or self.world.rng.random() >= loss

    def delay_s(self) -> float:
        """Of one packet."""
        faults = self.world.faults
        return self.world.rng.uniform(faults.delay_min_s, faults.delay_max_s)

    async def pause(self, seconds: float) -> None:
        """Let so much time pass, whatever the caller's clock says."""
        over = self.loop.create_future()
        self.at(self.now + seconds, lambda: None if over.done() else over.set_result(None))
        await over
