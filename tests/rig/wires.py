"""What the wires of the rig do to each frame. A core: it is told the time, and what is random comes from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace

ANY = -1
"""Of a pair, any host."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What happens to frames from one host to another. Times in seconds, shares 0..1, rate in bits a second."""

    cut: bool = False
    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of frames that overtake the delay."""
    rate: float = 0.0
    """0 for no limit."""
    no_udp: bool = False
    no_multicast: bool = False
    """UDP to multicast groups; ARP and neighbour discovery pass."""
    no_dial: bool = False
    """TCP connections cannot be opened that way, as behind a NAT."""
    mtu: int = 0
    """Larger frames vanish without a word."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a frame is, as far as a policy cares."""

    udp: bool = False
    multicast: bool = False
    syn: bool = False


def kind_of(frame: bytes) -> Kind:
    """Look at an Ethernet frame."""
    ethertype = frame[12:14]
    if ethertype == b"\x08\x00" and len(frame) >= 34:
        protocol, at = frame[23], 14 + (frame[14] & 15) * 4
    elif ethertype == b"\x86\xdd" and len(frame) >= 54:
        protocol, at = frame[20], 54
    else:
        return Kind()
    if protocol == 17:
        return Kind(udp=True, multicast=bool(frame[0] & 1))
    if protocol == 6 and len(frame) > at + 13:
        return Kind(syn=frame[at + 13] & 0x12 == 0x02)
    return Kind()


@dataclass(slots=True)
class Wires:
    """The policies of all directed pairs. The most exact one that was set counts: (a, b), (a, any), (any, b), any."""

    seed: int
    rng: random.Random = field(init=False)
    passed: int = 0
    dropped: int = 0
    dials: int = 0
    """First packets of TCP connections, also those that were dropped."""
    _policies: dict[tuple[int, int], Policy] = field(default_factory=dict)
    _free_at: dict[tuple[int, int], float] = field(default_factory=dict)
    _last: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def set(self, sender: int, receiver: int, **changes: float) -> None:
        """Change what is named and keep the rest."""
        known = {f.name for f in fields(Policy)}
        if unknown := set(changes) - known:
            raise ValueError(f"no {min(unknown)!r}: there are {', '.join(sorted(known))}")
        self._policies[sender, receiver] = replace(self.policy(sender, receiver), **changes)  # type: ignore[arg-type]

    def heal(self) -> None:
        """All wires are whole again."""
        self._policies.clear()

    def policy(self, sender: int, receiver: int) -> Policy:
        """What counts for a pair."""
        for pair in ((sender, receiver), (sender, ANY), (ANY, receiver), (ANY, ANY)):
            if pair in self._policies:
                return self._policies[pair]
        return Policy()

    def carry(self, now: float, sender: int, receiver: int, frame: bytes) -> list[float]:
        """When copies of the frame arrive; empty when it is lost."""
        policy, rng = self.policy(sender, receiver), self.rng
        self.dials += kind_of(frame).syn
        if not self._passes(policy, frame):
            self.dropped += 1
            return []
        self.passed += 1
        begins = now
        if policy.rate:
            begins = max(now, self._free_at.get((sender, receiver), 0.0))
            self._free_at[sender, receiver] = begins + len(frame) * 8 / policy.rate
        times = []
        for _ in range(2 if policy.duplicate and rng.random() < policy.duplicate else 1):
            at = begins + max(0.0, policy.delay + rng.uniform(-policy.jitter, policy.jitter))
            if policy.reorder and rng.random() < policy.reorder:
                at = begins
            else:  # what varies is how long the wire takes; what was sent first still arrives first
                at = self._last[sender, receiver] = max(at, self._last.get((sender, receiver), at))
            times.append(at)
        return times

    def _passes(self, policy: Policy, frame: bytes) -> bool:
        if policy.cut or (policy.mtu and len(frame) > policy.mtu + 14):
            return False
        if policy.loss and self.rng.random() < policy.loss:
            return False
        if policy.no_udp or policy.no_multicast or policy.no_dial:
            kind = kind_of(frame)
            blocked = (policy.no_udp and kind.udp) or (policy.no_multicast and kind.multicast)
            return not (blocked or (policy.no_dial and kind.syn))
        return True
