"""Who is alive: SWIM with Lifeguard and a few rules more, as a core.

One member is probed each interval, in a shuffled round. No ack in time: three helpers ping it (ping-req) and its link
is tried beside them. Nothing from any: it is suspected, told so first, and declared dead only when the suspicion is
not refuted in a time that shrinks with independent confirmations. News rides on the probes and on gossip rounds;
tables that differ are evened out over links. The local health score stretches our own probing when the evidence says
that we are the slow one. `rules` says what goes beyond the papers.

Das, Gupta, Motivala: SWIM (DSN 2002); Dadgar, Phillips, Currey: Lifeguard (arXiv 1707.00788). Times are monotonic
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import assert_never

from meshnode.config import Membership as Settings
from meshnode.membership.entropy import Told
from meshnode.membership.events import (
    Advertised,
    Broken,
    Changed,
    Effect,
    Event,
    Evicted,
    Isolated,
    Leaving,
    Merged,
    PingStream,
    Received,
    Send,
    StreamAnswered,
    StreamsHeard,
    Sync,
    Woke,
)
from meshnode.membership.health import DEAF_ISOLATED, Ears, Health
from meshnode.membership.ledger import Ledger
from meshnode.membership.oneself import Oneself
from meshnode.membership.pace import BULK, RETRIES_MAX, Pace, Reminders
from meshnode.membership.probe import Probe, Relay, Relays, Turns
from meshnode.membership.roster import IdText, Roster, raw_id
from meshnode.membership.rules import OURS, Rules
from meshnode.membership.updates import Ack, AnyPacket, AnyUpdate, Gossip, Nack, Ping, PingReq, Verify
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

PACKET_OVERHEAD_BYTES = 39 + 64
"""The seal, and a packet's own fields."""
BROKEN_SUSPICION = 0.4
"""A suspicion backed by a connection that was actively refused lasts this share of the shortest one."""
GOSSIP_DEAD_S = 30.0
NACK_AT = 0.6
LAG_S, WAKE_S = 0.25, 3.0
"""A timer so late is evidence against ourselves; one so late means that this process did not run."""
BLIND_S = 10.0
"""After waking nobody is accused before views were evened out with someone, or for so long."""
SKIPS_MAX = 16
SMALL, SMALL_SHARE = 32, 0.75


class Swim:
    """The failure detector of one node."""

    def __init__(
        self,
        oneself: Oneself,
        *,
        settings: Settings,
        rng: Rng,
        verify: Verify,
        id_text: IdText,
        now: float,
        rules: Rules = OURS,
        admitted: Callable[[NodeId], bool] = lambda _: True,
    ) -> None:
        self.oneself = oneself
        self.health = Health(heard_at=now)
        self._ears = Ears()
        self.ledger = Ledger(
            oneself,
            Roster(verify, id_text, admitted),
            settings,
            rules,
            heard=self._ears.heard_at,
            refuted=lambda: self._ail(1),
        )
        self.roster = self.ledger.roster
        self.me = self.ledger.me
        self._settings = settings
        self._rules = rules
        self._rng = rng
        self._seqs = count(rng.randrange(2**30))
        self._turns = Turns(self.me)
        self._probe: Probe | None = None
        self._relays = Relays()
        self._reminders = Reminders()
        self._blind_until = -math.inf
        self._leaving = False
        self._probe_at = now + rng.uniform(0, settings.probe_interval_s)
        self._gossip_at = now
        self._pace = Pace(settings, rng, now)
        self._deadline = self._plan()

    # --- the one shape ---

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event."""
        return self._deadline

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline."""
        effects: list[Effect] = []
        if not isinstance(event, Woke):
            self._notice_lag(now, effects)
        match event:
            case None:
                pass
            case Received(sender, packet):
                self._received(now, sender, packet, effects)
            case Merged(told):
                self._merged(now, told, effects)
            case StreamAnswered(peer):
                self._stream_answered(now, peer, effects)
            case StreamsHeard(peers):
                for peer in peers:
                    self._heard(peer, now, effects, on_link=True)
            case Broken(peer, refused):
                self._broken(now, peer, refused, effects)
            case Advertised(version):
                self.oneself.advert = version
                self.ledger.say_alive(effects)
            case Woke():
                self._woke(now, effects)
            case Leaving(reason):
                self._leave(reason, effects)
            case Evicted(peer):
                self.ledger.evict(now, peer, effects)
            case _:
                assert_never(event)
        if not self._leaving:
            self._time(now, effects)
        for effect in effects:
            if isinstance(effect, Changed) and effect.row.id != self.me:
                self._pace.stirred(now)
                if effect.row.living and effect.before not in ("alive", "suspect"):
                    self._turns.add(effect.row.id, self._rng)
        self._deadline = self._plan()
        return effects

    # --- time ---

    def _plan(self) -> float | None:
        if self._leaving:
            return None
        soonest = min(self._probe_at, self._pace.next(), self._relays.next())
        if self._probe is not None:
            soonest = min(soonest, self._probe.next())
        if self.ledger.news:
            soonest = min(soonest, self._gossip_at)
        return min(soonest, max(self.ledger.next(), self._blind_until))

    def _time(self, now: float, effects: list[Effect]) -> None:
        silent = self._relays.silent(now)
        effects.extend(Send(relay.asker, Nack(relay.asker_seq, self._take(relay.asker))) for relay in silent)
        self.ledger.ring(now, effects, blind=now < self._blind_until)
        probe = self._probe
        if probe is not None and not probe.repeated and probe.again_at <= now:
            probe.repeated = True
            effects.append(self._ping(probe))
        if probe is not None and not probe.asked and probe.indirect_at <= now:
            self._ask_helpers(probe, effects)
        if probe is not None and probe.ends <= now:
            self._probe = None
            self._failed(now, probe, effects)
        if self._probe_at <= now:
            self._begin_probe(now, effects)
        if self.ledger.news and self._gossip_at <= now:
            self._gossip(now, effects)
        if self._pace.evens_out(now, self.roster.living, len(self.ledger.news)):
            effects.extend(Sync(peer) for peer in self._others(1))
        if self._pace.retries(now):
            self._try_the_dead(now, effects)

    def _begin_probe(self, now: float, effects: list[Effect]) -> None:
        settings, patience = self._settings, float(self.health.score + 1)
        if self._rules.small_faster and self.roster.living <= SMALL:
            patience *= SMALL_SHARE
        period_s = settings.probe_interval_s * patience
        self._probe_at = now + period_s
        target = self._next_target(now)
        if target is None or self._probe is not None:
            return
        timeout_s = min(settings.probe_timeout_s * patience, period_s * 0.95)
        self._probe = Probe(target, next(self._seqs), now, now + timeout_s / 2, now + timeout_s, now + period_s * 0.95)
        self._probe.repeated = not self._rules.repeat_ping
        effects.append(self._ping(self._probe))

    def _ping(self, probe: Probe) -> Send:
        return Send(probe.target, Ping(probe.seq, self._take(probe.target), self.ledger.view))

    def _next_target(self, now: float) -> NodeId | None:
        """Whose turn it is, of those that were not just heard on their links."""
        for _ in range(SKIPS_MAX):
            target = self._turns.next(self.roster, self._rng)
            if target is None:
                return None
            fresh = now - self._ears.on_link_at(target) < self._settings.probe_interval_s
            if not (fresh and self._rules.streams_probe):
                return target
        return None

    def _ask_helpers(self, probe: Probe, effects: list[Effect]) -> None:
        probe.asked = True
        if self._rules.repeat_ping:
            effects.append(self._ping(probe))
        helpers = self.roster.sample(
            self._rng,
            self._settings.indirect_probes,
            lambda row: row.state == "alive" and row.id not in (self.me, probe.target),
        )
        probe.helpers = len(helpers)
        row = self.roster.get(probe.target)
        if row is None:
            return
        left_ms = max(1, int((probe.ends - probe.indirect_at) * 1000))
        for helper in helpers:
            request = PingReq(probe.seq, raw_id(row.key), min(left_ms, 60_000), self._take(helper, 40))
            effects.append(Send(helper, request))
        if self._rules.stream_ping:
            effects.append(PingStream(probe.target, row.against))

    def _failed(self, now: float, probe: Probe, effects: list[Effect]) -> None:
        # Helpers that say neither ack nor nack are evidence against our own network or speed.
        self._ail(max(0, probe.helpers - probe.nacks))
        if self._rules.deaf and self.roster.living > 2 and self.health.deaf_since(probe.began):
            self._ail(1)
            self.ledger.suspicions.hold(probe.ends - probe.began)
            if self.health.deaf == DEAF_ISOLATED:
                effects.append(Isolated(now=True))
            return
        row = self.roster.get(probe.target)
        spoke = self._rules.first_hand and self._ears.heard_at(probe.target) >= probe.began
        if row is not None and row.living and not spoke and now >= self._blind_until:
            # Of a node that others suspect already this is a confirmation, which shortens the suspicion.
            self.ledger.accuse(now, row, effects)

    def _gossip(self, now: float, effects: list[Effect]) -> None:
        self._gossip_at = now + self._settings.gossip_interval_s
        peers = self.roster.sample(
            self._rng,
            self._settings.gossip_fanout,
            lambda row: row.id != self.me and (row.living or self.ledger.died_lately(row.id, now, GOSSIP_DEAD_S)),
        )
        for peer in peers:
            told = self._take(peer)
            if told:
                effects.append(Send(peer, Gossip(told)))

    def _try_the_dead(self, now: float, effects: list[Effect]) -> None:
        """A verdict never forbids a dial: each of the dead is tried, by about one node of the whole mesh each time."""
        dead = [row.id for row in self.roster if row.state == "dead"]
        chance = 1 / max(1, self.roster.living)  # serf's rule: the load does not grow with the mesh
        tried = [node for node in dead if self._rng.random() < chance]
        effects.extend(Sync(node) for node in self._rng.sample(tried, min(RETRIES_MAX, len(tried))))
        self._ears.prune(now)

    # --- what speaks against this node itself ---

    def _notice_lag(self, now: float, effects: list[Effect]) -> None:
        """Time in which this process did not run says nothing about others."""
        if not self._rules.lag or self._deadline is None:
            return
        late_s = now - self._deadline
        if late_s > WAKE_S:
            self._woke(now, effects)
        elif late_s > LAG_S:
            self._ail(1)
            self.ledger.suspicions.hold(late_s)
            if self._probe is not None:
                self._probe.began += late_s
                self._probe.again_at += late_s
                self._probe.indirect_at += late_s
                self._probe.ends += late_s

    def _woke(self, now: float, effects: list[Effect]) -> None:
        """This machine slept: accuse nobody before hearing how things are, and be newer than what was said of us."""
        self._probe = None
        self._probe_at = now
        self._blind_until = now + BLIND_S
        self.health.heard(now)
        self.ledger.suspicions.begin_again(now)
        self.oneself.anew()
        self.ledger.say_alive(effects)
        effects.extend(Sync(peer) for peer in self._others(3))

    def _ail(self, change: int) -> None:
        if self._rules.health:
            self.health.ail(change)

    # --- what is heard ---

    def _heard(self, peer: NodeId, now: float, effects: list[Effect], *, on_link: bool = False) -> None:
        self._ears.hear(peer, now, on_link=on_link)
        if self.health.heard(now):
            effects.append(Isolated(now=False))

    def _received(self, now: float, sender: NodeId, packet: AnyPacket, effects: list[Effect]) -> None:
        self._heard(sender, now, effects)
        for update in packet.updates:
            self.ledger.learn(now, update, effects, sender=sender)
        match packet:
            case Ping(seq, _, view):
                effects.append(Send(sender, Ack(seq, self._take(sender), self.ledger.view)))
                self._remind(now, sender, effects)
                self._compare(now, sender, view, effects)
            case Ack(seq, _, view):
                relay = self._relays.answered(seq)
                if relay is not None:
                    effects.append(Send(relay.asker, Ack(relay.asker_seq, self._take(relay.asker))))
                elif self._probe is not None and self._probe.seq == seq:
                    self._answered(self._probe.target)
                    self._compare(now, sender, view, effects)
            case PingReq(seq, target, timeout_ms):
                self._help(now, sender, self.roster.id_text(target), seq, timeout_ms / 1000, effects)
            case Nack(seq):
                if self._probe is not None and self._probe.seq == seq:
                    self._probe.nacks += 1
            case Gossip():
                pass
            case _:
                assert_never(packet)

    def _help(
        self, now: float, asker: NodeId, node: NodeId, asker_seq: int, within_s: float, effects: list[Effect]
    ) -> None:
        """Ping a node for another."""
        if self.roster.get(node) is not None and node != self.me:
            seq = next(self._seqs)
            if self._relays.ask(seq, Relay(asker, asker_seq, now + NACK_AT * within_s)):
                effects.append(Send(node, Ping(seq, self._take(node))))

    def _remind(self, now: float, sender: NodeId, effects: list[Effect]) -> None:
        """Whoever is held suspect or dead here and speaks, is told so, and can refute."""
        row = self.roster.get(sender)
        if row is not None and row.against is not None and self._reminders.may(sender, now):
            effects.append(Send(sender, Gossip((row.against,))))

    def _compare(self, now: float, sender: NodeId, view: int, effects: list[Effect]) -> None:
        """Neither side has news, and the tables differ: even them out."""
        differ = view and not self.ledger.news and view != self.roster.root
        if differ and self._pace.differs(now):
            effects.append(Sync(sender))

    def _answered(self, peer: NodeId) -> None:
        if self._probe is not None and self._probe.target == peer:
            self._probe = None
            self._ail(-1)

    def _stream_answered(self, now: float, peer: NodeId, effects: list[Effect]) -> None:
        self._heard(peer, now, effects)
        self._answered(peer)
        row = self.roster.get(peer)
        suspected = row is not None and row.state == "suspect" and self._rules.tell_suspect
        if row is not None and suspected and self._reminders.may(peer, now):
            effects.append(PingStream(peer, row.against))  # it did not know yet; its answer will refute

    def _broken(self, now: float, peer: NodeId, refused: bool, effects: list[Effect]) -> None:
        row = self.roster.get(peer)
        if row is None or not row.living or peer == self.me:
            return
        if refused:
            if row.state == "alive":
                self.ledger.accuse(now, row, effects)
            self.ledger.suspicions.shorten(peer, BROKEN_SUSPICION)
        elif self._probe is None:
            self._turns.at_once(peer)
            self._ears.broken(peer)
            self._probe_at = now

    def _merged(self, now: float, told: tuple[Told, ...], effects: list[Effect]) -> None:
        """What came over a link; when it is much, it is not told on: others even out their tables themselves."""
        tell = len(told) <= BULK
        for item in told:
            self.ledger.learn(now, item.update, effects, over_link=True, age_s=item.age_s, tell=tell)
        self._blind_until = -math.inf

    def _leave(self, reason: str, effects: list[Effect]) -> None:
        self._leaving = True
        goodbye = self.ledger.leave(reason[:32], effects)
        effects.extend(Send(peer, Gossip((goodbye,))) for peer in self._others(64))

    def _others(self, k: int) -> list[NodeId]:
        return self.roster.sample(self._rng, k, lambda row: row.living and row.id != self.me)

    def _take(self, peer: NodeId, reserve: int = 0) -> tuple[AnyUpdate, ...]:
        return self.ledger.take(peer, self._settings.datagram_bytes - PACKET_OVERHEAD_BYTES - reserve)
