"""How fast bulk may go while small tasks are on their way: a little slower than the way carries. A core.

A sender that fills the way fills a queue before it, and every small frame stands in that queue, whatever connection it
is of. So while there are tasks, bulk is paced below what arrives; it goes faster until the round trip says that a queue
has grown, then a step back.
"""

from __future__ import annotations

from dataclasses import dataclass

QUEUE_S = 0.004
"""A round trip longer by so much than the shortest means a queue."""
BELOW = 0.8
GROWTH = 1.02
"""At each look: by half in a second."""
LEAST_BYTES_S = 256 * 1024.0


@dataclass(slots=True)
class Courtesy:
    """Of one connection."""

    bytes_s: float | None = None
    """None: as fast as it goes."""

    def look(self, *, busy: bool, rtt_s: float, shortest_s: float, arrives_bytes_s: float) -> float | None:
        """The rate from now on, by what the connection's round trips and what arrived lately tell."""
        if not busy or arrives_bytes_s <= 0:
            self.bytes_s = None
        elif self.bytes_s is None or rtt_s - shortest_s > QUEUE_S:
            known = arrives_bytes_s if self.bytes_s is None else min(self.bytes_s, arrives_bytes_s)
            self.bytes_s = max(LEAST_BYTES_S, BELOW * known)
        else:
            self.bytes_s *= GROWTH
        return self.bytes_s
