"""How fast bulk goes beside tasks."""

from __future__ import annotations

from meshnode.links.courtesy import BELOW, LEAST_BYTES_S, QUEUE_S, Courtesy

RTT_S = 0.001


def look(it: Courtesy, *, busy: bool = True, queue_s: float = 0.0, arrives: float = 20e6) -> float | None:
    return it.look(busy=busy, rtt_s=RTT_S + queue_s, shortest_s=RTT_S, arrives_bytes_s=arrives)


def test_without_tasks_bulk_goes_as_fast_as_it_can() -> None:
    """And again as soon as they are over."""
    it = Courtesy()
    assert look(it, busy=False) is None
    assert look(it) is not None
    assert look(it, busy=False) is None


def test_with_the_first_task_it_goes_below_what_arrives() -> None:
    """So that what waits in queues drains; where nothing is known of it, it is left alone."""
    assert BELOW * 20e6 == look(Courtesy())
    assert look(Courtesy(), arrives=0.0) is None


def test_it_finds_what_the_way_carries_and_keeps_the_queue_short() -> None:
    """A way of 10 MB/s, whose queue grows by what comes above that: nearly all of it is used, and little waits."""
    it, way, queue_bytes = Courtesy(), 10e6, 500_000.0
    arrived, waits = 0.0, []
    for step in range(1200):
        rate = look(it, queue_s=queue_bytes / way, arrives=way if queue_bytes > 0 else min(way, it.bytes_s or way))
        assert rate is not None
        sent = rate * 0.05
        leaves = min(queue_bytes + sent, way * 0.05)
        queue_bytes += sent - leaves
        if step > 200:
            arrived += leaves
            waits.append(queue_bytes / way)
    assert arrived > 0.8 * way * 1000 * 0.05
    assert sum(waits) / len(waits) < QUEUE_S


def test_it_never_stops_altogether() -> None:
    """Where the round trip is long for another reason, the model still comes."""
    it = Courtesy()
    for _ in range(100):
        look(it, queue_s=1.0, arrives=1000.0)
    assert LEAST_BYTES_S == it.bytes_s
