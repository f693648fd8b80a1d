"""What is known of each node for one kind of task: membership, catalog and beliefs as the policy's facts.

Facts are kept as long as they hold: a decision among a hundred nodes must not begin with a hundred new objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.errors import NoNodeInZone
from meshnode.links.link import Link
from meshnode.membership.view import Member
from meshnode.routing.estimates import Belief, Estimates
from meshnode.routing.facts import SERVICE_PRIOR_S, PeerFacts
from meshnode.tasks.wanted import Wanted
from meshnode.trust.zones import in_zone, inside
from meshnode.wire.messages import Digest, NodeId

REFRESH_S = 0.5
"""Round trips and the like are read anew so often."""
KINDS_MAX = 64
FORGET_S = 10.0
"""What was not asked for so long is dropped when something new is: it keeps adverts that nobody else does."""

Kind = tuple[Digest, tuple[str, ...], tuple[str, ...], str]


@dataclass(slots=True)
class _Kept:
    facts: PeerFacts
    member: Member
    revision: int
    until: float


@dataclass(slots=True)
class _Peers:
    asked: float = 0.0
    kept: dict[NodeId, _Kept] = field(default_factory=dict)


@dataclass(slots=True)
class Knowing:
    """See the module's docstring.

    Args:
        view: the members; the same tuple until something changes.
        linked: the live link to a peer, when there is one.
        may_work: whether a node's grant has the role `worker`.
        zone_of: the zone that a node's grant names, "" when it names none. A node's own word does not count.
    """

    self_id: NodeId
    estimates: Estimates
    view: Callable[[], tuple[Member, ...]]
    linked: Callable[[NodeId], Link | None]
    may_work: Callable[[NodeId], bool]
    zone_of: Callable[[NodeId], str]
    _kinds: dict[Kind, _Peers] = field(default_factory=dict)

    def peers(self, wanted: Wanted, now: float) -> list[PeerFacts]:
        """All members, this node too.

        Those that left or were thrown out are none, though membership remembers them for a day: every decision would
        name each of them, and the decisions of 512 tasks are kept.
        """
        kind = (wanted.manifest.digest, wanted.zones, wanted.beyond, wanted.provider)
        known = self._kinds.get(kind)
        if known is None:
            recent = [(old, it) for old, it in self._kinds.items() if it.asked > now - FORGET_S]
            self._kinds = dict(recent[1 - KINDS_MAX :])
            known = self._kinds[kind] = _Peers()
        known.asked, kept = now, known.kept
        everyone = self.view()
        view = [member for member in everyone if member.state != "left"]
        if len(kept) > len(view):
            kept.clear()
        found = []
        for member in view:
            it = kept.get(member.id)
            if (
                it is None
                or it.member is not member
                or it.until < now
                or it.revision != self.estimates.of(member.id).revision
            ):
                it = kept[member.id] = self._keep(member, wanted, now)
            found.append(it.facts)
        if self.estimates.known > len(everyone):  # some are of nodes that are gone; who left may come back as it was
            self.estimates.keep(member.id for member in everyone)
        return found

    def name(self, node: NodeId) -> str:
        """What people call a node."""
        return next((member.name for member in self.view() if member.id == node), node[:8])

    def check_way(self, link: Link, wanted: Wanted) -> None:
        """Raises NoNodeInZone when what is bound to a zone would go through a member outside of it."""
        if link.via is not None and (left := self._left(link, wanted)):
            raise NoNodeInZone(
                f"{link.peer.name} is reached only through {link.via.name}, which is not in zone {left!r}"
            )

    def _left(self, link: Link | None, wanted: Wanted) -> str:
        """The zone that the way to a peer leaves, or ""."""
        if link is None or link.via is None:
            return ""
        relay = self.zone_of(link.via.id)
        return next((zone for zone in wanted.way if not in_zone(relay, zone)), "")

    def _keep(self, member: Member, wanted: Wanted, now: float) -> _Kept:
        belief = self.estimates.of(member.id)
        facts = self._facts(member, belief, wanted, now)
        passing = facts.suspect or facts.ejected or facts.backlog_s or facts.shortfall_s
        return _Kept(facts, member, belief.revision, now if passing else now + REFRESH_S)

    def _facts(self, member: Member, belief: Belief, wanted: Wanted, now: float) -> PeerFacts:
        advert = member.advert
        is_self = member.id == self.self_id
        if advert is None:
            return PeerFacts(member.id, is_self=is_self, alive=False)
        digest = wanted.manifest.digest
        held = next((model for model in advert.models if model.digest == digest), None)
        advertised_s = held.service_s if held is not None else None
        known_s = belief.service_s.get(digest, advertised_s)
        link = None if is_self else self.linked(member.id)
        return PeerFacts(
            member.id,
            is_self=is_self,
            alive=is_self or member.usable,
            suspect=belief.suspect_until > now,
            draining=advert.draining,
            paused=advert.paused,
            worker=self.may_work(member.id),
            in_zone=not wanted.zones or inside(self.zone_of(member.id), wanted.zones),
            way_leaves=self._left(link, wanted),
            can_run=bool(advert.providers),
            provides=not wanted.provider or wanted.provider in advert.providers,
            loaded=held is not None and held.loaded,
            on_disk=held is not None,
            battery=advert.power.source == "battery",
            battery_percent=advert.power.percent,
            slots=advert.slots,
            service_s=SERVICE_PRIOR_S if known_s is None else known_s,
            claimed_s=advertised_s,
            rtt_s=0.0 if is_self else link.heartbeat.least_rtt_s if link is not None else None,
            bytes_s=belief.bytes_s,
            backlog_s=self.estimates.backlog_s(member.id, now),
            weight=1.0 if is_self else self.estimates.weight(member.id, now - member.since),
            shortfall_s=self.estimates.shortfall_s(member.id),
            ejected=self.estimates.ejected(member.id, now),
            distrusted=self.estimates.distrusted(member.id, now),
            correction=belief.correction,
        )
