"""Windows of a way that is as long and as wide as the test says: they grow where that helps, and nobody is stuck."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import KIB, MIB, Links
from meshnode.wire.credit import AHEAD_BYTES_MAX, Crediting

LINKS = Links()
FRAME = LINKS.frame_bytes


class Way:
    """A sender of frames with credit, a wire of so many bytes a second, and the round trip; all in one stream.

    With `pinged` round trips are those of pings, four a second, which stand behind what was sent before them.
    """

    def __init__(self, rate: float, rtt_s: float, *, pinged: bool = False, first_s: float | None = None) -> None:
        self.rate, self.rtt_s, self.pinged = rate, rtt_s, pinged
        self.crediting = Crediting(LINKS)
        self.credit = {0: LINKS.connection_credit_bytes, 1: LINKS.stream_credit_bytes}
        self.now = self.free_at = 0.0
        self.coming: deque[tuple[float, int, int]] = deque()
        self.pings = deque([first_s or rtt_s], maxlen=8)
        self.pinged_at = 0.0
        self.most = 0

    def send(self, nbytes: int) -> float:
        """Bytes a second of a body, from its first byte to its last."""
        began, left, landed = self.now, nbytes, 0
        self.credit[1] = LINKS.stream_credit_bytes
        frames: deque[tuple[float, int]] = deque()
        while landed < nbytes:
            while left and min(self.credit.values()) > 0:
                size = min(FRAME, left, *self.credit.values())
                self.free_at = max(self.free_at, self.now) + size / self.rate
                frames.append((self.free_at + self.rtt_s / 2, size))
                left -= size
                for stream in self.credit:
                    self.credit[stream] -= size
                self.most = max(self.most, sum(size for _, size in frames))
            assert frames or self.coming, "a sender waits for credit, and nothing is on the way"
            if self.coming and (not frames or self.coming[0][0] <= frames[0][0]):
                self.now, stream, credit = self.coming.popleft()
                self.credit[stream] += credit
                continue
            self.now, size = frames.popleft()
            landed += size
            self._ping()
            for stream in self.crediting.landed(1, size, landed == nbytes):
                credit = self.crediting.credit(stream, self.now, min(self.pings))
                assert credit >= 0
                self.coming.append((self.now + self.rtt_s / 2, stream, credit))
        for _, stream, credit in self.coming:
            self.credit[stream] += credit
        self.coming.clear()
        return nbytes / (self.now - began)

    def _ping(self) -> None:
        if not self.pinged:
            self.pings = deque([self.rtt_s], maxlen=8)
        while self.pinged and self.now - self.pinged_at >= 0.25:
            self.pinged_at += 0.25
            self.pings.append(self.rtt_s + max(0.0, self.free_at - self.now))


@pytest.mark.parametrize(("mbit", "rtt_s"), [(20, 0.2), (100, 0.05), (300, 0.1), (1000, 0.03), (10, 0.6)])
def test_a_long_way_is_filled(mbit: float, rtt_s: float) -> None:
    """However long and wide it is, within the largest window; with windows as configured it is not."""
    rate = mbit * 1e6 / 8
    way = Way(rate, rtt_s)
    way.send(32 * MIB)

    assert way.send(64 * MIB) > 0.85 * rate
    assert way.most <= max(AHEAD_BYTES_MAX, 3 * rate * rtt_s)
    assert LINKS.stream_credit_bytes / rtt_s < 0.7 * rate


def test_a_short_way_keeps_its_windows() -> None:
    """On a LAN a small request never stands behind more than was configured, however fast it is."""
    way = Way(1.25e9, 0.0005)
    way.send(64 * MIB)

    assert LINKS.stream_credit_bytes >= way.most


def test_a_queue_on_the_way_does_not_make_windows_grow_without_end() -> None:
    """Round trips that are long because of what stands on the way: growing stops when it brings nothing."""
    way = Way(2.5e6, 0.02, pinged=True)
    for _ in range(4):
        way.send(16 * MIB)

    assert way.most <= 4 * LINKS.stream_credit_bytes


@pytest.mark.parametrize(("fast", "slow", "rtt_s"), [(12.5e6, 3e6, 0.005), (12.5e6, 3e6, 0.02), (6e6, 1.5e6, 0.03)])
@pytest.mark.parametrize("pause_s", [0.0, 1.0])
def test_a_way_whose_width_changes_does_not_make_windows_grow(
    fast: float, slow: float, rtt_s: float, pause_s: float
) -> None:
    """As Wi-Fi does: each dip and recovery may not add to what stands on the way, with or without pauses."""
    way = Way(fast, rtt_s, pinged=True)
    for turn in range(20):
        way.rate = slow if turn % 2 else fast
        way.send(int(5 * way.rate))
        way.now += pause_s

    assert way.most <= 2 * LINKS.connection_credit_bytes


@pytest.mark.parametrize("first_s", [0.02, 0.06, 0.5])
def test_a_first_round_trip_that_was_slow_does_little(first_s: float) -> None:
    """Two processes that start are busy, and their LAN is not long: one step at most, taken back after a moment."""
    way = Way(1.25e8, 0.0005, pinged=True, first_s=first_s)
    way.send(256 * MIB)
    assert way.most <= 2 * LINKS.connection_credit_bytes

    for _ in range(8):
        way.now += 0.25
        way._ping()
    way.send(16 * MIB)
    way.most = 0
    way.send(16 * MIB)
    assert LINKS.stream_credit_bytes >= way.most


@pytest.mark.parametrize("near_s", [0.0005, 0.005])
@pytest.mark.parametrize("meanwhile", [0, 64 * MIB])
def test_a_way_that_became_longer_is_filled_after_a_pause(near_s: float, meanwhile: int) -> None:
    """A route that changed below the connection, at rest or at work: what was fast before is no measure of it."""
    way = Way(12.5e6, near_s, pinged=True)
    way.send(64 * MIB)
    way.rtt_s = 0.2
    if meanwhile:
        way.send(meanwhile)
    way.now += 65.0
    way.send(32 * MIB)

    assert way.send(64 * MIB) > 0.8 * way.rate


@pytest.mark.parametrize(("rate", "rtt_s"), [(12.5e6, 0.001), (1e6, 0.2)])
def test_a_way_that_became_short_or_narrow_gets_small_windows_again(rate: float, rtt_s: float) -> None:
    """A window is taken back by what is not returned."""
    way = Way(12.5e6, 0.2)
    way.send(64 * MIB)
    assert way.most > 4 * LINKS.stream_credit_bytes
    way.rate, way.rtt_s = rate, rtt_s
    way.send(32 * MIB)
    way.most = 0
    way.send(16 * MIB)

    assert LINKS.connection_credit_bytes >= way.most


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_whatever_arrives_when_credit_is_never_lost(seed: int, streams: int) -> None:
    """A sender that has sent all it may gets more of each stream as soon as all of that has landed."""
    rng = random.Random(seed)
    it, now = Crediting(LINKS), 0.0
    room = dict.fromkeys(range(1, streams + 1), LINKS.stream_credit_bytes)
    room[0] = LINKS.connection_credit_bytes
    for _ in range(200):
        now += rng.choice((0.0, 0.001, 0.05, 3.0))
        stream = rng.randrange(1, streams + 1)
        nbytes = min(rng.randrange(1, FRAME + 1), room[stream], room[0])
        assert nbytes > 0
        room[stream] -= nbytes
        room[0] -= nbytes
        rtt_s = rng.choice((None, 0.0001, 0.003, 0.1, 1.0))
        for due in it.landed(stream, nbytes, whole=False):
            room[due] += it.credit(due, now, rtt_s)
        assert 0 <= room[stream] <= AHEAD_BYTES_MAX


def test_small_bodies_say_nothing_of_the_way() -> None:
    """Credit comes once a half of the window has landed, and after a long pause the rate is measured anew."""
    it = Crediting(LINKS)
    assert not it.landed(1, 100 * KIB, whole=False)
    assert [1] == it.landed(1, 28 * KIB, whole=False)
    assert 128 * KIB == it.credit(1, 1.0, 0.1)
    assert [1] == it.landed(1, 128 * KIB, whole=False)
    assert 128 * KIB == it.credit(1, 100.0, 0.1)
