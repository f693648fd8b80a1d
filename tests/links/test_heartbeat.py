"""When a peer is silent: a core, told the time."""

from __future__ import annotations

from meshnode.config import Links
from meshnode.links.heartbeat import Heartbeat

S = Links()


def test_a_peer_that_answers_is_never_silent() -> None:
    """Each ping is answered; the round trip is learnt."""
    it = Heartbeat(S, 0.0)
    now = 0.0
    for _ in range(20):
        now = it.due_at
        silent, nonce = it.beat(now, open=True)
        assert silent is None
        assert nonce is not None
        it.heard(now + 0.01)
        it.pong(nonce, now + 0.01)
    assert it.rtt_s is not None
    assert abs(it.rtt_s - 0.01) < 1e-9


def measured(rtt_s: float) -> Heartbeat:
    """Of a connection on which round trips take that long."""
    it = Heartbeat(S, 0.0)
    for _ in range(20):
        now = it.due_at
        _, nonce = it.beat(now, open=True)
        assert nonce is not None
        it.heard(now + rtt_s)
        it.pong(nonce, now + rtt_s)
    return it


def test_three_missed_beats_are_silence() -> None:
    """With a request open, a peer near by that says nothing is silent after about 0.75 s."""
    it = measured(0.001)
    it.due_at = 100.0
    assert it.wake(10.0)
    beats = 0
    while True:
        silent, _ = it.beat(it.due_at, open=True)
        beats += 1
        if silent is not None:
            break
    assert 3 == beats
    assert 0.7 < silent < 0.8


def test_before_the_first_answer_the_way_to_hello_says_how_far_the_peer_is() -> None:
    """A neighbour that falls silent at once is noticed as soon as any; one far away is given its time."""
    for opened_s, allowed_s in ((0.01, 0.02), (0.3, 0.6), (5.0, 1.0)):
        it = Heartbeat(S, 0.0)
        it.opened(opened_s)
        assert allowed_s == it.round_trip_s
        assert opened_s == it.due_at, "the first ping goes at once"


def test_a_request_does_not_lose_the_round_trip_that_is_being_measured() -> None:
    """The first ping's answer counts also when work began before it came."""
    it = Heartbeat(S, 0.0)
    it.opened(0.4)
    _, nonce = it.beat(0.4, open=False)
    assert nonce is not None
    it.wake(0.45)
    it.pong(nonce, 0.6)
    assert it.least_rtt_s is not None
    assert abs(it.least_rtt_s - 0.2) < 1e-9


def test_a_late_beat_is_our_own_fault() -> None:
    """A beat that comes late judges nobody: what the peer said may lie unread."""
    it = Heartbeat(S, 0.0)
    it.beat(it.due_at, open=True)
    silent, _ = it.beat(it.due_at + 5.0, open=True)
    assert silent is None


def test_at_rest_pings_are_rare() -> None:
    """Nothing open: the next beat is seconds away, and a new request brings it near."""
    it = Heartbeat(S, 0.0)
    it.beat(it.due_at, open=False)
    assert it.due_at - S.heartbeat_s >= S.idle_ping_s - 0.01
    assert it.wake(1.0)
    assert abs(it.due_at - (1.0 + S.heartbeat_s)) < 1e-9
    assert not it.wake(1.0)


def test_a_peer_far_away_is_not_silent() -> None:
    """Over a satellite a pong comes after two further pings: it is measured, and waited for before any judgement."""
    it, under_way = Heartbeat(S, 0.0), list[tuple[float, int]]()
    for _ in range(100):
        now = it.due_at
        while under_way and under_way[0][0] <= now:
            at, nonce = under_way.pop(0)
            it.heard(at)
            it.pong(nonce, at)
        silent, asked = it.beat(now, open=True)
        assert None is silent
        assert asked is not None
        under_way.append((now + 0.7, asked))
    assert it.rtt_s is not None
    assert abs(it.rtt_s - 0.7) < 1e-6


def test_a_peer_far_away_is_silent_in_the_end() -> None:
    """After three intervals and a round trip."""
    it = measured(0.2)
    last = it.heard_at
    while (silent := it.beat(it.due_at, open=True)[0]) is None:
        assert it.due_at < last + 3.0
    assert 0.75 <= silent <= 1.25


def test_a_peer_to_which_bulk_still_arrives_is_not_silent() -> None:
    """Pings wait behind our own bytes: while those arrive, nobody is judged; when they stop, three beats later."""
    it, arrived = measured(0.001), 0
    it.wake(it.due_at)
    for _ in range(20):
        arrived += 10_000
        silent, _ = it.beat(it.due_at, open=True, sent=(arrived, 500_000))
        assert silent is None
    beats = 0
    while (silent := it.beat(it.due_at, open=True, sent=(arrived, 500_000))[0]) is None:
        beats += 1
    assert 2 == beats
    assert 0.7 < silent < 0.8


def test_pings_that_arrive_at_a_peer_that_stands_still_are_no_sign_of_life() -> None:
    """The system of a frozen agent takes what comes; no bulk is under way, so nothing stands before the pings."""
    it, arrived, beats = measured(0.001), 0, 1
    it.due_at = 100.0
    it.wake(10.0)
    while it.beat(it.due_at, open=True, sent=(arrived, 40))[0] is None:
        arrived += 40
        beats += 1
    assert 3 == beats


def test_one_good_round_trip_says_how_near_a_peer_is() -> None:
    """After a second in which this process came to nothing, all peers look far; the shortest of late tells the way."""
    it = measured(0.001)
    for _ in range(10):
        now = it.due_at
        _, nonce = it.beat(now, open=False)
        assert nonce is not None
        it.pong(nonce, now + 2.0)
    assert it.least_rtt_s is not None
    assert it.rtt_s is not None
    assert abs(it.least_rtt_s - 2.0) < 1e-6
    now = it.due_at
    _, nonce = it.beat(now, open=False)
    assert nonce is not None
    it.pong(nonce, now + 0.001)
    assert abs(it.least_rtt_s - 0.001) < 1e-6
    assert it.rtt_s > 1.0
