"""Who announces on a crowded link: many cores that hear each other, in simulated time."""

from __future__ import annotations

import random

import pytest

from meshnode.links.address import Address
from meshnode.membership.candidates import Gone, Heard, Links
from meshnode.membership.crowd import ANNOUNCE_S, CROWDED, KEPT, Announce, Crowd, Effect, Mine, Return, Withdraw

NOWHERE: tuple[Address, ...] = ()


class Link:
    """Nodes on one link: what one announces, the others hear."""

    def __init__(self, n: int, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.packets = 0
        self.nodes: dict[str, Crowd] = {}
        for _ in range(n):
            self.join()

    def join(self) -> str:
        label = f"{self.rng.getrandbits(64):016x}"
        core = self.nodes[label] = Crowd(self.rng)
        core.handle(self.now, Links(any=True))
        self.do(label, core.handle(self.now, Mine(label)))
        self.do(label, [Announce()])
        for other, peer in self.nodes.items():  # it asked, and was answered
            if peer.announcing and other != label:
                self.do(label, core.handle(self.now, Heard(other, NOWHERE)))
        return label

    def do(self, label: str, effects: list[Effect]) -> None:
        for effect in effects:
            self.packets += 1
            event = Gone(label) if isinstance(effect, Withdraw) else Heard(label, NOWHERE)
            for other, peer in [*self.nodes.items()]:
                if other != label:
                    self.do(other, peer.handle(self.now, event))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due, label = min((core.next_deadline() or end, label) for label, core in self.nodes.items())
            if due >= end:
                self.now = end
                return
            self.now = max(self.now, due)
            self.do(label, self.nodes[label].handle(self.now))

    def announcing(self) -> list[str]:
        return sorted(label for label, core in self.nodes.items() if core.announcing)


@pytest.mark.parametrize("n", [1, 2, 8, 16])
def test_few_all_announce(n: int) -> None:
    """Up to sixteen nodes on a link all announce themselves, for hours."""
    link = Link(n, seed=n)
    link.run(8 * 3600.0)
    assert n == len(link.announcing())


@pytest.mark.parametrize("n", [17, 40, 100])
def test_in_a_crowd_the_lowest_eight_go_on(n: int) -> None:
    """All agree on the same eight without a word, and it stays so."""
    link = Link(n, seed=n)
    link.run(3600.0)
    lowest = sorted(link.nodes)[:KEPT]
    assert set(lowest) <= set(link.announcing())
    assert CROWDED >= len(link.announcing())
    packets = link.packets
    link.run(10 * 3600.0)
    assert CROWDED >= len(link.announcing())
    assert packets + 10 * 3600 / (0.8 * ANNOUNCE_S) * CROWDED + 50 > link.packets, "no churn in a calm"


def test_who_dies_is_replaced() -> None:
    """Six of the eight vanish without a word: within the hour others announce in their place."""
    link = Link(40, seed=5)
    link.run(3600.0)
    for label in link.announcing()[:6]:
        del link.nodes[label]
    link.run(3600.0)
    assert KEPT <= len(link.announcing()) <= CROWDED


def test_who_is_alone_always_announces() -> None:
    """A liar's low labels silence nobody who has no link; and who loses all links speaks again at once."""
    core = Crowd(random.Random(1))
    core.handle(0.0, Mine("f" * 16))
    liars = [Heard(f"{i:016x}", NOWHERE) for i in range(50)]
    assert [] == [effect for liar in liars for effect in core.handle(1.0, liar)]
    assert [Withdraw()] == core.handle(2.0, Links(any=True))
    assert [Return()] == core.handle(3.0, Links(any=False))


def test_an_announcement_is_repeated_now_and_then() -> None:
    """Some four times an hour: for those who hear and are not heard."""
    link = Link(1, seed=1)
    link.run(10 * 3600.0)
    assert 40 <= link.packets <= 52
