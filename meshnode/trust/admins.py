"""Who is admin, given what admins said about admins: votes to add and to remove a key, counted without any order.

Each `admin_add` and `admin_remove` is the vote of its issuer; the genesis says how many it takes (`quorum`, one unless
it says otherwise). Pure: the same votes give the same admins whatever came first, and there is no clock to trust, for
who holds a stolen key can date what it says as it likes. So it is not time that decides between two who remove each
other but age: the older admin's votes are counted first. What a removed admin had said goes on counting only where
those who removed it named it (`kept`); what a thief signs later is in no such list. There are never fewer admins than
the quorum: a removal that would leave fewer does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshnode.trust.form import KEPT_BYTES, Statement
from meshnode.wire.messages import NodeId

Usable = Callable[[Statement], bool]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A vote that is not decided yet: to add a key, or to remove one."""

    adds: bool
    key: bytes
    root: bytes
    node: str
    voters: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Admins:
    """The outcome. `live` and `former` map public keys to certificates, both DER, the oldest first."""

    live: Mapping[bytes, bytes] = field(default_factory=dict)
    former: Mapping[bytes, bytes] = field(default_factory=dict)
    kept: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)
    """Beginnings of the ids of what a former admin said and still counts, by its key."""
    quorum: int = 1
    proposed: tuple[Proposal, ...] = ()

    def counts(self, statement: Statement) -> bool:
        """Whether an admin's authority stands behind it: a live one's, or a former one's whose word was kept."""
        if statement.issuer in self.live:
            return True
        return statement.issuer in self.former and statement.id[:KEPT_BYTES] in self.kept[statement.issuer]


def add_body(key: bytes, root: bytes, node: NodeId) -> dict[str, Any]:
    """A vote for one more admin: public key and certificate, DER, and the node where the key is."""
    return {"key": key, "root": root, "node": node}


def remove_bodies(key: bytes, said: Iterable[Statement]) -> list[dict[str, Any]]:
    """Votes against a key, together keeping what of its word `said` is: as many as it takes, one at least."""
    ids = sorted(it.id[:KEPT_BYTES] for it in said)
    parts = [ids[i : i + KEPT_EACH] for i in range(0, len(ids), KEPT_EACH)] or [[]]
    return [{"key": key, "kept": b"".join(part)} for part in parts]


KEPT_EACH = 240
"""Ids in one vote: what fits into a body of the usual size."""


def derive(genesis: Statement, added: Sequence[Statement], removed: Sequence[Statement]) -> Admins:
    """Count the votes, each kind by (time, id)."""
    return _Count(genesis, added, removed).outcome()


class _Count:
    def __init__(self, genesis: Statement, added: Sequence[Statement], removed: Sequence[Statement]) -> None:
        self.first: dict[bytes, bytes] = dict(genesis.body["admins"])
        self.need: int = genesis.body.get("quorum", 1)
        self.added, self.removed = added, removed
        self.out: set[bytes] = set()
        self._kept: dict[bytes, frozenset[bytes]] = {}

    def outcome(self) -> Admins:
        tally = self._remove() if self.removed else {}
        ever = self._ever()
        live = {key: root for key, root in ever.items() if key not in self.out}
        former = {key: root for key, root in ever.items() if key in self.out}
        kept = {key: self._kept_of(key) for key in former}
        return Admins(live, former, kept, self.need, tuple(self._proposed(ever, live, tally)))

    def _remove(self) -> dict[bytes, dict[bytes, None]]:
        """Put out whom the votes put out; who voted against whom."""
        for key in self._ever():
            if any(it.issuer == key == it.body["key"] for it in self.removed):
                self._put_out(key)  # who gives up its own office can change nothing any more, however old it is
        tally: dict[bytes, dict[bytes, None]] = {}
        counted: set[bytes] = set()
        while (voter := next((key for key in self._ever() if key not in counted), None)) is not None:
            counted.add(voter)
            for it in self.removed:
                if it.issuer != voter or (voter in self.out and it.id[:KEPT_BYTES] not in self._kept_of(voter)):
                    continue
                target = it.body["key"]
                votes = tally.setdefault(target, {})
                votes[voter] = None
                if len(votes) >= self.need and target not in self.out:
                    self._put_out(target)
        return tally

    def _put_out(self, key: bytes) -> None:
        self.out.add(key)
        if sum(other not in self.out for other in self._ever()) < self.need:
            self.out.discard(key)

    def _ever(self) -> dict[bytes, bytes]:
        """Who was made admin by votes that count, the oldest first."""
        return self._grown(
            self.first, lambda it: it.issuer not in self.out or it.id[:KEPT_BYTES] in self._kept_of(it.issuer)
        )

    def _grown(self, first: Mapping[bytes, bytes], usable: Usable) -> dict[bytes, bytes]:
        ever = dict(first)
        grew = True
        while grew:
            grew = False
            votes: dict[tuple[bytes, bytes], set[bytes]] = {}
            for it in self.added:
                key, root = it.body["key"], it.body["root"]
                if it.issuer not in ever or key in ever or not usable(it):
                    continue
                voters = votes.setdefault((key, root), set())
                voters.add(it.issuer)
                if len(voters) >= self.need:
                    ever[key] = root
                    grew = True
        return ever

    def _kept_of(self, key: bytes) -> frozenset[bytes]:
        """What is kept of the word of a key, by those whose office does not come from it.

        When everybody's does, as where the founder is removed by the admin that it added, by all of them.
        """
        if key not in self._kept:
            others = {other: root for other, root in self.first.items() if other != key}
            trusted = self._grown(others, lambda it: it.issuer != key) or self._grown(self.first, lambda _: True)
            kept: set[bytes] = set()
            for it in self.removed:
                if it.body["key"] != key or it.issuer == key or it.issuer not in trusted:
                    continue
                ids: bytes | None = it.body.get("kept")
                if ids is None:  # of a version that kept whom it had added, and nothing else
                    kept.update(vote.id[:KEPT_BYTES] for vote in self.added if vote.issuer == key)
                else:
                    kept.update(ids[i : i + KEPT_BYTES] for i in range(0, len(ids), KEPT_BYTES))
            self._kept[key] = frozenset(kept)
        return self._kept[key]

    def _proposed(
        self, ever: Mapping[bytes, bytes], live: Mapping[bytes, bytes], tally: Mapping[bytes, Mapping[bytes, None]]
    ) -> Iterable[Proposal]:
        adds: dict[tuple[bytes, bytes], tuple[str, dict[bytes, None]]] = {}
        for it in self.added:
            key, root = it.body["key"], it.body["root"]
            if key not in ever and it.issuer in live:
                node = it.body.get("node")
                adds.setdefault((key, root), (node if isinstance(node, str) else "", {}))[1][it.issuer] = None
        for (key, root), (node, voters) in adds.items():
            yield Proposal(True, key, root, node, tuple(voters))
        for key, against in tally.items():
            if key in live and (voters_now := tuple(voter for voter in against if voter in live)):
                yield Proposal(False, key, live[key], "", voters_now)
