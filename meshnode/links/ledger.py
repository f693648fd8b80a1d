"""What a relay carries, for whom, and how much of it: a core without clock or socket.

A relay gives away its own network. So everything is counted: circuits in all and of one node, bytes a second of one
circuit and of all, bytes in one circuit's life, chunks on their way. A refusal says which limit it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.config import KIB, Links
from meshnode.errors import ProtocolError, Refused
from meshnode.wire.messages import NodeId

CHUNK_BYTES = 32 * KIB
WINDOW = 4
"""Chunks of one direction that may be unanswered: 128 KiB, all that a relay ever holds of one. At 20 ms from end to
end that is 6 MB/s, above the default cap; more would only make heartbeats wait behind bulk when the cap bites."""
BURST_S = 1.0
"""A rate is a mean: so many seconds of it may come at once, and small tasks are not slowed at all."""


class Bucket:
    """A rate of bytes as a debt: what is taken now may have to wait."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._left = rate * BURST_S
        self._at = now

    def take(self, now: float, nbytes: int) -> float:
        """Seconds until so many bytes may go on; 0 for a rate of 0, which bounds nothing."""
        if self._rate <= 0:
            return 0.0
        self._left = min(self._rate * BURST_S, self._left + max(0.0, now - self._at) * self._rate) - nbytes
        self._at = max(self._at, now)
        return max(0.0, -self._left / self._rate)


@dataclass(slots=True)
class _Entry:
    """One circuit that is carried here."""

    source: NodeId
    target: NodeId
    bucket: Bucket
    nbytes: int = 0
    in_flight: dict[NodeId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """Pass it on to this node, after so many seconds."""

    to: NodeId
    wait_s: float


class Ledger:
    """The circuits that this node carries for others; times are monotonic seconds."""

    def __init__(self, settings: Links, now: float) -> None:
        self._settings = settings
        self._entries: dict[str, _Entry] = {}
        self._total = Bucket(settings.relay_total_bytes_s, now)

    def __contains__(self, circuit: str) -> bool:
        return circuit in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, now: float, circuit: str, source: NodeId, target: NodeId) -> None:
        """Raises Refused, with the limit that is reached."""
        limits = self._settings
        if circuit in self._entries:
            raise Refused("a circuit of that name is open here")
        if len(self._entries) >= limits.relay_circuits_max:
            raise Refused(f"{len(self._entries)} circuits are open here, the limit of this relay")
        for node in (source, target):
            if len(self.of(node)) >= limits.relay_circuits_peer:
                text = f"{limits.relay_circuits_peer} circuits of node {node[:8]} are open here, the limit for one node"
                raise Refused(text)
        self._entries[circuit] = _Entry(source, target, Bucket(limits.relay_bytes_s, now))

    def carry(self, now: float, circuit: str, sender: NodeId, nbytes: int) -> Step:
        """A chunk came: where it goes, and when. Raises Refused, ProtocolError; after both the circuit must end."""
        entry = self._entries.get(circuit)
        if entry is None or not self.has(circuit, sender):
            raise Refused("no such circuit is open here")
        if not 0 < nbytes <= CHUNK_BYTES:
            raise ProtocolError(f"a chunk of {nbytes} bytes; 1 to {CHUNK_BYTES} are allowed")
        if entry.in_flight.get(sender, 0) >= WINDOW:
            raise ProtocolError(f"{WINDOW} chunks are unanswered, the limit of a circuit")
        if entry.nbytes + nbytes > self._settings.relay_circuit_bytes:
            raise Refused(f"the circuit has carried {entry.nbytes} bytes, the limit is near: open a new one")
        entry.nbytes += nbytes
        entry.in_flight[sender] = entry.in_flight.get(sender, 0) + 1
        wait_s = max(entry.bucket.take(now, nbytes), self._total.take(now, nbytes))
        return Step(entry.target if sender == entry.source else entry.source, wait_s)

    def carried(self, circuit: str, sender: NodeId) -> None:
        """The chunk was answered."""
        entry = self._entries.get(circuit)
        if entry is not None:
            entry.in_flight[sender] = max(0, entry.in_flight.get(sender, 0) - 1)

    def has(self, circuit: str, node: NodeId) -> bool:
        """Whether the circuit is carried here with this node at one end."""
        entry = self._entries.get(circuit)
        return entry is not None and node in (entry.source, entry.target)

    def of(self, node: NodeId) -> list[str]:
        """The circuits with this node at one end."""
        return [circuit for circuit in self._entries if self.has(circuit, node)]

    def circuits(self) -> list[str]:
        """All of them."""
        return list(self._entries)

    def close(self, circuit: str) -> tuple[NodeId, ...]:
        """Forget it; returns its two ends, nothing when it was not open."""
        entry = self._entries.pop(circuit, None)
        return () if entry is None else (entry.source, entry.target)
