"""Peers whose word is not kept: what one of them can take from an agent that believes it, and for how long."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import DeadlineExceeded, NoNodeInZone
from meshnode.membership.advert import Held, PowerState
from meshnode.membership.view import Member
from meshnode.routing.estimates import Estimates
from meshnode.routing.facts import TaskFacts
from meshnode.routing.policy import route
from meshnode.tasks.knowing import Knowing
from meshnode.wire.messages import NodeId, Quote
from tests.tasks.around import ANN, BOB, CAT, ME, MODEL, SETTINGS, Around, hang, member
from tests.tasks.test_choosing import chosen, wanted
from tests.tasks.test_dispatcher import Desk, told
from tests.waiting import until


@pytest.fixture
def desk(around: Around) -> Desk:
    """An agent that has no worker of its own: everything goes to peers."""
    around.no_workers.add(ME)
    return Desk(around)


@pytest.mark.parametrize("claimed_s", [0.0, 0.01], ids=["by gossip", "by quotes"])
async def test_who_takes_tasks_and_answers_none_gets_few(around: Around, desk: Desk, claimed_s: float) -> None:
    """It is always the soonest, and no result of it ever tells otherwise: after a handful of lost tasks others get
    them, though it goes on saying so."""
    hole = await around.peer(ANN, models=(Held(MODEL.digest, True, claimed_s),))
    hole.quote = Quote(backlog_s=0.0, service_s=0.0, slots=4096)
    hole.run = hang
    for node in (BOB, CAT):
        (await around.peer(node)).quote = Quote(backlog_s=0.02, service_s=0.02, slots=1)
    by: list[str] = []
    for number in range(25):
        try:
            by.append(told(await desk.submit(task=f"{number:032x}", deadline_s=0.5)).name)
        except DeadlineExceeded:
            by.append("nobody")
    assert by.count("nobody") <= 5
    assert "nobody" not in by[5:]
    assert len(hole.asked) > 10, "it was asked, and not believed"


async def test_nothing_is_kept_of_tasks_that_were_given_up(around: Around, desk: Desk) -> None:
    """At their deadline, or by their client, while a peer has them."""
    peer = await around.peer(ANN)
    peer.run = hang
    with pytest.raises(DeadlineExceeded):
        await desk.submit(deadline_s=0.05)
    waiting = [asyncio.ensure_future(desk.submit(task=f"{number:032x}")) for number in range(20)]
    await until(lambda: len(peer.ran) > 10, "it has some of them")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert {} == desk.dispatcher.chooser._expected
    assert 0 == desk.dispatcher.open


# --- zones ---

places = st.sampled_from(["", "eu", "eu/berlin", "eu/paris", "europe", "us", "/", "eu/"])


@st.composite
def boasting(draw: st.DrawFn, node: NodeId) -> Member:
    """A node that says of itself whatever an advert can carry."""
    held = Held(MODEL.digest, draw(st.booleans()), draw(st.none() | st.floats(0, 1e6)))
    return member(
        node,
        zone=draw(places),
        slots=draw(st.integers(1, 65536)),
        models=draw(st.sampled_from([(), (held,)])),
        providers=draw(st.sampled_from([(), ("CPUExecutionProvider",)])),
        power=PowerState(draw(st.sampled_from(["mains", "battery"])), draw(st.none() | st.floats(0, 100))),
        draining=draw(st.booleans()),
        paused=draw(st.sampled_from(["", "eu"])),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*(boasting(node) for node in (ME, ANN, BOB, CAT))),
    st.tuples(places, places, places, places),
    st.sampled_from(["eu", "eu/berlin"]),
    st.integers(0, 9),
)
def test_what_is_bound_to_a_zone_stays_where_grants_say(
    members: tuple[Member, ...], granted: tuple[str, ...], zone: str, seed: int
) -> None:
    """Whatever adverts say: a node whose grant names another zone is neither asked nor sent anything."""
    zones = {it.id: place for it, place in zip(members, granted, strict=True)}
    rng = random.Random(seed)
    knowing = Knowing(ME, Estimates(SETTINGS, rng), lambda: members, lambda _: None, lambda _: True, zones.__getitem__)
    peers = knowing.peers(wanted(zone=zone), 0.0)
    task = TaskFacts(100, 30.0, 1000, zone=zone)
    own = Quote(backlog_s=0.0, service_s=0.01, slots=1)
    for ask in (False, True):
        for peer in route(task, peers, own, rng, SETTINGS, ask=ask).candidates:
            assert f"{zones[peer.id]}/".startswith(f"{zone}/")


@pytest.mark.parametrize("granted", ["us", ""])
async def test_a_node_does_not_choose_its_zone(around: Around, granted: str) -> None:
    """It says that it is in the zone of the task, its grant names another or none, and it is not even asked."""
    around.no_workers.add(ME)
    ann = await around.peer(ANN, zone="eu")
    around.zones[ANN] = granted
    with pytest.raises(NoNodeInZone, match="no live node in zone 'eu'"):
        await chosen(around, zone="eu")
    assert [] == ann.asked
    await around.peer(BOB, zone="eu")
    assert "bob" == await chosen(around, zone="eu")
