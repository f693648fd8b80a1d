"""Which address to try when: the core alone, driven through hours of simulated time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.links.address import Address
from meshnode.membership import candidates
from meshnode.membership.candidates import (
    Ask,
    Candidates,
    Dial,
    Elsewhere,
    Event,
    Forget,
    Gone,
    Heard,
    Introduced,
    Links,
    Row,
    Tried,
)
from meshnode.wire.messages import NodeId

HOUR = 3600.0
DIAL_S = 0.25


class Drive:
    """Runs the core; each dial takes a moment and ends as `answers` says."""

    def __init__(
        self,
        *,
        seeds: int = 0,
        rows: int = 0,
        seed: int = 1,
        answers: Callable[[Dial], bool] = lambda dial: False,
    ) -> None:
        self.now = 0.0
        self.answers = answers
        places = tuple((f"seed{i}", 7433) for i in range(seeds))
        self.core = Candidates(random.Random(seed), now=0.0, seeds=places)
        self.dials: list[tuple[float, Dial]] = []
        self.asks: list[float] = []
        self._open: list[tuple[float, Dial]] = []
        if rows:
            self.tell(Introduced(remembered(rows), "remembered"))

    def tell(self, event: Event | None) -> None:
        for effect in self.core.handle(self.now, event):
            if isinstance(effect, Ask):
                self.asks.append(self.now)
            else:
                self.dials.append((self.now, effect))
                self._open.append((self.now + DIAL_S, effect))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = self.core.next_deadline()
            ends = self._open[0][0] if self._open else None
            following = min(at for at in (due, ends, end) if at is not None)
            self.now = max(self.now, min(following, end))
            if following >= end:
                return
            if ends is not None and ends <= self.now:
                _, dial = self._open.pop(0)
                self.tell(Tried(dial.key, self.answers(dial), len(dial.addresses)))
            else:
                self.tell(None)

    def addresses(self, since: float = 0.0) -> int:
        """How many addresses were dialled."""
        return sum(len(dial.addresses) for at, dial in self.dials if at >= since)

    def most_in(self, window_s: float) -> int:
        """The largest number of addresses dialled in any window of that length."""
        most, first, count = 0, 0, 0
        for at, dial in self.dials:
            count += len(dial.addresses)
            while self.dials[first][0] < at - window_s:
                count -= len(self.dials[first][1].addresses)
                first += 1
            most = max(most, count)
        return most


def remembered(n: int, *, places: int = 3) -> tuple[Row, ...]:
    return tuple((NodeId(f"n{i}"), tuple((f"10.0.{i}.{p}", 7433) for p in range(places))) for i in range(n))


def place(i: int) -> tuple[Address, ...]:
    return ((f"10.{i // 65536}.{i // 256 % 256}.{i % 256}", 7433),)


def test_a_seed_is_tried_at_once_and_then_for_ever() -> None:
    """The first try is immediate; pauses grow to a minute, are drawn from all of it, and never end."""
    drive = Drive(seeds=1)
    drive.run(24 * HOUR)
    times = [at for at, _ in drive.dials]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 0.0 == times[0]
    assert times[3] < 8, "the first pauses are short"
    assert 60.0 + DIAL_S >= max(gaps)
    late = gaps[20:]
    assert pytest.approx(30.0, abs=3.0) == sum(late) / len(late)
    assert min(late) < 3 < 57 < max(late), "full jitter: anything up to the whole pause"


def test_a_node_with_nothing_to_go_by_only_asks() -> None:
    """No seeds, nobody remembered, nobody heard: no dial at all, and one or two questions a minute for a day."""
    drive = Drive()
    drive.run(24 * HOUR)
    assert [] == drive.dials
    by_minute = [sum(m * 60 <= at < m * 60 + 60 for at in drive.asks) for m in range(24 * 60)]
    assert 7 >= by_minute[0]
    assert {1, 2} >= set(by_minute[2:])


def test_a_node_that_finds_nobody_is_cheap() -> None:
    """Whatever it knows and whatever is announced, the budgets hold: in the long run 50 dials a minute, usually far
    fewer; and the multicast questions do not grow with what is known."""
    drive = Drive(seeds=8, rows=256)
    for minute in range(2 * 60):
        for i in range(40):
            drive.tell(Heard(f"{(minute * 40 + i) % 300:04}", place((minute * 40 + i) % 300)))
        drive.run(60.0)
    a_minute = candidates.KNOWN_A_MINUTE + candidates.HEARD_A_MINUTE
    burst = candidates.KNOWN_BURST + candidates.HEARD_BURST
    assert a_minute + burst + 8 >= drive.most_in(60.0)
    assert a_minute * 60 + burst + 8 >= drive.most_in(HOUR)
    assert 2 * 60 * 2 + 8 >= len(drive.asks)


def test_what_is_usual_is_far_below_the_bound() -> None:
    """Two seeds and four remembered peers of three addresses that are all gone: some ten dials a minute."""
    drive = Drive(seeds=2, rows=4)
    drive.run(10 * HOUR)
    assert 12 * 60 * 10 > drive.addresses() > 2 * 60 * 10


def test_those_seen_last_come_first_and_everybody_gets_a_turn() -> None:
    """Three of the most recent and three others at once, then slowly all 256, none twice before each was tried."""
    drive = Drive(rows=256)
    first = [dial.node for _, dial in drive.dials]
    assert 6 == len(first)
    assert {"n0", "n1", "n2"} <= set(first)
    drive.run(5 * HOUR)
    turns = [str(dial.node) for _, dial in drive.dials][:256]
    assert 256 == len(set(turns))


def test_an_answer_ends_the_search() -> None:
    """Once linked, nobody is asked and nobody remembered is dialled; the seed only each five minutes."""
    drive = Drive(seeds=1, rows=50, answers=lambda dial: dial.found_by == "seed")
    drive.run(1.0)
    drive.tell(Links(any=True))
    began = drive.now
    asks = len(drive.asks)
    drive.run(10 * HOUR)
    late = [dial.found_by for at, dial in drive.dials if at > began + 1]
    assert {"seed"} == set(late)
    assert pytest.approx(120, abs=12) == len(late)
    assert asks == len(drive.asks)


def test_losing_everybody_begins_the_search_anew() -> None:
    """When the last link ends, short pauses again: those seen last, the seeds and a question within two seconds."""
    drive = Drive(seeds=1, rows=10)
    drive.tell(Links(any=True))
    drive.run(HOUR)
    drive.tell(Links(any=False))
    began = drive.now
    drive.run(2.0)
    found_by = {dial.found_by for at, dial in drive.dials if at >= began}
    assert {"seed", "remembered"} == found_by
    assert [at for at in drive.asks if at >= began]


def test_another_network_makes_pauses_short_again() -> None:
    """An hour of failures, then the addresses change or the machine wakes: the seed is tried within a second."""
    drive = Drive(seeds=1, rows=3)
    drive.run(HOUR)
    drive.tell(Elsewhere())
    began = drive.now
    drive.run(1.0)
    assert {"seed", "remembered"} == {dial.found_by for at, dial in drive.dials if at >= began}


def test_nodes_that_lose_their_switch_do_not_come_back_in_step() -> None:
    """Two hundred nodes become alone at the same instant: no tenth of a second sees more than a third of them."""
    firsts = []
    for seed in range(200):
        drive = Drive(seeds=1, seed=seed)
        drive.tell(Links(any=True))
        drive.run(600.0)
        drive.tell(Links(any=False))
        began = drive.now
        drive.run(3.0)
        firsts.append(next(at - began for at, _ in drive.dials if at >= began))
    most = max(sum(t <= first < t + 0.1 for first in firsts) for t in [i / 20 for i in range(40)])
    assert 66 > most


def test_an_announced_service_is_dialled_at_once_by_who_is_alone() -> None:
    """What is heard while alone is tried at the same instant."""
    drive = Drive()
    drive.tell(Heard("ab", place(1)))
    assert [Dial(("mdns", "ab"), place(1), None, "mdns")] == [dial for _, dial in drive.dials]


def test_an_announced_service_is_met_by_few_at_first() -> None:
    """Who has links waits up to five seconds, tries three times, and then waits to hear it again."""
    drive = Drive()
    drive.tell(Links(any=True))
    drive.tell(Heard("ab", place(1)))
    assert [] == drive.dials
    drive.run(HOUR)
    assert 3 == len(drive.dials)
    assert 5.0 >= drive.dials[0][0]
    drive.tell(Heard("ab", place(1)))
    drive.run(10.0)
    assert 4 <= len(drive.dials)


def test_an_island_that_was_heard_is_reached_although_a_link_came_up() -> None:
    """What waits to be dialled when the first link comes up is dialled all the same."""
    drive = Drive(answers=lambda dial: dial.key[1] != "c")
    drive.tell(Heard("c", place(3)))
    drive.run(0.3)
    drive.tell(Links(any=True))
    before = len(drive.dials)
    drive.run(6.0)
    assert before < len(drive.dials)


def test_shouting_louder_changes_nothing() -> None:
    """A service that announces itself a hundred times a second is dialled as often as one that did so once."""
    quiet, loud = Drive(), Drive()
    quiet.tell(Heard("ab", place(1)))
    quiet.run(600.0)
    for _ in range(6000):
        loud.tell(Heard("ab", place(1)))
        loud.run(0.1)
    assert 2 * len(quiet.dials) + 10 > len(loud.dials)


def test_a_liar_starves_nobodys_seeds() -> None:
    """Thousands of made-up services get their own small budget; the seed is tried as if there were none."""
    calm, flooded = Drive(seeds=1), Drive(seeds=1)
    calm.run(HOUR)
    for i in range(3600):
        for k in range(5):
            flooded.tell(Heard(f"{i:06}{k}", place(i * 5 + k)))
        flooded.run(1.0)
    tries = [sum(d.found_by == "seed" for _, d in drive.dials) for drive in (calm, flooded)]
    assert pytest.approx(tries[0], rel=0.25) == tries[1]
    lies = sum(dial.found_by == "mdns" for _, dial in flooded.dials)
    assert candidates.HEARD_A_MINUTE * 60 + candidates.HEARD_BURST >= lies


def test_what_was_taken_back_is_not_tried() -> None:
    """A goodbye ends the tries."""
    drive = Drive()
    drive.tell(Heard("ab", place(1)))
    drive.run(5.0)
    drive.tell(Gone("ab"))
    before = len(drive.dials)
    drive.run(HOUR)
    assert before == len(drive.dials)


def test_a_lingering_record_runs_out() -> None:
    """A service that is never heard again is given up after 75 minutes, when its record has left every cache."""
    drive = Drive()
    drive.tell(Heard("ab", place(1)))
    drive.run(3 * HOUR)
    assert candidates.HEARD_S + 61 > max(at for at, _ in drive.dials)


def test_a_revoked_node_is_not_dialled() -> None:
    """Forgotten is forgotten, also when its turn was planned."""
    drive = Drive(rows=10)
    drive.run(1.0)
    drive.tell(Forget(NodeId("n0")))
    began = drive.now
    drive.run(2 * HOUR)
    assert "n0" not in {dial.node for at, dial in drive.dials if at > began}


def test_an_inviters_peers_come_before_those_of_old() -> None:
    """What came with the token is tried at once, and again when its turn comes."""
    drive = Drive(rows=100)
    drive.run(60.0)
    drive.tell(Introduced(((NodeId("new"), place(7)),), "token"))
    assert ("new", "token") == (drive.dials[-1][1].node, drive.dials[-1][1].found_by)
    drive.run(4 * HOUR)
    assert 1 < sum(dial.node == "new" for _, dial in drive.dials)


def test_an_address_is_not_tried_twice_in_a_moment() -> None:
    """Two services and a remembered peer at one address: one dial in ten seconds."""
    drive = Drive()
    for label in ("a", "b", "c"):
        drive.tell(Heard(label, place(1)))
    drive.tell(Introduced(((NodeId("x"), place(1)),), "remembered"))
    drive.run(9.0)
    assert 1 == drive.addresses()


EVENTS = st.one_of(
    st.builds(Heard, st.sampled_from("abcdef"), st.integers(0, 5).map(place)),
    st.builds(Gone, st.sampled_from("abcdef")),
    st.builds(Links, st.booleans()),
    st.just(Elsewhere()),
    st.builds(lambda n: Introduced(remembered(n), "remembered"), st.integers(0, 12)),
    st.builds(lambda i: Forget(NodeId(f"n{i}")), st.integers(0, 11)),
    st.builds(lambda key: Tried(("mdns", key), True, 1), st.sampled_from("abcdef")),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=60), st.integers(0, 2**16), st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_story_breaks_the_bounds(story: list[tuple[Event, float]], seed: int, answers: bool) -> None:
    """Whatever happens in whatever order: no target is dialled twice at once, and the budgets hold."""
    drive = Drive(seeds=2, seed=seed, answers=lambda dial: answers)
    for event, pause in story:
        drive.tell(event)
        drive.run(pause)
    drive.run(120.0)
    a_minute = candidates.KNOWN_A_MINUTE + candidates.HEARD_A_MINUTE
    assert a_minute + candidates.KNOWN_BURST + candidates.HEARD_BURST + 2 >= drive.most_in(60.0)
    last: dict[candidates.Key, float] = {}
    for at, dial in drive.dials:
        assert at - last.get(dial.key, float("-inf")) >= min(DIAL_S, at) - 1e-6 or dial.found_by != "seed"
        last[dial.key] = at


def test_what_a_broker_announces_is_treated_as_what_multicast_does() -> None:
    """Dialled as the node that it is proven to be, under the bound of what is announced, and not for ever."""
    drive = Drive()
    node = NodeId("a" * 52)
    drive.tell(Heard("topic", place(1), "rendezvous", node))
    drive.run(1.0)
    first = drive.dials[0][1]
    assert ("rendezvous", node, place(1)) == (first.found_by, first.node, first.addresses)
    drive.tell(Links(any=True))
    for i in range(300):
        drive.tell(Heard(f"t{i}", place(i), "rendezvous", node))
    drive.run(60.0)
    assert candidates.HEARD_BURST + candidates.HEARD_A_MINUTE + 1 >= len(drive.dials)
