"""Who is alive: SWIM with Lifeguard, as a core.

One member is probed each interval, in a shuffled round. No ack in time: three helpers ping it (ping-req) and the link
is tried beside them. Nothing from any: it is suspected, told so first, and declared dead only when the suspicion is
not refuted in a time that shrinks with independent confirmations. News rides on the probes and on gossip rounds. The
local health score stretches our own probing when the evidence says that we are the slow one.

Das, Gupta, Motivala: SWIM (DSN 2002); Dadgar, Phillips, Currey: Lifeguard (arXiv 1707.00788). Times are monotonic
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from meshnode.config import Membership as Settings
from meshnode.membership import updates
from meshnode.membership.dissemination import News
from meshnode.membership.events import (
    Advertised,
    Broken,
    Changed,
    Effect,
    Event,
    Leaving,
    Merged,
    PingStream,
    Received,
    Send,
    StreamAnswered,
)
from meshnode.membership.probe import Probe, Relay
from meshnode.membership.roster import IdText, Roster, Row, raw_id
from meshnode.membership.suspicion import CONFIRMATIONS, Suspicion, shortest_s
from meshnode.membership.updates import (
    Ack,
    Alive,
    AnyPacket,
    AnyUpdate,
    Gossip,
    Left,
    Nack,
    Ping,
    PingReq,
    Sign,
    Suspect,
    Verify,
)
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

PACKET_OVERHEAD_BYTES = 39 + 64
"""The seal, and a packet's own fields."""
HEALTH_MAX = 8
BROKEN_SUSPICION = 0.4
"""A suspicion backed by a connection that was actively refused lasts this share of the shortest one."""
GOSSIP_DEAD_S = 30.0
NACK_AT = 0.6


class Swim:
    """The failure detector of one node."""

    def __init__(
        self,
        key: bytes,
        gen: int,
        *,
        settings: Settings,
        rng: Rng,
        sign: Sign,
        verify: Verify,
        id_text: IdText,
        now: float,
    ) -> None:
        self.me = id_text(raw_id(key))
        self.roster = Roster(verify, id_text)
        self.health = 0
        self._raw_me = raw_id(key)
        self._key = key
        self._sign = sign
        self._settings = settings
        self._rng = rng
        self._gen = gen
        self._inc = 0
        self._advert = 0
        self._seq = rng.randrange(2**31)
        self._news = News(settings.retransmit_mult)
        self._round: list[NodeId] = []
        self._probe: Probe | None = None
        self._probe_at = now + rng.uniform(0, settings.probe_interval_s)
        self._gossip_at = now
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._relays: dict[int, Relay] = {}
        self._died: dict[NodeId, float] = {}
        self._leaving = False
        self.roster.put(self._own_row())

    # --- the one shape ---

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event."""
        times = [self._probe_at]
        if self._probe is not None:
            times.append(self._probe.ends if self._probe.asked else self._probe.indirect_at)
        if len(self._news):
            times.append(self._gossip_at)
        times.extend(suspicion.ends() for suspicion in self._suspicions.values())
        times.extend(relay.nack_at for relay in self._relays.values())
        return None if self._leaving else min(times)

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline."""
        effects: list[Effect] = []
        match event:
            case None:
                pass
            case Received(sender, packet):
                self._received(now, sender, packet, effects)
            case Merged(news):
                self._learn(now, news, effects)
            case StreamAnswered(peer):
                self._answered(peer)
            case Broken(peer, refused):
                self._broken(now, peer, refused, effects)
            case Advertised(version):
                self._advert = version
                self._say_alive(effects)
            case Leaving(reason):
                self._leave(reason, effects)
            case _:
                assert_never(event)
        if not self._leaving:
            self._time(now, effects)
        return effects

    @property
    def version(self) -> tuple[int, int]:
        """(gen, inc) of this node."""
        return (self._gen, self._inc)

    @property
    def word(self) -> AnyUpdate:
        """What this node says of itself."""
        return self._own_row().word

    @property
    def nodes(self) -> int:
        """Members that count: alive or suspect, this one included."""
        return sum(row.state in ("alive", "suspect") for row in self.roster)

    # --- time ---

    def _time(self, now: float, effects: list[Effect]) -> None:
        for seq, relay in list(self._relays.items()):
            if relay.nack_at <= now:
                del self._relays[seq]
                effects.append(Send(relay.asker, Nack(relay.asker_seq, self._take(relay.asker))))
        for node, suspicion in list(self._suspicions.items()):
            if suspicion.ends() <= now:
                del self._suspicions[node]
                row = self.roster.get(node)
                if row is not None and row.state == "suspect" and row.version == suspicion.version:
                    self._learn(now, (updates.dead(self._sign, *self._accusation(row)),), effects)
        probe = self._probe
        if probe is not None and not probe.asked and probe.indirect_at <= now:
            self._ask_helpers(probe, effects)
        if probe is not None and probe.ends <= now:
            self._probe = None
            self._failed(now, probe, effects)
        if self._probe_at <= now:
            self._begin_probe(now, effects)
        if self._gossip_at <= now:
            self._gossip(now, effects)
        for node, died in list(self._died.items()):
            if now - died > self._settings.tombstone_s:
                del self._died[node]
                self.roster.forget(node)

    def _begin_probe(self, now: float, effects: list[Effect]) -> None:
        settings = self._settings
        period_s = settings.probe_interval_s * (self.health + 1)
        self._probe_at = now + period_s
        target = self._next_target()
        if target is None or self._probe is not None:
            return
        self._seq = (self._seq + 1) % 2**32
        ends = now + period_s * 0.95
        self._probe = Probe(target, self._seq, now, min(now + settings.probe_timeout_s, ends), ends)
        effects.append(Send(target, Ping(self._seq, self._take(target))))

    def _next_target(self) -> NodeId | None:
        """Round robin over a shuffled list, so that every member is probed within two rounds."""
        while True:
            if not self._round:
                self._round = [row.id for row in self.roster if row.id != self.me and row.state in ("alive", "suspect")]
                self._rng.shuffle(self._round)
                if not self._round:
                    return None
            node = self._round.pop()
            row = self.roster.get(node)
            if row is not None and row.state in ("alive", "suspect"):
                return node

    def _ask_helpers(self, probe: Probe, effects: list[Effect]) -> None:
        probe.asked = True
        others = [r.id for r in self.roster if r.state == "alive" and r.id not in (self.me, probe.target)]
        helpers = self._rng.sample(others, min(self._settings.indirect_probes, len(others)))
        probe.helpers = len(helpers)
        row = self.roster.get(probe.target)
        assert row is not None, "a node that is probed is in the roster"
        left_ms = max(1, int((probe.ends - probe.indirect_at) * 1000))
        for helper in helpers:
            request = PingReq(probe.seq, raw_id(row.key), left_ms, self._take(helper, 40))
            effects.append(Send(helper, request))
        effects.append(PingStream(probe.target))

    def _failed(self, now: float, probe: Probe, effects: list[Effect]) -> None:
        # Helpers that say neither ack nor nack are evidence against our own network or speed.
        missing = probe.helpers - probe.nacks
        self._ail(missing if probe.helpers else 0)
        row = self.roster.get(probe.target)
        if row is not None and row.state in ("alive", "suspect"):
            # Of a node that others suspect already this is a confirmation, which shortens the suspicion.
            self._learn(now, (updates.suspect(self._sign, *self._accusation(row)),), effects)

    def _gossip(self, now: float, effects: list[Effect]) -> None:
        self._gossip_at = now + self._settings.gossip_interval_s
        if not len(self._news):
            return
        peers = [
            row.id
            for row in self.roster
            if row.id != self.me
            and (row.state in ("alive", "suspect") or now - self._died.get(row.id, -math.inf) < GOSSIP_DEAD_S)
        ]
        for peer in self._rng.sample(peers, min(self._settings.gossip_fanout, len(peers))):
            told = self._take(peer)
            if told:
                effects.append(Send(peer, Gossip(told)))

    # --- packets ---

    def _received(self, now: float, sender: NodeId, packet: AnyPacket, effects: list[Effect]) -> None:
        self._learn(now, packet.updates, effects)
        match packet:
            case Ping(seq):
                effects.append(Send(sender, Ack(seq, self._take(sender))))
                self._remind(sender, effects)
            case Ack(seq):
                relay = self._relays.pop(seq, None)
                if relay is not None:
                    effects.append(Send(relay.asker, Ack(relay.asker_seq, self._take(relay.asker))))
                elif self._probe is not None and self._probe.seq == seq:
                    self._answered(self._probe.target)
            case PingReq(seq, target, timeout_ms):
                node = self.roster.id_text(target)
                row = self.roster.get(node)
                if row is not None and node != self.me and len(self._relays) < 1024:
                    self._seq = (self._seq + 1) % 2**32
                    self._relays[self._seq] = Relay(sender, seq, now + NACK_AT * timeout_ms / 1000)
                    effects.append(Send(node, Ping(self._seq, self._take(node))))
            case Nack(seq):
                if self._probe is not None and self._probe.seq == seq:
                    self._probe.nacks += 1
            case Gossip():
                pass
            case _:
                assert_never(packet)

    def _remind(self, sender: NodeId, effects: list[Effect]) -> None:
        """Whoever is held suspect or dead here and speaks, is told so, and can refute."""
        row = self.roster.get(sender)
        if row is not None and row.against is not None:
            effects.append(Send(sender, Gossip((row.against,))))

    def _answered(self, peer: NodeId) -> None:
        if self._probe is not None and self._probe.target == peer:
            self._probe = None
            self._ail(-1)

    def _broken(self, now: float, peer: NodeId, refused: bool, effects: list[Effect]) -> None:
        row = self.roster.get(peer)
        if row is None or row.state not in ("alive", "suspect") or peer == self.me:
            return
        if refused:
            if row.state == "alive":
                self._learn(now, (updates.suspect(self._sign, *self._accusation(row)),), effects)
            suspicion = self._suspicions.get(peer)
            if suspicion is not None:
                suspicion.min_s = suspicion.max_s = suspicion.min_s * BROKEN_SUSPICION
        elif self._probe is None:
            self._round.append(peer)
            self._probe_at = now

    def _ail(self, change: int) -> None:
        self.health = max(0, min(HEALTH_MAX - 1, self.health + change))

    # --- news ---

    def _learn(self, now: float, news: Sequence[AnyUpdate], effects: list[Effect]) -> None:
        for update in news:
            subject = self.roster.subject(update)
            if subject == self.me:
                self._about_me(update, effects)
                continue
            before = self.roster.get(subject)
            row = self.roster.newer(update)
            if row is None:
                self._heard_again(subject, update)
                continue
            self.roster.put(row)
            self._news.put(subject, update)
            self._track(now, row, update)
            effects.append(Changed(row, before.state if before is not None else None))

    def _heard_again(self, subject: NodeId, update: AnyUpdate) -> None:
        self._news.heard(subject, update, self.nodes)
        suspicion = self._suspicions.get(subject)
        if suspicion is None or not isinstance(update, Suspect | updates.Dead) or update.accuser in suspicion.accusers:
            return
        held = self.roster.get(self.roster.id_text(update.accuser))
        known = held is not None and updates.genuine(update, self.roster.verify, held.key)
        if known and (update.gen, update.inc) == suspicion.version and len(suspicion.accusers) <= CONFIRMATIONS:
            suspicion.accusers.add(update.accuser)
            self._news.put(subject, update)  # the first confirmations are told on

    def _track(self, now: float, row: Row, update: AnyUpdate) -> None:
        """Suspicion timers and tombstones follow the row."""
        if row.state == "suspect":
            assert isinstance(update, Suspect)
            min_s = shortest_s(self._settings, self.nodes)
            # With too few others to confirm it, waiting for confirmations would only make it long.
            max_s = min_s if self.nodes - 2 < CONFIRMATIONS else min_s * self._settings.suspicion_max_mult
            self._suspicions[row.id] = Suspicion(row.version, now, min_s, max_s, {update.accuser})
        else:
            self._suspicions.pop(row.id, None)
        if row.state in ("dead", "left"):
            self._died[row.id] = now
        else:
            self._died.pop(row.id, None)
            if row.state == "alive" and row.id not in self._round:
                self._round.insert(self._rng.randrange(len(self._round) + 1), row.id)

    def _about_me(self, update: AnyUpdate, effects: list[Effect]) -> None:
        """Refute what is said against this start of us; be newer than whatever an earlier start said."""
        version = (update.gen, update.inc)
        mine = (self._gen, self._inc)
        if isinstance(update, Alive) and version == mine:
            return
        if self._leaving:
            return
        if version < mine:
            self._news.put(self.me, self.word)  # whoever told this has not heard our newer word
            return
        if update.gen > self._gen:
            self._gen, self._inc = update.gen + 1, 0
        else:
            self._inc = update.inc + 1
            self._ail(1)
        self._say_alive(effects)

    def _say_alive(self, effects: list[Effect]) -> None:
        row = self._own_row()
        before = self.roster.get(self.me)
        self.roster.put(row)
        self._news.put(self.me, row.word)
        effects.append(Changed(row, before.state if before is not None else None))

    def _own_row(self) -> Row:
        word = updates.alive(self._sign, self._key, self._gen, self._inc, self._advert)
        return Row(self.me, self._key, self._gen, self._inc, "alive", self._advert, word)

    def _leave(self, reason: str, effects: list[Effect]) -> None:
        self._leaving = True
        goodbye: Left = updates.left(self._sign, self._key, self._gen, self._inc, reason)
        peers = [row.id for row in self.roster if row.id != self.me and row.state in ("alive", "suspect")]
        self._rng.shuffle(peers)
        effects.extend(Send(peer, Gossip((goodbye,))) for peer in peers[:64])
        effects.append(
            Changed(
                Row(self.me, self._key, self._gen, self._inc, "left", self._advert, goodbye, reason=reason), "alive"
            )
        )

    def _accusation(self, row: Row) -> tuple[bytes, int, int, bytes]:
        return raw_id(row.key), row.gen, row.inc, self._raw_me

    def _take(self, peer: NodeId, reserve: int = 0) -> tuple[AnyUpdate, ...]:
        room = self._settings.datagram_bytes - PACKET_OVERHEAD_BYTES - reserve
        row = self.roster.get(peer)
        first: tuple[AnyUpdate, ...] = ()
        if row is not None and row.state == "suspect" and row.against is not None:
            first = (row.against,)  # the suspect is told first (Lifeguard's buddy system)
            room -= updates.size(first)
        taken = self._news.take(room, self.nodes, first=peer)
        return first + tuple(update for update in taken if update not in first)
