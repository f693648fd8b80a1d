"""What changed in the mesh, as seen from here: the last thousand changes, each with a number and a reason.

Changes are found by comparing two views; nothing has to report them, but what only a task can show. A name or a number
of milliseconds is no event, a node that comes, goes, is doubted, pauses, or is reached in another way, is one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshnode.errors import Refused
from meshnode.membership.view import Member
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

KEPT = 1000
PROGRAMS_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a node makes an event when it changes."""

    name: str
    state: str
    usable: bool
    path: str
    reason: str
    paused: str
    draining: bool

    @classmethod
    def of(cls, member: Member) -> Seen:
        """From the view."""
        advert = member.advert
        paused, draining = (advert.paused, advert.draining) if advert is not None else ("", False)
        return cls(member.name, member.state, member.usable, member.path, member.reason, paused, draining)


def differences(before: Seen | None, now: Seen) -> list[tuple[str, str]]:
    """(event, why) for each thing that changed with a node."""
    found: list[tuple[str, str]] = []
    if before is None:
        return [("found" if now.state == "alive" else now.state, now.reason)]
    if now.state != before.state:
        back = now.state == "alive" and before.state in ("dead", "left")
        found.append(("back" if back else now.state, now.reason))
    elif now.state == "alive" and now.usable != before.usable:
        found.append(("usable" if now.usable else "not used", now.reason))
    if now.paused != before.paused:
        found.append(("paused", now.paused) if now.paused else ("resumed", ""))
    if now.draining and not before.draining:
        found.append(("draining", ""))
    if now.path != before.path and "none" not in (now.path, before.path):
        found.append(("path", f"{before.path} before, now {now.path}"))
    return found


@dataclass(slots=True)
class Events:
    """The last changes. `clock` gives seconds since 1970."""

    me: NodeId
    clock: Callable[[], float] = time.time
    _seen: dict[NodeId, Seen] = field(default_factory=dict)
    _kept: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _number: int = 0
    _programs_at: float = float("-inf")
    _quarantined: dict[NodeId, tuple[str, str]] = field(default_factory=dict)

    def look(self, view: Sequence[Member]) -> None:
        """The view is another one."""
        for member in view:
            if member.id == self.me:
                continue
            now = Seen.of(member)
            for event, why in differences(self._seen.get(member.id), now):
                self.note(event, member.id, now.name, why)
            self._seen[member.id] = now
        for gone in self._seen.keys() - {member.id for member in view}:
            del self._seen[gone]

    def quarantines(self, now: dict[NodeId, tuple[str, str]]) -> None:
        """Who is in quarantine at this moment: name, and why."""
        before, self._quarantined = self._quarantined, now
        for node, (name, why) in now.items():
            if node not in before:
                log.warning("%s (%s) is in quarantine: %s", name, node[:8], why)
                self.note("quarantined", node, name, why)
        for node, (name, _) in before.items():
            if node not in now:
                self.note("out of quarantine", node, name, "")

    def note(self, event: str, node: NodeId, name: str, why: str) -> None:
        """Something happened with a node."""
        self._number += 1
        self._kept.append(
            {"number": self._number, "at": self.clock(), "event": event, "node": node, "name": name, "why": why}
        )

    def note_of_program(self, event: str, name: str, why: str) -> None:
        """A program of the user says that something happened. Raises Refused when programs say too much.

        What the mesh says itself must not be driven out by it.
        """
        if self.clock() - self._programs_at < PROGRAMS_EVERY_S:
            raise Refused("programs note more than is kept", retry_after_s=PROGRAMS_EVERY_S)
        self._programs_at = self.clock()
        self.note(event, self.me, name, why)

    def after(self, number: int) -> list[dict[str, Any]]:
        """Those after a number, oldest first."""
        return [event for event in self._kept if event["number"] > number]
