"""A network and a clock that exist only here: seeded, so that a run can be had again.

Packets are handed over as the very objects that the cores made. Each is lost, delayed, duplicated or cut off as the
world is told; everything random comes from the world's own generator. Streams are TCP under the same faults: nothing
is lost on them, but each loss costs a retransmission time-out, and a cut stops them.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Action = Callable[[], object]
RTO_S, SYN_RTO_S = 0.2, 1.0
"""First retransmission time-outs of TCP, doubled with each loss: of data (Linux's smallest) and of a connection."""
STREAM_GIVES_UP_S = 20.0


@dataclass(slots=True)
class Faults:
    """What the network does to each packet."""

    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    """Share of packets that are held back by up to `late_s`, and so overtaken."""
    late_s: float = 5.0
    delay_min_s: float = 0.0003
    delay_max_s: float = 0.0023
    cut: Callable[[int, int], bool] | None = None
    """Whether nothing passes from one node to another."""
    loss_of: Callable[[int, int], float] | None = None
    """Loss from one node to another, beside `loss`."""

    def cuts(self, sender: int, receiver: int) -> bool:
        """Whether nothing passes that way."""
        return self.cut is not None and self.cut(sender, receiver)

    def loses(self, sender: int, receiver: int) -> float:
        """The share that is lost that way."""
        more = self.loss_of(sender, receiver) if self.loss_of is not None else 0.0
        return 1 - (1 - self.loss) * (1 - more)


@dataclass(slots=True)
class World:
    """The clock, the queue of what will happen, and the network."""

    seed: int
    now: float = 0.0
    faults: Faults = field(default_factory=Faults)
    sent: int = 0
    sent_bytes: int = 0
    lost: int = 0
    duplicated: int = 0
    overtaken: int = 0
    stream_bytes: int = 0
    rng: random.Random = field(init=False)
    trace: hashlib.blake2b | None = None
    """When set, everything that is sent goes into this hash: the same seed must give the same."""
    _queue: list[tuple[float, int, Action]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def at(self, when: float, action: Action) -> None:
        """Something will happen."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action))

    def send(self, sender: int, receiver: int, deliver: Callable[[Any], None], packet: Any, nbytes: int) -> None:
        """A datagram leaves; what the network does with it is decided now."""
        self.sent += 1
        self.sent_bytes += nbytes
        if self.trace is not None:
            self.trace.update(b"%r %d %d %d\n" % (self.now, sender, receiver, nbytes))
        faults, rng = self.faults, self.rng
        loss = faults.loses(sender, receiver)
        if faults.cuts(sender, receiver) or (loss and rng.random() < loss):
            self.lost += 1
            return
        copies = 1
        if faults.duplicate and rng.random() < faults.duplicate:
            copies = 2
            self.duplicated += 1
        for _ in range(copies):
            delay_s = rng.uniform(faults.delay_min_s, faults.delay_max_s)
            if faults.late and rng.random() < faults.late:
                delay_s += rng.uniform(0, faults.late_s)
                self.overtaken += 1
            self.at(self.now + delay_s, lambda: deliver(packet))

    def stream(self, sender: int, receiver: int, deliver: Action, *, nbytes: int, dial: bool) -> None:
        """A message on a stream; with `dial` the connection and its handshake come first. It may never arrive."""
        self.stream_bytes += nbytes
        if self.faults.cuts(sender, receiver) or self.faults.cuts(receiver, sender):
            return
        delay_s = self._legs(sender, receiver, 2, SYN_RTO_S) + self._legs(sender, receiver, 2, RTO_S) if dial else 0.0
        delay_s += self._legs(sender, receiver, 1, RTO_S)
        if delay_s < STREAM_GIVES_UP_S:
            self.at(self.now + delay_s, deliver)

    def _legs(self, sender: int, receiver: int, legs: int, rto_s: float) -> float:
        """How long so many messages take, one after the other, back and forth."""
        faults, rng = self.faults, self.rng
        delay_s = 0.0
        for _ in range(legs):
            delay_s += rng.uniform(faults.delay_min_s, faults.delay_max_s)
            loss, wait_s = faults.loses(sender, receiver), rto_s
            while loss and rng.random() < loss and delay_s < STREAM_GIVES_UP_S:
                delay_s += wait_s
                wait_s *= 2
            sender, receiver = receiver, sender
        return delay_s

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass, or stop as soon as `stop` says so."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
            if stop is not None and stop():
                return
        self.now = max(self.now, until)
