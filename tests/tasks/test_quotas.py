"""Quotas and fair shares: a flood does not starve anybody, a node alone with one submitter refuses nothing."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from meshnode.errors import Refused
from meshnode.tasks.quotas import Quotas, Ticket
from meshnode.trust.policy import Quota
from meshnode.wire.messages import Digest, NodeId

MODEL = Digest("d" * 64)
ANN, BOB, CAT = (NodeId(letter * 52) for letter in "abc")
FREE = Quota()
SERVICE_S = 0.01


@dataclass(slots=True)
class Client:
    """`at_once` tasks open all the time, a pause after each, and the time that a refusal names before the next try."""

    name: NodeId
    at_once: int
    """With 0 they come at `rate` a second, however many are open."""
    pause_s: float = 0.0
    priority: int = 1
    service_s: float = SERVICE_S
    rate: float = 0.0
    deaf: bool = False
    """It does not wait as long as it is told."""


@dataclass
class Sim:
    """One node with `slots`, which runs by priority and then in the order of arrival."""

    clients: list[Client]
    slots: int = 1
    quota: Quota = FREE
    seconds: float = 6.0
    done: Counter[NodeId] = field(default_factory=Counter)
    refused: Counter[NodeId] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    def run(self) -> Sim:
        quotas, order, rng = Quotas(), itertools.count(), random.Random(20)
        events: list[tuple[float, int, Client, Ticket | None]] = []
        line: list[tuple[int, int, float, Client, Ticket]] = []
        free = self.slots
        for client in self.clients:
            for _ in range(client.at_once):
                heapq.heappush(events, (rng.uniform(0, 0.05), next(order), client, None))
            for number in range(int(client.rate * self.seconds)):
                heapq.heappush(events, ((number + rng.random()) / client.rate, next(order), client, None))
        while events and events[0][0] < self.seconds:
            now, _, client, ticket = heapq.heappop(events)
            if ticket is None:
                try:
                    it = quotas.enter(now, client.name, MODEL, self.quota, self.slots, 1000)
                except Refused as error:
                    self.refused[client.name] += 1
                    wait_s = 0.002 if client.deaf else error.retry_after_s or 0.0
                    heapq.heappush(events, (now + wait_s, next(order), client, None))
                else:
                    heapq.heappush(line, (client.priority, next(order), now, client, it))
            else:
                free += 1
                quotas.left(ticket, client.service_s)
                self.done[client.name] += 1
                pause_s = client.pause_s * rng.uniform(0.5, 1.5) + 0.0005
                if client.at_once:
                    heapq.heappush(events, (now + pause_s, next(order), client, None))
            while free and line:
                _, _, came, first, its = heapq.heappop(line)
                free -= 1
                if first.name == ANN:
                    self.waits.append(now - came)
                heapq.heappush(events, (now + first.service_s, next(order), first, its))
        return self


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(("priority", "deaf"), [(1, False), (0, False), (0, True)])
@pytest.mark.parametrize("wish", [0.1, 0.4, 1.0])
def test_a_flood_leaves_another_its_share(slots: int, priority: int, deaf: bool, wish: float) -> None:
    """P20: 20 times what the node can do, at any priority; the other has nine tenths of its wish, or of its half."""
    can = slots / SERVICE_S
    both = Sim([Client(ANN, 0, rate=wish * can), Client(BOB, 40 * slots, priority=priority, deaf=deaf)], slots).run()
    fair = min(wish, 0.5) * can * both.seconds
    assert both.done[ANN] >= 0.9 * fair, f"{both.done[ANN]} of {fair:.0f}"
    assert both.refused[BOB] > 0


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_one_task_after_the_other_waits_for_one_run_at_most(slots: int, pause_s: float) -> None:
    """Somebody who never has two at once loses to the most urgent flood what one run takes, and is never refused."""
    both = Sim([Client(ANN, 1, pause_s), Client(BOB, 40 * slots, priority=0, deaf=True)], slots).run()
    assert max(both.waits[1:]) <= SERVICE_S + 1e-6, "but for what was there before it came"
    assert both.done[ANN] >= 0.9 * both.seconds / (pause_s + 0.0005 + 2 * SERVICE_S)
    assert 0 == both.refused[ANN]


def test_what_is_left_over_goes_to_the_flood() -> None:
    """The other wants a tenth: nine tenths of the node's time are not wasted."""
    both = Sim([Client(ANN, 1, 0.09), Client(BOB, 40)]).run()
    assert sum(both.done.values()) >= 0.8 * both.seconds / 0.01


def test_three_that_flood_have_a_third_each() -> None:
    """Equal shares, whoever has more tasks or claims more urgency."""
    done = Sim([Client(ANN, 10), Client(BOB, 100), Client(CAT, 30, priority=0)]).run().done
    assert all(share >= 0.9 * sum(done.values()) / 3 for share in done.values()), done


def test_alone_nobody_is_refused() -> None:
    """A hundred tasks at once of the only submitter wait in line, as without this."""
    alone = Sim([Client(BOB, 100)]).run()
    assert 0 == alone.refused[BOB]
    assert alone.done[BOB] >= 0.99 * alone.seconds / 0.01


def test_shares_are_of_time_and_not_of_tasks() -> None:
    """Tasks of 50 ms and of 5 ms: each submitter has about half of the time."""
    done = Sim([Client(ANN, 10, service_s=0.005), Client(BOB, 10, service_s=0.05)], seconds=20.0).run().done
    times = [done[ANN] * 0.005, done[BOB] * 0.05]
    assert min(times) >= 0.35 * sum(times), times


@pytest.mark.parametrize(
    ("quota", "most"),
    [
        (Quota(tasks_s=10), 10 * 6 + 10),
        (Quota(bytes_s=5000), 5 * 6 + 6),
        (Quota(compute_s_minute=1), (1 + 1 / 60 * 6) / 0.01 + 1),
        (Quota(concurrent=1), 600),
    ],
)
def test_a_quota_is_kept_by_who_is_alone(quota: Quota, most: float) -> None:
    """Tasks, bytes and compute by time; and told with the name of the line and when to come again."""
    alone = Sim([Client(BOB, 20)], quota=quota).run()
    assert 0.9 * min(most, 550) <= alone.done[BOB] <= most
    assert alone.refused[BOB] > 0


def test_a_refusal_names_the_line() -> None:
    """With the limit, and a time that is not zero."""
    quotas = Quotas()
    quotas.enter(0.0, BOB, MODEL, Quota(concurrent=1), 1)
    with pytest.raises(Refused, match=r"quota.concurrent = 1") as caught:
        quotas.enter(0.0, BOB, MODEL, Quota(concurrent=1), 1)
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s
    quotas.enter(0.0, ANN, MODEL, Quota(concurrent=1), 1)


def test_what_was_given_back_counts_no_more() -> None:
    """A task that was refused later, or cancelled, costs no compute and frees its place."""
    quotas, quota = Quotas(), Quota(concurrent=1, compute_s_minute=1)
    for n in range(200):
        quotas.left(quotas.enter(n / 1000, BOB, MODEL, quota, 1), None)
    for _ in range(5):
        quotas.left(quotas.enter(0.3, BOB, MODEL, quota, 1), 0.21)
    with pytest.raises(Refused, match="compute_s_minute"):
        quotas.enter(0.3, BOB, MODEL, quota, 1)


def test_many_submitters_are_forgotten() -> None:
    """Ten thousand that came once are not kept for ever."""
    quotas = Quotas()
    for n in range(10_000):
        quotas.left(quotas.enter(n / 10, NodeId(f"{n:052}"), MODEL, FREE, 1), 0.001)
    assert len(quotas._accounts) < 2500
