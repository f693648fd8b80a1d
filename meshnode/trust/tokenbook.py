"""Which invites of this node are open, on disk: the judge of single use.

An invite is known by a keyed hash of its secret. What was burned is remembered for a while by its tag alone, so that
whoever holds the token can be told why it is not good any more. Every change is on disk before it counts, save that
wrong proofs burn an invite also when the disk is full.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack

from meshnode.errors import HomeError, InvalidInput
from meshnode.trust import invites
from meshnode.trust.files import move_aside, read_checked, write_checked
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

INVITES_MAX = 1000
CLOSED_MAX = 1000
WRONG_PROOFS_MAX = 5
LINGER_S = 600
"""The port stays so long after an invite was used, within its life: a second holder is told that it was used."""


@dataclass(slots=True)
class OpenInvite:
    """An invite that nobody has redeemed yet. `expires_at` is UTC seconds, `wrong` counts wrong proofs."""

    key: bytes
    roles: list[str]
    zones: list[str]
    expires_at: int
    wrong: int = 0


@dataclass(slots=True)
class _Closed:
    tag: bytes
    why: str
    at: int
    told_until: int


class TokenBook:
    """The invites of one node in one mesh. `port` is where its tokens say that they are redeemed."""

    def __init__(self, path: Path, node: NodeId) -> None:
        self.open: list[OpenInvite] = []
        self.port = 0
        self._path = path
        self._node = node
        self._mesh = ""
        self._closed: list[_Closed] = []

    def read(self, mesh_id: str, now: float) -> None:
        """Read what is on disk; invites to another mesh or by another key are nobody's. Raises HomeError."""
        self._mesh = mesh_id
        payload = read_checked(self._path)
        if payload is None:
            return
        try:
            stored = msgpack.unpackb(payload)
            if (stored["mesh"], stored["node"]) != (self._mesh, self._node):
                return
            opened = [OpenInvite(**row) for row in stored["open"]]
            closed = [_Closed(**row) for row in stored["closed"]]
            port = int(stored["port"])
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            log.warning("%s does not hold together (%s): moved to %s", self._path, error, move_aside(self._path).name)
            return
        self.open, self._closed, self.port = opened, closed, port
        self.forget_expired(now)

    def find(self, tag: bytes) -> OpenInvite | None:
        """The open invite of that tag."""
        return next((invite for invite in self.open if invites.tag(invite.key) == tag), None)

    def add(self, invite: OpenInvite) -> None:
        """Open an invite. Raises InvalidInput when there are too many, HomeError when it cannot be written."""
        if len(self.open) >= INVITES_MAX:
            raise InvalidInput(f"{INVITES_MAX} invites are open, the limit")
        self.open.append(invite)
        try:
            self._save()
        except HomeError:
            self.open.remove(invite)
            raise

    def burn(self, invite: OpenInvite, why: str, now: float) -> None:
        """Close an invite for good. Raises HomeError when that cannot be written; then it stays open."""
        self._close(invite, why, now)
        try:
            self._save()
        except HomeError:
            self._closed.pop()
            self.open.append(invite)
            raise

    def count_wrong(self, invite: OpenInvite, now: float) -> None:
        """Somebody who knows the invite's tag could not prove it; the fifth time burns it."""
        invite.wrong += 1
        if invite.wrong >= WRONG_PROOFS_MAX:
            self._close(invite, f"burned after {WRONG_PROOFS_MAX} wrong proofs", now)
        try:
            self._save()
        except HomeError as error:
            log.error("%s", error)

    def port_needed_until(self) -> float:
        """When the last token ends that anybody can be told something about; UTC seconds, 0 for never."""
        return max(
            [invite.expires_at for invite in self.open] + [row.told_until for row in self._closed[-100:]], default=0
        )

    def forget_expired(self, now: float) -> None:
        """Close what has run out."""
        for invite in [invite for invite in self.open if invite.expires_at <= now]:
            self._close(invite, "expired", invite.expires_at)

    def why_closed(self, tag: bytes, now: float) -> str:
        """What became of the invite of that tag, for whoever holds its token."""
        for row in self._closed:
            if row.tag == tag:
                return f"{row.why} {invites.ago(now - row.at)}"
        return "it is unknown here"

    def _close(self, invite: OpenInvite, why: str, at: float) -> None:
        self.open.remove(invite)
        row = _Closed(invites.tag(invite.key), why, int(at), min(invite.expires_at, int(at) + LINGER_S))
        self._closed = [*self._closed, row][-CLOSED_MAX:]

    def _save(self) -> None:
        stored = {
            "mesh": self._mesh,
            "node": self._node,
            "port": self.port,
            "open": [asdict(invite) for invite in self.open],
            "closed": [asdict(row) for row in self._closed],
        }
        write_checked(self._path, msgpack.packb(stored))
