"""A failure detector with hand-made neighbours: what tests of the core share."""

from __future__ import annotations

import hashlib
import random
from typing import TypeVar

from meshnode.config import LAN
from meshnode.membership import updates
from meshnode.membership.entropy import Told
from meshnode.membership.events import Effect, Event, Merged, Received, Send
from meshnode.membership.oneself import Oneself
from meshnode.membership.roster import State, raw_id
from meshnode.membership.rules import OURS, Rules
from meshnode.membership.swim import Swim
from meshnode.membership.updates import AnyPacket, AnyUpdate
from meshnode.sim.node import id_text, sign_with, verify
from meshnode.wire.messages import NodeId

E = TypeVar("E")


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def node(name: str) -> NodeId:
    return id_text(raw_id(key(name)))


def alive(name: str, gen: int = 1, inc: int = 0, advert: int = 0, born: int = 1, twin: int = 0) -> AnyUpdate:
    return updates.alive(sign_with(key(name)), key(name), gen, inc, advert, born=born, twin=twin)


def left(name: str, gen: int = 1, inc: int = 0) -> AnyUpdate:
    return updates.left(sign_with(key(name)), key(name), gen, inc, "stop")


def suspect(name: str, by: str, gen: int = 1, inc: int = 0) -> AnyUpdate:
    return updates.suspect(sign_with(key(by)), raw_id(key(name)), gen, inc, raw_id(key(by)))


def dead(name: str, by: str, gen: int = 1, inc: int = 0) -> AnyUpdate:
    return updates.dead(sign_with(key(by)), raw_id(key(name)), gen, inc, raw_id(key(by)))


class Detector:
    """A core named "me" with neighbours that it knows, and a clock that the test moves."""

    def __init__(self, *names: str, rules: Rules = OURS, seed: int = 1) -> None:
        self.now = 100.0
        self.core = Swim(
            Oneself(key("me"), 1, 1, sign_with(key("me"))),
            settings=LAN.membership,
            rng=random.Random(seed),
            verify=verify,
            id_text=id_text,
            now=self.now,
            rules=rules,
        )
        self.feed(Merged(tuple(Told(0.0, alive(name)) for name in names)))
        for name in ("me", *names):
            self.core.ledger.news.drop(node(name))

    def feed(self, event: Event | None) -> list[Effect]:
        return self.core.handle(self.now, event)

    def hear(self, sender: str, packet: AnyPacket) -> list[Effect]:
        return self.feed(Received(node(sender), packet))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass with every deadline obeyed in time; everything that was wanted done meanwhile."""
        until, done = self.now + seconds, []
        while (due := self.core.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            done += self.feed(None)
        self.now = until
        return done

    def state(self, name: str) -> State | None:
        row = self.core.roster.get(node(name))
        return row.state if row is not None else None


def packets(effects: list[Effect], kind: type[E]) -> list[tuple[NodeId, E]]:
    """What was sent of a kind, and to whom."""
    return [(e.peer, e.packet) for e in effects if isinstance(e, Send) and isinstance(e.packet, kind)]


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]
